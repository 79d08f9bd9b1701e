"""The classifier that an evaluation leaves, with all that it takes to use it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from hpt_dist.errors import WeightsError
from hpt_dist.images.normalization import RGB
from hpt_dist.store import records
from hpt_dist.store.records import Count, DamagedRecordError

if TYPE_CHECKING:
    from torch import Tensor

_FACTS = ("classes", "image_size", "mean", "std")
# Not written where it is this.
_LATER = {"features": "pool", "several": False, "temperature": None, "squash": False}
_LINEAR = ("weight", "bias")
_COSINE = ("embedding.weight", "embedding.bias", "prototypes.weight")


@dataclass(frozen=True)
class _Facts:
    """What the metadata of a head's file say, besides its names; see `Head`."""

    classes: tuple[str, ...]
    image_size: Count
    mean: RGB
    std: RGB
    features: str = "pool"
    several: bool = False
    temperature: Annotated[float, Field(gt=0)] | None = None
    squash: bool = False


@dataclass(frozen=True)
class Head:
    """A classifier on features, and how its images were prepared.

    Args:
        state: of a linear one `weight` [classes, d] and `bias` [classes]; of one by similarity to
            prototypes `embedding.weight` [dim, d], `embedding.bias` [dim] and `prototypes.weight`
            [classes, dim]; float32.
        classes: class names in the order of their ids.
        image_size: side of the network input, pixels.
        mean: of red, green and blue, 0 to 1, by which images are normalised.
        std: the same.
        features: where in the backbone they are; see `inner_features.features_at`.
        several: whether an image has several labels, so that a sigmoid of each score is its
            probability; of one label it is the softmax of all.
        temperature: divisor of the similarities to prototypes; None of a linear classifier.
        squash: how the middle of images is cut; see `images.crops.squashed_box`.
    """

    state: Mapping[str, Tensor]
    classes: Sequence[str]
    image_size: int
    mean: RGB
    std: RGB
    features: str = "pool"
    several: bool = False
    temperature: float | None = None
    squash: bool = False

    def encoded(self, names: Mapping[str, str]) -> bytes:
        """Return its file in safetensors' format.

        Args:
            names: further metadata: of its trial and backbone.
        """
        from hpt_dist.weights import files

        facts: dict[str, Any] = {name: getattr(self, name) for name in (*_FACTS, *_LATER)}
        facts = {name: value for name, value in facts.items() if value != _LATER.get(name)}
        metadata = {name: json.dumps(value) for name, value in facts.items()}
        return files.save(self.state, {**names, **metadata})


def read(data: bytes, where: str) -> tuple[Head, str]:
    """Return a head and the name of its backbone.

    Args:
        data: what `Head.encoded` returned.
        where: the file, for messages.

    Raises:
        WeightsError: it is damaged, or no such file.
    """
    from hpt_dist.weights import files

    state, metadata = files.read(data)
    try:
        names = (*_FACTS, *(name for name in _LATER if name in metadata))
        text = "{" + ",".join(f'"{name}":{metadata[name]}' for name in names) + "}"
        facts = records.decoded(text.encode(), _Facts, where=where)
        backbone = metadata["backbone"]
    except (KeyError, DamagedRecordError) as error:
        raise WeightsError(f"this is no head of an evaluation: {error}", where=where) from error
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    layers = _LINEAR if facts.temperature is None else _COSINE
    count = len(facts.classes)
    if shapes.keys() != set(layers) or not _fit([shapes[name] for name in layers], count):
        raise WeightsError(f"this is no head for its {count} classes", where=where)
    return Head(state, **vars(facts)), backbone


def _fit(shapes: Sequence[tuple[int, ...]], count: int) -> bool:
    """Return whether the shapes of a head's layers go together, and with so many classes."""
    match shapes:
        case [(rows, _), (ends,)]:
            return rows == ends == count
        case [(rows, _), (ends,), (classes, dim)]:
            return rows == ends == dim and classes == count
        case _:
            return False
