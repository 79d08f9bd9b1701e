"""Leave the backbone that evaluations of several prefer on val."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hpt_dist.datasets import fewshot
from hpt_dist.evals import frechet
from hpt_dist.evals.frechet import Moments
from hpt_dist.reading.damage import Replacements
from hpt_dist.recipe import Select
from hpt_dist.recipe.kinds.frozen import trained_on
from hpt_dist.recipe.plan import Trial
from hpt_dist.stages import choice
from hpt_dist.stages.frozen import Frozen
from hpt_dist.stages.inputs import pool_of
from hpt_dist.store import committed
from hpt_dist.trial.run import Context, Result
from hpt_dist.weights import match as weights

DISTANCE = "Fréchet distance"


def run(context: Context, spec: Select) -> Result:
    """Leave the backbone that won, byte for byte what its trial committed."""
    beside, details = _distances(context, spec)
    chosen, winner = choice.chosen_by(context, beside)
    state, _ = weights.read(committed.read(context.store, winner.init, committed.WEIGHTS))
    metrics = {chosen.metric: chosen.values[chosen.chosen]}
    details |= {"choice": chosen.as_json(), "winner": winner.init}
    return Result(metrics, details, weights=state, chose=chosen.chosen)


def _distances(context: Context, spec: Select) -> tuple[list[dict[str, float]], dict[str, Any]]:
    """Return how far what each candidate was trained on is from the target, and of what images.

    One that was trained on nothing, such as an imported one, has no distance; none has where they
    go back to several backbones, whose features cannot be compared.
    """
    trial = context.order.trial
    sources = [_learned(start) for start in trial.starts]
    beside: list[dict[str, float]] = [{} for _ in sources]
    if not (trial.base and spec.distance_images and any(sources)):
        return beside, {}
    target, in_target = _moments(context, spec, trial.candidates[0], (trained_on(spec.data),))
    images = {}
    for name, look, start, splits in zip(
        *(trial.choices, beside, trial.starts, sources), strict=True
    ):
        if splits:
            source, images[name] = _moments(context, spec, start, splits)
            look[DISTANCE] = frechet.distance(source, target)
    return beside, {"distance": {"on": trial.base, "target_images": in_target, "images": images}}


def _learned(start: Trial) -> tuple[str, ...]:
    """Return the splits that a trial learned from; empty where it did not learn."""
    return tuple(read.split for read in start.spec.reads() if read.setting == "data")


def _moments(
    context: Context, spec: Select, of: Trial, splits: tuple[str, ...]
) -> tuple[Moments, int]:
    """Return the moments of images on the base, and how many they are.

    Args:
        context: of the search.
        spec: its settings.
        of: the trial that reads the splits, by its seed and datasets.
        splits: of images; of more than `distance_images`, so many by their keys and the seed.
    """
    trial = context.order.trial
    judging = trial.candidates[0]
    as_it = replace(
        judging,
        init=trial.base,
        is_candidate=False,
        spec=judging.spec.model_copy(update={"seed": of.spec.seed}),
        datasets={**of.datasets, **judging.datasets},
    )
    frozen_as = replace(context, order=replace(context.order, trial=as_it))
    pool, most = pool_of(frozen_as, splits), spec.distance_images
    if len(pool) > most:
        pool = pool.subset(fewshot.percent(pool.keys, 100 * most / len(pool), spec.seed))
    allowed = Replacements(spec.max_bad)
    features, _ = Frozen(frozen_as).computed(pool, None, allowed)
    return frechet.moments(features.numpy()), len(pool)
