"""Whether imported files fit the backbone, before anything is started.

What a backbone needs is known to torch alone, and what a file has mostly to its header. So names,
types and shapes are compared in a process of its own, which imports torch: a few seconds, and only
for a file on this machine that is not imported yet. Numbers are looked at by the import.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hpt_dist.errors import HptError, Problem, RecipeError
from hpt_dist.processes import environment, workers
from hpt_dist.recipe.file import Recipe
from hpt_dist.recipe.plan import Trial
from hpt_dist.store import Store
from hpt_dist.weights import source as weights_source


@dataclass(frozen=True)
class _Question:
    """A file and the backbone that it must fit.

    Args:
        path: of the file.
        source: as the recipe names it.
        backbone: its name.
    """

    path: Path
    source: str
    backbone: str


def check(recipe: Recipe, store: Store, trials: Sequence[Trial]) -> None:
    """Refuse the files of trials that would refuse them.

    Args:
        recipe: gives file and line of its stages.
        store: the recipe's own.
        trials: those that are neither done nor at work.

    Raises:
        RecipeError: with every file that does not fit.
    """
    asked: dict[_Question, Trial] = {}
    for trial in trials:
        source = trial.spec.imported
        forced = getattr(trial.spec, "force", False)
        if source and not forced and (path := _file(source, store)):
            asked.setdefault(_Question(path, source, trial.backbone), trial)
    if not asked:
        return
    variables = environment.for_trials(os.environ)[0] | environment.threads(1)
    with contextlib.closing(workers.fed(_answer, list(asked), 1, variables)) as answers:
        found = {answer.task: answer.value for answer in answers if answer.is_last}
    problems = [
        replace(problem, where=recipe.where("stages", trial.stage, "weights"))
        for number, trial in enumerate(asked.values())
        if (problem := found[number])
    ]
    if problems:
        raise RecipeError(problems)


def _file(source: str, store: Store) -> Path | None:
    """Return the file of a source on this machine; None for a source of any other kind."""
    parsed = weights_source.parse(source)
    if parsed.kind != "file":
        return None
    place, info = weights_source.locate(parsed, store)
    return place.local(info.path)


def _answer(question: _Question, _report: workers.Report) -> Problem | None:
    """Return why a file does not fit; runs in a process of its own."""
    from hpt_dist.weights import match

    try:
        match.foresee(question.path, question.source, question.backbone)
    except HptError as error:
        problem = error.problem
        return Problem(f"{question.source}: {problem.what}", "", problem.allowed, problem.fix)
    return None
