"""Batch-norm statistics taken anew on other images, without a gradient.

In each batch every layer normalises by that batch's statistics, as in training, and what the layers
saw is pooled over all batches (precise BN; Wu and Johnson, arXiv 2105.07576). Ranks share out whole
batches, so the moments of a batch do not depend on how many ranks there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

# Images whose moments are taken at once: in float64 they need eight bytes a value.
_AT_ONCE = 16
# By how much a channel's output grows before it is reported.
AMPLIFIED = 2.0


@dataclass(frozen=True)
class Moments:
    """Of each channel of what a batch-norm layer gets.

    Args:
        count: values of each channel.
        mean: float64 [c].
        var: float64 [c], biased.
    """

    count: int
    mean: Tensor
    var: Tensor


@dataclass(frozen=True)
class Change:
    """What new statistics alone would do to a layer.

    Args:
        channels: how many it has.
        near_zero: those whose new variance is below the layer's epsilon, which then scales them.
        was_near_zero: how many had such a variance before.
        amplified: those whose output becomes more than `AMPLIFIED` times as large.
        most: how many times as large the output of the most amplified one becomes.
    """

    channels: int
    near_zero: list[int]
    was_near_zero: int
    amplified: list[int]
    most: float


def layers_of(network: nn.Module) -> dict[str, _BatchNorm]:
    """Return the batch-norm layers that keep statistics, by name, in the network's order."""
    return {
        name: layer
        for name, layer in network.named_modules()
        if isinstance(layer, _BatchNorm) and layer.running_var is not None
    }


@torch.no_grad()
def moments_of(network: nn.Module, images: Tensor) -> dict[str, Moments]:
    """Return what each batch-norm layer gets where all of them normalise by this batch.

    Args:
        network: is left in evaluation mode, with running statistics that are of no use.
        images: one whole batch [b, 3, h, w], at least 2.

    Returns:
        Moments by the layer's name, on the CPU; without layers that the images do not reach.
    """
    network.eval()
    try:
        with watching(network) as seen:
            for layer in layers_of(network).values():
                layer.train()
            network(images)
    finally:
        network.eval()
    return {name: pooled(found) for name, found in seen.items()}


@contextmanager
def watching(network: nn.Module) -> Iterator[dict[str, list[Moments]]]:
    """Note what each batch-norm layer gets while this is open: moments of each call, by name."""
    seen: dict[str, list[Moments]] = {}
    hooks = [
        layer.register_forward_pre_hook(
            lambda _, inputs, name=name: seen.setdefault(name, []).append(_of_batch(inputs[0]))
        )
        for name, layer in layers_of(network).items()
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def pooled(parts: Sequence[Moments]) -> Moments:
    """Return the moments of all values of some parts; a sum in the order of the parts."""
    counts = torch.tensor([part.count for part in parts], dtype=torch.float64)
    shares = (counts / counts.sum())[:, None]
    means = torch.stack([part.mean for part in parts])
    mean = (shares * means).sum(dim=0)
    within = torch.stack([part.var for part in parts])
    var = (shares * (within + (means - mean).square())).sum(dim=0)
    return Moments(sum(part.count for part in parts), mean, var)


def refreshed(
    state: Mapping[str, Tensor], moments: Mapping[str, Moments], mix: float
) -> dict[str, Tensor]:
    """Return a network's state with other batch-norm statistics.

    Args:
        state: by name.
        moments: of layers, by name.
        mix: share of the new statistics in mean and variance: 0 keeps the old, 1 replaces them.
    """
    fresh = dict(state)
    for layer, found in moments.items():
        # PyTorch keeps the unbiased variance.
        var = found.var * (found.count / max(found.count - 1, 1))
        for name, new in (("running_mean", found.mean), ("running_var", var)):
            old = state[f"{layer}.{name}"]
            mixed = torch.lerp(old.double().cpu(), new, mix)
            fresh[f"{layer}.{name}"] = mixed.to(old.dtype)
    return fresh


def changes(
    network: nn.Module, state: Mapping[str, Tensor], moments: Mapping[str, Moments]
) -> dict[str, Change]:
    """Return what new statistics alone would do to each layer.

    Args:
        network: has the layers.
        state: with the old statistics, by name.
        moments: the new ones, by the layer's name.
    """
    found = {}
    for name, layer in layers_of(network).items():
        if name not in moments:
            continue
        old, new = state[f"{name}.running_var"].double().cpu(), moments[name].var
        gains = ((old + layer.eps) / (new + layer.eps)).sqrt()
        found[name] = Change(
            channels=len(new),
            near_zero=_where(new < layer.eps),
            was_near_zero=int((old < layer.eps).sum()),
            amplified=_where(gains > AMPLIFIED),
            most=float(gains.max()),
        )
    return found


def _where(mask: Tensor) -> list[int]:
    return mask.nonzero().flatten().tolist()


def _of_batch(x: Tensor) -> Moments:
    """Return the moments of x [b, c, ...], computed in float64."""
    dims = [dim for dim in range(x.ndim) if dim != 1]
    parts = []
    for some in torch.split(x, _AT_ONCE):
        var, mean = torch.var_mean(some.double(), dims, correction=0)
        parts.append(Moments(some.numel() // some.shape[1], mean.cpu(), var.cpu()))
    return pooled(parts)
