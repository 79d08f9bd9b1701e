"""Confident answers to weak views teach strong views (FixMatch, Sohn et al., arXiv 2001.07685)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def taught(weak: Tensor, strong: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Return the loss of strong views of unlabelled images, and the share of images that teach.

    The loss (equation 4) is the mean over all images of 1(max q >= threshold) H(argmax q, p), with
    q the probabilities of the weak view, through which no gradient passes, and p of the strong one.

    Args:
        weak: float32 logits [u, num_classes] of the weak views.
        strong: float32 logits [u, num_classes] of the strong views of the same images.
        threshold: of the greatest probability, from which on an answer teaches.

    Returns:
        A scalar; and a scalar from 0 to 1 without a gradient.
    """
    confidence, labels = weak.detach().softmax(dim=1).max(dim=1)
    counts = (confidence >= threshold).float()
    losses = functional.cross_entropy(strong, labels, reduction="none")
    return (counts * losses).mean(), counts.mean()
