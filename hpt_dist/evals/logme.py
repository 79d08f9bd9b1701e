"""LogME: how well features predict labels by a linear model, without training one.

You et al., "LogME: Practical Assessment of Pre-trained Models for Transfer Learning", ICML 2021,
arXiv 2102.11005.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

_ROUNDS = 1_000
_ROWS = 4096
_TOLERANCE = 1e-9  # of alpha / beta, relative


def logme(features: NDArray[np.float32], labels: NDArray[np.int64], num_classes: int) -> float:
    """Return the mean over classes of the largest log evidence of a label, for each image.

    The label of a class is 1 or 0, its model a linear one with a Gaussian prior of precision alpha
    on its weights and Gaussian noise of precision beta; both are those of the largest evidence.

    Args:
        features: [n, d], finite.
        labels: class ids [n].
        num_classes: number of classes; one without an image does not count.

    Returns:
        The higher the better; comparable on the same images alone.
    """
    present = [one for one in range(num_classes) if (labels == one).any()]
    dim = features.shape[1]
    gram, sums = np.zeros((dim, dim)), np.zeros((dim, len(present)))
    for start in range(0, len(features), _ROWS):  # so that all of them are never float64
        rows = features[start : start + _ROWS].astype(np.float64)
        gram += rows.T @ rows
        sums += rows.T @ (labels[start : start + _ROWS, None] == present)
    squares, right = np.linalg.eigh(gram)
    kept = squares > squares.max(initial=0) * dim * np.finfo(np.float64).eps
    singular = np.sqrt(squares[kept])
    projected = (right[:, kept].T @ sums) / singular[:, None]
    found = [
        _evidence(projected[:, at], singular, float((labels == one).sum()), *features.shape)
        for at, one in enumerate(present)
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
