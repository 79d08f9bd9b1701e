"""Writing one shard: its images read, checked and encoded, then its tar, index and record.

The record `.done.json` is written last: a shard is finished when it exists, and it holds the digest
of the shard's inputs.

webdataset's `TarWriter` writes the same headers and data at the same offsets, but is not used:
importing it imports torch, 1.2 s and 480 MB for each worker; it writes 2 to 8 times slower
(`python -m benchmarks.tar_writing`); and it pads the end to 10,240 bytes, so that a shard that is
repaired would have another digest than its manifest says.
"""

from __future__ import annotations

import io
import warnings
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked_dataclass
from pydantic_core import to_jsonable_python

from hpt_dist.datasets import origins, tar
from hpt_dist.datasets.manifest import NO_LABEL, Index, Quarantined, canonical_json, sha256
from hpt_dist.datasets.shard_plan import ShardToWrite
from hpt_dist.errors import DataError, RequestError, StoreError
from hpt_dist.images.depth import NONE, Depths, joined
from hpt_dist.images.formats import Encoding, encode
from hpt_dist.images.frames import boxes_in_image
from hpt_dist.sources.sample import Sample
from hpt_dist.store import ObjectInfo, Store

AfterEach = Callable[[Quarantined | None], None]
_Column = tuple[str, str, int, int, int, int | tuple[int, ...]]
_NO_BOXES = (0, 0, 0, 0)  # what an index holds of the boxes of an image without a label


@checked_dataclass(frozen=True)
class ShardRecord:
    """What is known of a finished shard.

    Args:
        inputs: digest of everything that decides its bytes, see `ShardToWrite.inputs`.
        bytes: size of the tar.
        sha256: of the tar.
        index_sha256: of the index.
        quarantined: the reason for each image that was left out, by its key.
        unread: keys of the left-out images that could not even be read; they may become readable.
        pixels: of all images together.
        sums: of the red, green and blue of all pixels, 0 to 255 each, exact.
        squares: of the squares of the same.
        depths: of the images of more than 8 bits, where there are any and no scale is given.
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
    depths: Depths | None = None

    def __post_init__(self) -> None:
        if not len(self.sums) == len(self.squares) == 3:
            raise ValueError("there are three channels")
        for total, squares in zip(self.sums, self.squares, strict=True):
            # No variance is negative, and no value of a pixel is above 255.
            if not 0 <= total * total <= self.pixels * squares <= 255 * self.pixels * total:
                raise ValueError("its sums are those of no pixels")


_RECORD: TypeAdapter[ShardRecord] = TypeAdapter(ShardRecord)


@dataclass
class _ShardContents:
    """The contents of a shard as they grow."""

    # `BytesIO.getvalue` gives its own buffer away, so that a shard is never in memory twice.
    tar: io.BytesIO = field(default_factory=io.BytesIO)
    columns: list[_Column] = field(default_factory=list)
    boxes: dict[str, tuple[int, int, int, int]] = field(default_factory=dict)
    histogram: NDArray[np.int64] = field(default_factory=lambda: np.zeros((3, 256), np.int64))
    quarantined: dict[str, str] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list)
    depths: Depths = NONE

    def take(self, sample: Sample, encoding: Encoding) -> str:
        """Add an image, or return the reason why it is left out."""
        try:
            original = _read(sample)
        except DataError as error:
            self.unread.append(sample.key)
            return self._leave_out(sample, error)
        try:
            data, extension, rgb, found = encode(original, encoding)
            boxes = _boxes(sample, rgb.size) if sample.boxes else b""
        except DataError as error:
            return self._leave_out(sample, error)
        self.histogram += np.asarray(rgb.histogram(), np.int64).reshape(3, 256)
        self.depths = joined([self.depths, found])
        self._add(sample, data, extension)
        if boxes:
            tar.add(self.tar, f"{sample.key}.json", boxes)
            self.boxes[sample.key] = (*rgb.size, len(boxes), zlib.crc32(boxes))
        return ""

    def index(self) -> bytes:
        """Return the index of the images so far."""
        columns = zip(*self.columns, strict=True) if self.columns else [()] * 6
        keys = [one[0] for one in self.columns] if self.boxes else []
        boxes = tuple(self.boxes.get(key, _NO_BOXES) for key in keys)
        return replace(Index(*columns), boxes=boxes).content

    def _leave_out(self, sample: Sample, error: DataError) -> str:
        self.quarantined[sample.key] = error.problem.what
        return error.problem.what

    def _add(self, sample: Sample, data: bytes, extension: str) -> None:
        offset = tar.add(self.tar, f"{sample.key}.{extension}", data)
        label = NO_LABEL if sample.label is None else sample.label
        self.columns.append((sample.key, extension, offset, len(data), zlib.crc32(data), label))
        if sample.boxes:
            return
        facts = dict(sample.annotation or {})
        if isinstance(sample.label, int):
            tar.add(self.tar, f"{sample.key}.cls", str(sample.label).encode())
        elif sample.label is not None:
            facts["labels"] = sample.label
        if facts:
            tar.add(self.tar, f"{sample.key}.json", canonical_json(facts))


def _boxes(sample: Sample, size: tuple[int, int]) -> bytes:
    """Return the objects of an image of this width and height as KEY.json holds them.

    Raises:
        DataError: they do not fit it.
    """
    width, height = size
    found = boxes_in_image(sample.annotation or {}, (height, width), masks=sample.boxes == "masks")
    return canonical_json(found.to_json())


def finished_record(
    task: ShardToWrite, dataset: Store, listing: Mapping[str, ObjectInfo], encoding: Encoding
) -> ShardRecord | None:
    """Return the record of a shard that exists and was written from the same inputs, or None.

    A shard with unreadable images counts only while they are still unreadable.

    Args:
        task: the shard.
        dataset: the folder of the dataset in its store.
        listing: the objects in that folder, by path.
        encoding: how images are stored.
    """
    if not {task.tar, task.index, task.record} <= listing.keys():
        return None
    record = read_record(dataset, task)
    if record is None:  # the shard is written again
        return None
    unchanged = (
        record.inputs == task.inputs(encoding)
        and record.bytes == listing[task.tar].bytes
        and record.index_sha256 == sha256(dataset.get(task.index))
    )
    unread = set(record.unread)
    if not unchanged or any(_readable(one) for one in task.samples if one.key in unread):
        return None
    return record


def read_record(dataset: Store, task: ShardToWrite) -> ShardRecord | None:
    """Return the record of a shard, or None if it is absent, damaged or of another version."""
    try:
        return _RECORD.validate_json(dataset.get(task.record))
    except (StoreError, ValidationError):
        return None


def write_shard(
    task: ShardToWrite, dataset: Store, encoding: Encoding, after_each: AfterEach
) -> ShardRecord:
    """Write one shard.

    Args:
        task: the shard.
        dataset: the folder of the dataset in its store.
        encoding: how images are stored.
        after_each: called after each image, with the image that was left out or None.

    Raises:
        RequestError: its tar is another one than the dataset that it would repair has.
        StoreError: the store refused.
    """
    contents = _ShardContents()
    with warnings.catch_warnings():
        # An image that Pillow warns about is usable, or it is left out.
        warnings.filterwarnings("ignore", module="PIL")
        for sample in task.samples:
            reason = contents.take(sample, encoding)
            after_each(Quarantined(sample.origin, reason) if reason else None)
    contents.tar.write(tar.END)
    archive = contents.tar.getvalue()
    index = contents.index()
    values = np.arange(256)
    record = ShardRecord(
        inputs=task.inputs(encoding),
        bytes=len(archive),
        sha256=sha256(archive),
        index_sha256=sha256(index),
        quarantined=contents.quarantined,
        unread=tuple(contents.unread),
        pixels=int(contents.histogram[0].sum()),
        sums=tuple((contents.histogram @ values).tolist()),
        squares=tuple((contents.histogram @ values**2).tolist()),
        depths=contents.depths if contents.depths.images else None,
    )
    if task.sha256 not in ("", record.sha256):
        raise RequestError(
            "this shard is missing or damaged, and would be written with other content: its images "
            "changed or became readable, or this version of the software encodes them otherwise",
            where=f"{dataset.uri}/{task.tar}",
            fix="replace the whole dataset with --replace, which keeps it until the new one is "
            "complete",
        )
    dataset.put(task.tar, archive)
    dataset.put(task.index, index)
    dataset.put(task.origins, origins.content(task.samples))
    dataset.put(task.record, _content(record))
    return record


def _content(record: ShardRecord) -> bytes:
    """Return the bytes of a record; depths are in it where there are any."""
    value = to_jsonable_python(record)
    return canonical_json({k: v for k, v in value.items() if (k, v) != ("depths", None)})


def _read(sample: Sample) -> bytes:
    try:
        return sample.read()
    except OSError as error:  # its text would show a path of this machine
        reason = error.strerror or str(error) or type(error).__name__
        raise DataError(f"cannot be read: {reason}") from error


def _readable(sample: Sample) -> bool:
    try:
        _read(sample)
    except DataError:
        return False
    return True
