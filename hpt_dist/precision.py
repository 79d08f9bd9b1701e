"""Which precision and memory format a backbone trains in on this device: measured, not guessed.

Mixed precision as in Micikevicius et al. (arXiv 1710.03740): parameters stay float32, and autocast
decides which operators run in the lower precision. bfloat16 has float32's range and needs no loss
scaling; float16 does need it, so it is used only where it is asked for.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from hpt_dist.errors import RequestError, nearest

Precision = Literal["float32", "bfloat16", "float16"]
MemoryFormat = Literal["channels_last", "contiguous"]

# How many times as fast as float32 a lower precision must be, and how many times as fast as
# channels-last the contiguous format: below that, noise would choose the numerics.
PRECISION_MARGIN = 1.15
FORMAT_MARGIN = 1.1

# Flags of /proc/cpuinfo. Without one of them, bfloat16 is computed by way of float32.
_BF16_FLAGS = ("amx_bf16", "avx512_bf16")

_MOST_IMAGES = 32
_BUDGET_S = 6.0
_ROUNDS = (2, 7)  # at least, at most

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_FORMATS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}


@dataclass(frozen=True)
class Numerics:
    """How a network computes.

    Args:
        precision: of convolutions and matrix products; everything kept stays float32.
        memory_format: of images and of convolutions' weights.
    """

    precision: Precision
    memory_format: MemoryFormat

    def __str__(self) -> str:
        return f"{self.precision}, {self.memory_format}"


@dataclass(frozen=True)
class Choice:
    """What was chosen, and what spoke for it.

    Args:
        numerics: what to train in.
        seconds: of a forward and a backward pass for every candidate; empty if nothing had to be
            measured.
        images: how many were in such a pass.
        why: what was not tried, and for what reason; may be empty.
    """

    numerics: Numerics
    seconds: Mapping[Numerics, float] = field(default_factory=dict)
    images: int = 0
    why: str = ""

    def __str__(self) -> str:
        said = str(self.numerics)
        if self.seconds:
            ours = self.seconds[self.numerics]
            others = [f"{n} {s:.3g} s" for n, s in self.seconds.items() if n != self.numerics]
            passes = f"forward and backward of {self.images} images"
            said += f": {ours:.3g} s for {passes}, " + ", ".join(others)
        return f"{said}; {self.why}" if self.why else said


def choose(
    backbone: nn.Module,
    *,
    size: int,
    batch: int,
    device: torch.device | str,
    precision: Precision | Literal["auto"] = "auto",
    memory_format: MemoryFormat | Literal["auto"] = "auto",
) -> Choice:
    """Choose precision and memory format by training a copy of a backbone for a few seconds.

    The backbone itself, its batch-norm statistics and torch's random generators stay as they are.
    Its copy learns what the backbone learns and is in the same modes. Where only one candidate is
    left, nothing is measured.

    Args:
        backbone: images [b, 3, size, size] -> a tensor.
        size: height and width of its images, pixels.
        batch: images in a training step on this device; at most 32 of them are measured.
        device: where it will train.
        precision: "auto", or the one to use.
        memory_format: "auto", or the one to use.

    Raises:
        RequestError: there is no such precision or format, or the device has no use for it.
    """
    device = torch.device(device)
    _check_request(precision, memory_format, device)
    units = bfloat16_units(device)
    tried, why = candidates(
        precision,
        memory_format,
        convolutional=_convolutional(backbone),
        bfloat16=bool(units),
        device=_kind(device),
    )
    if len(tried) == 1:
        return Choice(tried[0], why=why)
    with _generators_kept(device):
        seconds, images = _measure(backbone, tried, size, min(batch, _MOST_IMAGES), device)
    return Choice(pick(seconds), seconds, images, why)


def candidates(
    precision: str, memory_format: str, *, convolutional: bool, bfloat16: bool, device: str
) -> tuple[list[Numerics], str]:
    """Return what is worth measuring, and why the rest is not.

    Args:
        precision: "auto" or the one to use.
        memory_format: "auto" or the one to use.
        convolutional: whether the network has convolutions whose windows overlap.
        bfloat16: whether the device has units for products in bfloat16.
        device: its name in a sentence.
    """
    why = []
    formats: list[MemoryFormat] = ["channels_last", "contiguous"]
    if memory_format != "auto":
        formats = [f for f in formats if f == memory_format]
    elif not convolutional:
        formats = ["contiguous"]
        why.append("channels_last not tried: this network has no overlapping convolutions")
    precisions: list[Precision] = ["float32", "bfloat16"]
    if precision != "auto":
        precisions = [p for p in get_args(Precision) if p == precision]
    elif not bfloat16:
        precisions = ["float32"]
        why.append(f"bfloat16 not tried: this {device} has no bf16 matrix units")
    return [Numerics(p, f) for p in precisions for f in formats], "; ".join(why)


def pick(seconds: Mapping[Numerics, float]) -> Numerics:
    """Return what is best by a clear margin: float32 and channels-last win what is near a tie.

    Args:
        seconds: of the same work for each candidate; at least one.
    """
    usual = [numerics for numerics in seconds if numerics.precision == "float32"]
    lower = [numerics for numerics in seconds if numerics.precision != "float32"]
    usual_s, lower_s = (
        min(map(seconds.__getitem__, group), default=inf) for group in (usual, lower)
    )
    wins = usual_s >= PRECISION_MARGIN * lower_s
    return min(lower if wins else usual, key=lambda n: seconds[n] * _handicap(n))


def _handicap(numerics: Numerics) -> float:
    return 1.0 if numerics.memory_format == "channels_last" else FORMAT_MARGIN


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


def bfloat16_units(device: torch.device) -> str:
    """Return what multiplies bfloat16 matrices on a device, or an empty string."""
    if device.type == "cuda":
        return "CUDA" if torch.cuda.is_bf16_supported(including_emulation=False) else ""
    flags = _cpu_flags() if device.type == "cpu" else frozenset()
    return next((flag for flag in _BF16_FLAGS if flag in flags), "")


def _cpu_flags() -> frozenset[str]:
    """Return what the kernel says that this processor can do; nothing where it does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    flags = (line.partition(":")[2] for line in lines if line.startswith("flags"))
    return frozenset(next(flags, "").split())


def _kind(device: torch.device) -> str:
    return "CPU" if device.type == "cpu" else "GPU"


def _check_request(precision: str, memory_format: str, device: torch.device) -> None:
    for where, value, known in (
        ("precision", precision, get_args(Precision)),
        ("memory_format", memory_format, get_args(MemoryFormat)),
    ):
        if value not in ("auto", *known):
            raise RequestError(
                f"there is no {where} {value!r}",
                where=where,
                allowed=", ".join(("auto", *known)),
                fix=nearest(value, known),
            )
    if precision == "float16" and device.type == "cpu":
        raise RequestError(
            "float16 does not train on a CPU",
            where="precision",
            allowed="auto, float32, bfloat16",
            fix="say auto, which takes bfloat16 where this CPU is faster in it",
        )


def _convolutional(module: nn.Module) -> bool:
    """Return whether a layout matters: a ViT's patch embedding and 1x1 layers are linear maps."""
    return any(
        isinstance(layer, _ConvNd) and tuple(layer.kernel_size) != tuple(layer.stride)
        for layer in module.modules()
    )


@contextmanager
def _generators_kept(device: torch.device) -> Iterator[None]:
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield


def _measure(
    backbone: nn.Module, tried: list[Numerics], size: int, batch: int, device: torch.device
) -> tuple[dict[Numerics, float], int]:
    """Return the least seconds of each candidate over interleaved rounds, and the images used.

    The least, because whatever else runs on the machine only ever adds to it.
    """
    ends = time.perf_counter() + _BUDGET_S
    images = _affordable(backbone, tried, size, batch, device)
    passes = {numerics: _pass(backbone, numerics, size, images, device) for numerics in tried}
    seconds = dict.fromkeys(tried, inf)
    least, most = _ROUNDS
    for done in range(-1, most):  # the first round is for warming up and does not count
        if done >= least and time.perf_counter() > ends:
            break
        for numerics, run in passes.items():
            taken = _timed(run, device)
            if done >= 0:
                seconds[numerics] = min(seconds[numerics], taken)
    return seconds, images


def _affordable(
    backbone: nn.Module, tried: list[Numerics], size: int, batch: int, device: torch.device
) -> int:
    """Return how many images a pass may have for all rounds to be within the budget."""
    trial = min(batch, 2)
    run = _pass(backbone, tried[0], size, trial, device)
    per_image = min(_timed(run, device) for _ in range(2)) / trial
    share_s = _BUDGET_S / (len(tried) * (1 + _ROUNDS[0]))
    # Two, because batch norm has no statistics of one value.
    return max(2, min(batch, int(share_s / per_image)))


def _pass(
    backbone: nn.Module, numerics: Numerics, size: int, images: int, device: torch.device
) -> Callable[[], None]:
    """Return what runs a copy of a backbone forwards and backwards on noise."""
    layout = torch_format(numerics)
    module = copy.deepcopy(backbone).to(device).to(memory_format=layout)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(images, 3, size, size, generator=generator)
    noise = noise.to(device).to(memory_format=layout)

    def run() -> None:
        module.zero_grad(set_to_none=True)
        with autocast(numerics, device):
            features: Tensor = module(noise)
        if features.requires_grad:
            features.float().square().mean().backward()  # type: ignore[no-untyped-call]

    return run


def _timed(run: Callable[[], None], device: torch.device) -> float:
    """Return the seconds of a call, those of what it started on a GPU included."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began
