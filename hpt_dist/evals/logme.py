"""LogME: how well features predict labels by a linear model, without training one.

You et al., "LogME: Practical Assessment of Pre-trained Models for Transfer Learning", ICML 2021,
arXiv 2102.11005.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from hpt_dist.evals.metrics import Labels, members

_ROUNDS = 1_000
_ROWS = 4096
_TOLERANCE = 1e-9  # of alpha / beta, relative


def logme(features: NDArray[np.float32], labels: Labels, num_classes: int) -> float:
    """Return the mean over classes of the largest log evidence of a label, for each image.

    The label of a class is 1 or 0, its model a linear one with a Gaussian prior of precision alpha
    on its weights and Gaussian noise of precision beta; both are those of the largest evidence.

    Args:
        features: [n, d], finite.
        labels: class ids [n]; or of several labels an image bool [n, num_classes].
        num_classes: number of classes; one without an image does not count.

    Returns:
        The higher the better; comparable on the same images alone.
    """
    has = members(labels, num_classes)
    has, dim = has[:, has.any(axis=0)], features.shape[1]
    gram, sums = np.zeros((dim, dim)), np.zeros((dim, has.shape[1]))
    for start in range(0, len(features), _ROWS):  # so that all of them are never float64
        rows = features[start : start + _ROWS].astype(np.float64)
        gram += rows.T @ rows
        sums += rows.T @ has[start : start + _ROWS]
    squares, right = np.linalg.eigh(gram)
    kept = squares > squares.max(initial=0) * dim * np.finfo(np.float64).eps
    singular = np.sqrt(squares[kept])
    projected = (right[:, kept].T @ sums) / singular[:, None]
    found = [
        _evidence(projected[:, at], singular, float(images), *features.shape)
        for at, images in enumerate(has.sum(axis=0))
    ]
    return float(np.mean(found))


def _evidence(
    projected: NDArray[np.float64], singular: NDArray[np.float64], norm: float, n: int, d: int
) -> float:
    """Return the largest log evidence of one target, by n (algorithm 3 of the paper).

    Args:
        projected: of the target on the left singular vectors [r].
        singular: values of the features [r].
        norm: squared length of the target.
        n: images.
        d: length of a feature vector.
    """
    squares, outside = singular**2, max(norm - float(projected @ projected), 0.0)
    alpha, beta, ratio = 1.0, 1.0, 1.0
    for _ in range(_ROUNDS):
        shrink = squares / (ratio + squares)
        weights = shrink * projected / singular
        gamma = float(shrink.sum())
        length = float(weights @ weights)
        error = float(((1 - shrink) * projected) @ ((1 - shrink) * projected)) + outside
        # Without an error, or without any weight, the evidence has no maximum.
        alpha = gamma / max(length, np.finfo(np.float64).tiny)
        beta = max(n - gamma, np.finfo(np.float64).eps) / max(error, 1e-12 * norm)
        before, ratio = ratio, alpha / beta
        if abs(ratio - before) <= _TOLERANCE * before:
            break
    shrink = squares / (ratio + squares)
    weights = shrink * projected / singular
    error = float(((1 - shrink) * projected) @ ((1 - shrink) * projected)) + outside
    determinant = float(np.log(alpha + beta * squares).sum()) + (d - len(squares)) * math.log(alpha)
    total = n * math.log(beta / (2 * math.pi)) + d * math.log(alpha) - determinant
    return (total - beta * error - alpha * float(weights @ weights)) / (2 * n)
