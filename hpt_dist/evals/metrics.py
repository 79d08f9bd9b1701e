"""The metrics of evaluations, as pure functions of scores and labels in float64.

A score is the log-odds that an image has a class, log p / (1 - p), of one label and of several:
it ranks as the probability does, and does not become equal for all of which a model is sure.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from hpt_dist.errors import DataError
from hpt_dist.recipe.metrics import METRICS

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64] | npt.NDArray[np.bool_]

MOST = 745.0  # of log-odds: the probability of -MOST is the least number above 0
_BINS = 15  # of the expected calibration error (Guo et al., arXiv 1706.04599)
_TOP = 5


def log_odds(logits: npt.ArrayLike, *, several: bool) -> Floats:
    """Return scores [n, num_classes] from a classifier's outputs of the same shape.

    Args:
        logits: finite; of one label their softmax is the probability, of several their sigmoid.
        several: whether an image has several labels.
    """
    values = np.asarray(logits, np.float64)
    if several:
        return values
    rows, top = np.arange(len(values)), values.argmax(axis=1)
    relative = values - values[rows, top][:, None]  # at most 0
    likeliest = relative == 0  # several where classes are equally likely
    powers = np.exp(relative)
    with np.errstate(divide="ignore"):
        scores = relative - np.log(powers.sum(axis=1, keepdims=True) - powers)
        relative[rows, top] = -np.inf
        # The others of the likeliest class: relative to the next one, so that none is lost.
        second = relative.max(axis=1) if values.shape[1] > 1 else np.full(len(values), -MOST)
        rest = np.exp(relative - second[:, None]).sum(axis=1)
        best = -second - np.log(rest)
    scores = np.where(likeliest, best[:, None], scores)
    return np.asarray(np.clip(scores, -MOST, MOST))


def log_odds_of(shares: npt.ArrayLike) -> Floats:
    """Return scores from probabilities, 0 to 1."""
    values = np.asarray(shares, np.float64)
    with np.errstate(divide="ignore"):
        return np.asarray(np.clip(np.log(values) - np.log1p(-values), -MOST, MOST))


def probabilities(scores: Floats) -> Floats:
    """Return the probability of each class: of one label they add up to 1."""
    from scipy.special import expit

    found: Floats = expit(scores)
    return found


def compute(name: str, scores: Floats, labels: Labels) -> float:
    """Return a metric, a share of 1.

    Args:
        name: one of `recipe.metrics.METRICS`.
        scores: float64 [n, num_classes], finite; see the module.
        labels: int64 [n], class ids; or of several labels bool [n, num_classes].

    Raises:
        DataError: no class counts in it.
    """
    metric = METRICS[name]
    if metric.needs and len(excluded(name, labels, scores.shape[1])) == scores.shape[1]:
        raise DataError(f"{name} cannot be computed: every class has a single value")
    return float(_FUNCTIONS[name](scores, labels))


def excluded(name: str, labels: Labels, num_classes: int) -> list[int]:
    """Return the classes that a metric's mean leaves out; see `Metric.needs`."""
    metric = METRICS[name]
    if not metric.needs:
        return []
    counts = members(labels, num_classes).sum(axis=0).tolist()
    counted = set(metric.counted(counts, len(labels)))
    return [c for c in range(num_classes) if c not in counted]


def computable(labels: Labels, num_classes: int) -> list[str]:
    """Return the names of the metrics that a split's labels allow."""
    kind = "multi" if labels.ndim == 2 else "single"
    return [
        name
        for name, metric in METRICS.items()
        if kind in metric.labels
        and num_classes >= metric.least_classes
        and len(excluded(name, labels, num_classes)) < num_classes
    ]


def members(labels: Labels, num_classes: int) -> npt.NDArray[np.bool_]:
    """Return which classes each image has: bool [n, num_classes]."""
    if labels.ndim == 2:
        return labels.astype(bool)
    return np.asarray(labels[:, None] == np.arange(num_classes))


def hits(scores: Floats, labels: Labels, k: int) -> npt.NDArray[np.bool_]:
    """Return whether the label [n] of each image is among its k largest scores: bool [n].

    Of equal scores `top1` takes the first class, and `top5` the last, as scikit-learn does.
    """
    if k == 1:
        return np.asarray(scores.argmax(axis=1) == labels)
    last = np.argsort(scores, axis=1, kind="stable")[:, -k:]
    return np.asarray((last == labels[:, None]).any(axis=1))


def _top1(scores: Floats, labels: Labels) -> float:
    from sklearn.metrics import accuracy_score

    return float(accuracy_score(labels, scores.argmax(axis=1)))


def _top5(scores: Floats, labels: Labels) -> float:
    from sklearn.metrics import top_k_accuracy_score

    classes = np.arange(scores.shape[1])
    return float(top_k_accuracy_score(labels, scores, k=_TOP, labels=classes))


def _balanced_accuracy(scores: Floats, labels: Labels) -> float:
    from sklearn.metrics import recall_score

    answers, there = scores.argmax(axis=1), np.unique(labels)
    return float(recall_score(labels, answers, labels=there, average="macro"))


def _auroc(scores: Floats, labels: Labels) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(*_counted("auroc", scores, labels), average="macro"))


def _map(scores: Floats, labels: Labels) -> float:
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(*_counted("map", scores, labels), average="macro"))


def average_precisions(scores: Floats, labels: Labels) -> tuple[float | None, ...]:
    """Return the average precision of each class; None for one that "map" leaves out.

    Args:
        scores: see `compute`.
        labels: of several labels, bool [n, num_classes].
    """
    from sklearn.metrics import average_precision_score

    left_out = excluded("map", labels, scores.shape[1])
    return tuple(
        None if c in left_out else float(average_precision_score(labels[:, c], scores[:, c]))
        for c in range(scores.shape[1])
    )


def _counted(name: str, scores: Floats, labels: Labels) -> tuple[Any, Any]:
    """Return the columns of the classes that count: of what is true, and of the scores."""
    num_classes = scores.shape[1]
    left = np.setdiff1d(np.arange(num_classes), excluded(name, labels, num_classes))
    return members(labels, num_classes)[:, left], scores[:, left]


def _ece(scores: Floats, labels: Labels) -> float:
    """Return the mean distance of confidence and accuracy over equally wide bins of confidence."""
    return float(np.abs(calibration(scores, labels).sum(axis=1)).sum() / labels.size)


def calibration(scores: Floats, labels: Labels) -> Floats:
    """Return how much more confident than right the answers to each image are, by bin: [bins, n].

    Of several labels each pair of an image and a class is an answer. scikit-learn has no such
    metric, and its `calibration_curve` does not say how many answers each bin holds.
    """
    images = np.arange(len(scores))
    if labels.ndim == 2:
        confidence, right = probabilities(scores).ravel(), labels.ravel()
        images = images.repeat(scores.shape[1])
    else:
        answers = scores.argmax(axis=1)
        confidence = probabilities(scores[images, answers])
        right = answers == labels
    bins = np.clip(np.ceil(confidence * _BINS).astype(np.int64) - 1, 0, _BINS - 1)
    places = bins * len(scores) + images
    gaps = np.bincount(places, weights=confidence - right, minlength=_BINS * len(scores))
    return np.asarray(gaps.reshape(_BINS, len(scores)))


_FUNCTIONS: dict[str, Callable[[Floats, Labels], float]] = {
    "top1": _top1,
    "top5": _top5,
    "balanced_accuracy": _balanced_accuracy,
    "auroc": _auroc,
    "map": _map,
    "ece": _ece,
}
