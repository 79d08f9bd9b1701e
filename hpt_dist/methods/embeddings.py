"""What methods that compare embeddings share: their heads, their spread, those of all ranks."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hpt_dist.methods.method import seeded_linear


def perceptron(
    inputs: int,
    hidden: int,
    outputs: int,
    *,
    generator: torch.Generator,
    batch_norm: bool = False,
    bias: bool = True,
) -> nn.Sequential:
    """Return a head of two layers, [b, inputs] -> [b, outputs].

    Args:
        inputs: length of a feature vector.
        hidden: width of the layer between.
        outputs: length of an embedding.
        generator: the initial weights are drawn from it alone.
        batch_norm: whether it normalises before the ReLU. The first layer then has no bias, which
            the normalisation would take away again.
        bias: whether the layers have one otherwise.
    """
    first = seeded_linear(inputs, hidden, generator=generator, bias=bias and not batch_norm)
    norm = [nn.BatchNorm1d(hidden)] if batch_norm else []
    last = seeded_linear(hidden, outputs, generator=generator, bias=bias)
    return nn.Sequential(first, *norm, nn.ReLU(), last)


def feature_std(embeddings: Tensor) -> Tensor:
    """Return how spread unit embeddings are: 1 on the whole sphere, 0 where all are the same.

    Args:
        embeddings: [b, dim] with rows of length 1.

    Returns:
        The standard deviation over the batch, averaged over dimensions, times sqrt(dim)
        (arXiv 2011.10566, section 4.1); a scalar.
    """
    dim = embeddings.shape[1]
    spread: Tensor = embeddings.std(dim=0, correction=0).mean() * dim**0.5
    return spread


def follow_modes(target: nn.Module, online: nn.Module) -> None:
    """Put each part of a copy in the mode, training or not, of the part that it was copied from."""
    for ours, theirs in zip(target.modules(), online.modules(), strict=True):
        ours.training = theirs.training


def gather(share: Tensor) -> Tensor:
    """Return the rows of all ranks in the order of the global batch: rank by rank.

    Args:
        share: this rank's rows [b, ...], as many as every other rank's.
    """
    if not _is_shared():
        return share
    shares = [torch.empty_like(share) for _ in range(dist.get_world_size())]
    dist.all_gather(shares, share.contiguous())
    return torch.cat(shares)


def gather_with_gradient(share: Tensor) -> Tensor:
    """Return the rows of all ranks, through which gradients reach the ranks that they are of.

    A row's gradient is the sum of what every rank's loss gives it. So where each rank's loss is
    the mean over its own rows, the mean of the ranks' parameter gradients is the gradient of the
    mean over all rows: what one rank alone would find.

    Args:
        share: this rank's rows [b, ...], as many as every other rank's.
    """
    if not _is_shared():
        return share
    rows: Tensor = _Gather.apply(share)
    return rows


def first_row(share: int) -> int:
    """Return which row of the global batch is the first of this rank's `share` rows."""
    return dist.get_rank() * share if _is_shared() else 0


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, share: Tensor) -> Tensor:
        ctx.rows = len(share)
        return gather(share)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        start = first_row(ctx.rows)
        return total[start : start + ctx.rows]


def _is_shared() -> bool:
    return dist.is_available() and dist.is_initialized()
