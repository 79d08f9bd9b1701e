"""Classify images by what a linear evaluation, fine-tuning or adaptation left, once pulled."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from hpt_dist.errors import RequestError, WeightsError
from hpt_dist.images.crops import center_box, squashed_box
from hpt_dist.images.photometric import Normalize
from hpt_dist.images.pixels import EncodedImage, resize_box
from hpt_dist.methods import MME
from hpt_dist.networks import backbones
from hpt_dist.networks.inner_features import features_at
from hpt_dist.store.committed import HEAD, MODEL
from hpt_dist.weights import files
from hpt_dist.weights import head as heads
from hpt_dist.weights.files import StateDict
from hpt_dist.weights.head import Head
from hpt_dist.weights.loading_note import BACKBONE


class Classifier(nn.Module):
    """What `load_classifier` returns, in evaluation mode.

    Attributes:
        backbone: images [b, 3, h, w] -> features [b, d], those that the head was trained on.
        head: features [b, d] -> a score of each class [b, classes].
        classes: class names in the order of the scores.
        several: whether an image has several labels.
        image_size: side of the images that it was evaluated with, pixels.
    """

    def __init__(self, backbone: nn.Module, head: Head) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = _scores_of(head)
        self.classes = tuple(head.classes)
        self.several = head.several
        self.image_size = head.image_size
        self._squash = head.squash
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
            size = encoded.size()
            middle = squashed_box(*size, self.image_size, 0.5, 0.5)
            resize_box(encoded.decode(), middle if self._squash else center_box(0, *size), view)
        return self._normalize(views.permute(0, 3, 1, 2))

    def probabilities(self, *images: str | Path) -> Tensor:
        """Return the probability of each class [b, classes] for image files.

        Of one label an image they add up to 1; of several each stands alone. Raises as `prepared`.
        """
        scores: Tensor = self(self.prepared(images).to(next(self.parameters()).device))
        return scores.sigmoid() if self.several else scores.softmax(dim=1)

    def classify(self, *images: str | Path) -> list[str]:
        """Return the class of each image file.

        Raises:
            RequestError: an image has several labels, or a file cannot be read.
            DataError: it is no image.
        """
        if self.several:
            raise RequestError("an image has several labels here", fix="call labels()")
        return [self.classes[best] for best in self.probabilities(*images).argmax(1).tolist()]

    def labels(self, *images: str | Path, threshold: float = 0.5) -> list[list[str]]:
        """Return the classes of each image file that are at least as probable as a threshold.

        Args:
            images: files.
            threshold: 0 to 1. One for all classes seldom suits rare ones: choose it on val.

        Raises as `prepared`.
        """
        return [
            [name for name, has in zip(self.classes, row, strict=True) if has]
            for row in (self.probabilities(*images) >= threshold).tolist()
        ]


class _Prototypes(nn.Module):
    """Similarities of features to prototypes, as the adaptation computes them."""

    def __init__(self, head: Head, temperature: float) -> None:
        super().__init__()
        dim, feature_dim = head.state["embedding.weight"].shape
        self._of = MME(
            nn.Identity(),
            feature_dim,
            len(head.classes),
            head_dim=dim,
            temperature=temperature,
            objective="s+t",  # the answers of all objectives are computed alike
            seed=0,
        )
        self._of.load_state_dict(dict(head.state))

    def forward(self, features: Tensor) -> Tensor:
        return self._of.predict(features)


def _scores_of(head: Head) -> nn.Module:
    """Return what gives features [b, d] a score of each class."""
    if head.temperature is not None:
        return _Prototypes(head, head.temperature)
    weight = head.state["weight"]
    linear = nn.Linear(weight.shape[1], weight.shape[0])
    linear.load_state_dict(dict(head.state))
    return linear


def load_classifier(folder: str | Path) -> Classifier:
    """Return the classifier that `hpt-dist pull RUN/STAGE FOLDER` copied.

    Args:
        folder: with head.safetensors of a linear evaluation and the backbone.safetensors that it
            judged; or of fine-tuning or adaptation, with the model.safetensors that it left.

    Raises:
        RequestError: the folder does not hold them.
        WeightsError: they are damaged, or do not belong together.
    """
    place = Path(folder)
    head, name = heads.read(_content(place / HEAD), str(place / HEAD))
    file = MODEL if (place / MODEL).exists() else BACKBONE
    state, _ = files.read(_content(place / file))
    if file == MODEL:
        state = _of_model(state, head, str(place))
    backbone = backbones.create(name)
    try:
        backbone.load_state_dict(state)
    except RuntimeError as error:
        raise WeightsError(f"these are no weights of {name}", where=str(place / file)) from error
    features = features_at(backbone, head.features, head.image_size).eval()
    with torch.inference_mode():
        dim = features(torch.zeros(1, 3, head.image_size, head.image_size)).shape[1]
    first = "weight" if head.temperature is None else "embedding.weight"
    if head.state[first].shape[1] != dim:
        raise WeightsError(f"this is no head for {name}", where=str(place / HEAD))
    return Classifier(features, head)


def _of_model(state: StateDict, head: Head, where: str) -> StateDict:
    """Return the backbone of a fine-tuned or adapted model, whose head is the one beside it.

    Raises:
        WeightsError: they do not belong together.
    """
    place = "head." if head.temperature is None else ""
    for name, value in head.state.items():
        if (ours := state.get(f"{place}{name}")) is None or not torch.equal(ours, value):
            raise WeightsError(f"{HEAD} is not the head of {MODEL}", where=where, fix="pull again")
    prefix = "backbone."
    return {n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)}


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        fix = "hpt-dist pull RUN/STAGE FOLDER, of a linear evaluation, fine-tuning or adaptation"
        what = f"{path.name} cannot be read: {error.strerror}"
        raise RequestError(what, where=str(path.parent), fix=fix) from error
