"""Minimax Entropy: semi-supervised domain adaptation (Saito et al., arXiv 1904.06487)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from hpt_dist.errors import RequestError
from hpt_dist.methods.consistency import taught
from hpt_dist.methods.method import Loss, Method, seeded_linear
from hpt_dist.methods.source_labels import PseudoCentres

_PHASES = {"mme": 2, "ent": 2, "s+t": 1, "t": 1, "consistency": 1}


class MME(Method):
    """A classifier by similarity to prototypes, adapted by unlabelled images or by none.

    Phase 0 minimises the cross-entropy of labelled images. Phase 1 plays on the entropy H of
    unlabelled target images: with "mme" the prototypes maximise H while the backbone and the
    embedding minimise it; with "ent", the paper's baseline, all minimise it. With "s+t" and "t"
    (the same without the source) there is no phase 1. With "consistency" phase 0 adds the loss of
    strong views of unlabelled images (`consistency.taught`).

    Args:
        backbone: images [b, 3, h, w] -> features [b, feature_dim].
        feature_dim: length of the backbone's feature vector.
        num_classes: number of classes, the same in source and target.
        head_dim: length of an embedding.
        temperature: divisor of the similarities.
        entropy_weight: lambda, the weight of H.
        objective: "mme", "ent", "s+t", "t" or "consistency".
        threshold: from which probability on an answer teaches; "consistency" alone.
        consistency_weight: of the loss of strong views.
        centres: what source labels are mixed with while they are adapted; None never adapts them.
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
        threshold: float = 0.95,
        consistency_weight: float = 1.0,
        centres: PseudoCentres | None = None,
        seed: int,
    ) -> None:
        super().__init__()
        if objective not in _PHASES:
            raise RequestError(f"there is no objective {objective!r}", allowed=", ".join(_PHASES))
        generator = torch.Generator().manual_seed(seed)
        self.backbone = backbone
        self.embedding = seeded_linear(feature_dim, head_dim, generator=generator)
        self.prototypes = seeded_linear(head_dim, num_classes, generator=generator, bias=False)
        self.temperature = temperature
        self.entropy_weight = entropy_weight
        self.threshold, self.consistency_weight = threshold, consistency_weight
        self.objective = objective
        self.phases = _PHASES[objective]
        self.centres = centres
        self._adapts_labels = False

    def forward(self, inputs: tuple[Tensor, ...], phase: int) -> Loss:
        """Return the loss of one phase.

        Args:
            inputs: in phase 0 the labelled images [2 b, 3, h, w], source then target (of "t" [b],
                target alone), and their labels; of "consistency" also a weak and a strong view of
                the unlabelled target images, each [u, 3, h, w]. In phase 1 these images alone.
            phase: 0 or 1.

        Returns:
            In phase 0 the cross-entropy, with the metrics "loss" and "labelled_top1", of
            "consistency" also "consistency" and "confident" (the share that teaches); in phase 1
            -lambda H ("mme") or lambda H ("ent"), with the metric "entropy" (H, nats).
        """
        if self.objective == "consistency":
            return self._consistency(*inputs)
        if phase == 0:
            images, labels = inputs
            return self._labelled(self._embedded(images), labels)
        (images,) = inputs
        embedded = self._embedded(images)
        adversarial = self.objective == "mme"
        if adversarial:  # the prototypes get the gradient of -H, all before them that of H
            embedded = reverse_gradient(embedded)
        mean_entropy = entropy(self._classify(embedded)).mean()
        total = self.entropy_weight * (-mean_entropy if adversarial else mean_entropy)
        return Loss(total, {"entropy": mean_entropy.detach()})

    def after_step(self, done: int) -> None:
        """Nothing follows: all state is parameters, and centres that are placed between steps."""

    def predict(self, images: Tensor) -> Tensor:
        """Return the float32 logits [b, num_classes] of images [b, 3, h, w]."""
        return self._classify(self._embedded(images))

    def embed(self, images: Tensor) -> Tensor:
        """Return the float32 embeddings [b, head_dim], of length 1, of images [b, 3, h, w]."""
        return _unit(self._embedded(images))

    def place_centres(self, embedded: Tensor) -> None:
        """Place the centres of unlabelled images [n, head_dim], of length 1, by their classes."""
        if self.centres is not None:
            with torch.no_grad():
                logits = embedded @ self.prototypes.weight.to(embedded.device).float().T
            self.centres.place(embedded, logits.argmax(dim=1))

    def adapt_labels(self, *, on: bool) -> None:
        """Mix the labels of source images with what the centres answer from now on, or do not."""
        self._adapts_labels = on and self.centres is not None

    def _labelled(self, embedded: Tensor, labels: Tensor) -> Loss:
        logits = self._classify(embedded)
        total = functional.cross_entropy(logits, self._targets(embedded, labels))
        accuracy = (logits.argmax(dim=1) == labels).float().mean()
        return Loss(total, {"loss": total.detach(), "labelled_top1": accuracy})

    def _targets(self, embedded: Tensor, labels: Tensor) -> Tensor:
        """Return the labels, or where source labels are adapted, probabilities of classes."""
        if self.centres is None or not self._adapts_labels:
            return labels
        source, target = labels.chunk(2)
        mixed = self.centres.mixed(_unit(embedded[: len(source)].detach()), source)
        return torch.cat([mixed, functional.one_hot(target, mixed.shape[1]).to(mixed)])

    def _consistency(self, images: Tensor, labels: Tensor, weak: Tensor, strong: Tensor) -> Loss:
        with torch.no_grad():
            answers = self.predict(weak)
        embedded = self._embedded(torch.cat([images, strong]))  # one pass, as in the paper
        labelled = self._labelled(embedded[: len(images)], labels)
        loss, share = taught(answers, self._classify(embedded[len(images) :]), self.threshold)
        total = labelled.total + self.consistency_weight * loss
        found = {"consistency": loss.detach(), "confident": share}
        return Loss(total, labelled.metrics | found)

    def _embedded(self, images: Tensor) -> Tensor:
        embedded: Tensor = self.embedding(self.backbone(images))
        return embedded

    def _classify(self, embedded: Tensor) -> Tensor:
        """Return prototypes @ (embedded / |embedded|) / temperature; prototypes keep their norm."""
        with torch.autocast(embedded.device.type, enabled=False):
            logits: Tensor = self.prototypes(_unit(embedded))
            return logits / self.temperature


def _unit(embedded: Tensor) -> Tensor:
    return functional.normalize(embedded.float(), dim=1)


def entropy(logits: Tensor) -> Tensor:
    """Return the entropy in nats [b] of softmax(logits [b, num_classes])."""
    log_probabilities = logits.log_softmax(dim=1)
    return -(log_probabilities.exp() * log_probabilities).sum(dim=1)


def reverse_gradient(values: Tensor) -> Tensor:
    """Return the same values, exactly, with a gradient of the other sign (arXiv 1409.7495)."""
    return 2 * values.detach() - values
