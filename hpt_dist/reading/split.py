"""One split of a dataset: its images, read from shards, decoded, and cached up to a limit."""

from __future__ import annotations

import json
import mmap
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
from isal.isal_zlib import crc32  # zlib's, several times as fast
from torch import Tensor

from hpt_dist.datasets import origins
from hpt_dist.datasets.manifest import NO_LABEL, Index, Manifest, read_index, read_manifest
from hpt_dist.datasets.manifest import sha256 as sha256_of
from hpt_dist.errors import DamagedImageError, DataError, RequestError
from hpt_dist.images.boxes import Boxes
from hpt_dist.images.pixels import EncodedImage
from hpt_dist.reading.damage import remake
from hpt_dist.reading.node_cache import NodeCache, default_cache
from hpt_dist.reading.order import Ints
from hpt_dist.reading.places import ImagePlaces
from hpt_dist.reading.shard_reader import ShardReader
from hpt_dist.store import Store

CACHE_BYTES = 256 * 2**20  # of decoded images, for each open split
_INDEX_READERS = 8
# How many images' index entries a split caches at most: about 256 MB each.
_INDEXED_IMAGES = 2**23
_NAMED_IMAGES = 2**21

T = TypeVar("T")
Bools = npt.NDArray[np.bool_]


class ReadableSplit:
    """The images of one split of a dataset. Threads may share it.

    Opening reads the manifest alone; a shard's index is read with the first of its images.

    Args:
        store: the folder of the dataset's shards in its store.
        manifest: of the dataset.
        split: its name, such as `train`.
        cache_bytes: how much memory decoded images may take.
        node_cache: where whole shards of a remote store are kept on this node, if anywhere.

    Raises:
        RequestError: there is no such split.
    """

    def __init__(
        self,
        store: Store,
        manifest: Manifest,
        split: str,
        *,
        cache_bytes: int = CACHE_BYTES,
        node_cache: NodeCache | None = None,
    ) -> None:
        manifest.images(split)
        self.name = f"{manifest.name}/{split}"
        self.digest = sha256_of(f"{manifest.digest} {split}".encode())
        self.classes = manifest.classes
        self.shards = manifest.splits[split].shards
        self.sizes = np.array([shard.images for shard in self.shards], np.int64)
        self._remake = remake(store.uri, manifest.source.name)
        self.reader = ShardReader(store, node_cache, self._remake)
        self.node_cache = node_cache
        self._store = store
        self._ends = np.cumsum(self.sizes).tolist()  # bisect is faster than NumPy for one value
        self._places = _IndexCache(self.sizes, _INDEXED_IMAGES, self._read_places)
        self._keys = _IndexCache(self.sizes, _NAMED_IMAGES, self._read_keys)
        self._cache = _ImageCache(cache_bytes)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @property
    def labels(self) -> Ints:
        """int64 [n], class ids; -1 is none. Reads the index of every shard.

        Raises:
            DataError: an index is damaged.
            StoreError: an index does not exist.
        """
        with ThreadPoolExecutor(_INDEX_READERS) as executor:
            columns = executor.map(lambda shard: self._places[shard].labels, self._numbers)
            return np.concatenate([np.empty(0, np.int64), *columns])

    @property
    def members(self) -> Bools:
        """Which classes each sample has, bool [n, num_classes]; reads and raises as `labels`."""
        with ThreadPoolExecutor(_INDEX_READERS) as executor:
            shards = executor.map(lambda number: self._index(number).labels, self._numbers)
            labels = list(chain.from_iterable(shards))
        members = np.zeros((len(labels), len(self.classes)), np.bool_)
        for row, label in enumerate(labels):
            ids = label if isinstance(label, tuple) else (label,)
            members[row, [one for one in ids if one != NO_LABEL]] = True
        return members

    @property
    def image_sizes(self) -> Ints:
        """Width and height of each upright image, int64 [n, 2]; 0 and 0 where they are not known.

        Of a dataset of boxes; reads and raises as `labels`.
        """
        with ThreadPoolExecutor(_INDEX_READERS) as executor:
            boxes = executor.map(lambda number: self._index(number).boxes, self._numbers)
            rows = [(one[0], one[1]) for shard in boxes for one in shard]
        return np.array(rows, np.int64).reshape(-1, 2)

    @property
    def keys(self) -> list[str]:
        """The keys of the samples. Reads the index of every shard; raises as `labels`."""
        with ThreadPoolExecutor(_INDEX_READERS) as executor:
            return list(chain.from_iterable(executor.map(self._read_keys, self._numbers)))

    def files(self) -> dict[str, str]:
        """Return the files of the source by key, as far as they were noted; see `origins`."""
        return origins.files_in(self._store, self.shards)

    def key(self, i: int) -> str:
        """Return the key of sample i."""
        shard, row = self.locate(i)
        return self._keys[shard][row]

    def label(self, i: int) -> int:
        """Return the class id of sample i; -1 is none."""
        shard, row = self.locate(i)
        return int(self._places[shard].labels[row])

    def locate(self, i: int) -> tuple[int, int]:
        """Return the number of the shard that holds sample i, and its row there."""
        shard = bisect_right(self._ends, i)
        return shard, i - self._ends[shard] + self.shards[shard].images

    def read(self, i: int) -> bytes:
        """Return the encoded image of sample i.

        Raises:
            StoreError: its shard does not exist.
            DataError: its shard is cut, or differs from its manifest.
            DamagedImageError: its bytes changed since they were written.
        """
        shard, row = self.locate(i)
        places = self._places[shard]
        span = (places.offsets[row], places.lengths[row], places.crc32s[row])
        return self._read(i, span, "its bytes")

    def boxes(self, i: int) -> Boxes:
        """Return the objects that are annotated in sample i.

        Raises:
            RequestError: the sample has no boxes.
            StoreError: its shard does not exist.
            DataError: its shard is cut, or differs from its manifest.
            DamagedImageError: its boxes changed since they were written.
        """
        shard, row = self.locate(i)
        places = self._places[shard]
        if not len(places.box_offsets) or places.box_offsets[row] < 0:
            raise RequestError(
                f"image {self.key(i)} of {self.name} has no boxes",
                fix="shard it again with --boxes, from COCO or Pascal VOC",
            )
        span = (places.box_offsets[row], places.box_lengths[row], places.box_crc32s[row])
        data = self._read(i, span, "the bytes of its boxes")
        try:
            boxes = Boxes.from_json(json.loads(data), "")
        except (ValueError, DataError) as error:
            raise self._damaged(i, f"its boxes: {error}") from error
        if len(boxes) and boxes.labels.max() >= len(self.classes):
            raise self._damaged(i, f"its boxes: a class {boxes.labels.max()} is unknown")
        return boxes

    def _read(self, i: int, span: Sequence[Any], what: str) -> bytes:
        shard, _ = self.locate(i)
        start, length, checksum = map(int, span)
        # Retry a damaged read once, straight from the remote store.
        for anew in (False, True) if self.reader.is_remote else (False,):
            data = self.reader.read(self.shards[shard], start, length, anew=anew)
            if crc32(data) == checksum:
                return data
        raise self._damaged(i, f"{what} are not those that were written")

    def encoded(self, i: int) -> EncodedImage:
        """Return sample i before it is decoded; raises as `read`."""
        return EncodedImage(self.read(i))

    def image(self, i: int, encoded: EncodedImage | None = None) -> Tensor:
        """Return sample i decoded: uint8 [h, w, 3], upright RGB. It is shared: do not change it.

        Args:
            i: which sample.
            encoded: the sample's encoded image, if the caller has read it already.

        Raises:
            StoreError: its shard does not exist.
            DataError: its shard is cut, or differs from its manifest.
            DamagedImageError: its bytes changed since they were written, or are no image.
        """
        image = self._cache.get(i)
        if image is None:
            image = self.decode(i, self.encoded(i) if encoded is None else encoded)
            self._cache.add(i, image)
        return image

    def decode(self, i: int, encoded: EncodedImage, shrink: float = 1.0) -> Tensor:
        """Decode sample i; see `EncodedImage.decode`.

        Raises:
            DamagedImageError: it is no image.
        """
        try:
            return encoded.decode(shrink)
        except DataError as error:
            raise self._damaged(i, error.problem.what) from error

    def size(self, i: int, encoded: EncodedImage) -> tuple[int, int]:
        """Return width and height of sample i, upright.

        Raises:
            DamagedImageError: it is no image.
        """
        try:
            return encoded.size()
        except DataError as error:
            raise self._damaged(i, error.problem.what) from error

    def cached_image(self, i: int) -> Tensor | None:
        """Return sample i decoded if the cache holds it."""
        return self._cache.get(i)

    def prefetch(self, indices: Ints) -> None:
        """Start to download the shards of these samples to the node's cache, if there is one."""
        numbers = np.unique(np.searchsorted(self._ends, indices, side="right"))
        self.reader.prefetch(
            (self.shards[number], partial(self._intact, number)) for number in numbers.tolist()
        )

    def close(self) -> None:
        """Close files and connections; reading opens them again."""
        self.reader.close()

    def _intact(self, number: int, content: mmap.mmap) -> bool:
        """Return whether a shard holds the images of its index.

        Reading relies on their CRCs alone. These come from the index, which the manifest's SHA-256
        covers, and cost an eighth of the SHA-256 of the whole shard.
        """
        places = self._places[number]
        with memoryview(content) as view:
            return all(
                crc32(view[start : start + length]) == crc for start, length, crc in places.spans()
            )

    @property
    def _numbers(self) -> range:
        return range(len(self.shards))

    def _read_places(self, number: int) -> ImagePlaces:
        return ImagePlaces.from_index(self._index(number))

    def _read_keys(self, number: int) -> tuple[str, ...]:
        return self._index(number).keys

    def _index(self, number: int) -> Index:
        return read_index(self._store, self.shards[number], len(self.classes))

    def _damaged(self, i: int, what: str) -> DamagedImageError:
        dataset, _, split = self.name.rpartition("/")
        shard, key = self.shards[self.locate(i)[0]], self.key(i)
        file = origins.suffix(self._store, shard, key)
        return DamagedImageError(
            f"image {key} of dataset {dataset}, split {split}{file}: {what}",
            where=f"{self._store.uri}/{shard.path}",
            fix=self._remake,
        )


def open_split(
    store: Store, dataset: str, split: str, *, cache_bytes: int = CACHE_BYTES
) -> ReadableSplit:
    """Open one split of a dataset for reading; shards of a remote store go to the node's cache.

    Args:
        store: the root of the store.
        dataset: its name, such as `openmoji/line`.
        split: its name, such as `train`.
        cache_bytes: how much memory its decoded images may take.

    Raises:
        RequestError: there is no such dataset or split.
        DataError: the manifest is damaged.
    """
    manifest = read_manifest(store, dataset)
    folder = manifest.shards_in(store.at(f"datasets/{dataset}"))
    return ReadableSplit(
        folder,
        manifest,
        split,
        cache_bytes=cache_bytes,
        node_cache=None if store.folder else default_cache(),
    )


class _IndexCache(Generic[T]):
    """Values from the indexes of shards, read on demand; beyond a limit the oldest are dropped.

    Args:
        sizes: int64, the images of each shard.
        images: how many images' values are kept; those of one shard are always kept.
        read: returns the value of a shard, given its number.
    """

    def __init__(self, sizes: Ints, images: int, read: Callable[[int], T]) -> None:
        self._sizes = sizes
        self._images = images
        self._read = read
        self._by_shard: OrderedDict[int, T] = OrderedDict()
        self._lock = threading.Lock()

    def __getitem__(self, number: int) -> T:
        value = self._by_shard.get(number)
        if value is None:
            value = self._read(number)
            with self._lock:
                self._by_shard[number] = value
                while len(self._by_shard) > 1 and self._count() > self._images:
                    self._by_shard.popitem(last=False)
        return value

    def _count(self) -> int:
        return int(self._sizes[list(self._by_shard)].sum())


class _ImageCache:
    """Decoded images by index, up to a number of bytes.

    Nothing is evicted: an epoch visits every sample once, so the last used image is needed again
    latest, and evicting would turn every read into a miss.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._free_bytes = limit_bytes
        self._images: dict[int, Tensor] = {}
        self._lock = threading.Lock()

    def get(self, i: int) -> Tensor | None:
        return self._images.get(i)

    def add(self, i: int, image: Tensor) -> None:
        with self._lock:
            if i not in self._images and image.nbytes <= self._free_bytes:
                self._images[i] = image
                self._free_bytes -= image.nbytes
