"""Metrics of resampled images: how far chance in the choice of images moves them. Pure.

Images are drawn with replacement (Efron, 1979). Which ones follows from their number alone, so two
models that answer the same images in the same order are resampled alike, and their replicates pair.
scikit-learn takes weights, but one vector at a time: 1,000 draws of 20 classes would take minutes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from hpt_dist.evals.metrics import Floats, Labels, calibration, hits, members
from hpt_dist.evals.resampled import reach

if TYPE_CHECKING:
    from scipy.sparse import csr_array

DRAWS = 1000
_LEAST_DRAWS = 200
_MOST_WORK = 2 * 10**9  # images x classes x draws: ten seconds of a core, and fewer draws beyond
_AT_ONCE = 2**21  # weights in memory at a time
_DECIMALS = 9  # of what is kept: sums in another order do not show


def draws_for(images: int, classes: int) -> int:
    """Return how often to draw: 1,000 times, and of very large splits fewer."""
    return int(min(max(_MOST_WORK // (images * classes), _LEAST_DRAWS), DRAWS))


def counts(images: int, draws: int) -> Iterator[Floats]:
    """Yield how often each image is drawn, float64 [images, some draws], `draws` in all.

    They are a function of the two numbers on every machine: of a bit generator's raw numbers, which
    NumPy promises to keep, unlike what it makes of them.
    """
    bits = np.random.PCG64([images, draws])
    at_once = max(1, _AT_ONCE // images)
    for start in range(0, draws, at_once):
        some = min(at_once, draws - start)
        raw = bits.random_raw(some * images) >> np.uint64(32)
        drawn = (raw * np.uint64(images) >> np.uint64(32)).astype(np.int64).reshape(some, images)
        offsets = np.arange(some)[:, None] * images
        found = np.bincount((drawn + offsets).ravel(), minlength=some * images)
        yield np.ascontiguousarray(found.reshape(some, images).T, np.float64)


def replicates(names: Sequence[str], scores: Floats, labels: Labels) -> dict[str, Floats]:
    """Return metrics of the resampled images, [draws] each, shares of 1 to nine decimals.

    NaN is a draw in which no class counts.

    Args:
        names: of metrics that can be computed; see `metrics.computable`.
        scores: float64 [n, num_classes], log-odds.
        labels: int64 [n], class ids; or of several labels bool [n, num_classes].
    """
    images, classes = scores.shape
    functions = {name: prepared(name, scores, labels) for name in names}
    blocks = [
        {name: metric(weights) for name, metric in functions.items()}
        for weights in counts(images, draws_for(images, classes))
    ]
    return {name: np.concatenate([one[name] for one in blocks]).round(_DECIMALS) for name in names}


def interval(
    value: float, values: Sequence[float] | Floats, images: int
) -> tuple[float, float] | None:
    """Return the 95 % interval of a metric over images, shares of 1; None where nothing varies.

    Of percentiles of the replicates, which are shifted to have their mean at the value: those of an
    error such as `ece` lie above it. Plain percentiles are also too narrow for few images; these
    are further out, by Student's t and the variance's n - 1 (Hesterberg, The American Statistician
    69, 2015, section 3.4).

    Args:
        value: of all images.
        values: see `replicates`.
        images: that were drawn from.
    """
    finite = np.asarray(values, np.float64)
    finite = finite[np.isfinite(finite)]
    if images < 2 or not finite.size or finite.min() == finite.max():
        return None
    from scipy.special import ndtr

    tail = float(ndtr(-reach(images)))
    ends = np.quantile(finite, [tail, 1 - tail]) - finite.mean() + value
    low, high = ends.clip(0, 1).round(_DECIMALS).tolist()
    return low, high


# Weights of images, float64 [n, draws] -> the metric, [draws].
Weighted = Callable[[Floats], Floats]


def prepared(name: str, scores: Floats, labels: Labels) -> Weighted:
    """Return a metric as a function of weights: what scikit-learn computes with `sample_weight`.

    Classes without a positive weight in it, or of one value, are left out of its means. Arguments
    are those of `metrics.compute`.
    """
    return _PREPARED[name](scores, labels)


def _share_of_hits(k: int) -> Callable[[Floats, Labels], Weighted]:
    def of(scores: Floats, labels: Labels) -> Weighted:
        right = hits(scores, labels, k).astype(np.float64)
        return lambda weights: right @ weights / weights.sum(axis=0)

    return of


def _balanced_accuracy(scores: Floats, labels: Labels) -> Weighted:
    sums = _adder(np.asarray(labels, np.int64), scores.shape[1])
    right = hits(scores, labels, 1)[:, None]
    return lambda weights: _over_classes(sums @ (weights * right), sums @ weights)


def _ece(scores: Floats, labels: Labels) -> Weighted:
    gaps = calibration(scores, labels)  # [bins, n]
    answers = labels.size / len(labels)
    return lambda weights: np.abs(gaps @ weights).sum(axis=0) / (answers * weights.sum(axis=0))


def _by_class(
    metric: Callable[[Floats, Floats], tuple[Floats, Floats]],
) -> Callable[[Floats, Labels], Weighted]:
    """Return the mean over classes of a metric of ranked images.

    Args:
        metric: (weights of all [2 m + 1, draws], of positives [m, draws]), by ascending score:
            between and at the m different scores of positives -> value and divisor [draws].
    """

    def of(scores: Floats, labels: Labels) -> Weighted:
        has = members(labels, scores.shape[1])
        adders = [_ranked(scores[:, c], has[:, c]) for c in np.flatnonzero(has.any(axis=0))]

        def mean(weights: Floats) -> Floats:
            parts = [
                metric(everything @ weights, positives @ weights)
                for everything, positives in adders
            ]
            return _over_classes(*(np.stack(one) for one in zip(*parts, strict=True)))

        return mean

    return of


def _ranked(scores: Floats, has: npt.NDArray[np.bool_]) -> tuple[csr_array, csr_array]:
    """Return what adds up the weights of all images and of a class's own; see `_by_class`."""
    levels = np.unique(scores[has])
    below, up_to = (np.searchsorted(levels, scores, side) for side in ("left", "right"))
    # Between two levels the sides agree, and at a level they do not: 0 to 2 m.
    return (
        _adder(below + up_to, 2 * len(levels) + 1),
        _adder(np.where(has, below, -1), len(levels)),
    )


def _auroc(everything: Floats, positives: Floats) -> tuple[Floats, Floats]:
    negatives = everything.copy()
    negatives[1::2] -= positives
    beaten = negatives.cumsum(axis=0)[:-1:2] + negatives[1::2] / 2  # a tie is half a win
    return (positives * beaten).sum(axis=0), positives.sum(axis=0) * negatives.sum(axis=0)


def _average_precision(everything: Floats, positives: Floats) -> tuple[Floats, Floats]:
    answered = everything[::-1].cumsum(axis=0)[::-1][1::2]  # at each positive's score or above it
    right = positives[::-1].cumsum(axis=0)[::-1]
    precision = right / np.maximum(answered, 1e-300)  # a level of weight 0 adds nothing
    total = positives.sum(axis=0)
    is_mixed = total < everything.sum(axis=0)
    return (positives * precision).sum(axis=0), total * is_mixed


def _over_classes(values: Floats, divisors: Floats) -> Floats:
    """Return the mean of values / divisors [num_classes, draws] over classes whose divisor counts.

    NaN where none does.
    """
    counted = divisors > 0
    shares = np.divide(values, divisors, out=np.full_like(values, np.nan), where=counted)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of a draw without a class
        return np.asarray(np.nanmean(shares, axis=0))


def _adder(places: npt.NDArray[np.int64], num_places: int) -> csr_array:
    """Return the matrix [num_places, n] that adds up weights by place; -1 is nowhere."""
    from scipy.sparse import csr_array

    images = np.flatnonzero(places >= 0)
    ones = np.ones(len(images))
    return csr_array((ones, (places[images], images)), shape=(num_places, len(places)))


_PREPARED: dict[str, Callable[[Floats, Labels], Weighted]] = {
    "top1": _share_of_hits(1),
    "top5": _share_of_hits(5),
    "balanced_accuracy": _balanced_accuracy,
    "auroc": _by_class(_auroc),
    "map": _by_class(_average_precision),
    "ece": _ece,
}
