"""Sums of losses and what they count, of which ranks make the losses of the global batch.

torchvision divides by a rank's own counts, so a loss depends on which images share a rank.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor


class Sum(NamedTuple):
    """A loss before it is divided.

    Args:
        total: float32 scalar, summed over what this rank has.
        over: how many it is the sum of.
    """

    total: Tensor
    over: int


def global_means(sums: Mapping[str, Sum]) -> dict[str, Tensor]:
    """Return each loss such that its mean over ranks is that of the global batch.

    A collective call where there are several ranks. What counts nothing on any rank is 0.

    Args:
        sums: by name, the same names on every rank.
    """
    device = next(iter(sums.values())).total.device
    counts = torch.tensor([one.over for one in sums.values()], device=device, dtype=torch.float64)
    ranks = 1
    if dist.is_initialized():
        ranks = dist.get_world_size()
        dist.all_reduce(counts)
    shares = (ranks / counts.clamp(min=1)).float()
    return {
        name: one.total * share for (name, one), share in zip(sums.items(), shares, strict=True)
    }
