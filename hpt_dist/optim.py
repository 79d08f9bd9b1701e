"""Optimizers, their parameter groups and their learning-rate schedules.

A schedule is a pure function of the step that returns a multiplier of the peak learning rate, so
that the rate of any step is known without having run the steps before it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from hpt_dist.errors import RequestError


def build(
    module: nn.Module,
    backbone: nn.Module,
    *,
    name: str,
    lr: float,
    weight_decay: float,
    momentum: float,
    nesterov: bool,
    backbone_lr_scale: float,
) -> torch.optim.Optimizer:
    """Return the optimizer of a method's trainable parameters, at its peak learning rates.

    SGD decays every parameter, batch norm and biases included, as MoCo and HPT do. AdamW decays
    only parameters of two or more dimensions: its decay does not pass through the gradient's
    normalisation, and would pull scales and biases to zero at the full learning rate.

    Args:
        module: the method; its parameters outside `backbone` are the head.
        backbone: a submodule of `module`.
        name: "sgd" or "adamw".
        lr: peak learning rate of the head.
        weight_decay: of the parameters that decay.
        momentum: sgd only.
        nesterov: sgd only.
        backbone_lr_scale: the backbone's peak learning rate as a share of `lr`.

    Returns:
        An optimizer whose groups carry "part" ("backbone" or "head") and "peak_lr" for
        `set_learning_rates`; parameters that need no gradient are in no group.

    Raises:
        RequestError: if there is no such optimizer.
    """
    groups = list(_groups(module, backbone, name, lr, weight_decay, backbone_lr_scale))
    if name == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov)
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=lr)
    raise RequestError(f"there is no optimizer {name!r}", allowed="sgd, adamw")


def set_learning_rates(optimizer: torch.optim.Optimizer, *, head: float, backbone: float) -> None:
    """Set each group's learning rate to its peak times the multiplier of its part.

    A multiplier of 0 leaves the part's parameters exactly as they are: both optimizers multiply
    their whole update, weight decay included, by the learning rate.
    """
    multipliers = {"head": head, "backbone": backbone}
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * multipliers[group["part"]]


def cosine(step: int, steps: int) -> float:
    """Return the multiplier of half a cosine: 1 at step 0, 0 at `steps` (arXiv 1608.03983)."""
    return 0.5 * (1 + math.cos(math.pi * step / steps))


def inverse_decay(step: int) -> float:
    """Return (1 + 1e-4 step)^-0.75, the multiplier that MME trains with (arXiv 1904.06487)."""
    return math.pow(1 + 1e-4 * step, -0.75)


def thirds(step: int, steps: int) -> float:
    """Return the multiplier 1, 0.1 and 0.01 in the three thirds of training."""
    return 0.1 ** (3 * step // steps)


def after_warmup(step: int, warmup_steps: int) -> float:
    """Return the backbone's multiplier in a head warm-up: 0 in the first steps, then 1."""
    return float(step >= warmup_steps)


def _groups(
    module: nn.Module,
    backbone: nn.Module,
    name: str,
    lr: float,
    weight_decay: float,
    backbone_lr_scale: float,
) -> Iterator[dict[str, Any]]:
    """Yield the parameter groups that are not empty, backbone first."""
    in_backbone = set(backbone.parameters())
    for part, scale in (("backbone", backbone_lr_scale), ("head", 1.0)):
        for decays in (True, False):
            parameters = [
                parameter
                for parameter in module.parameters()
                if parameter.requires_grad
                and (parameter in in_backbone) is (part == "backbone")
                and (name == "sgd" or parameter.ndim > 1) is decays
            ]
            if parameters:
                yield {
                    "params": parameters,
                    "part": part,
                    "peak_lr": lr * scale,
                    "lr": lr * scale,
                    "weight_decay": weight_decay if decays else 0.0,
                }
