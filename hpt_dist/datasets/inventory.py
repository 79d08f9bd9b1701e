"""All images of some datasets: listed from their indexes, then read part by part."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from hpt_dist.datasets import origins
from hpt_dist.datasets.manifest import Manifest, Shard, read_index
from hpt_dist.errors import DataError, RequestError
from hpt_dist.processes.workers import Report, fed
from hpt_dist.store import Store

Ints = npt.NDArray[np.int64]
Progress = Callable[[str, int, int], None]
_Result = TypeVar("_Result")

_ROLES = {"test": 2, "val": 1}
_READERS = 8
_SPAN_BYTES = 8 * 2**20
_GAP_BYTES = 2**18  # smaller gaps are read along, which saves a request
_PART_IMAGES = 512
_PARTS_A_WORKER = 4  # fewer are finished before another process has started


@dataclass(frozen=True)
class StoredDataset:
    """A dataset in its store: the root of the store, and the manifest."""

    store: Store
    manifest: Manifest

    @property
    def folder(self) -> Store:
        """The folder of the dataset's shards in its store."""
        return self.manifest.shards_in(self.store.at(f"datasets/{self.manifest.name}"))


@dataclass(frozen=True, order=True)
class SplitName:
    """The name of a dataset's split."""

    dataset: str
    split: str

    def __str__(self) -> str:
        return f"{self.dataset}/{self.split}"

    @property
    def role(self) -> int:
        """2 for test, 1 for val, 0 for every split that is trained on."""
        return _ROLES.get(self.split, 0)


@dataclass(frozen=True)
class Part:
    """Some images of one shard, in the order of their offsets."""

    folder: Store
    shard: Shard
    split_number: int
    keys: tuple[str, ...]
    offsets: Ints
    lengths: Ints
    crc32s: Ints

    def take(self, rows: Ints) -> Part:
        """Return the part with these rows alone, ascending."""
        keys = tuple(self.keys[row] for row in rows.tolist())
        columns = (self.offsets[rows], self.lengths[rows], self.crc32s[rows])
        return Part(self.folder, self.shard, self.split_number, keys, *columns)

    def read(self) -> Iterator[bytes]:
        """Yield each image; one request reads neighbouring images.

        Raises:
            DataError: an image's bytes changed since they were written.
        """
        ends = self.offsets + self.lengths
        first = 0
        for row in range(len(self.keys)):
            is_last = row + 1 == len(self.keys)
            if (
                is_last
                or self.offsets[row + 1] - ends[row] > _GAP_BYTES
                or ends[row + 1] - self.offsets[first] > _SPAN_BYTES
            ):
                yield from self._span(first, row + 1)
                first = row + 1

    def _span(self, first: int, end: int) -> Iterator[bytes]:
        start = int(self.offsets[first])
        stop = int(self.offsets[end - 1] + self.lengths[end - 1])
        data = self.folder.get(self.shard.path, start, stop - start)
        for row in range(first, end):
            offset = int(self.offsets[row]) - start
            image = data[offset : offset + int(self.lengths[row])]
            if zlib.crc32(image) != self.crc32s[row]:
                raise self.damaged(row, "its bytes are not those that were written")
            yield image

    def damaged(self, row: int, why: str) -> DataError:
        """Return the error of an image that cannot be used."""
        key = self.keys[row]
        return DataError(
            f"the image {key}{origins.suffix(self.folder, self.shard, key)} is damaged: {why}",
            where=f"{self.folder.uri}/{self.shard.path}",
            fix="hpt-dist data verify reports everything that is damaged; shard the dataset again",
        )


@dataclass(frozen=True)
class Inventory:
    """All images of some datasets; an image's number counts through the parts in order."""

    splits: list[SplitName]
    parts: list[Part]
    keys: list[str]
    split_of: Ints  # [images] index into `splits`

    def parts_of(self, numbers: Ints) -> Iterator[Part]:
        """Yield these images, numbers ascending, as smaller parts."""
        ends = np.cumsum([len(part.keys) for part in self.parts])
        cuts = np.searchsorted(numbers, ends)
        for part, end, some in zip(self.parts, ends, np.split(numbers, cuts), strict=False):
            rows = some - (end - len(part.keys))
            for first in range(0, len(rows), _PART_IMAGES):
                yield part.take(rows[first : first + _PART_IMAGES])


def read_inventory(datasets: Sequence[StoredDataset], progress: Progress) -> Inventory:
    """Read every index of some datasets.

    Raises:
        RequestError: a dataset is named twice.
        DataError: an index is damaged.
    """
    uris = [f"{one.store.uri}/datasets/{one.manifest.name}" for one in datasets]
    if twice := sorted({uri for uri in uris if uris.count(uri) > 1}):
        raise RequestError("a dataset is named twice", where=twice[0])
    names = [dataset.manifest.name for dataset in datasets]
    total = sum(split.images for one in datasets for split in one.manifest.splits.values())
    splits: list[SplitName] = []
    parts: list[Part] = []
    done = 0
    for dataset, uri in zip(datasets, uris, strict=True):
        name = dataset.manifest.name if names.count(dataset.manifest.name) == 1 else uri
        for split_name, split in dataset.manifest.splits.items():
            for part in _parts(dataset, split.shards, len(splits)):
                parts.append(part)
                progress("read indexes", done := done + len(part.keys), total)
            splits.append(SplitName(name, split_name))
    split_of = np.repeat([part.split_number for part in parts], [len(part.keys) for part in parts])
    return Inventory(splits, parts, [key for part in parts for key in part.keys], split_of)


def _parts(dataset: StoredDataset, shards: Sequence[Shard], split_number: int) -> Iterator[Part]:
    folder, classes = dataset.folder, len(dataset.manifest.classes)
    with ThreadPoolExecutor(_READERS) as threads:
        indexes = threads.map(lambda shard: read_index(folder, shard, classes), shards)
        for shard, index in zip(shards, indexes, strict=True):
            columns = (index.offsets, index.lengths, index.crc32s)
            arrays = [np.array(column, np.int64) for column in columns]
            yield Part(folder, shard, split_number, index.keys, *arrays)


def map_parts(
    work: Callable[[Part], _Result], parts: Sequence[Part], workers: int
) -> Iterator[_Result]:
    """Yield the result of each part, in order.

    Args:
        work: a function of a module.
        parts: of an inventory.
        workers: processes that share the work; few parts are done in this process alone.

    Raises:
        HptError: what `work` raises; or a worker died.
    """
    workers = min(workers, len(parts) // _PARTS_A_WORKER)
    if workers < 2:
        yield from map(work, parts)
        return
    results: dict[int, _Result] = {}
    ready = 0
    answers = fed(_apply, [(work, part) for part in parts], workers)
    with contextlib.closing(answers):
        for answer in answers:
            results[answer.task] = answer.value
            while ready in results:
                yield results.pop(ready)
                ready += 1


def _apply(task: tuple[Callable[[Part], _Result], Part], _tell: Report) -> _Result:
    work, part = task
    return work(part)
