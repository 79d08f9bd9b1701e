"""What the kinds that train have in common: how a trial computes, and its loop."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch

from hpt_dist.methods import Method
from hpt_dist.networks import batch_norm, precision
from hpt_dist.networks.backbones import Backbone
from hpt_dist.reading.damage import Replacements
from hpt_dist.recipe import Optimizer, Trained
from hpt_dist.recipe.numerics import Numerics
from hpt_dist.stages.inputs import accelerator_of, backbone_of
from hpt_dist.train import optim
from hpt_dist.train.checkpoint import Checkpoints
from hpt_dist.train.loop import Accelerator, Feed, Loop, TrainOutcome, fit
from hpt_dist.train.selection import Evaluation
from hpt_dist.trial.context import Context

log = logging.getLogger(__name__)

M = TypeVar("M", bound=Method)


@dataclass(frozen=True)
class Training:
    """A trial that trains: where and how it computes, and what it starts from.

    Args:
        context: of the trial.
        spec: its settings.
        accelerator: its device and ranks.
        backbone: with the weights that it starts from, frozen where the settings say so.
        replacements: of its damaged training images.
    """

    context: Context
    spec: Trained
    accelerator: Accelerator
    backbone: Backbone
    replacements: Replacements

    @property
    def numerics(self) -> Numerics:
        """How it computes."""
        return self.spec.numerics

    @property
    def memory_format(self) -> torch.memory_format:
        """Of images and weights."""
        return precision.torch_format(self.numerics)

    @property
    def computed(self) -> str:
        """How it computes, in words."""
        return precision.in_words(self.numerics, self.context.order.trial.device)

    def start(self) -> Backbone:
        """Return a network of its own, on the device, with the weights that it starts from."""
        with torch.random.fork_rng(devices=[]):  # a new network draws weights, and training goes on
            network = backbone_of(self.context)
        return network.to(self.accelerator.device).to(memory_format=self.memory_format)

    def on_device(self, method: M) -> M:
        """Put a method on the device, in the memory format that it computes in."""
        method.to(self.accelerator.device).to(memory_format=self.memory_format)
        return method.train()

    def fit(
        self,
        method: Method,
        optimizer: Optimizer,
        *,
        peak_lr: float,
        rates: Callable[[torch.optim.Optimizer, int], float],
        feed: Feed,
        images_per_step: int,
        evaluation: Evaluation | None,
        keys_of: Callable[[int], list[str]],
        steps: int,
        saves_last: bool = False,
        decay_norms: bool = True,
        before_step: Callable[[int], None] = lambda _: None,
    ) -> TrainOutcome:
        """Train a method that is on its device, from where an earlier process left it.

        Args:
            method: what learns.
            optimizer: its settings.
            peak_lr: its learning rate at its peak.
            rates: sets the learning rates of a step, and returns the head's.
            feed: the batches from a step on.
            images_per_step: over all ranks.
            evaluation: what is looked at meanwhile.
            keys_of: the images of a step, for messages.
            steps: of the whole training.
            saves_last: whether something comes after it that a kill is not to throw back.
            decay_norms: see `optim.build`.
            before_step: see `Loop`.
        """
        loop = Loop(
            method=method,
            optimizer=_optimizer(method, optimizer, peak_lr, self.numerics, decay_norms),
            set_rates=rates,
            feed=feed,
            steps=steps,
            images_per_step=images_per_step,
            checkpoints=Checkpoints(self.context.root),
            checkpoint_every=self.spec.checkpoint_every,
            evaluation=evaluation,
            numerics=self.numerics,
            held_steps=self.spec.head_warmup_steps,
            keys_of=keys_of,
            replacements=self.replacements,
            saves_last=saves_last,
            before_step=before_step,
        )
        return fit(loop, self.accelerator, self.context, self.context.interrupt)


def begin_training(context: Context, spec: Trained) -> Training:
    """Return a trial that is about to train."""
    accelerator, backbone = accelerator_of(context), backbone_of(context)
    if spec.batch_norm == "frozen":
        batch_norm.freeze(backbone)
    log.info("computes in %s", spec.numerics)
    return Training(context, spec, accelerator, backbone, Replacements(spec.max_bad))


def _optimizer(
    method: Method, spec: Optimizer, lr: float, numerics: Numerics, decay_norms: bool
) -> torch.optim.Optimizer:
    """Return the optimizer of a method that is on its device, in its memory format."""
    settings = {**spec.model_dump(), "lr": lr, "fused": numerics.precision != "float16"}
    return optim.build(method, method.backbone, decay_norms=decay_norms, **settings)
