"""A step of adaptation by the loop of every trial, beside the bare passes that it contains.

With minimax entropy a step has two passes both ways, after each of which the weights change, so
nothing can be shared; with consistency a pass both ways of labelled images and strong views, and
one forwards of weak views.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.engine_step import OURS, Setting, Step, cores, interleaved
from benchmarks.measure import Row, paired, print_table, versions
from hpt_dist.methods import MME
from hpt_dist.networks.precision import autocast, torch_format
from hpt_dist.recipe import Mme
from hpt_dist.train.loop import Inputs

CLASSES = 345  # DomainNet's
GOAL = 1.10
OBJECTIVES = ("mme", "consistency")
_SPEC = Mme.model_validate(
    {"kind": "mme", "init": "base", "source": "a/train", "target": "b", "shots": 1}
)
LITE0 = Setting("timm/tf_efficientnet_lite0", batch=48, optimizer=_SPEC.optimizer)
_MEASURED = ("torch", "timm")


def adapted(
    setting: Setting, device: torch.device | str, objective: str
) -> tuple[MME, tuple[Tensor, ...]]:
    """Return a method, in training mode on its device, and what its steps read.

    That is labelled images, their labels, and one or two views of unlabelled images.
    """
    backbone = setting.create()
    method = MME(backbone, backbone.feature_dim, CLASSES, objective=objective, seed=0)
    labelled, weak = setting.views(device)
    labels = torch.arange(setting.batch, device=device) % CLASSES
    strong = (weak.flip(-1).contiguous(memory_format=torch_format(setting.numerics)),)
    method.to(device).to(memory_format=torch_format(setting.numerics))
    views = (weak, *(strong if objective == "consistency" else ()))
    return method.train(), (labelled, labels, *views)


def phases(inputs: tuple[Tensor, ...], objective: str) -> tuple[Inputs, ...]:
    """Return the inputs of each phase of a step."""
    return (inputs,) if objective == "consistency" else (inputs[:2], inputs[2:])


def bare(method: MME, inputs: tuple[Tensor, ...], setting: Setting) -> Step:
    """Return the passes of a step and nothing else: those of copies of its modules."""
    network = copy.deepcopy(torch.nn.Sequential(method.backbone, method.embedding))
    head = copy.deepcopy(method.prototypes)
    labelled, labels, weak, *strong = inputs

    def both_ways(images: Tensor, loss: Callable[[Tensor], Tensor]) -> None:
        for module in (network, head):
            module.zero_grad(set_to_none=True)
        with autocast(setting.numerics, images.device):
            total = loss(head(functional.normalize(network(images), dim=1)))
        total.backward()  # type: ignore[no-untyped-call]

    def cross_entropy(logits: Tensor) -> Tensor:
        return functional.cross_entropy(logits[: len(labels)], labels) + logits.mean()

    def step() -> None:
        if strong:
            with torch.no_grad(), autocast(setting.numerics, weak.device):
                network(weak)
            both_ways(torch.cat([labelled, strong[0]]), cross_entropy)
        else:
            both_ways(labelled, cross_entropy)
            both_ways(weak, torch.mean)

    return step


def rows(rounds: int = 7, batch: int = 0) -> Iterator[Row]:
    """Yield the ratio of a step to its bare passes, for each objective.

    Args:
        rounds: that count.
        batch: labelled images of a step, and as many unlabelled ones; 0 is the paper's 48.
    """
    setting = replace(LITE0, batch=batch or LITE0.batch)
    for objective in OBJECTIVES:
        seconds = interleaved(
            setting,
            lambda method, inputs: {"passes": bare(method, inputs, setting)},
            ours=lambda one, device, of=objective: adapted(one, device, of),
            phases=lambda inputs, of=objective: phases(inputs, of),
            rounds=rounds,
        )
        rates = {who: 1 / statistics.median(one) for who, one in seconds.items()}
        note = ", ".join(f"{who} {rate:.2f} steps/s" for who, rate in rates.items())
        ratio = paired(seconds[OURS], seconds["passes"])
        yield Row(f"adapt_{objective}_over_bare_passes", ratio, GOAL, note, at_most=True)


def main() -> int:
    """Measure and print every row; return the exit status."""
    parser = argparse.ArgumentParser(prog="benchmarks.adapt", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="that count")
    asked = parser.parse_args()
    torch.set_num_threads(cores())
    return print_table(rows(asked.rounds), versions(_MEASURED), None)


if __name__ == "__main__":
    sys.exit(main())
