"""Numerics as torch applies them: autocast, memory format, and devices that cannot do it.

Mixed precision as in Micikevicius et al. (arXiv 1710.03740): parameters stay float32, and autocast
decides which operators run in the lower precision. bfloat16 has float32's range and needs no loss
scaling; float16 does need it, so it is used only where it is asked for.
"""

from __future__ import annotations

import torch

from hpt_dist.errors import TrainingError
from hpt_dist.recipe.numerics import DeviceKind, Numerics

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_FORMATS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
_NAMES = {"cpu": "CPU", "gpu": "GPU"}


def autocast(numerics: Numerics, device: torch.device | str) -> torch.autocast:
    """Return the context in which a forward pass computes in a precision; none for float32."""
    return torch.autocast(
        torch.device(device).type,
        dtype=_DTYPES[numerics.precision] if numerics.precision != "float32" else torch.bfloat16,
        enabled=numerics.precision != "float32",
    )


def torch_format(numerics: Numerics) -> torch.memory_format:
    """Return what `.to(memory_format=...)` of the method and of its images takes."""
    return _FORMATS[numerics.memory_format]


def in_words(numerics: Numerics, kind: DeviceKind) -> str:
    """Return how a trial computes and on what, as its run.json and the report say it."""
    return f"{numerics} on a {_NAMES[kind]}"


def require(kind: DeviceKind, numerics: Numerics | None = None) -> None:
    """Refuse a trial that was planned for another device than this process has.

    Its key holds how it computes; a device that emulates that, or another kind, would give another
    result under the same key.

    Args:
        kind: of the device that the plan was made for.
        numerics: how it trains; None for a trial that trains nothing.

    Raises:
        TrainingError: there is no such device here, or it cannot compute so.
    """
    if kind == "cpu":
        return
    if not torch.cuda.is_available():
        raise TrainingError(
            "this trial was planned for a GPU, and torch sees none here",
            fix="check the driver and torch's build (hpt-dist doctor); or plan for the CPU: "
            "CUDA_VISIBLE_DEVICES= hpt-dist launch, or gpus_per_node: 0 in the profile",
        )
    is_brain = numerics is not None and numerics.precision == "bfloat16"
    if is_brain and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise TrainingError(
            f"this trial was planned in bfloat16, which {torch.cuda.get_device_name()} "
            "only emulates",
            fix="set precision: float32 in the profile, or in the stage",
        )
