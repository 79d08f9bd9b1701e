"""A linear probe in closed form: ridge regression of the classes on train. Pure.

Features have length 1 and targets are 1 for the classes of an image, else 0; offsets are free. The
penalty is the one under which the images of train predict each other best. With the hat matrix H of
a fit, fitted = H y, the prediction for image i by all others is

    y_i - (y_i - fitted_i) / (1 - H_ii)

(Allen, Technometrics 16, 1974), so that one decomposition does for every image and every penalty.
No seed and no order of images matters.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from hpt_dist.evals.features import Labelled, require_finite

# Shares of the summed squared lengths of the centred features.
PENALTIES = tuple(10 ** (exponent / 2) for exponent in range(-10, 1))

_SAME = 1e-14  # the mean squared distance from their mean of features that differ by rounding


class Predicted(NamedTuple):
    """What a probe predicts for images.

    Args:
        scores: float64 [n, num_classes]; the larger, the likelier.
        penalty: of those tried, the one that was taken.
    """

    scores: Tensor
    penalty: float


def predict(
    train: Labelled,
    queries: Tensor,
    num_classes: int,
    penalties: tuple[float, ...] = PENALTIES,
) -> Predicted:
    """Predict the classes of images by train, with the penalty that `leave_one_out` takes.

    Args:
        train: features [n, d], at least one image.
        queries: features [q, d].
        num_classes: number of classes.
        penalties: see `PENALTIES`.

    Raises:
        TrainingError: features are not finite.
    """
    require_finite(queries)
    several = len(train.labels) > 1
    penalty = leave_one_out(train, num_classes, penalties).penalty if several else max(penalties)
    targets = targets_of(train.labels, num_classes)
    features = functional.normalize(train.features.double(), dim=1)
    middle, mean = features.mean(dim=0), targets.mean(dim=0)
    centred = features - middle
    weights = _weights(
        centred, targets - mean, penalty * _unit(centred.square().sum(), len(centred))
    )
    scores = mean + (functional.normalize(queries.double(), dim=1) - middle) @ weights
    return Predicted(scores, penalty)


def leave_one_out(
    labelled: Labelled, num_classes: int, penalties: tuple[float, ...] = PENALTIES
) -> Predicted:
    """Predict each image's classes from all others, with the best of some penalties.

    Args:
        labelled: at least 2 images, features [n, d].
        num_classes: number of classes.
        penalties: of the weights' squared norm; see `PENALTIES`. Of equally good ones the largest.

    Raises:
        TrainingError: features are not finite.
    """
    require_finite(labelled.features)
    targets = targets_of(labelled.labels, num_classes)
    mean = targets.mean(dim=0)
    axes, sums = _principal(functional.normalize(labelled.features.double(), dim=1))
    unit = _unit(sums.sum(), len(axes))
    along, squares = axes.T @ (targets - mean), axes.square()
    tried = []
    for penalty in sorted(penalties, reverse=True):
        shrunk = 1 / (sums + penalty * unit)
        fitted = mean + axes @ (shrunk[:, None] * along)
        leverages = 1 / len(axes) + squares @ shrunk
        scores = targets - (targets - fitted) / (1 - leverages)[:, None]
        tried.append(Predicted(scores, penalty))
    return min(tried, key=lambda one: float((one.scores - targets).square().sum()))


def targets_of(labels: Tensor, num_classes: int) -> Tensor:
    """Return float64 [n, num_classes], 1 for the classes of an image."""
    several = labels.ndim == 2
    return (labels if several else functional.one_hot(labels, num_classes)).double()


def _principal(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return centred features [n, r] along their principal axes, and the sums of their squares [r].

    The smaller one of the two products of the features with themselves is decomposed.
    """
    centred = features - features.mean(dim=0)
    n, dim = centred.shape
    if n > dim:
        sums, axes = torch.linalg.eigh(centred.T @ centred)
        return centred @ axes, sums.clamp(min=0)
    sums, axes = torch.linalg.eigh(centred @ centred.T)
    sums = sums.clamp(min=0)
    return axes * sums.sqrt(), sums


def _unit(total: Tensor, n: int) -> float:
    """Return the summed squared lengths of n centred features; 1 where they are all the same.

    Then nothing is learned from how they are rounded.
    """
    return float(total) if float(total) > _SAME * n else 1.0


def _weights(centred: Tensor, targets: Tensor, penalty: float) -> Tensor:
    """Return the weights [d, num_classes] of centred features [n, d] for centred targets.

    The smaller one of the two systems of equations is solved.
    """
    n, dim = centred.shape
    gram = centred.T @ centred if n > dim else centred @ centred.T
    gram.diagonal().add_(penalty)
    factor = torch.linalg.cholesky(gram)
    if n > dim:
        return torch.cholesky_solve(centred.T @ targets, factor)
    return centred.T @ torch.cholesky_solve(targets, factor)
