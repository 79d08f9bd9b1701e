"""A backbone and a linear head, trained on labelled images."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from hpt_dist.methods.method import Loss, Method

_INITIAL_STD = 0.01  # of the head's weights, as in linear evaluation


class FineTuning(Method):
    """A backbone and a linear head; at first the head may learn alone (LP-FT, arXiv 2202.10054).

    The loss is cross-entropy, or of several labels the binary one, its mean over images and
    classes.

    Args:
        backbone: images [b, 3, h, w] -> features [b, feature_dim].
        feature_dim: length of the backbone's feature vector.
        num_classes: outputs of the head.
        several: whether an image has several labels.
        seed: of the initial head, which depends on nothing else.
    """

    phases = 1

    def __init__(
        self, backbone: nn.Module, feature_dim: int, num_classes: int, *, several: bool, seed: int
    ) -> None:
        super().__init__()
        self.backbone = backbone
        # From the meta device, where PyTorch's own initialisation draws nothing.
        self.head = nn.Linear(feature_dim, num_classes, device="meta").to_empty(device="cpu")
        generator = torch.Generator().manual_seed(seed)
        nn.init.normal_(self.head.weight, std=_INITIAL_STD, generator=generator)
        nn.init.zeros_(self.head.bias)
        self.several = several
        self._head_alone = False

    def hold_backbone(self, *, held: bool) -> None:
        """Let the head learn alone, on the features of the backbone in evaluation mode, or all."""
        if held != self._head_alone or self.backbone.training is held:
            self._head_alone = held
            self.backbone.train(not held)

    def forward(self, inputs: tuple[Tensor, ...], phase: int) -> Loss:  # noqa: ARG002 - of one
        """Return the loss of labelled images.

        Args:
            inputs: images [b, 3, h, w]; their labels, int64 [b], or of several labels float32
                [b, num_classes], 1 where an image has the class.
            phase: 0.

        Returns:
            The loss, with the metric "loss", and of one label "top1" too.
        """
        images, labels = inputs
        logits = self._features_and_head(images)
        if self.several:
            total = functional.binary_cross_entropy_with_logits(logits, labels)
            return Loss(total, {"loss": total.detach()})
        total = functional.cross_entropy(logits, labels)
        right = (logits.argmax(dim=1) == labels).float().mean()
        return Loss(total, {"loss": total.detach(), "top1": right})

    def after_step(self, done: int) -> None:
        """Nothing follows: all state is parameters and batch-norm statistics."""

    def predict(self, images: Tensor) -> Tensor:
        """Return the float32 logits [b, num_classes] of images [b, 3, h, w]."""
        return self._classify(self.backbone(images))

    def _features_and_head(self, images: Tensor) -> Tensor:
        if not self._head_alone:
            return self.predict(images)
        with torch.no_grad():
            features = self.backbone(images)
        learning = [one for one in self.backbone.parameters() if one.requires_grad]
        # A gradient of 0: ranks wait for one of each parameter.
        unmoved = 0.0 * torch.stack([one.flatten()[0] for one in learning]).sum()
        return self._classify(features) + unmoved

    def _classify(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            logits: Tensor = self.head(features.float())
            return logits
