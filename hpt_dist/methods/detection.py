"""A detector trained on images with boxes, and with masks where it draws them."""

from __future__ import annotations

import torch
from torch import Tensor

from hpt_dist.methods.method import Loss, Method
from hpt_dist.networks.backbones import Backbone
from hpt_dist.networks.detector import Detector, Inputs


class Detection(Detector, Method):
    """The sum of a detector's losses: of proposals, classes, boxes and masks.

    Args: as of `Detector`.
    """

    backbone: Backbone
    phases = 1

    def forward(self, inputs: tuple[Tensor, ...], phase: int) -> Loss:  # noqa: ARG002 - of one
        """Return the loss of a batch.

        Args:
            inputs: `detector.Inputs`.
            phase: 0.

        Returns:
            The loss, with the metric "loss" and those of its parts.
        """
        losses = self.losses(Inputs(*inputs))
        total = torch.stack(list(losses.values())).sum()
        parts = {name: value.detach() for name, value in losses.items()}
        return Loss(total, {"loss": total.detach(), **parts})

    def after_step(self, done: int) -> None:
        """Nothing follows: all state is parameters and batch-norm statistics."""
