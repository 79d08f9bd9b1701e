"""BYOL: bootstrap your own latent (Grill et al., arXiv 2006.07733)."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import get_ema_multi_avg_fn

from hpt_dist.methods.embeddings import feature_std, follow_modes, perceptron
from hpt_dist.methods.method import Loss, Method


class BYOL(Method):
    """Predicts the target network's embedding of an image's other view; it has no negatives.

    The online network is the backbone, a projector and a predictor. The target network is a
    backbone and a projector whose parameters are a moving average of theirs; its batch-norm
    statistics are not averaged but come from its own passes. Each view is a batch of its own.

    Args:
        backbone: images [b, 3, h, w] -> features [b, feature_dim]. Its copy becomes the target
            network's, so frozen batch norm must be frozen before.
        feature_dim: length of the backbone's feature vector.
        hidden: width of the projector's and the predictor's layer.
        dim: length of an embedding.
        momentum: share of its old value that a target parameter keeps in the first step; see
            `momentum_at`.
        steps: of the whole training.
        seed: of the initial projector and predictor, which depend on nothing else.
    """

    phases = 1

    def __init__(
        self,
        backbone: nn.Module,
        feature_dim: int,
        *,
        hidden: int,
        dim: int,
        momentum: float,
        steps: int,
        seed: int,
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.backbone = backbone
        self.projector = perceptron(feature_dim, hidden, dim, generator=generator, batch_norm=True)
        self.predictor = perceptron(dim, hidden, dim, generator=generator, batch_norm=True)
        self.target_backbone = copy.deepcopy(backbone).requires_grad_(False)
        self.target_projector = copy.deepcopy(self.projector).requires_grad_(False)
        self.momentum = momentum
        self.steps = steps

    def forward(self, inputs: tuple[Tensor, ...], phase: int = 0) -> Loss:  # noqa: ARG002 - one phase
        """Return the sum of both directions' losses (arXiv 2006.07733, eq. 2, and its mirror).

        Args:
            inputs: two views of the same images, each [b, 3, h, w].
            phase: always 0.

        Returns:
            The loss, from 0 to 8, with the metrics "loss" and "feature_std" (see `feature_std`;
            of the online projections of the first view).
        """
        first, second = inputs
        projected, mirrored = (self.projector(self.backbone(view)) for view in (first, second))
        target, mirrored_target = self._embed_targets(second), self._embed_targets(first)
        prediction, mirrored_prediction = self.predictor(projected), self.predictor(mirrored)
        with torch.autocast(first.device.type, enabled=False):
            total = squared_distance(prediction, target)
            total = total + squared_distance(mirrored_prediction, mirrored_target)
            spread = feature_std(functional.normalize(projected.detach().float(), dim=1))
        return Loss(total, {"loss": total.detach(), "feature_std": spread})

    @torch.no_grad()
    def after_step(self, done: int) -> None:
        """Move the target network towards the new online network.

        Args:
            done: training steps so far, this one included.
        """
        keep = momentum_at(done - 1, self.steps, self.momentum)
        get_ema_multi_avg_fn(keep)(  # type: ignore[no-untyped-call]
            [*self.target_backbone.parameters(), *self.target_projector.parameters()],
            [*self.backbone.parameters(), *self.projector.parameters()],
            None,
        )

    @torch.no_grad()
    def _embed_targets(self, view: Tensor) -> Tensor:
        """Return the targets [b, dim] of a view, with the online network's batch-norm modes."""
        follow_modes(self.target_backbone, self.backbone)
        follow_modes(self.target_projector, self.projector)
        targets: Tensor = self.target_projector(self.target_backbone(view))
        return targets


def momentum_at(step: int, steps: int, initial: float) -> float:
    """Return the target's momentum at a step: 1 - (1 - initial) (cos(pi step / steps) + 1) / 2.

    It rises from `initial` at step 0 to 1 at `steps` (arXiv 2006.07733, section 3.3).
    """
    return 1 - (1 - initial) * (math.cos(math.pi * step / steps) + 1) / 2


def squared_distance(predictions: Tensor, targets: Tensor) -> Tensor:
    """Return the mean of |q - z|^2 = 2 - 2 cos(q, z) over rows of length 1; a float32 scalar.

    Args:
        predictions: q, [b, dim] of any length.
        targets: z, [b, dim] of any length.
    """
    cosines = functional.cosine_similarity(predictions.float(), targets.float(), dim=1)
    mean: Tensor = 2 - 2 * cosines.mean()
    return mean
