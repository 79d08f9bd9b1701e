"""A linear probe in closed form: ridge regression of classes, each image left out in turn. Pure.

Features have length 1 and targets are 1 for the classes of an image, else 0; offsets are free. With
the hat matrix H of all images, fitted = H y, the prediction for image i by all others is

    y_i - (y_i - fitted_i) / (1 - H_ii)

(Allen, Technometrics 16, 1974), so that one decomposition does for every image and every penalty.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from hpt_dist.evals.features import Labelled, require_finite

# Shares of the summed squared lengths of the centred features.
PENALTIES = tuple(10 ** (exponent / 2) for exponent in range(-10, 1))


class LeftOut(NamedTuple):
    """What the others predict for each image.

    Args:
        scores: float64 [n, num_classes]; the larger, the likelier.
        penalty: of those tried, the one with the least squared error of all these predictions.
    """

    scores: Tensor
    penalty: float


def leave_one_out(
    labelled: Labelled, num_classes: int, penalties: tuple[float, ...] = PENALTIES
) -> LeftOut:
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
    unit = float(sums.sum()) or 1.0  # where all features are the same, nothing can be learned
    along, squares = axes.T @ (targets - mean), axes.square()
    tried = []
    for penalty in sorted(penalties, reverse=True):
        shrunk = 1 / (sums + penalty * unit)
        fitted = mean + axes @ (shrunk[:, None] * along)
        leverages = 1 / len(axes) + squares @ shrunk
        scores = targets - (targets - fitted) / (1 - leverages)[:, None]
        tried.append(LeftOut(scores, penalty))
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
