"""What the training loop asks of a method, and the seeded layer that methods share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hpt_dist.networks.batch_norm import grouping, regroup


class Loss(NamedTuple):
    """What one forward pass of a method returns.

    Args:
        total: what the optimizer minimises; a float32 scalar.
        metrics: detached scalars to log, under names that no other phase uses.
    """

    total: Tensor
    metrics: dict[str, Tensor]


class Method(nn.Module, ABC):
    """A backbone with all that trains it; everything that must survive a restart is its state.

    One training step is, for each phase in turn, a forward pass, a backward pass and an optimizer
    step; then one `after_step`.

    Another distribution offers a method for pretraining as an entry point of the group
    `hpt_dist.methods`: a subclass, or a function that returns an instance. It is called as
    `NAME(backbone, feature_dim, seed=seed, **method_settings)` with a recipe's settings, when the
    backbone has its weights and what does not learn is frozen, on the CPU. What it returns

    - keeps the backbone it was given as `backbone`, and has `phases = 1`;
    - gets two views of the same images, each [b, 3, h, w], as `inputs` of `forward`;
    - draws its initial weights from `seed` alone, and nothing from torch's own generators, so that
      ranks and resumed runs agree (`seeded_linear`);
    - keeps what must survive a restart in parameters and buffers, and uses every parameter that
      learns in each forward pass;
    - calls `self.backbone(view)` for the features that are to learn, so that a recipe's `anchor`
      can compare them with those of the base;
    - returns metrics of the same names in each step; runs under autocast, so what needs float32
      switches that off.

    Args:
        backbone: the module that the training is for, images [b, 3, h, w] -> [b, feature_dim].
        phases: number of optimizer steps in one training step.
    """

    backbone: nn.Module
    phases: int

    @abstractmethod
    def forward(self, inputs: tuple[Tensor, ...], phase: int) -> Loss:
        """Return the loss of one phase on this rank's share of the batch."""

    @abstractmethod
    def after_step(self, done: int) -> None:
        """Do what follows the optimizer steps of a training step, without gradients.

        Args:
            done: training steps since the start, this one included, over all restarts.
        """

    def group_batch_norm(self, batch: int, bn_group: int | None, world: int) -> None:
        """Take batch-norm statistics by groups of the global batch; a collective call.

        Args:
            batch: samples of the global batch.
            bn_group: samples that share statistics; None is the whole batch.
            world: number of ranks.

        Raises:
            RequestError: the groups do not fit the ranks.
        """
        regroup(self, grouping(batch, bn_group, world=world))


def seeded_linear(
    inputs: int, outputs: int, *, generator: torch.Generator, bias: bool = True
) -> nn.Linear:
    """Return a linear layer with PyTorch's usual initialisation, drawn from `generator` alone.

    Args:
        inputs: length of an input vector.
        outputs: length of an output vector.
        generator: a CPU generator; the global one is neither read nor advanced.
        bias: whether the layer has one.
    """
    # From the meta device, where PyTorch's own initialisation draws nothing.
    layer = nn.Linear(inputs, outputs, bias=bias, device="meta").to_empty(device="cpu")
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, -(inputs**-0.5), inputs**-0.5, generator=generator)
    return layer
