"""Let validation choose among candidates; what it chose alone reads test."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from hpt_dist.evals import choice
from hpt_dist.page import markdown
from hpt_dist.recipe.kinds.stage import StageSpec
from hpt_dist.recipe.plan import Trial
from hpt_dist.trial import alike
from hpt_dist.trial.records import ResultPart, document
from hpt_dist.trial.run import Context, Result

Left = alike.Alike
# How what a candidate left reads test; the context is that candidate's, which may now do so.
ReadTest = Callable[[Context, Any, Left], Result]


def run(context: Context, spec: StageSpec, *, read_test: ReadTest | None) -> Result:
    """Choose, and let the chosen read test.

    Args:
        context: of the trial that decides.
        spec: its settings, which are those of its first candidate.
        read_test: how the chosen reads test; None where there is nothing to read.

    Raises:
        StoreError: a candidate is not what it committed.
    """
    chosen, winner = chosen_by(context)
    left = alike.left_by(context.store, winner.key)
    tested = Result({})
    if read_test:
        its = replace(context.order, trial=replace(winner, is_candidate=False))
        its_own = replace(context, order=its)
        tested = read_test(its_own, winner.spec, left)
    return Result(
        {**left.result["metrics"], **tested.metrics},
        _together(left.result["details"], tested.details) | {"choice": chosen.as_json()},
        weights=left.weights,
        model=left.model if spec.LEAVES == "model" else None,
        head=left.head,
        numerics=left.numerics,
        replaced=left.result.get("replaced", ()),
        chose=chosen.chosen,
        predictions=tested.predictions,
        taken=left.predictions,
        replicates={**left.replicates, **tested.replicates},
    )


def _together(on_val: Mapping[str, Any], on_test: Mapping[str, Any]) -> dict[str, Any]:
    """Return the details of both; what both have by split has both splits."""
    both = {
        name: {**on_val[name], **found}
        for name, found in on_test.items()
        if isinstance(found, Mapping) and name in on_val
    }
    return {**on_val, **on_test, **both}


def chosen_by(
    context: Context, beside: Sequence[Mapping[str, float]] = ()
) -> tuple[choice.Choice, Trial]:
    """Return what validation chooses for a trial, and the candidate; MLflow gets it as a page.

    Args:
        context: of the trial.
        beside: what else is known of each candidate, in their order; nothing is chosen by it.

    Raises:
        StoreError: a candidate is not what it committed.
        DivergedError: every candidate diverged.
    """
    trial, store = context.order.trial, context.store
    results = [document(store, one.key, "result.json", ResultPart) for one in trial.candidates]
    chosen = choice.choose(trial.choices, results)
    if beside:
        looks = [one["details"].get("untrained", {}) for one in results]
        both = [{**look, **more} for look, more in zip(looks, beside, strict=True)]
        chosen = replace(chosen, beside=dict(zip(trial.choices, both, strict=True)))
    context.note([chosen.says])
    if context.tracker:
        context.tracker.artifact("choice.md", markdown(chosen.blocks()).encode())
    return chosen, trial.candidates[chosen.index]
