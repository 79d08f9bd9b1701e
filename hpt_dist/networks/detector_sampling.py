"""Which anchors and proposals of an image are trained on: by random numbers of its own.

torchvision draws from the global generator, so what an image gets depends on the images before it
and on the rank. Here each image has a generator, and each of its anchors a number by its place: how
many others fit does not change which of two is taken first.
"""

from __future__ import annotations

import torch
from torch import Tensor


def generator_of(seed: int, device: torch.device) -> torch.Generator:
    """Return the generator of one image in one step.

    Args:
        seed: of the image in the step, 0 to 2^53 - 1.
        device: of the numbers; another kind of device has other numbers.
    """
    return torch.Generator(device).manual_seed(seed)


def balanced(
    labels: Tensor, count: int, positive_share: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return random positives and negatives of one image, ascending.

    As `BalancedPositiveNegativeSampler` of torchvision: negatives take the place of positives that
    are missing, and positives never that of negatives.

    Args:
        labels: [n]; 1 and more is positive, 0 negative, and less is neither.
        count: how many in all, at most.
        positive_share: of the positives, at most.
        generator: of the image, on the device of the labels.

    Returns:
        Indices int64 [positives] and [negatives].
    """
    # In double precision two of many thousand anchors hardly ever draw the same.
    draws = torch.rand(labels.shape, generator=generator, device=labels.device, dtype=torch.float64)
    positives = _first(draws, labels >= 1, int(count * positive_share))
    return positives, _first(draws, labels == 0, count - len(positives))


def _first(draws: Tensor, fits: Tensor, count: int) -> Tensor:
    """Return the indices of those that fit with the smallest draws, ascending."""
    taken = draws.masked_fill(~fits, torch.inf)
    chosen = taken.topk(min(count, int(fits.sum())), largest=False).indices
    return chosen.sort().values
