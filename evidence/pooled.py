"""Verdicts from several targets at once: domains that are each undecided can decide together. Pure.

Two questions, two intervals:

- *Would it help on another target like these?* The targets are the sample: Student's t over their
  mean differences. It is the headline, since readers have targets of their own.
- *Did it help on these targets?* Only the trainings and the test images are a sample: the mean of
  the targets, each with the same weight, and the variances of their means.

Weights by inverse variance, as a fixed-effect model has them, are not used: three to five seeds
estimate a variance within a factor of three, so such weights are noise, and their intervals are too
narrow (tests/evidence/test_pooled.py measures it).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np

from evidence.records import Bools, Shares
from hpt_dist.evals.evidence import Verdict, scale_of, t_quantile, verdict_of

_QUANTILE = 0.975
_NORMAL = 1.959964
_POINTS = scale_of("test/top1")


@dataclass(frozen=True)
class Part:
    """A variance of a mean, and the degrees of freedom with which it is known."""

    variance: float
    degrees: float


@dataclass(frozen=True)
class Difference:
    """A mean difference in points, from several seeds on the same test images.

    Args:
        mean: over seeds and images.
        seeds: variance of the mean over other trainings; None of one seed.
        images: variance of the mean over other test images.
    """

    mean: float
    seeds: Part | None
    images: Part

    @property
    def seeds_half(self) -> float | None:
        """Half of the 95 % interval over other trainings."""
        if self.seeds is None:
            return None
        return _reach(self.seeds.degrees) * math.sqrt(self.seeds.variance)

    @property
    def images_half(self) -> float:
        """Half of the 95 % interval over other test images."""
        return _NORMAL * math.sqrt(self.images.variance)

    @property
    def verdict(self) -> Verdict:
        """What both intervals say together; "none" of one seed."""
        if self.seeds_half is None:
            return "none"
        return verdict_of(self.mean, max(self.seeds_half, self.images_half), _POINTS)


@dataclass(frozen=True)
class Pooled:
    """A mean over targets with half of its 95 % interval; None where there is no interval."""

    mean: float
    half_width: float | None
    targets: int

    @property
    def verdict(self) -> Verdict:
        """What the interval says; "none" without one."""
        if self.half_width is None:
            return "none"
        return verdict_of(self.mean, self.half_width, _POINTS)


def difference(row: Sequence[Bools | Shares], base: Sequence[Bools | Shares]) -> Difference:
    """Return the difference in accuracy between two arms, paired by seed and by image.

    Args:
        row: for each seed whether each test image was answered rightly, bool [n]; or, of several
            trials of a seed, by which share of them, float [n].
        base: the same of what it is compared with, for the same seeds and images.
    """
    changes = 100 * (np.array(row, float) - np.array(base, float))  # [seeds, images]
    by_seed, by_image = changes.mean(axis=1), changes.mean(axis=0)
    count, n = changes.shape
    seeds = Part(float(by_seed.var(ddof=1)) / count, count - 1) if count > 1 else None
    # Half an image more for each arm, as Agresti and Min (2005) have it: the error is never zero.
    spread = float(((by_image - by_image.mean()) ** 2).sum()) + 100**2 / count
    return Difference(float(by_seed.mean()), seeds, Part(spread / (n + 2) ** 2, n - 1))


def of_metrics(
    row: Sequence[tuple[float, Shares]], base: Sequence[tuple[float, Shares]], images: int
) -> Difference:
    """Return the difference in a metric of all images together, such as AP50.

    Args:
        row: for each seed its value, a share of 1, and the values of resampled images, [draws].
        base: the same of what it is compared with, for the same seeds and draws.
        images: of test.
    """
    changes = [100 * (ours[0] - theirs[0]) for ours, theirs in zip(row, base, strict=True)]
    drawn = [100 * (ours[1] - theirs[1]) for ours, theirs in zip(row, base, strict=True)]
    count = len(changes)
    seeds = Part(stdev(changes) ** 2 / count, count - 1) if count > 1 else None
    spread = float(np.mean(drawn, axis=0).var(ddof=1))
    return Difference(fmean(changes), seeds, Part(spread, images - 1))


def of_a_domain(targets: Sequence[Difference]) -> Difference:
    """Return the mean difference of targets that have the same test images and other trainings."""
    count = len(targets)
    known = [one.seeds for one in targets if one.seeds]
    seeds = None
    if len(known) == count:
        seeds = _mean_of(known)
    # The same images: their errors do not cancel.
    error = fmean(math.sqrt(one.images.variance) for one in targets)
    degrees = min(one.images.degrees for one in targets)
    return Difference(fmean(one.mean for one in targets), seeds, Part(error**2, degrees))


def over_targets(means: Sequence[float]) -> Pooled:
    """Return what other targets of this kind can expect: Student's t over the targets' means."""
    if len(means) < 2:
        return Pooled(fmean(means), None, len(means))
    error = stdev(means) / math.sqrt(len(means))
    half = _reach(len(means) - 1) * error
    return Pooled(fmean(means), half, len(means))


def on_these_targets(targets: Sequence[Difference]) -> Pooled:
    """Return the mean of some targets with the interval of its own errors (Satterthwaite, 1946)."""
    mean, count = fmean(one.mean for one in targets), len(targets)
    if any(one.seeds is None for one in targets):
        return Pooled(mean, None, count)
    parts = [part for one in targets for part in (one.seeds, one.images) if part]
    pooled = _mean_of(parts, count)
    return Pooled(mean, _reach(pooled.degrees) * math.sqrt(pooled.variance), count)


def _reach(degrees: float) -> float:
    """Return the quantile of Student's t; of degrees that are not whole the next lower ones."""
    return t_quantile(_QUANTILE, max(1, math.floor(degrees + 1e-9)))


def _mean_of(parts: Sequence[Part], count: int | None = None) -> Part:
    """Return the variance of a mean of independent parts, `count` of which share each weight."""
    n = count or len(parts)
    variance = sum(part.variance for part in parts)
    spread = sum(part.variance**2 / part.degrees for part in parts if part.degrees)
    degrees = variance**2 / spread if spread else float(sum(part.degrees for part in parts))
    return Part(variance / n**2, degrees)
