"""SimCLR: contrastive learning within a batch (Chen et al., arXiv 2002.05709)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from hpt_dist.methods.embeddings import feature_std, first_row, gather_with_gradient, perceptron
from hpt_dist.methods.method import Loss, Method


class SimCLR(Method):
    """Tells the other view of an image from both views of all other images of the global batch.

    The head is the paper's W2 relu(W1 h). Each view is a batch of its own for batch norm, so that
    the groups that are normalised together are those of the images, on any number of ranks.

    Args:
        backbone: images [b, 3, h, w] -> features [b, feature_dim].
        feature_dim: length of the backbone's feature vector.
        temperature: divisor of the cosine similarities.
        dim: length of an embedding.
        seed: of the initial projector, which depends on nothing else.
    """

    phases = 1

    def __init__(
        self, backbone: nn.Module, feature_dim: int, *, temperature: float, dim: int, seed: int
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.backbone = backbone
        self.projector = perceptron(feature_dim, feature_dim, dim, generator=generator, bias=False)
        self.temperature = temperature

    def forward(self, inputs: tuple[Tensor, ...], phase: int = 0) -> Loss:  # noqa: ARG002 - one phase
        """Return the NT-Xent loss of this rank's images (arXiv 2002.05709, eq. 1 and algorithm 1).

        Args:
            inputs: two views of the same images, each [b, 3, h, w].
            phase: always 0.

        Returns:
            The mean loss over the 2 b views, each against those of all ranks, with the metrics
            "loss", "contrast_top1" (share of views nearer to their other view than to any other
            image's) and "feature_std" (see `feature_std`; of the first view).
        """
        first, second = (self.projector(self.backbone(view)) for view in inputs)
        with torch.autocast(first.device.type, enabled=False):
            pairs = [functional.normalize(view.float(), dim=1) for view in (first, second)]
            logits, positives = self._similarities(*pairs)
            total = functional.cross_entropy(logits, positives)
        with torch.no_grad():
            own = positives[:, None]
            others = logits.scatter(1, own, -torch.inf).amax(dim=1)
            metrics = {
                "loss": total.detach(),
                # Not argmax: it would call the ties of a collapsed encoder correct.
                "contrast_top1": (logits.gather(1, own)[:, 0] > others).float().mean(),
                "feature_std": feature_std(pairs[0]),
            }
        return Loss(total, metrics)

    def after_step(self, done: int) -> None:
        """Nothing follows: all state is parameters."""

    def _similarities(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits [2 b, 2 n] of a rank's views against those of the global batch of n.

        Args:
            first: unit embeddings [b, dim] of the first views.
            second: those of the second views of the same images.

        Returns:
            The logits, -inf where a view meets itself, and the column of each row's other view,
            int64 [2 b]. Rows and columns are first views, then second views.
        """
        candidates = torch.cat(gather_with_gradient(torch.cat([first, second], dim=1)).chunk(2, 1))
        logits = torch.cat([first, second]) @ candidates.T / self.temperature
        n, start = len(candidates) // 2, first_row(len(first))
        images = torch.arange(start, start + len(first), device=logits.device)
        itself, positives = torch.cat([images, images + n]), torch.cat([images + n, images])
        return logits.scatter(1, itself[:, None], -torch.inf), positives
