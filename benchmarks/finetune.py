"""A step of fine-tuning by the loop of every trial, beside its bare passes."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.engine_step import OURS, Setting, Step, interleaved
from benchmarks.measure import Row, paired
from hpt_dist.methods import FineTuning
from hpt_dist.networks.precision import autocast, torch_format
from hpt_dist.recipe import Optimizer

CLASSES = 45  # RESISC's
_SGD = Optimizer(name="sgd", lr=0.01, weight_decay=0.0)
LITE0 = Setting("timm/tf_efficientnet_lite0", optimizer=_SGD)
RESNET50 = Setting("resnet50", batch=32, optimizer=_SGD)
GOALS = {"efficientnet_lite0": (LITE0, 1.10), "resnet50": (RESNET50, 1.15)}


def classifier(
    setting: Setting, device: torch.device | str = "cpu"
) -> tuple[FineTuning, tuple[Tensor, Tensor]]:
    """Return a setting's method, in training mode on its device, and its images and labels."""
    backbone = setting.create()
    method = FineTuning(backbone, backbone.feature_dim, CLASSES, several=False, seed=0)
    images, _ = setting.views(device)
    labels = torch.arange(setting.batch, device=device) % CLASSES
    method.to(device).to(memory_format=torch_format(setting.numerics))
    return method.train(), (images, labels)


def bare(method: FineTuning, inputs: tuple[Tensor, Tensor], setting: Setting) -> Step:
    """Return the passes of a step, both ways, and nothing else: those of copies of its modules."""
    backbone, head = copy.deepcopy(method.backbone), copy.deepcopy(method.head)
    images, labels = inputs

    def step() -> None:
        backbone.zero_grad(set_to_none=True)
        head.zero_grad(set_to_none=True)
        with autocast(setting.numerics, images.device):
            loss = functional.cross_entropy(head(backbone(images)), labels)
        loss.backward()

    return step


def rows(rounds: int = 7, batch: int = 0) -> Iterator[Row]:
    """Yield the ratio of a step to its bare passes, for each backbone with a goal.

    Args:
        rounds: that count.
        batch: images of a step; 0 is each setting's own.
    """
    for name, (setting, goal) in GOALS.items():
        chosen = replace(setting, batch=batch or setting.batch)
        seconds = interleaved(
            chosen,
            lambda method, inputs, chosen=chosen: {"passes": bare(method, inputs, chosen)},
            ours=classifier,
            rounds=rounds,
        )
        told = {who: chosen.batch / statistics.median(one) for who, one in seconds.items()}
        note = ", ".join(f"{who} {rate:.1f} images/s" for who, rate in told.items())
        ratio = paired(seconds[OURS], seconds["passes"])
        yield Row(f"finetune_{name}_over_bare_passes", ratio, goal, note, at_most=True)
