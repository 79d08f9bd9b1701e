"""Minimax Entropy: semi-supervised domain adaptation (Saito et al., arXiv 1904.06487)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from hpt_dist.errors import RequestError
from hpt_dist.methods.method import Loss, Method, seeded_linear

_OBJECTIVES = ("mme", "ent", "s+t")


class MME(Method):
    """A classifier by similarity to prototypes, adapted by the entropy of unlabelled images.

    Phase 0 minimises the cross-entropy of labelled source and target images. Phase 1 plays on the
    entropy H of unlabelled target images: with "mme" the prototypes maximise H while the backbone
    and the embedding minimise it; with "ent", the paper's baseline, all minimise it; with "s+t"
    there is no phase 1.

    Args:
        backbone: images [b, 3, h, w] -> features [b, feature_dim].
        feature_dim: length of the backbone's feature vector.
        num_classes: number of classes, the same in source and target.
        head_dim: length of an embedding.
        temperature: divisor of the similarities.
        entropy_weight: lambda, the weight of H.
        objective: "mme", "ent" or "s+t".
        seed: of the initial head, which depends on nothing else.

    Raises:
        RequestError: if there is no such objective.
    """

    def __init__(
        self,
        backbone: nn.Module,
        feature_dim: int,
        num_classes: int,
        *,
        head_dim: int = 512,
        temperature: float = 0.05,
        entropy_weight: float = 0.1,
        objective: str,
        seed: int,
    ) -> None:
        super().__init__()
        if objective not in _OBJECTIVES:
            raise RequestError(
                f"there is no objective {objective!r}", allowed=", ".join(_OBJECTIVES)
            )
        generator = torch.Generator().manual_seed(seed)
        self.backbone = backbone
        self.embedding = seeded_linear(feature_dim, head_dim, generator=generator)
        self.prototypes = seeded_linear(head_dim, num_classes, generator=generator, bias=False)
        self.temperature = temperature
        self.entropy_weight = entropy_weight
        self.objective = objective
        self.phases = 1 if objective == "s+t" else 2

    def forward(self, inputs: tuple[Tensor, ...], phase: int) -> Loss:
        """Return the loss of one phase.

        Args:
            inputs: in phase 0 the labelled images [2 b, 3, h, w], source then target, and their
                labels [2 b]; in phase 1 the unlabelled target images [u, 3, h, w].
            phase: 0 or 1.

        Returns:
            In phase 0 the cross-entropy, with the metrics "loss" and "labelled_top1"; in phase 1
            -lambda H ("mme") or lambda H ("ent"), with the metric "entropy" (H, nats).
        """
        if phase == 0:
            images, labels = inputs
            logits = self.predict(images)
            total = functional.cross_entropy(logits, labels)
            accuracy = (logits.argmax(dim=1) == labels).float().mean()
            return Loss(total, {"loss": total.detach(), "labelled_top1": accuracy})
        (images,) = inputs
        embedded = self.embedding(self.backbone(images))
        adversarial = self.objective == "mme"
        if adversarial:  # the prototypes get the gradient of -H, all before them that of H
            embedded = reverse_gradient(embedded)
        mean_entropy = entropy(self._classify(embedded)).mean()
        total = self.entropy_weight * (-mean_entropy if adversarial else mean_entropy)
        return Loss(total, {"entropy": mean_entropy.detach()})

    def after_step(self, done: int) -> None:
        """Nothing follows: all state is parameters."""

    def predict(self, images: Tensor) -> Tensor:
        """Return the float32 logits [b, num_classes] of images [b, 3, h, w]."""
        return self._classify(self.embedding(self.backbone(images)))

    def _classify(self, embedded: Tensor) -> Tensor:
        """Return prototypes @ (embedded / |embedded|) / temperature; prototypes keep their norm."""
        with torch.autocast(embedded.device.type, enabled=False):
            logits: Tensor = self.prototypes(functional.normalize(embedded.float(), dim=1))
            return logits / self.temperature


def entropy(logits: Tensor) -> Tensor:
    """Return the entropy in nats [b] of softmax(logits [b, num_classes])."""
    log_probabilities = logits.log_softmax(dim=1)
    return -(log_probabilities.exp() * log_probabilities).sum(dim=1)


def reverse_gradient(values: Tensor) -> Tensor:
    """Return the same values, exactly, with a gradient of the other sign (arXiv 1409.7495)."""
    return 2 * values.detach() - values
