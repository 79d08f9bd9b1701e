"""Differences judged by resampled images, where no image is right or wrong by itself. Pure.

Both models are measured on the same draws (see `bootstrap`), so their replicates differ by the
models alone. The interval is the difference ± Student's t times the deviation of the replicates'
differences.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import stdev

from hpt_dist.evals.evidence import (
    CONFIDENCE,
    Comparison,
    Scale,
    StageVerdict,
    opening_of,
    scale_of,
    stage_verdict,
    t_quantile,
    verdict_of,
)
from hpt_dist.recipe.metrics import METRICS
from hpt_dist.train.averages import Average, Place

_SAME = 1e-8  # replicates have nine decimals

Replicates = Sequence[float]  # of a metric, one for each draw; NaN where it has no value


def reach(images: int, confidence: float = CONFIDENCE) -> float:
    """Return how many deviations of replicates an interval reaches to each side.

    Args:
        images: that were drawn from, at least 2.
        confidence: of the interval.
    """
    return t_quantile((1 + confidence) / 2, images - 1) * math.sqrt(images / (images - 1))


def half_width(differences: Replicates, images: int, confidence: float = CONFIDENCE) -> float:
    """Return half of the interval of a difference, a share of 1.

    0 for two models that answer alike, and 1, which shows nothing, where the draws cannot tell: of
    a single image, or where all differ by the same.

    Args:
        differences: of the replicates of two models.
        images: that were drawn from.
        confidence: of the interval.
    """
    finite = [one for one in differences if math.isfinite(one)]
    if finite and not any(finite):
        return 0.0
    if images < 2 or len(finite) < 2 or max(finite) - min(finite) < _SAME:
        return 1.0
    return min(reach(images, confidence) * stdev(finite), 1.0)


def one_model_each(
    mean: float, half: float, num_images: int, split: str, scale: Scale
) -> Comparison:
    """Judge two single models by the images alone; it says nothing about other seeds.

    Args:
        mean: difference, on the printed scale.
        half: of its interval over images, on the same.
        num_images: on which both were measured.
        split: of the images, in words.
        scale: of the metric.
    """
    verdict = verdict_of(mean, half, scale)
    says = (
        f"{opening_of(verdict)}{scale.plus_minus(mean, half)} "
        f"(one model each; ± is a paired bootstrap's over {num_images:,} {split} images)"
    )
    return Comparison(verdict, 1, mean, half, None, says, half)


def by_seeds_and_images(
    over_seeds: Comparison, half: float, num_images: int, split: str, scale: Scale
) -> Comparison:
    """Judge a difference by its interval over seeds and by that over images: it needs both.

    They are two kinds of chance and are not added up.

    Args:
        over_seeds: the difference with its interval over seeds.
        half: of the interval over images of the seeds' mean difference, on the printed scale.
        num_images: on which all were measured.
        split: of the images, in words.
        scale: of the metric.
    """
    mean, seeds = over_seeds.mean or 0.0, over_seeds.half_width or 0.0
    on_images = verdict_of(mean, half, scale)
    verdict = over_seeds.verdict if over_seeds.verdict == on_images else "no evidence"
    says = (
        f"{opening_of(verdict)}{scale.signed(mean)} (± {scale.text(seeds)} over n={over_seeds.n} "
        f"seeds; ± {scale.text(half)} over {num_images:,} {split} images, paired bootstrap)"
    )
    if over_seeds.verdict == "no evidence" and over_seeds.detectable is not None:
        limit = f"{scale.text(over_seeds.detectable)}{scale.step}"
        says += f"; this many seeds can show differences above {limit}"
    return replace(over_seeds, verdict=verdict, says=says, images_half_width=half)


def gate(
    metric: str,
    values: Mapping[Place, float],
    replicates: Mapping[Place, Replicates],
    images: int,
    *,
    kept: Place,
    last: int,
    probe: str = "nearest neighbours",
) -> StageVerdict:
    """Judge a stage by a metric of validation before and after training; see `evidence.gate`.

    The Bonferroni correction for the number of looks is the same.

    Args:
        metric: of a probe, such as `ridge/auroc`.
        values: of the metric by step or average; step 0 is before training.
        replicates: likewise.
        images: of validation.
        kept: the step of the kept weights, or the average that they are.
        last: the last step.
        probe: what judged them, in words.
    """
    judged, looks, scale = kept or last, len(values) - 1, scale_of(metric)
    differences = [a - b for a, b in zip(replicates[judged], replicates[0], strict=True)]
    half = half_width(differences, images, 1 - (1 - CONFIDENCE) / looks)
    title = METRICS[metric.rpartition("/")[2]].title
    measured = (
        f"{title}, {probe}, paired bootstrap over {images:,} validation images, "
        f"{looks} look{'s' * (looks > 1)}"
    )
    return stage_verdict(
        (values[judged] - values[0]) * scale.factor,
        half * scale.factor,
        scale,
        images,
        looks,
        kept=kept,
        judged=judged,
        measured=measured,
        averages=sum(isinstance(one, Average) for one in values),
    )
