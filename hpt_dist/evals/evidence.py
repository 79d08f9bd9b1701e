"""Is one row better than another? Differences paired by seed, intervals, a verdict in words. Pure.

Seeds are the units: settings that are swept beside the seed are averaged within each seed, so that
they cannot pass for independent repetitions.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from hpt_dist.recipe.metrics import METRICS, OTHER_SHARES
from hpt_dist.train.averages import Average, Place, in_words

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Bools = npt.NDArray[np.bool_]

Axes = Mapping[str, str]
V = TypeVar("V", bound=Any)  # a number, or an array of replicates
Verdict = Literal["helped", "harmed", "no evidence", "none"]
_Key = frozenset[tuple[str, str]]  # some axes with their values

CONFIDENCE = 0.95
_POWER = 0.8
_NORMAL_QUANTILE = 1.959964  # of 0.975
_LIKENESSES = ("rv2", "cka", "iou")
_SAME = 1e-9  # differences closer than this are equal up to rounding


@dataclass(frozen=True)
class Scale:
    """How a metric is printed and read.

    Args:
        factor: from the metric to what is printed.
        unit: of a value.
        step: the unit of a difference, in words.
        decimals: digits after the point.
        lower_is_better: true for losses.
    """

    factor: float
    unit: str
    step: str
    decimals: int
    lower_is_better: bool

    def text(self, value: float) -> str:
        """Return a value or a spread, already scaled."""
        return f"{value:.{self.decimals}f}"

    def signed(self, value: float) -> str:
        """Return a difference, already scaled."""
        return f"{value:+.{self.decimals}f}{self.step}"

    def plus_minus(self, value: float, half_width: float) -> str:
        """Return a difference with its interval, already scaled."""
        return f"{value:+.{self.decimals}f} ± {self.text(half_width)}{self.step}"


def scale_of(metric: str) -> Scale:
    """Return the scale of a metric: per cent for results that are shares of 1, else as it is."""
    last = metric.rpartition("/")[2]
    if last in METRICS or last == "accuracy" or last in OTHER_SHARES:
        lower_is_better = last in METRICS and METRICS[last].lower_is_better
        return Scale(100.0, "%", " points", 1, lower_is_better)
    decimals = 3 if last in _LIKENESSES else 4
    return Scale(1.0, "", "", decimals, lower_is_better="loss" in last)


def is_accuracy(metric: str) -> bool:
    """Return whether a metric is the share of images that are answered rightly."""
    return metric.rpartition("/")[2] in ("top1", "top5", "accuracy")


@dataclass(frozen=True)
class Comparison:
    """The difference between a row and the baseline, on the metric's printed scale.

    Args:
        verdict: "none" if there are too few values to judge by.
        n: how many seeds were compared.
        mean: mean difference; None without a pair, or where a value is not finite.
        half_width: half of the 95 % interval; None without a verdict.
        detectable: the true difference that this many seeds show four times in five; None if the
            interval is not over seeds.
        says: all of this in words.
        images_half_width: half of the 95 % interval over images, of a paired bootstrap; None
            without one. Where the seeds give none, `half_width` is the same.
    """

    verdict: Verdict
    n: int
    mean: float | None
    half_width: float | None
    detectable: float | None
    says: str
    images_half_width: float | None = None


def is_seed(axis: str) -> bool:
    """Return whether an axis, or an inherited `stage.axis`, is a seed."""
    return axis.rpartition(".")[2] == "seed"


def seed_differences(
    row: Iterable[tuple[Axes, V]],
    base: Iterable[tuple[Axes, V]],
    *,
    fixed_base: bool = False,
    mean: Callable[[Iterable[Any]], Any] = fmean,
) -> list[V]:
    """Return one difference for each seed, averaged over everything else that both sides share.

    Settings that only one side sweeps are averaged first. A seed that lacks a setting of another
    seed is left out: its average would mean something else.

    Args:
        row: (axes, value) of each trial of a row.
        base: the same of the baseline.
        fixed_base: the baseline's value has no randomness, so seeds that only the row has count
            too.
        mean: of values, where these are no numbers, but arrays of replicates.
    """
    row, base = list(row), list(base)
    if not row or not base:
        return []
    named = set.intersection(*(set(axes) for axes, _ in row))
    shared = named.intersection(*(axes for axes, _ in base))
    kept = shared | set(filter(is_seed, named)) if fixed_base else shared
    base_means = _means(base, shared, mean)
    by_seed: dict[_Key, dict[_Key, V]] = defaultdict(dict)
    for key, value in _means(row, kept, mean).items():
        seed = frozenset(item for item in key if is_seed(item[0]))
        base_value = base_means.get(frozenset(item for item in key if item[0] in shared))
        if base_value is not None:
            by_seed[seed][key - seed] = value - base_value
    every_setting = {setting for settings in by_seed.values() for setting in settings}
    complete = {
        tuple(sorted(seed)): mean(settings.values())
        for seed, settings in by_seed.items()
        if settings.keys() == every_setting
    }
    return [complete[seed] for seed in sorted(complete)]


def paired(differences: Sequence[float], scale: Scale) -> Comparison:
    """Judge differences that are paired by seed with Student's t, two-sided, at 95 %.

    Args:
        differences: one for each seed, on the printed scale.
        scale: of the metric.
    """
    n = len(differences)
    if not n:
        return Comparison("none", 0, None, None, None, "nothing to compare yet")
    if not all(map(math.isfinite, differences)):
        return Comparison("none", n, None, None, None, "no verdict: a value is not finite")
    mean = fmean(differences)
    if n == 1:
        says = f"{scale.signed(mean)} (n=1 seed): no verdict from one seed"
        return Comparison("none", 1, mean, None, None, says)
    if max(differences) - min(differences) <= _SAME:
        says = f"{scale.signed(mean)} for each of {n} seeds: without a spread, no verdict"
        return Comparison("none", n, mean, None, None, says)
    error = stdev(differences) / math.sqrt(n)
    reach = t_quantile((1 + CONFIDENCE) / 2, n - 1)
    half_width, detectable = reach * error, (reach + t_quantile(_POWER, n - 1)) * error
    verdict = verdict_of(mean, half_width, scale)
    says = f"{opening_of(verdict)}{scale.plus_minus(mean, half_width)} (n={n} seeds)"
    if verdict == "no evidence":
        limit = f"{scale.text(detectable)}{scale.step}"
        says += f"; this many seeds can show differences above {limit}"
    return Comparison(verdict, n, mean, half_width, detectable, says)


def refused(why: str) -> Comparison:
    """Return a comparison without a verdict, with the reason."""
    return Comparison("none", 0, None, None, None, why)


def on_images(row: float, base: float, num_images: int, split: str, scale: Scale) -> Comparison:
    """Judge two accuracies of single models by the binomial error of the images.

    The images are the same, so that the interval, which takes them for independent, is cautious.
    It says nothing about other seeds.

    Args:
        row: accuracy, a share of 1.
        base: accuracy, a share of 1.
        num_images: on which both were measured.
        split: of the images, in words.
        scale: of the metric.
    """
    # One success and one failure more for each (Agresti and Caffo, 2000): no zero error at 0 or 1.
    shares = ((share * num_images + 1) / (num_images + 2) for share in (row, base))
    error = math.hypot(*(standard_error(share, num_images + 2) for share in shares))
    mean, half_width = ((row - base) * scale.factor, _NORMAL_QUANTILE * error * scale.factor)
    verdict = verdict_of(mean, half_width, scale)
    says = (
        f"{opening_of(verdict)}{scale.plus_minus(mean, half_width)} "
        f"(one model each; ± is that of {num_images:,} {split} images)"
    )
    return Comparison(verdict, 1, mean, half_width, None, says)


@dataclass(frozen=True)
class StageVerdict:
    """Whether a pretraining stage improved its features, judged on validation images.

    Args:
        verdict: compares the weights after training with the initial ones: those that are kept,
            or of the last step if the initial weights were kept.
        kept_step: the step of the weights that the stage keeps; 0 is the initial weights, and of
            an average it is the last.
        judged_step: the step of the weights that the difference is measured on, likewise.
        mean: difference in the metric, on its printed scale.
        half_width: of its interval, at 95 % for all looks at once.
        num_images: on which both were measured.
        looks: at weights that training has changed; the interval allows for a choice among them.
        says: all of it in words.
        kept_average: the share of the way to the last step that the kept and judged weights are
            at; None where no average is kept.
    """

    verdict: Verdict
    kept_step: int
    judged_step: int
    mean: float
    half_width: float
    num_images: int
    looks: int
    says: str
    kept_average: float | None = None


def gate(
    right: Mapping[Place, Bools],
    *,
    kept: Place,
    last: int,
    probe: str = "nearest neighbours",
) -> StageVerdict:
    """Judge a stage by its correctly classified validation images before and after training.

    The images are the same, so the differences are paired by image (McNemar, 1947; the
    interval is that of Agresti and Min, 2005); a Bonferroni correction for the number of looks
    keeps the best of many from passing for an effect.

    Args:
        right: by step or average, bool [n]; step 0 is before training.
        kept: the step of the kept weights, or the average that they are.
        last: the last step.
        probe: what classified them, in words.
    """
    judged = kept or last
    after, before = right[judged], right[0]
    n, looks = len(before), len(right) - 1
    won, lost = float((after & ~before).sum()), float((before & ~after).sum())
    # Half an image more in each cell of the 2 x 2 table: the error is then never zero.
    difference, changed = won - lost, won + lost + 1
    variance = max(changed - difference**2 / (n + 2), 0.0)
    quantile = NormalDist().inv_cdf(1 - (1 - CONFIDENCE) / 2 / looks)
    mean, half_width = 100 * difference / n, 100 * quantile * math.sqrt(variance) / (n + 2)
    measured = f"{probe}, {n:,} validation images, {looks} look{'s' * (looks > 1)}"
    return stage_verdict(
        mean,
        half_width,
        scale_of("top1"),
        n,
        looks,
        kept=kept,
        judged=judged,
        measured=measured,
        averages=sum(isinstance(one, Average) for one in right),
    )


def stage_verdict(
    mean: float,
    half_width: float,
    scale: Scale,
    num_images: int,
    looks: int,
    *,
    kept: Place,
    judged: Place,
    measured: str,
    averages: int,
) -> StageVerdict:
    """Return the verdict of a stage with its words; see `StageVerdict`.

    Args:
        mean: as there.
        half_width: as there.
        scale: of the metric.
        num_images: as there.
        looks: as there.
        kept: the kept weights.
        judged: the weights that the difference is measured on.
        measured: by what, and on what, in words.
        averages: how many of the looks were at averages.
    """
    if averages:
        measured += f", {averages} of them at averages"
    verdict = verdict_of(mean, half_width, scale)
    change = scale.plus_minus(mean, half_width)
    if kept:
        opening = {"helped": "this stage helped by", "harmed": "this stage harmed:"}
        says = f"{opening.get(verdict, 'no evidence that this stage helped:')} {change}"
        says += f" ({measured}); kept {in_words(kept)}"
    else:
        opening = {"harmed": "harmed:"}
        better = "no step and no average was better:" if averages else "no step was better:"
        says = f"{opening.get(verdict, better)} {change} at {in_words(judged)} "
        says += f"({measured}); kept the base"
    average = kept.share if isinstance(kept, Average) else None
    kept_step, judged_step = (
        one.step if isinstance(one, Average) else one for one in (kept, judged)
    )
    found = (mean, half_width, num_images, looks, says, average)
    return StageVerdict(verdict, kept_step, judged_step, *found)


def images_to_show(difference: float, changed: float) -> int:
    """Return how many labelled images show a difference in accuracy in four of five experiments.

    Both models classify the same images (McNemar's test at 95 %, by the normal approximation).

    Args:
        difference: in accuracy, a share of 1.
        changed: the share of images that only one of the models classifies correctly, at least
            the difference.
    """
    reach = _NORMAL_QUANTILE * math.sqrt(changed)
    reach += NormalDist().inv_cdf(_POWER) * math.sqrt(changed - difference**2)
    return math.ceil((reach / difference) ** 2)


def standard_error(share: float, num_images: int) -> float:
    """Return the binomial standard error of an accuracy, as a share of 1."""
    return math.sqrt(share * (1 - share) / num_images)


def _means(
    trials: Iterable[tuple[Axes, V]], names: set[str], mean: Callable[[Iterable[Any]], Any]
) -> dict[_Key, V]:
    groups = defaultdict(list)
    for axes, value in trials:
        groups[frozenset((name, axes[name]) for name in names)].append(value)
    return {key: mean(values) for key, values in groups.items()}


def verdict_of(mean: float, half_width: float, scale: Scale) -> Verdict:
    """Return what a difference and half of its interval say, both on the printed scale."""
    if not abs(mean) > half_width:
        return "no evidence"
    return "harmed" if (mean > 0) == scale.lower_is_better else "helped"


def opening_of(verdict: Verdict) -> str:
    """Return how the words of a comparison begin."""
    return "no evidence of a difference: " if verdict == "no evidence" else f"{verdict} by "


def t_quantile(probability: float, degrees: int) -> float:
    """Return a quantile of Student's t."""
    from scipy.special import stdtrit  # takes a while, and most commands do not need it

    return float(stdtrit(degrees, probability))
