"""The images of datasets: read from their shards, decoded, and remembered while memory lasts."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import numpy.typing as npt
from PIL import Image

from hpt_dist.errors import DataError, RequestError
from hpt_dist.images import decode
from hpt_dist.manifest import (
    NO_LABEL,
    Index,
    Manifest,
    Shard,
    parse_index,
    read_manifest,
    sha256,
)
from hpt_dist.order import Ints
from hpt_dist.store import Store

CACHE_BYTES = 256 * 2**20  # of decoded images, for each open split
_INDEX_READERS = 8
_BYTES_PER_PIXEL = 4  # Pillow stores RGB so


class Split:
    """The images of one split of a dataset. Threads may share it.

    Args:
        store: the folder of the dataset in its store.
        manifest: of the dataset.
        split: its name, such as `train`.
        cache_bytes: how much memory decoded images may take.

    Raises:
        RequestError: there is no such split.
        DataError: the index of a shard is damaged.
        StoreError: the index of a shard is not there.
    """

    def __init__(
        self, store: Store, manifest: Manifest, split: str, *, cache_bytes: int = CACHE_BYTES
    ) -> None:
        manifest.images(split)
        shards = manifest.splits[split].shards
        with ThreadPoolExecutor(_INDEX_READERS) as executor:
            indexes = list(executor.map(partial(_read_index, store), shards))
        self.name = f"{manifest.name}/{split}"
        self.digest = sha256(f"{manifest.digest} {split}".encode())
        self.classes = manifest.classes
        self.keys = [key for index in indexes for key in index.keys]
        self.labels = _column(
            [label if isinstance(label, int) else NO_LABEL for label in index.labels]
            for index in indexes
        )
        self._store = store
        self._shards = [s for s, index in zip(shards, indexes, strict=True) for _ in index.keys]
        self._offsets = _column(index.offsets for index in indexes)
        self._lengths = _column(index.lengths for index in indexes)
        self._cache = _Cache(cache_bytes)

    def __len__(self) -> int:
        return len(self.keys)

    def read(self, i: int) -> bytes:
        """Return the encoded image of sample i.

        Raises:
            StoreError: its shard is not there.
            DataError: its shard is cut.
        """
        length = int(self._lengths[i])
        data = self._store.get(self._shards[i].path, int(self._offsets[i]), length)
        if len(data) != length:
            raise self._error(i, f"its shard ends after {len(data)} of its {length} bytes")
        return data

    def image(self, i: int) -> Image.Image:
        """Return sample i decoded, upright and RGB; it is shared, so leave it as it is.

        Raises:
            StoreError: its shard is not there.
            DataError: its shard is cut, or its bytes are no image.
        """
        image = self._cache.get(i)
        if image is None:
            data = self.read(i)
            try:
                image = decode(data)[0]
            except DataError as error:
                raise self._error(i, error.problem.what) from error
            self._cache.add(i, image)
        return image

    def _error(self, i: int, what: str) -> DataError:
        dataset, _, split = self.name.rpartition("/")
        return DataError(
            f"image {self.keys[i]} of dataset {dataset}, split {split}: {what}",
            where=f"{self._store.uri}/{self._shards[i].path}",
            fix="hpt-dist data verify, then delete the shard and run hpt-dist shard again",
        )


def open_split(store: Store, dataset: str, split: str, *, cache_bytes: int = CACHE_BYTES) -> Split:
    """Open one split of a dataset for reading.

    Args:
        store: the root of the store.
        dataset: its name, such as `openmoji/line`.
        split: its name, such as `train`.
        cache_bytes: how much memory its decoded images may take.

    Raises:
        RequestError: there is no such dataset or split.
        DataError: the manifest or the index of a shard is damaged.
        StoreError: the index of a shard is not there.
    """
    manifest = read_manifest(store, dataset)
    return Split(store.at(f"datasets/{dataset}"), manifest, split, cache_bytes=cache_bytes)


class Pool:
    """The images of one or several splits as one sequence, or some of them.

    Args:
        splits: at least one, in order.
        indices: int64, which samples of the concatenated splits, in order; None is all.

    Raises:
        RequestError: it holds no image.
    """

    def __init__(self, splits: Sequence[Split], indices: Ints | None = None) -> None:
        self.splits = tuple(splits)
        self._ends = np.cumsum([len(split) for split in self.splits])
        self._indices = np.arange(self._ends[-1]) if indices is None else indices
        if not len(self._indices):
            raise RequestError(f"no image in {', '.join(split.name for split in splits)}")
        digest = hashlib.sha256("\n".join(split.digest for split in self.splits).encode())
        if indices is not None:
            digest.update(indices.astype("<i8").tobytes())
        self.digest = digest.hexdigest()

    def __len__(self) -> int:
        return len(self._indices)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of their ids; empty if the splits do not share them."""
        first, *others = (split.classes for split in self.splits)
        return first if all(other == first for other in others) else ()

    @property
    def labels(self) -> Ints:
        """int64 [n], class ids; -1 is none, as are all if the splits do not share classes."""
        labels = np.concatenate([split.labels for split in self.splits])[self._indices]
        return labels if self.classes else np.full_like(labels, NO_LABEL)

    @property
    def keys(self) -> list[str]:
        """The keys of the samples."""
        keys = [key for split in self.splits for key in split.keys]
        return [keys[i] for i in self._indices.tolist()]

    def read(self, i: int) -> bytes:
        """Return the encoded image of sample i; raises as `Split.read`."""
        split, i = self._locate(i)
        return split.read(i)

    def image(self, i: int) -> Image.Image:
        """Return sample i decoded; raises as `Split.image`."""
        split, i = self._locate(i)
        return split.image(i)

    def subset(self, indices: npt.ArrayLike) -> Pool:
        """Return the samples with these indices, in their order."""
        return Pool(self.splits, self._indices[np.asarray(indices, dtype=np.int64)])

    def _locate(self, i: int) -> tuple[Split, int]:
        index = int(self._indices[i])
        number = int(np.searchsorted(self._ends, index, side="right"))
        return self.splits[number], index - int(self._ends[number]) + len(self.splits[number])


class _Cache:
    """Decoded images by index, up to a number of bytes.

    Nothing is evicted: an epoch visits every sample once, so the one that was used last is the
    one that is needed latest, and making room would turn every read into a miss.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._free_bytes = limit_bytes
        self._images: dict[int, Image.Image] = {}
        self._lock = threading.Lock()

    def get(self, i: int) -> Image.Image | None:
        return self._images.get(i)

    def add(self, i: int, image: Image.Image) -> None:
        size_bytes = _BYTES_PER_PIXEL * image.width * image.height
        with self._lock:
            if i not in self._images and size_bytes <= self._free_bytes:
                self._images[i] = image
                self._free_bytes -= size_bytes


def _read_index(store: Store, shard: Shard) -> Index:
    where = f"{store.uri}/{shard.index}"
    data = store.get(shard.index)
    if sha256(data) != shard.index_sha256:
        raise DataError(
            "its SHA-256 is not that of the manifest",
            where=where,
            fix="delete it and run the same hpt-dist shard again",
        )
    return parse_index(data, where)


def _column(parts: Iterable[Sequence[int]]) -> Ints:
    return np.concatenate([np.empty(0, np.int64), *(np.array(part, np.int64) for part in parts)])
