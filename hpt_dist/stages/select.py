"""Leave the backbone that evaluations of several prefer on val."""

from __future__ import annotations

from hpt_dist.recipe import Select
from hpt_dist.stages import choice
from hpt_dist.store import committed
from hpt_dist.trial.run import Context, Result
from hpt_dist.weights import match as weights


def run(context: Context, spec: Select) -> Result:  # noqa: ARG001 - the plan used it
    """Leave the backbone that won, byte for byte what its trial committed."""
    chosen, winner = choice.chosen_by(context)
    state, _ = weights.read(committed.read(context.store, winner.init, committed.WEIGHTS))
    metrics = {chosen.metric: chosen.values[chosen.chosen]}
    details = {"choice": chosen.as_json(), "winner": winner.init}
    return Result(metrics, details, weights=state, chose=chosen.chosen)
