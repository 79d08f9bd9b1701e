"""Numbers that no trained network has: refused by the entry's name, whatever else is forced."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from hpt_dist.errors import WeightsError

# What can be a parameter; quantised numbers mean nothing without their scales.
FLOATS = frozenset({"float16", "bfloat16", "float32", "float64"})
_NAMES_SHOWN = 8


def wrong_type(dtype: str, own: Tensor) -> str:
    """Return why numbers of a type cannot be those of a backbone's entry; empty if they can.

    Args:
        dtype: see `headers.Entry`.
        own: the backbone's tensor.
    """
    if own.is_floating_point():
        return "" if dtype in FLOATS else f"holds {dtype} numbers"
    plain = dtype in FLOATS or dtype.startswith(("int", "uint"))
    return "" if plain else f"holds {dtype} numbers"


def wrong_values(name: str, values: Tensor, own: Tensor) -> str:
    """Return what is wrong with an entry's numbers; empty if nothing is.

    Args:
        name: the backbone's.
        values: as they are in the file.
        own: the backbone's tensor with its initial values.
    """
    strange = values.numel() - int(values.isfinite().sum())
    if strange:
        return f"has {strange} of {values.numel()} values that are not finite"
    taken = values.to(own.dtype)
    if beyond := taken.numel() - int(taken.isfinite().sum()):
        kind = str(own.dtype).removeprefix("torch.")
        return f"has {beyond} of {values.numel()} values that are too large for {kind}"
    if name.endswith("running_var") and bool((taken < 0).any()):
        return "is a variance and has values below 0"
    # Averages only come near 0: what they began with never goes wholly.
    if name.endswith("running_var") and not bool(taken.any()):
        return "is a variance and is 0 throughout"
    # A layer that starts at zero may end there; biases, gains and tokens often are zero.
    is_layer = name.endswith("weight") and taken.dim() > 1
    if is_layer and not bool(taken.any()) and bool(own.any()):
        return "is a layer's weight and is 0 throughout"
    return ""


def refuse(faults: Mapping[str, str], where: str = "") -> None:
    """Refuse entries with faults.

    Args:
        faults: why, by entry.
        where: the source.

    Raises:
        WeightsError: there are any.
    """
    if not faults:
        return
    shown = [f"{name} {fault}" for name, fault in list(faults.items())[:_NAMES_SHOWN]]
    more = f"; and {len(faults) - len(shown)} more" if len(faults) > len(shown) else ""
    raise WeightsError(
        f"these weights cannot be right: {'; '.join(shown)}{more}",
        where=where,
        allowed="finite values",
        fix="save them again in float32, from a state before training diverged; force: true does "
        "not help",
    )


def require_finite(state: Mapping[str, Tensor], where: str = "") -> None:
    """Refuse a backbone's state dict whose numbers are not all finite.

    Args:
        state: of a finished trial.
        where: the trial's place.

    Raises:
        WeightsError: some are not; with the names of their entries.
    """
    bad = [name for name, value in state.items() if not bool(torch.isfinite(value).all())]
    if bad:
        more = f", ... {len(bad)} in all" if len(bad) > _NAMES_SHOWN else ""
        raise WeightsError(
            f"these weights are not finite: {', '.join(bad[:_NAMES_SHOWN])}{more}",
            where=where,
            fix="import other weights, or lower the learning rate of the training that left them",
        )
