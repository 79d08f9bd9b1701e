"""Classify images by a backbone and the head of its linear evaluation, as `pull` copies them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from hpt_dist.errors import RequestError, WeightsError
from hpt_dist.images.crops import center_box
from hpt_dist.images.photometric import Normalize
from hpt_dist.images.pixels import EncodedImage, resize_box
from hpt_dist.networks import backbones
from hpt_dist.store.committed import HEAD
from hpt_dist.weights import files
from hpt_dist.weights import head as heads
from hpt_dist.weights.head import Head
from hpt_dist.weights.loading_note import BACKBONE


class Classifier(nn.Module):
    """What `load_classifier` returns, in evaluation mode.

    Attributes:
        backbone: images [b, 3, h, w] -> features [b, d].
        head: features [b, d] -> a score of each class [b, classes].
        classes: class names in the order of the scores.
        image_size: side of the images that it was evaluated with, pixels.
    """

    def __init__(self, backbone: nn.Module, head: Head) -> None:
        super().__init__()
        self.backbone = backbone
        weight = head.state["weight"]
        self.head = nn.Linear(weight.shape[1], weight.shape[0])
        self.head.load_state_dict(dict(head.state))
        self.classes = tuple(head.classes)
        self.image_size = head.image_size
        self._normalize = Normalize(head.mean, head.std)
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """Return the score of each class [b, classes] for images [b, 3, h, w]; see `prepared`."""
        scores: Tensor = self.head(self.backbone(images))
        return scores

    def prepared(self, images: Sequence[str | Path]) -> Tensor:
        """Return image files as the evaluation read them: float32 [b, 3, size, size], normalised.

        Raises:
            RequestError: a file cannot be read.
            DataError: it is no image.
        """
        views = torch.empty((len(images), self.image_size, self.image_size, 3), dtype=torch.uint8)
        for path, view in zip(images, views, strict=True):
            encoded = EncodedImage(_content(Path(path)))
            resize_box(encoded.decode(), center_box(0, *encoded.size()), view)
        return self._normalize(views.permute(0, 3, 1, 2))

    def classify(self, *images: str | Path) -> list[str]:
        """Return the class of each image file; raises as `prepared`."""
        device = self.head.weight.device
        scores = self(self.prepared(images).to(device))
        return [self.classes[best] for best in scores.argmax(1).tolist()]


def load_classifier(folder: str | Path) -> Classifier:
    """Return the classifier that `hpt-dist pull RUN/EVALUATION FOLDER` copied.

    Args:
        folder: with backbone.safetensors and head.safetensors of a linear evaluation.

    Raises:
        RequestError: the folder does not hold them.
        WeightsError: they are damaged, or do not belong together.
    """
    place = Path(folder)
    head, name = heads.read(_content(place / HEAD), str(place / HEAD))
    state, _ = files.read(_content(place / BACKBONE))
    backbone = backbones.create(name)
    try:
        backbone.load_state_dict(state)
    except RuntimeError as error:
        raise WeightsError(
            f"these are no weights of {name}", where=str(place / BACKBONE)
        ) from error
    if head.state["weight"].shape[1] != backbone.feature_dim:
        raise WeightsError(f"this is no head for {name}", where=str(place / HEAD))
    return Classifier(backbone, head)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        fix = "hpt-dist pull RUN/EVALUATION FOLDER, of a linear evaluation"
        what = f"{path.name} cannot be read: {error.strerror}"
        raise RequestError(what, where=str(path.parent), fix=fix) from error
