"""A training step of hpt-dist beside the passes in it, and beside the same step of others.

hpt-dist's step is that of `loop.fit` itself. The others take their turns inside its feed, between
two steps, so that all are measured in one process, interleaved, on one device.
"""

from __future__ import annotations

import copy
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor, nn

from hpt_dist.methods import Method, MoCoV2
from hpt_dist.networks import backbones, batch_norm
from hpt_dist.networks.precision import autocast, torch_format
from hpt_dist.recipe import Optimizer
from hpt_dist.recipe.numerics import Numerics
from hpt_dist.store import open_store
from hpt_dist.train import optim
from hpt_dist.train.checkpoint import Checkpoints
from hpt_dist.train.interrupt import Interrupt
from hpt_dist.train.loop import Accelerator, Feed, Inputs, Loop, fit, make_accelerator

OURS = "hpt-dist"
NEVER = 10**9
FLOAT32 = Numerics("float32", "channels_last")

Step = Callable[[], object]
M = TypeVar("M", bound=Method)


@dataclass(frozen=True)
class Setting:
    """A training to measure.

    Args:
        backbone: its name.
        size: height and width of the images, pixels.
        batch: images of each of the two views.
        queue: negative keys.
        momentum: of the key encoder.
        optimizer: by default SGD with momentum.
        frozen: whether batch-norm statistics stand still.
        numerics: precision and memory format.
    """

    backbone: str
    size: int = 64
    batch: int = 64
    queue: int = 4096
    momentum: float = 0.999
    optimizer: Optimizer = field(default_factory=Optimizer)
    frozen: bool = False
    numerics: Numerics = FLOAT32

    def create(self) -> backbones.Backbone:
        """Return a backbone, the same each time."""
        torch.manual_seed(0)
        backbone = backbones.create(self.backbone).train()
        if self.frozen:
            batch_norm.freeze(backbone)
        return backbone

    def views(self, device: torch.device | str = "cpu", batch: int = 0) -> tuple[Tensor, Tensor]:
        """Return two batches of noise; of another length if `batch` is given."""
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(2, batch or self.batch, 3, self.size, self.size, generator=generator)
        first, second = noise.to(device).unbind()
        layout = torch_format(self.numerics)
        return first.contiguous(memory_format=layout), second.contiguous(memory_format=layout)


QUICKSTART = Setting(
    "timm/tf_efficientnet_lite0",
    queue=1024,
    momentum=0.99,
    optimizer=Optimizer(name="adamw", lr=1e-3, backbone_lr_scale=0.3),
    frozen=True,
)


class Quiet:
    """An observer that keeps what the loop reports."""

    def __init__(self) -> None:
        self.points: list[tuple[int, dict[str, float]]] = []

    def metrics(self, step: int, values: dict[str, float]) -> None:
        self.points.append((step, values))

    def progress(self, step: int, steps: int, images_per_second: float) -> None:
        pass

    def metrics_so_far(self) -> str:
        return ""

    def restore_metrics(self, lines: str) -> None:
        pass

    def check(self) -> None:
        pass


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def moco(setting: Setting, device: torch.device | str = "cpu") -> MoCoV2:
    """Return the method of a setting, in training mode on its device."""
    backbone = setting.create()
    method = MoCoV2(
        backbone,
        backbone.feature_dim,
        queue=setting.queue,
        momentum=setting.momentum,
        temperature=0.2,
        dim=128,
        seed=0,
    )
    return method.to(device).to(memory_format=torch_format(setting.numerics)).train()


def of_moco(setting: Setting, device: torch.device) -> tuple[MoCoV2, tuple[Tensor, Tensor]]:
    """Return a setting's method and the two views of its steps."""
    return moco(setting, device), setting.views(device)


def train(
    setting: Setting,
    method: Method,
    feed: Feed,
    steps: int,
    accelerator: Accelerator,
    every: int = NEVER,
) -> Quiet:
    """Train a method by the loop of every trial; return what it reported.

    Args:
        setting: of the optimizer and the numerics.
        method: on the accelerator's device.
        feed: of its inputs.
        steps: how many.
        accelerator: of `make_accelerator`.
        every: steps between saved states.
    """
    observer = Quiet()
    with tempfile.TemporaryDirectory() as folder:
        loop = Loop(
            method=method,
            optimizer=optim.build(method, method.backbone, **setting.optimizer.model_dump()),
            set_rates=lambda *_: 0.0,
            feed=feed,
            steps=steps,
            images_per_step=2 * setting.batch,
            checkpoints=Checkpoints(open_store(folder)),
            checkpoint_every=every,
            numerics=setting.numerics,
        )
        fit(loop, accelerator, observer, Interrupt())
    return observer


def interleaved(
    setting: Setting,
    peers: Callable[[M, tuple[Tensor, ...]], Mapping[str, Step]],
    *,
    ours: Callable[[Setting, torch.device], tuple[M, tuple[Tensor, ...]]] = of_moco,
    phases: Callable[[tuple[Tensor, ...]], tuple[Inputs, ...]] = lambda views: (views,),
    rounds: int = 7,
    steps: int = 2,
    threads: int = 0,
) -> dict[str, list[float]]:
    """Return the seconds of a step of each contestant in each round.

    Args:
        setting: what is trained.
        peers: given the method and its inputs, those who do the same on the same device.
        ours: makes the method, in training mode on the device, and the inputs of its steps.
        phases: the inputs of each phase of a step; by default all are those of one.
        rounds: that count; one before them is thrown away.
        steps: of each contestant in a round.
        threads: of operators on a CPU; 0 takes all cores.
    """
    accelerator = make_accelerator(threads=threads or cores(), seed=0)
    device = accelerator.device
    method, views = ours(setting, device)
    others = peers(method, views)
    seen: dict[str, list[float]] = {name: [] for name in (OURS, *others)}

    def clock() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def inputs() -> Iterator[tuple[Inputs, ...]]:
        for _ in range(rounds + 1):
            for name, step in others.items():
                began = clock()
                for _ in range(steps):
                    step()
                seen[name].append((clock() - began) / steps)
            began = clock()
            for _ in range(steps):
                yield phases(views)
            seen[OURS].append((clock() - began) / steps)
        yield phases(views)

    @contextmanager
    def feed(_start: int) -> Iterator[Iterator[tuple[Inputs, ...]]]:
        yield inputs()

    train(setting, method, feed, (rounds + 1) * steps + 1, accelerator)
    return {name: values[1:] for name, values in seen.items()}


def bare(method: MoCoV2, views: tuple[Tensor, Tensor], numerics: Numerics) -> Step:
    """Return the passes of a step and nothing else: queries both ways, keys forwards.

    They are those of copies of the method's modules, so that nothing is learnt but time.
    """
    query = copy.deepcopy(nn.Sequential(method.backbone, method.projector))
    key = copy.deepcopy(nn.Sequential(method.key_backbone, method.key_projector))
    device = views[0].device

    def step() -> None:
        query.zero_grad(set_to_none=True)
        with autocast(numerics, device):
            embedded = query(views[0])
            with torch.no_grad():
                key(views[1])
        embedded.backward(torch.ones_like(embedded))

    return step
