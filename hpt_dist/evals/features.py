"""Features of a frozen backbone, and what evaluations on them share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hpt_dist.errors import DataError, TrainingError

# Plain values, ready for JSON: "val/top1", "test/top1", "selected", ...; and "scores", arrays.
Result = dict[str, Any]


class Labelled(NamedTuple):
    """The features of one split.

    Args:
        features: float32 [n, d], or [views, n, d] where a split has augmented copies.
        labels: int64 [n], class ids; or of several labels an image bool [n, num_classes].
    """

    features: Tensor
    labels: Tensor


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module in evaluation mode for a while, then give each part its own mode back."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


@torch.no_grad()
def extract(backbone: nn.Module, batches: Iterable[Tensor], device: torch.device) -> Tensor:
    """Return the features of images in evaluation mode.

    Args:
        backbone: images [b, 3, h, w] -> features [b, d]; on `device`.
        batches: normalised float images, each [b, 3, h, w].
        device: where the backbone is.

    Returns:
        float32 [n, d] on the CPU, in the order of the images.

    Raises:
        DataError: if there is no image.
    """
    with evaluating(backbone):
        features = [
            backbone(images.to(device, non_blocking=True)).float().cpu() for images in batches
        ]
    if not features:
        raise DataError("there are no images to extract features from")
    return torch.cat(features)


def require_finite(features: Tensor) -> None:
    """Refuse features from which nothing can be learned or judged.

    Args:
        features: [n, d], or [views, n, d].

    Raises:
        TrainingError: some are not finite, or so large that their length is not.
    """
    lengths = torch.linalg.vector_norm(features, dim=-1)
    if bad := lengths.numel() - int(lengths.isfinite().sum()):
        raise TrainingError(
            f"the backbone's features of {bad} of {lengths.numel()} images are not finite",
            where="features",
            fix="look at the weights that made them, not at this evaluation: import others, or "
            "where they were trained here, lower the learning rate of that training",
        )


def top1(scores: Tensor, labels: Tensor) -> float:
    """Return the share of rows of scores [n, num_classes] whose largest is at its label [n]."""
    return (scores.argmax(dim=1) == labels).double().mean().item()
