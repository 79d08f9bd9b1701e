"""Small datasets of real encoded images for the tests of what looks at datasets."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from hpt_dist.datasets.manifest import Manifest
from hpt_dist.datasets.shards import write_dataset
from hpt_dist.sources.sample import FileSource, Label, Sample
from hpt_dist.store import Store


def picture(number: int, size: tuple[int, int] = (160, 120)) -> Image.Image:
    """Return a soft pattern of colours: as different from any other as photographs are."""
    noise = np.random.default_rng(number).integers(0, 256, (9, 9, 3), np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def sample(
    key: str, data: bytes, split: str, label: Label, annotation: Mapping[str, Any] | None = None
) -> Sample:
    return Sample(key, split, label, key, "1", len(data), lambda: data, annotation)


def write(
    store: Store, name: str, samples: Sequence[Sample], classes: str = "abc", **options: Any
) -> Manifest:
    multi = any(isinstance(one.label, tuple) for one in samples)
    source = FileSource("pictures", "made", list(classes), list(samples), multi_label=multi)
    return write_dataset(source, store, name, **options)


def labelled(count: int, classes: int = 3, split: str = "train") -> list[Sample]:
    """Return tiny images of distinct keys, their labels in turn."""
    return [
        sample(
            f"{split}-{number:03}",
            encoded(picture(number, (24, 16)), "PNG"),
            split,
            number % classes if classes else None,
        )
        for number in range(count)
    ]
