"""Batch norm that does not know the machine: its statistics are those of groups of a global batch.

A group is `bn_group` samples of the global batch, on one device or spread over several, so that
one rank and eight ranks normalise by the same numbers up to the order of float sums. Layers keep
their class's name, parameters and buffers; only what `forward` does in training changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Self

import torch
import torch.distributed as dist
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from hpt_dist.errors import RequestError

_KNOWN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, BatchNormAct2d)


@dataclass(frozen=True)
class Grouping:
    """How a rank's share of a global batch falls into groups that are normalised together.

    Args:
        groups: number of groups in the share, as consecutive runs of equal length.
        ranks: the process group over whose ranks each group goes on; None where it does not.
        whole: whether one group is the whole global batch.
    """

    groups: int = 1
    ranks: Any = None
    whole: bool = True

    @property
    def is_plain(self) -> bool:
        """Whether a layer does what PyTorch's own does."""
        return self.groups == 1 and self.ranks is None


def grouping(
    batch: int, bn_group: int | None, *, world: int = 1, interleaved: bool = False
) -> Grouping:
    """Return the grouping of a rank's share; a collective call where there are several ranks.

    Args:
        batch: samples of the global batch, which the ranks share in equal, consecutive parts.
        bn_group: samples that share statistics; None is the whole batch.
        world: number of ranks.
        interleaved: group i holds the samples i, i + g, i + 2 g, ... of the global batch, with g
            groups in all, instead of consecutive ones; see `interleave` for the share's order.

    Raises:
        RequestError: the groups do not fit the shares.
    """
    size, share = bn_group or batch, batch // world
    if size == batch:
        return Grouping(1, dist.group.WORLD if world > 1 else None)
    count = batch // size
    if interleaved:
        _check(share % count == 0, batch, size, world)
        return Grouping(count, dist.group.WORLD if world > 1 else None, whole=False)
    _check(size % share == 0 or share % size == 0, batch, size, world)
    if size <= share:
        return Grouping(share // size, whole=False)
    return Grouping(1, _neighbours(size // share, world), whole=False)


def interleave(
    share: int, groups: int, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor]:
    """Return the order that makes interleaved groups consecutive, and the way back.

    Args:
        share: samples of this rank's share, a multiple of `groups`.
        groups: number of groups.
        device: of the result.

    Returns:
        Indices int64 [share] such that `samples[order]` is grouped and `grouped[back]` are the
        samples as they were.
    """
    order = torch.arange(share, device=device).view(-1, groups).T.reshape(-1)
    return order, order.argsort()


def regroup(module: nn.Module, chosen: Grouping) -> None:
    """Let every batch-norm layer of a module take its statistics by groups.

    Raises:
        RequestError: a layer is of a kind that cannot, and the grouping needs it to.
    """
    for layer in _layers(module):
        if not isinstance(layer, _Regrouped) and not chosen.is_plain:
            _refuse_unknown(layer)
        _adapted(layer).grouping = chosen


def freeze(module: nn.Module) -> None:
    """Keep batch-norm statistics where they are, whatever `train()` is called later.

    The layers normalise by their running statistics from now on; their weights and biases go on
    learning if they require gradients. Deep copies stay frozen.
    """
    for layer in _layers(module):
        _adapted(layer).frozen = True
        layer.eval()


def count_rows(module: nn.Module, rows: Sequence[int]) -> None:
    """Say how many rows of what a module gets next are each image's, such as its regions.

    Groups of images then hold as many rows as their images have, on each rank its own number.

    Args:
        module: whose layers have been regrouped; others are left alone.
        rows: of each image of this rank's share, in order.
    """
    for layer in _layers(module):
        if isinstance(layer, _Regrouped):
            span = len(rows) // layer.grouping.groups
            sums = (sum(rows[i : i + span]) for i in range(0, len(rows), span))
            layer.rows = tuple(sums) if layer.training else None


def hold_statistics(module: nn.Module, *, held: bool) -> None:
    """Let running statistics stand still for a while, or move again.

    Layers in training go on normalising by the statistics of their batch, so that what learns
    behind them sees what it will see later.
    """
    for layer in _layers(module):
        if not isinstance(layer, _Regrouped) and held:
            _refuse_unknown(layer)
        _adapted(layer).held = held


@torch.no_grad()
def share_statistics(module: nn.Module) -> None:
    """Make running statistics the mean over ranks of what each has seen: those of one rank.

    A running statistic is linear in those of its batches, so the mean of the ranks' is that of a
    rank that has seen all groups. A collective call.
    """
    if not dist.is_initialized():
        return
    buffers: list[Tensor] = [
        buffer
        for layer in _layers(module)
        if isinstance(layer, _Regrouped) and not layer.grouping.whole and not layer.frozen
        for buffer in (layer.running_mean, layer.running_var)
        if isinstance(buffer, Tensor)
    ]
    if not buffers:
        return
    flat = torch.cat([buffer.flatten() for buffer in buffers])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    sizes = [buffer.numel() for buffer in buffers]
    for buffer, mean in zip(buffers, torch.split(flat, sizes), strict=True):
        buffer.copy_(mean.view_as(buffer))


class _Regrouped(nn.Module):
    """Goes before a batch-norm class, whose layers it lets group, freeze and hold statistics."""

    grouping: Grouping
    frozen: bool
    held: bool
    rows: tuple[int, ...] | None = None  # of each group, where they are not equally many

    def train(self, mode: bool = True) -> Self:
        return super().train(mode and not self.frozen)

    def forward(self: Any, x: Tensor) -> Tensor:
        if not self.training or (self.grouping.is_plain and not self.held):
            y: Tensor = super().forward(x)
            return y
        y = self._normalised(x)
        return self.act(self.drop(y)) if isinstance(self, BatchNormAct2d) else y

    def _normalised(self: Any, x: Tensor) -> Tensor:
        """Return x [b, c, ...] normalised by its groups' statistics; move the running ones."""
        groups = (
            x.chunk(self.grouping.groups) if self.rows is None else torch.split(x, list(self.rows))
        )
        if self.grouping.ranks is None:
            found = [self._normalised_here(group) for group in groups]
        else:
            weight, bias = self.weight, self.bias
            ranks, uneven = self.grouping.ranks, self.rows is not None
            found = [
                _NormOverRanks.apply(group, weight, bias, self.eps, ranks, uneven)
                for group in groups
            ]
        if not self.held and self.track_running_stats:
            self._move([stats[1:] for stats in found])
        return found[0][0] if len(found) == 1 else torch.cat([stats[0] for stats in found])

    def _normalised_here(self: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # With a momentum of 1 the running statistics are those of the batch.
        mean, var = (torch.zeros_like(self.running_mean) for _ in range(2))
        y = functional.batch_norm(x, mean, var, self.weight, self.bias, True, 1.0, self.eps)
        return y, mean, var

    @torch.no_grad()
    def _move(self: Any, stats: list[tuple[Tensor, Tensor]]) -> None:
        self.num_batches_tracked.add_(1)
        momentum = self.momentum
        if momentum is None:  # a cumulative mean
            momentum = 1.0 / float(self.num_batches_tracked)
        means, variances = zip(*stats, strict=True)
        self.running_mean.lerp_(torch.stack(means).mean(dim=0), momentum)
        self.running_var.lerp_(torch.stack(variances).mean(dim=0), momentum)


class _NormOverRanks(torch.autograd.Function):
    """Batch norm over the samples of several ranks (Ioffe and Szegedy, arXiv 1502.03167).

    PyTorch's SyncBatchNorm is for GPUs alone. This one does on any device what it does there, with
    one small collective call in each direction.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        ranks: Any,
        uneven: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return y like x [b, c, ...], and the group's mean [c] and unbiased variance [c]."""
        dims = [dim for dim in range(x.ndim) if dim != 1]
        own = x.numel() // x.shape[1]
        var, mean = torch.var_mean(_wide(x), dims, correction=0)
        if uneven:
            mean, var, count = _weighted(mean, var, own, ranks)
        else:
            count = own * dist.get_world_size(ranks)
            mean, var = _combined(mean, var, ranks)
        y = functional.batch_norm(x, mean, var, weight, bias, False, 0.0, eps)
        ctx.save_for_backward(x, weight, mean, (var + eps).rsqrt())
        ctx.count, ctx.ranks, ctx.dims, ctx.has_bias = count, ranks, dims, bias is not None
        unbiased = var * (count / max(count - 1, 1))
        ctx.mark_non_differentiable(mean, unbiased)
        return y, mean, unbiased

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x, weight and bias; the last two of this rank's samples."""
        x, weight, mean, inverse_std = ctx.saved_tensors
        shape = [-1 if dim == 1 else 1 for dim in range(x.ndim)]
        dy, wide = _wide(gradients[0]), _wide(x)
        sums = torch.stack([dy.sum(ctx.dims), (dy * (wide - mean.view(shape))).sum(ctx.dims)])
        sums[1] *= inverse_std
        d_bias, d_weight = sums.clone()
        dist.all_reduce(sums, group=ctx.ranks)
        # dx = scale (dy - mean(dy) - x_hat mean(dy x_hat)), as a sum of dy, x and a constant.
        scale = inverse_std if weight is None else inverse_std * weight
        of_x = -scale * inverse_std * sums[1] / ctx.count
        rest = -scale * sums[0] / ctx.count - of_x * mean
        dx = dy.mul(scale.view(shape)).addcmul_(wide, of_x.view(shape)).add_(rest.view(shape))
        return (
            dx.to(x.dtype),
            None if weight is None else d_weight.to(weight.dtype),
            d_bias if ctx.has_bias else None,
            None,
            None,
            None,
        )


def _wide(x: Tensor) -> Tensor:
    """Return x in at least float32."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def _combined(mean: Tensor, var: Tensor, ranks: Any) -> tuple[Tensor, Tensor]:
    """Return the mean and biased variance [c] of equally many samples on each rank."""
    own = torch.stack([mean, var])
    shares = [torch.empty_like(own) for _ in range(dist.get_world_size(ranks))]
    dist.all_gather(shares, own, group=ranks)
    means, variances = torch.stack(shares).unbind(dim=1)  # [ranks, c]
    mean = means.mean(dim=0)
    return mean, variances.mean(dim=0) + (means - mean).square().mean(dim=0)


def _weighted(mean: Tensor, var: Tensor, own: int, ranks: Any) -> tuple[Tensor, Tensor, int]:
    """Return the mean and biased variance [c] of all ranks' values of a channel, and how many.

    Args:
        mean: float32 [c], of this rank's values.
        var: float32 [c], biased.
        own: how many values of a channel this rank has; it may have none.
        ranks: their process group.
    """
    moments = torch.stack([mean, var]) if own else mean.new_zeros(2, len(mean))
    flat = torch.cat([moments.flatten(), moments.new_tensor([own])])
    shares = [torch.empty_like(flat) for _ in range(dist.get_world_size(ranks))]
    dist.all_gather(shares, flat, group=ranks)
    gathered = torch.stack(shares).double()
    counts = gathered[:, -1:]
    means, variances = gathered[:, :-1].chunk(2, dim=1)  # [ranks, c]
    weights = counts / counts.sum()
    whole = (weights * means).sum(dim=0)
    within = (weights * (variances + (means - whole).square())).sum(dim=0)
    return whole.to(mean.dtype), within.to(mean.dtype), round(float(counts.sum()))


def _neighbours(span: int, world: int) -> Any:
    """Return the process group of this rank among runs of `span` ranks; every rank makes all."""
    groups = [dist.new_group(list(range(first, first + span))) for first in range(0, world, span)]
    return groups[dist.get_rank() // span]


def _layers(module: nn.Module) -> list[Any]:
    return [layer for layer in module.modules() if isinstance(layer, _BatchNorm)]


def _adapted(layer: Any) -> Any:
    """Return the layer, in place, as one whose statistics can be grouped, frozen and held."""
    if not isinstance(layer, _Regrouped):
        layer_class: Any = type(layer)
        layer.__class__ = _class_for(layer_class)
        layer.grouping, layer.frozen, layer.held = Grouping(), False, False
    return layer


def _refuse_unknown(layer: Any) -> None:
    if type(layer) not in _KNOWN or not layer.track_running_stats:
        raise RequestError(
            f"the statistics of a {type(layer).__name__} cannot be grouped or held",
            where="bn_group",
            allowed=", ".join(kind.__name__ for kind in _KNOWN),
            fix="leave bn_group and head_warmup_steps out, or set batch_norm: frozen",
        )


@cache
def _class_for(layer_class: Any) -> Any:
    # A class, not a function set on the instance, which a deep copy would share with the original.
    return type(layer_class.__name__, (_Regrouped, layer_class), {})


def _check(fits: bool, batch: int, size: int, world: int) -> None:
    if not fits:
        raise RequestError(
            f"batch-norm groups of {size} do not fit a batch of {batch} on {world} ranks",
            where="bn_group",
            allowed="a multiple or a divisor of batch / ranks; with MoCo also one for which "
            "every rank holds as many samples of each group",
            fix="use another number of ranks, or bn_group: null",
        )
