"""Which anchors and proposals of an image are trained on: by random numbers of its own.

torchvision draws from the global generator, so what an image gets depends on the images before it
and on the rank. Here each image has a generator, and each of its anchors a number by its place,
which the proposal that is made from it has too: neither how many others fit, nor which of two with
nearly the same score comes first, changes which of them is taken.
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


def numbers(count: int, generator: torch.Generator) -> Tensor:
    """Return random numbers of an image's places, float64 [count] below 1.

    In double precision two of many thousand anchors hardly ever draw the same.
    """
    return torch.rand(count, generator=generator, device=generator.device, dtype=torch.float64)


def balanced(
    labels: Tensor, count: int, positive_share: float, draws: Tensor
) -> tuple[Tensor, Tensor]:
    """Return random positives and negatives of one image, ascending.

    As `BalancedPositiveNegativeSampler` of torchvision: negatives take the place of positives that
    are missing, and positives never that of negatives.

    Args:
        labels: [n]; 1 and more is positive, 0 negative, and less is neither.
        count: how many in all, at most.
        positive_share: of the positives, at most.
        draws: the random number of each, [n]; the smallest are taken.

    Returns:
        Indices int64 [positives] and [negatives].
    """
    positives = _first(draws, labels >= 1, int(count * positive_share))
    return positives, _first(draws, labels == 0, count - len(positives))


def _first(draws: Tensor, fits: Tensor, count: int) -> Tensor:
    """Return the indices of those that fit with the smallest draws, ascending."""
    taken = draws.masked_fill(~fits, torch.inf)
    chosen = taken.topk(min(count, int(fits.sum())), largest=False).indices
    return chosen.sort().values
