"""Source labels that fit the target: mixed with what prototypes of the target answer.

Source Label Adaptation (Yu and Lin, arXiv 2302.02335) sees the labels of source images as noisy
labels of the target, and corrects them by a prototypical network (arXiv 1703.05175) whose centres
are those of the unlabelled target images, by the classes that the classifier gives them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class PseudoCentres(nn.Module):
    """The centre of each class among unlabelled target images, and the labels that follow from it.

    Distances are Euclidean, between embeddings of length 1 / scale, as the classifier sees them.

    Args:
        num_classes: of source and target.
        head_dim: length of an embedding.
        mix: alpha, the weight of the centres' answers in a label.
        temperature: T, by which distances are multiplied before the softmax.
        scale: the classifier's own temperature, which divides embeddings.
    """

    centres: Tensor
    known: Tensor

    def __init__(
        self, num_classes: int, head_dim: int, *, mix: float, temperature: float, scale: float
    ) -> None:
        super().__init__()
        self.register_buffer("centres", torch.zeros(num_classes, head_dim))
        self.register_buffer("known", torch.zeros(num_classes, dtype=torch.bool))
        self.mix, self.temperature, self.scale = mix, temperature, scale

    @torch.no_grad()
    def place(self, embedded: Tensor, classes: Tensor) -> None:
        """Put each centre where the mean of its images is; one without images stays.

        Args:
            embedded: float32 [n, head_dim], of length 1.
            classes: int64 [n], the class that the classifier gives to each.
        """
        sums = torch.zeros(self.centres.shape, dtype=torch.float64)
        sums.index_add_(0, classes.cpu(), embedded.cpu().double())
        counts = torch.bincount(classes.cpu(), minlength=len(sums))
        seen = counts > 0
        means = (sums[seen] / counts[seen, None]).to(self.centres)
        seen = seen.to(self.known.device)
        self.centres[seen] = means
        self.known |= seen

    @torch.no_grad()
    def mixed(self, embedded: Tensor, labels: Tensor) -> Tensor:
        """Return (1 - alpha) y + alpha q, float32 [b, num_classes]; y while no centre is known.

        q is the softmax over classes of -T times the distance from a centre; a class that has
        never had a centre gets no probability.

        Args:
            embedded: float32 [b, head_dim] of source images, of length 1.
            labels: int64 [b], theirs.
        """
        given = functional.one_hot(labels, len(self.centres)).to(embedded)
        # Not by matrix products, whose rounding is that of much longer vectors.
        apart = torch.cdist(embedded, self.centres, compute_mode="donot_use_mm_for_euclid_dist")
        closeness = (-self.temperature / self.scale * apart).masked_fill(~self.known, -torch.inf)
        answers = closeness.softmax(dim=1)
        return torch.where(self.known.any(), torch.lerp(given, answers, self.mix), given)
