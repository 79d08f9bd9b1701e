"""What the rule of precision and memory format costs here: `make bench-precision`.

A trial's numerics are decided by the kind of its device (`recipe/numerics.py`), not by a clock.
This measures what a clock would have chosen: a forward and a backward pass in each precision and
memory format, in turns, and how the rule's choice compares with the fastest.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Iterator
from itertools import product

import torch

from benchmarks.measure import Row, print_table, seconds_of, versions
from hpt_dist.networks import backbones
from hpt_dist.networks.precision import autocast, torch_format
from hpt_dist.recipe.numerics import Device, Numerics, decide
from hpt_dist.trial.memory import keep_freed_memory

BACKBONES = ("resnet18", "resnet50", "timm/tf_efficientnet_lite0", "timm/vit_tiny_patch16_224")
CANDIDATES = [
    Numerics(precision, memory_format)
    for precision, memory_format in product(
        ("float32", "bfloat16"), ("channels_last", "contiguous")
    )
]


def one_pass(
    backbone: str, numerics: Numerics, size: int, batch: int, device: torch.device
) -> Callable[[], None]:
    """Return what runs a backbone forwards and backwards on noise.

    Args:
        backbone: its name.
        numerics: how it computes.
        size: side of the images, pixels.
        batch: images of a pass.
        device: where.
    """
    layout = torch_format(numerics)
    torch.manual_seed(0)
    module = backbones.create(backbone).to(device).to(memory_format=layout).train()
    noise = torch.randn(batch, 3, size, size).to(device).to(memory_format=layout)

    def run() -> None:
        module.zero_grad(set_to_none=True)
        with autocast(numerics, device):
            features = module(noise)
        features.float().square().mean().backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return run


def rows(size: int, batch: int, device: torch.device, names: tuple[str, ...]) -> Iterator[Row]:
    """Yield, for each backbone, how many times as fast as the rule's choice the fastest is."""
    kind = "gpu" if device.type == "cuda" else "cpu"
    for name in names:
        chosen = decide("auto", "auto", name, Device(kind))
        passes: dict[str, Callable[[], object]] = {
            str(numerics): one_pass(name, numerics, size, batch, device) for numerics in CANDIDATES
        }
        for run in passes.values():  # warm up
            run()
        medians = {who: statistics.median(s) for who, s in seconds_of(passes).items()}
        spent = ", ".join(f"{who} {s * 1e3:.0f} ms" for who, s in medians.items())
        ratio = medians[str(chosen)] / min(medians.values())
        note = f"the rule takes {chosen}; {spent} for {batch} images of {size} px"
        yield Row(f"{name.rpartition('/')[2]}_rule_over_fastest", ratio, None, note)


def main() -> int:
    """Measure and print every row; return the exit status."""
    parser = argparse.ArgumentParser(prog="benchmarks.precision", description=__doc__)
    parser.add_argument("--size", type=int, default=64, help="side of the images, pixels")
    parser.add_argument("--batch", type=int, default=32, help="images of a pass")
    parser.add_argument("--backbone", action="append", help="instead of those that it names")
    asked = parser.parse_args()
    keep_freed_memory()  # as in the process of a trial
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    names = tuple(asked.backbone or BACKBONES)
    measured = rows(asked.size, asked.batch, device, names)
    return print_table(measured, versions(("torch", "torchvision", "timm")), None)


if __name__ == "__main__":
    sys.exit(main())
