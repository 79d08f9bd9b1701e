"""How far training moved features, which says nothing of whether they became better."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from hpt_dist.evals.features import require_finite

_QUERIES_AT_ONCE = 256  # bounds the similarities in memory to 256 n


def mean_cosine(before: Tensor, after: Tensor) -> float:
    """Return the mean cosine of each image's features before and after, -1 to 1.

    Args:
        before: [n, d].
        after: [n, d], of the same images.

    Raises:
        TrainingError: they are not finite.
    """
    for features in (before, after):
        require_finite(features)
    return functional.cosine_similarity(before.double(), after.double(), dim=1).mean().item()


def kept_neighbours(before: Tensor, after: Tensor, k: int) -> float:
    """Return the share of each image's nearest others by cosine that are still among them.

    Args:
        before: [n, d].
        after: [n, d], of the same images.
        k: how many nearest others of each image, less than n.

    Raises:
        TrainingError: they are not finite.
    """
    shared = 0
    for start in range(0, len(before), _QUERIES_AT_ONCE):
        rows = torch.arange(start, min(start + _QUERIES_AT_ONCE, len(before)))
        one, other = (_nearest_others(features, rows, k) for features in (before, after))
        shared += int((one.unsqueeze(2) == other.unsqueeze(1)).sum())
    return shared / (len(before) * k)


def _nearest_others(features: Tensor, rows: Tensor, k: int) -> Tensor:
    """Return the indices [rows, k] of each row's nearest other rows."""
    require_finite(features)
    unit = functional.normalize(features, dim=1)
    similarities = unit[rows] @ unit.T
    similarities[torch.arange(len(rows)), rows] = -torch.inf
    return similarities.topk(k, dim=1).indices
