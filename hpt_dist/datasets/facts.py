"""A dataset of a store, opened by name: the content of its manifest, in plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from hpt_dist.datasets.manifest import Manifest, read_manifest
from hpt_dist.store import open_store

RGB = tuple[float, float, float]


@dataclass(frozen=True)
class Dataset:
    """The facts about a dataset that are known without reading an image.

    Args:
        store: URI of its store.
        name: in the store.
        digest: SHA-256 of its manifest, which names its content.
        label: "single", one class for each image; "multi", any number of classes;
            "boxes", any number of objects; or "none".
        classes: class names in the order of their ids.
        splits: the number of images of each split.
        class_counts: of each split, the number of images of each class.
        mean: of the red, green and blue of all pixels of train (without it: of all), 0 to 1.
        std: the standard deviation of the same pixels.
        licence: of the images.
        masks: of "boxes", whether each object has a mask.
    """

    store: str
    name: str
    digest: str
    label: Literal["single", "multi", "boxes", "none"]
    classes: tuple[str, ...]
    splits: Mapping[str, int]
    class_counts: Mapping[str, Mapping[str, int]]
    mean: RGB
    std: RGB
    licence: str
    masks: bool = False


def open_dataset(store: str, name: str) -> Dataset:
    """Return the facts about a dataset.

    Args:
        store: URI of the store: a folder or `s3://bucket/prefix`.
        name: such as `openmoji/line`.

    Raises:
        RequestError: the store or the dataset does not exist.
        DataError: its manifest is damaged.
        StoreError: the store cannot be read.
    """
    opened = open_store(store)
    return _described(opened.uri, read_manifest(opened, name))


def _described(store: str, manifest: Manifest) -> Dataset:
    splits = manifest.splits.items()
    return Dataset(
        store=store,
        name=manifest.name,
        digest=manifest.digest,
        label=manifest.label,
        classes=manifest.classes,
        splits={name: split.images for name, split in splits},
        class_counts={
            name: dict(zip(manifest.classes, split.class_counts, strict=True))
            for name, split in splits
        },
        mean=manifest.mean,
        std=manifest.std,
        licence=manifest.source.licence,
        masks=manifest.masks,
    )
