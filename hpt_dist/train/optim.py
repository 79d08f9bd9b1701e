"""Optimizers, their parameter groups and their learning-rate schedules.

A schedule is a pure function of the step that returns a multiplier of the peak learning rate, so
that the rate of any step is known without having run the steps before it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import torch
from timm.optim import Lars
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from hpt_dist.errors import RequestError

# As detectron2 has them; batch norm and instance norm are of the first.
_NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm)


def build(
    module: nn.Module,
    backbone: nn.Module,
    *,
    name: str,
    lr: float,
    weight_decay: float,
    momentum: float,
    nesterov: bool,
    trust: float,
    backbone_lr_scale: float,
    fused: bool = True,
    decay_norms: bool = True,
) -> torch.optim.Optimizer:
    """Return the optimizer of a method's trainable parameters, at its peak learning rates.

    SGD decays every parameter, batch norm and biases included, as MoCo and HPT do, or with
    `decay_norms` false all but those of norms, as detectron2 does. AdamW decays
    only parameters of two or more dimensions: its decay does not pass through the gradient's
    normalisation, and would pull scales and biases to zero at the full learning rate. LARS
    (arXiv 1708.03888, eq. 6) adapts and decays only these, as BYOL and SimCLR do; the others take
    plain steps with momentum.

    SGD and AdamW are fused: a step of a ResNet-50's parameters takes 15 ms of a CPU instead of 38,
    and 22 ms instead of 91. The fused loops trust that a parameter and its state lie in memory in
    the same order, which `_match_layouts` ensures.

    Args:
        module: the method; its parameters outside `backbone` are the head.
        backbone: a submodule of `module`.
        name: "sgd", "lars" or "adamw".
        lr: peak learning rate of the head.
        weight_decay: of the parameters that decay.
        momentum: sgd and lars only.
        nesterov: sgd only.
        trust: lars only; its trust coefficient.
        backbone_lr_scale: the backbone's peak learning rate as a share of `lr`.
        fused: sgd and adamw only; not with a gradient scaler, whose first skipped step leaves
            torch's fused momentum unset.
        decay_norms: sgd only; whether the weights and biases of norms decay.

    Returns:
        An optimizer whose groups carry "part" ("backbone" or "head") and "peak_lr" for
        `set_learning_rates`; parameters that need no gradient are in no group.

    Raises:
        RequestError: if there is no such optimizer.
    """
    undecayed = frozenset() if decay_norms else _of_norms(module)
    groups = list(_groups(module, backbone, name, lr, weight_decay, backbone_lr_scale, undecayed))
    optimizer: torch.optim.Optimizer
    if name == "sgd":
        optimizer = torch.optim.SGD(
            groups, lr=lr, momentum=momentum, nesterov=nesterov, fused=fused
        )
    elif name == "adamw":
        optimizer = torch.optim.AdamW(groups, lr=lr, fused=fused)
    elif name == "lars":
        for group in groups:  # adapt exactly the groups that decay, also at a weight decay of 0
            group["always_adapt"] = group.pop("decays")
        optimizer = Lars(groups, lr=lr, momentum=momentum, trust_coeff=trust)
    else:
        raise RequestError(f"there is no optimizer {name!r}", allowed="sgd, lars, adamw")
    optimizer.register_load_state_dict_post_hook(_match_layouts)
    return optimizer


def set_learning_rates(optimizer: torch.optim.Optimizer, *, head: float, backbone: float) -> None:
    """Set each group's learning rate to its peak times the multiplier of its part.

    A multiplier of 0 leaves the part's parameters exactly as they are: all optimizers multiply
    their whole update, weight decay included, by the learning rate.
    """
    multipliers = {"head": head, "backbone": backbone}
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * multipliers[group["part"]]


def forget(optimizer: torch.optim.Optimizer, part: str) -> None:
    """Drop the momentum and the like of a part, as if its first step were still to come."""
    for group in optimizer.param_groups:
        if group["part"] == part:
            for parameter in group["params"]:
                optimizer.state.pop(parameter, None)


def schedule(name: str, step: int, steps: int, warmup_steps: int) -> float:
    """Return the multiplier at a step: the warm-up, then the named schedule over the other steps.

    Args:
        name: "cosine" or "constant".
        step: 0 to `steps`.
        steps: of the whole training.
        warmup_steps: less than `steps`.

    Raises:
        RequestError: if there is no such schedule.
    """
    if name not in SCHEDULES:
        raise RequestError(f"there is no schedule {name!r}", allowed=", ".join(SCHEDULES))
    if step < warmup_steps:
        return warmup(step, warmup_steps)
    return SCHEDULES[name](step - warmup_steps, steps - warmup_steps)


def warmup(step: int, warmup_steps: int) -> float:
    """Return the multiplier of a linear warm-up: above 0 from the first step, 1 at its end."""
    return min(1.0, (step + 1) / (warmup_steps + 1))


def cosine(step: int, steps: int) -> float:
    """Return the multiplier of half a cosine: 1 at step 0, 0 at `steps` (arXiv 1608.03983)."""
    return 0.5 * (1 + math.cos(math.pi * step / steps))


def constant(step: int, steps: int) -> float:  # noqa: ARG001 - a schedule's arguments
    """Return 1."""
    return 1.0


SCHEDULES: dict[str, Callable[[int, int], float]] = {"cosine": cosine, "constant": constant}


def inverse_decay(step: int) -> float:
    """Return (1 + 1e-4 step)^-0.75, the multiplier that MME trains with (arXiv 1904.06487)."""
    return math.pow(1 + 1e-4 * step, -0.75)


def steps_down(step: int, steps: int, milestones: Sequence[float]) -> float:
    """Return a multiplier that falls tenfold at each milestone.

    Args:
        step: 0 to `steps`.
        steps: of the whole training.
        milestones: shares of `steps`; the first step at or after each has the smaller rate.
    """
    # Rounded, so that 1651 / 5000 of 5000 steps is step 1651 whatever the float says.
    falls: int = sum(step >= round(share * steps, 6) for share in milestones)
    return 0.1**falls


def after_warmup(step: int, warmup_steps: int) -> float:
    """Return the backbone's multiplier in a head warm-up: 0 in the first steps, then 1."""
    return float(step >= warmup_steps)


def _of_norms(module: nn.Module) -> frozenset[nn.Parameter]:
    norms = (one for one in module.modules() if isinstance(one, _NORMS))
    return frozenset(parameter for one in norms for parameter in one.parameters(recurse=False))


def _groups(
    module: nn.Module,
    backbone: nn.Module,
    name: str,
    lr: float,
    weight_decay: float,
    backbone_lr_scale: float,
    undecayed: Collection[nn.Parameter],
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
                and _decays(parameter, name, undecayed) is decays
            ]
            if parameters:
                yield {
                    "params": parameters,
                    "part": part,
                    "decays": decays,
                    "peak_lr": lr * scale,
                    "lr": lr * scale,
                    "weight_decay": weight_decay if decays else 0.0,
                }


def _decays(parameter: nn.Parameter, name: str, undecayed: Collection[nn.Parameter]) -> bool:
    return (name == "sgd" or parameter.ndim > 1) and parameter not in undecayed


def _match_layouts(optimizer: torch.optim.Optimizer) -> None:
    """Give restored state the memory layout of its parameters, which may have changed."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
