"""Writing one shard: its images read, checked and encoded, then its tar, index and record.

The record `.done.json` comes last: a shard is finished when it exists, and it holds the digest of
what went in. The tar is not written by webdataset's `TarWriter`, whose headers carry the time and
which does not say at what offset an image lies.
"""

from __future__ import annotations

import io
import warnings
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked_dataclass

from hpt_dist.datasets import tar
from hpt_dist.datasets.manifest import NO_LABEL, Index, Quarantined, canonical_json, sha256
from hpt_dist.datasets.shard_plan import Task
from hpt_dist.errors import DataError
from hpt_dist.images.formats import Encoding, encode
from hpt_dist.sources.sample import Sample
from hpt_dist.store import ObjectInfo, Store

AfterEach = Callable[[Quarantined | None], None]
_Column = tuple[str, str, int, int, int, int | tuple[int, ...]]


@checked_dataclass(frozen=True)
class Record:
    """What is known of a finished shard.

    Args:
        inputs: digest of what decided its bytes, see `Task.inputs`.
        bytes: size of the tar.
        sha256: of the tar.
        index_sha256: of the index.
        quarantined: the reason for each image that was left out, by its key.
        unread: keys of those of them that could not even be read; they may be readable one day.
        pixels: of all images together.
        sums: of the red, green and blue of all pixels, 0 to 255 each, exact.
        squares: of the squares of the same.
    """

    inputs: str
    bytes: int
    sha256: str
    index_sha256: str
    quarantined: dict[str, str]
    unread: tuple[str, ...]
    pixels: int
    sums: tuple[int, ...]
    squares: tuple[int, ...]


_RECORD: TypeAdapter[Record] = TypeAdapter(Record)


@dataclass
class _Contents:
    """The contents of a shard as they grow."""

    # `BytesIO.getvalue` gives its own buffer away, so that a shard is never in memory twice.
    tar: io.BytesIO = field(default_factory=io.BytesIO)
    columns: list[_Column] = field(default_factory=list)
    histogram: NDArray[np.int64] = field(default_factory=lambda: np.zeros((3, 256), np.int64))
    quarantined: dict[str, str] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list)

    def take(self, sample: Sample, encoding: Encoding) -> str:
        """Add an image, or return the reason why it is left out."""
        try:
            original = _read(sample)
        except DataError as error:
            self.unread.append(sample.key)
            return self._leave_out(sample, error)
        try:
            data, extension, rgb = encode(original, encoding)
        except DataError as error:
            return self._leave_out(sample, error)
        self.histogram += np.asarray(rgb.histogram(), np.int64).reshape(3, 256)
        self._add(sample, data, extension)
        return ""

    def _leave_out(self, sample: Sample, error: DataError) -> str:
        self.quarantined[sample.key] = error.problem.what
        return error.problem.what

    def _add(self, sample: Sample, data: bytes, extension: str) -> None:
        offset = tar.add(self.tar, f"{sample.key}.{extension}", data)
        label = NO_LABEL if sample.label is None else sample.label
        self.columns.append((sample.key, extension, offset, len(data), zlib.crc32(data), label))
        facts = dict(sample.annotation or {})
        if isinstance(sample.label, int):
            tar.add(self.tar, f"{sample.key}.cls", str(sample.label).encode())
        elif sample.label is not None:
            facts["labels"] = sample.label
        if facts:
            tar.add(self.tar, f"{sample.key}.json", canonical_json(facts))


def finished_record(
    task: Task, dataset: Store, there: Mapping[str, ObjectInfo], encoding: Encoding
) -> Record | None:
    """Return the record of a shard that is there and was made from the same inputs.

    A shard with images that could not be read counts only while they still cannot.

    Args:
        task: the shard.
        dataset: the folder of the dataset in its store.
        there: what that folder holds, by path.
        encoding: how images are stored.
    """
    if not {task.tar, task.index, task.record} <= there.keys():
        return None
    try:
        record = _RECORD.validate_json(dataset.get(task.record))
    except ValidationError:  # damaged, or of another version: the shard is made again
        return None
    sound = (
        record.inputs == task.inputs(encoding)
        and record.bytes == there[task.tar].bytes
        and record.index_sha256 == sha256(dataset.get(task.index))
    )
    unread = set(record.unread)
    if not sound or any(_readable(one) for one in task.samples if one.key in unread):
        return None
    return record


def write_shard(task: Task, dataset: Store, encoding: Encoding, after_each: AfterEach) -> Record:
    """Write one shard.

    Args:
        task: the shard.
        dataset: the folder of the dataset in its store.
        encoding: how images are stored.
        after_each: called after each image, with what was left out or None.

    Raises:
        StoreError: the store refused.
    """
    contents = _Contents()
    with warnings.catch_warnings():
        # What Pillow warns of is harmless, or the image is left out.
        warnings.filterwarnings("ignore", module="PIL")
        for sample in task.samples:
            reason = contents.take(sample, encoding)
            after_each(Quarantined(sample.origin, reason) if reason else None)
    contents.tar.write(tar.END)
    archive = contents.tar.getvalue()
    columns = zip(*contents.columns, strict=True) if contents.columns else [()] * 6
    index = canonical_json(Index(*columns))
    values = np.arange(256)
    record = Record(
        inputs=task.inputs(encoding),
        bytes=len(archive),
        sha256=sha256(archive),
        index_sha256=sha256(index),
        quarantined=contents.quarantined,
        unread=tuple(contents.unread),
        pixels=int(contents.histogram[0].sum()),
        sums=tuple((contents.histogram @ values).tolist()),
        squares=tuple((contents.histogram @ values**2).tolist()),
    )
    dataset.put(task.tar, archive)
    dataset.put(task.index, index)
    dataset.put(task.record, canonical_json(record))
    return record


def _read(sample: Sample) -> bytes:
    try:
        return sample.read()
    except OSError as error:  # its text would name a path of this machine
        said = error.strerror or str(error) or type(error).__name__
        raise DataError(f"cannot be read: {said}") from error


def _readable(sample: Sample) -> bool:
    try:
        _read(sample)
    except DataError:
        return False
    return True
