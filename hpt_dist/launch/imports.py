"""Whether imported weights, and names of its parts, fit the backbone, before anything is started.

What a backbone has is known to torch alone, and what a file has mostly to its header. So names,
types and shapes are compared in a process of its own, which imports torch: a few seconds, and only
for weights that are not imported yet: a file on this machine, or public ones that the catalogue
does not know to fit; and for evaluations of a part of the network. Numbers are looked at by the
import.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from hpt_dist.errors import HptError, Problem, RecipeError
from hpt_dist.processes import environment, workers
from hpt_dist.recipe import catalogue, plugins
from hpt_dist.recipe.file import Recipe
from hpt_dist.recipe.trial import Trial
from hpt_dist.store import Store
from hpt_dist.weights import public
from hpt_dist.weights import source as weights_source

# What backbones give, of an image and of its positions; one without a map says so when it runs.
_POOL, _LAST = "pool", "last"


@dataclass(frozen=True)
class _Question:
    """Weights and the backbone that they must fit.

    Args:
        path: of the file; None for those of a library, whose names and shapes its model has.
        source: as the recipe names it; random asks only whether there is such a backbone.
        backbone: its name.
    """

    setting: ClassVar = "weights"

    path: Path | None
    source: str
    backbone: str


@dataclass(frozen=True)
class _Part:
    """A part of a backbone that features are taken from.

    Args:
        setting: that names it.
        name: of the part; see `inner_features.features_at`.
        backbone: its name.
        size: of the images, pixels.
        positions: whether those of each position are taken; see `inner_features.maps_at`.
    """

    setting: str
    name: str
    backbone: str
    size: int
    positions: bool = False


def check(recipe: Recipe, store: Store, trials: Sequence[Trial]) -> None:
    """Refuse the weights and parts of trials that would refuse them.

    Args:
        recipe: gives file and line of its stages.
        store: the recipe's own.
        trials: those that are neither done nor at work.

    Raises:
        RecipeError: with all weights and parts that do not fit.
    """
    asked: dict[_Question | _Part, Trial] = {}
    for trial in trials:
        for setting in ("features", "flattened"):
            positions = trial.spec.kind == "dense"
            usual = _LAST if positions else _POOL
            if (name := getattr(trial.spec, setting, None)) not in (None, usual):
                part = _Part(setting, str(name), trial.backbone, recipe.image.size, positions)
                asked.setdefault(part, trial)
        source = trial.spec.imported
        forced = getattr(trial.spec, "force", False)
        if source and (question := _question(source, trial.backbone, store, forced)):
            asked.setdefault(question, trial)
    if not asked:
        return
    variables = environment.for_trials(os.environ)[0] | environment.threads(1)
    with contextlib.closing(workers.fed(_answer, list(asked), 1, variables)) as answers:
        found = {answer.task: answer.value for answer in answers if answer.is_last}
    problems = [
        replace(problem, where=recipe.where("stages", trial.recipe_stage, question.setting))
        for number, (question, trial) in enumerate(asked.items())
        if (problem := found[number])
    ]
    if problems:
        raise RecipeError(problems)


def _question(source: str, backbone: str, store: Store, forced: bool) -> _Question | None:
    """Return what is not known yet of weights and a backbone; None where all is."""
    parsed = weights_source.parse(source)
    offered = plugins.find("backbone", backbone)
    unknown = not offered and not catalogue.resolve(backbone)
    nothing = _Question(None, "random", backbone) if unknown else None
    fits = not offered and public.surely_fit(parsed, backbone)
    if forced or fits or parsed.kind in ("random", "mlflow"):
        return nothing
    if parsed.kind in catalogue.LIBRARIES:
        return _Question(None, source, backbone)
    place, info = weights_source.locate(parsed, store)
    path = place.local(info.path)
    return _Question(path, source, backbone) if path else nothing


def _answer(question: _Question | _Part, _report: workers.Report) -> Problem | None:
    """Return why weights or a part do not fit; runs in a process of its own."""
    try:
        if isinstance(question, _Part):
            from hpt_dist.networks import backbones, inner_features

            backbone = backbones.create(question.backbone)
            place = inner_features.maps_at if question.positions else inner_features.features_at
            place(backbone, question.name, question.size)
            return None
        from hpt_dist.weights import match

        match.foresee(question.path, question.source, question.backbone)
    except HptError as error:
        problem = error.problem
        named = getattr(question, "source", "random")
        of = "" if named == "random" else f"{named}: "
        return Problem(f"{of}{problem.what}", "", problem.allowed, problem.fix)
    return None
