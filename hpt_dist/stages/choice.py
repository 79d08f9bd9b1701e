"""Let validation choose among candidates; what it chose alone reads test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from hpt_dist.evals import choice
from hpt_dist.page import markdown
from hpt_dist.recipe.kinds.stage import StageSpec
from hpt_dist.trial import alike
from hpt_dist.trial.records import ResultPart, document
from hpt_dist.trial.run import Context, Result

Left = alike.Alike
# How what a candidate left reads test; the context is that candidate's, which may now do so.
ReadTest = Callable[[Context, Any, Left], Result]


def run(context: Context, spec: StageSpec, *, read_test: ReadTest | None) -> Result:  # noqa: ARG001
    """Choose, and let the chosen read test.

    Args:
        context: of the trial that decides.
        spec: its settings, which are those of its first candidate.
        read_test: how the chosen reads test; None where there is nothing to read.

    Raises:
        StoreError: a candidate is not what it committed.
    """
    trial = context.order.trial
    candidates, names = trial.candidates, trial.choices
    results = [document(context.store, one.key, "result.json", ResultPart) for one in candidates]
    chosen = choice.choose(names, results)
    winner = candidates[chosen.index]
    left = alike.left_by(context.store, winner.key)
    tested = Result({})
    if read_test:
        its = replace(context.order, trial=replace(winner, is_candidate=False))
        its_own = replace(context, order=its)
        tested = read_test(its_own, winner.spec, left)
    context.note([chosen.says])
    if context.tracker:
        context.tracker.artifact("choice.md", markdown(chosen.blocks()).encode())
    return Result(
        {**left.result["metrics"], **tested.metrics},
        {**left.result["details"], **tested.details, "choice": chosen.as_json()},
        weights=left.weights,
        model=left.model,
        head=left.head,
        numerics=left.numerics,
        replaced=left.result.get("replaced", ()),
        chose=chosen.chosen,
    )
