"""Sharding: images of a source become WebDataset tars, their indexes and a manifest.

Which images share a shard is decided before any is read, so each shard can be written by itself,
in any order, and comes out the same. A shard is finished when its record `.done.json` exists; it
is written after the tar and the index and holds the digest of what went in. The manifest is
written last, and is not there while any of its shards is being replaced.

The tar is written here and not by webdataset's `TarWriter`, whose headers carry the time and
which does not say at what offset an image lies.
"""

from __future__ import annotations

import itertools
import math
import re
import tarfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked_dataclass

from hpt_dist.errors import DataError, RequestError
from hpt_dist.images import decode, to_png
from hpt_dist.manifest import (
    FORMAT,
    NO_LABEL,
    Index,
    Manifest,
    Origin,
    Quarantined,
    Shard,
    Split,
    canonical_json,
    read_manifest,
    sha256,
    verify,
)
from hpt_dist.sources.sample import Sample, Source
from hpt_dist.store import ObjectInfo, Store

__all__ = ["Manifest", "Progress", "read_manifest", "verify", "write_dataset"]

SHARD_BYTES = 64 * 2**20
MAX_BAD = 100

# Part of what went into a shard: raise it when the same images would become other tars.
_WRITER = 2
_MANIFEST = "manifest.json"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*")
_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")
_BLOCK = tarfile.BLOCKSIZE
_KEPT = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png"}
_BAD_SHOWN = 5


@dataclass(frozen=True)
class Progress:
    """How far sharding is.

    Args:
        images: done so far, quarantined ones included.
        total: images of the source.
        reused: of those done, the ones in shards that an earlier run had finished.
    """

    images: int
    total: int
    reused: int


@dataclass(frozen=True)
class _Task:
    """One shard to be: its paths below the dataset's folder, and its samples."""

    stem: str
    split: str
    samples: tuple[Sample, ...]

    @property
    def tar(self) -> str:
        return f"{self.stem}.tar"

    @property
    def index(self) -> str:
        return f"{self.stem}.index.json"

    @property
    def record(self) -> str:
        return f"{self.stem}.done.json"

    @property
    def inputs(self) -> str:
        """Digest of everything that decides the bytes of this shard."""
        facts = [(one.key, one.label, one.version, one.annotation) for one in self.samples]
        return sha256(canonical_json([_WRITER, facts]))


@checked_dataclass(frozen=True)
class _Record:
    """What is known of a finished shard. Sums are over all pixels, of each channel, exact."""

    inputs: str
    bytes: int
    sha256: str
    index_sha256: str
    quarantined: dict[str, str]  # sample key to reason
    pixels: int
    sums: tuple[int, ...]
    squares: tuple[int, ...]


_RECORD: TypeAdapter[_Record] = TypeAdapter(_Record)


@dataclass(frozen=True)
class _Finished:
    """A shard that is written, now or by an earlier run."""

    task: _Task
    record: _Record

    @property
    def labels(self) -> list[int]:
        """The labels of its images, all of them of an image with several."""
        bad = self.record.quarantined
        return [
            label
            for sample in self.task.samples
            if sample.key not in bad
            for label in _labels(sample)
        ]

    @property
    def left_out(self) -> list[tuple[Sample, str]]:
        """The samples that did not decode, each with the reason."""
        reasons = self.record.quarantined
        return [(one, reasons[one.key]) for one in self.task.samples if one.key in reasons]

    @property
    def described(self) -> Shard:
        """Its part of the manifest."""
        return Shard(
            path=self.task.tar,
            images=len(self.task.samples) - len(self.record.quarantined),
            bytes=self.record.bytes,
            sha256=self.record.sha256,
            index=self.task.index,
            index_sha256=self.record.index_sha256,
        )


class _Quarantine:
    """The images left out so far, up to a limit.

    Args:
        max_bad: how many may be left out.
    """

    def __init__(self, max_bad: int) -> None:
        self.max_bad = max_bad
        self.images: list[Quarantined] = []

    def add(self, sample: Sample, reason: str) -> None:
        """Leave out one more image.

        Raises:
            DataError: it is one too many.
        """
        self.images.append(Quarantined(sample.origin, reason))
        if len(self.images) > self.max_bad:
            shown = [f"{one.origin}: {one.reason}" for one in self.images[:_BAD_SHOWN]]
            raise DataError(
                "\n".join([f"more than {self.max_bad} images do not decode, among them", *shown]),
                fix="mend or remove them, or raise --max-bad",
            )


def write_dataset(
    source: Source,
    store: Store,
    name: str,
    *,
    shard_bytes: int = SHARD_BYTES,
    max_bad: int = MAX_BAD,
    progress: Callable[[Progress], None] = lambda _: None,
) -> Manifest:
    """Write the images of a source as a dataset, or the part of it that is not there yet.

    The same images give the same bytes. Shards that an earlier run finished from the same inputs
    are kept, so running again after a stop goes on, and after the end only looks.

    Args:
        source: the images.
        store: the root of the store.
        name: of the dataset, such as `birds/photos`.
        shard_bytes: a shard ends before the image that would make it larger.
        max_bad: how many images may be left out because they do not decode.
        progress: called with what an earlier run had finished, then after every image.

    Raises:
        RequestError: the name cannot be used.
        DataError: keys are not unique, an image cannot be read, or too many do not decode.
    """
    if not _NAME.fullmatch(name):
        raise RequestError(
            f"{name!r} cannot name a dataset",
            allowed="parts of letters, digits, '.', '_' and '-', joined by '/'",
        )
    dataset = store.at(f"datasets/{name}")
    tasks = _plan(source, name.rpartition("/")[2], shard_bytes)
    there = {info.path: info for info in dataset.list()}
    quarantine = _Quarantine(max_bad)
    shards = []
    for task in tasks:
        record = _finished_record(task, dataset, there)
        if record:
            shards.append(_Finished(task, record))
            for sample, reason in shards[-1].left_out:
                quarantine.add(sample, reason)
    stems = {shard.task.stem for shard in shards}
    pending = [task for task in tasks if task.stem not in stems]
    if pending and _MANIFEST in there:
        dataset.delete(_MANIFEST)
    reused = sum(len(shard.task.samples) for shard in shards)
    total = reused + sum(len(task.samples) for task in pending)
    progress(Progress(reused, total, reused))
    counter = itertools.count(reused + 1)

    def one_more() -> None:
        progress(Progress(next(counter), total, reused))

    shards += [
        _Finished(task, _write_shard(task, dataset, quarantine, one_more)) for task in pending
    ]
    manifest = _describe(source, name, shards, quarantine.images)
    data = canonical_json(manifest)
    if pending or _MANIFEST not in there or dataset.get(_MANIFEST) != data:
        dataset.put(_MANIFEST, data)
    _delete_stale(dataset, tasks, there)
    return manifest


def _plan(source: Source, stem: str, shard_bytes: int) -> list[_Task]:
    """Decide which samples share a shard.

    They are ordered by a hash, so that a reader that shuffles only within shards mixes classes.
    """
    origins: dict[str, str] = {}
    splits: dict[str, list[Sample]] = {}
    for sample in source.samples():
        if not _KEY.fullmatch(sample.key):
            raise DataError(f"the key {sample.key!r} of {sample.origin} cannot be used")
        if sample.key in origins:
            raise DataError(
                f"{origins[sample.key]} and {sample.origin} have the same key {sample.key}"
            )
        origins[sample.key] = sample.origin
        splits.setdefault(sample.split, []).append(sample)
    return [
        _Task(f"{split}/{stem}-{split}-{number:06d}", split, part)
        for split, samples in sorted(splits.items())
        for number, part in enumerate(
            _parts(sorted(samples, key=lambda one: sha256(one.key.encode())), shard_bytes)
        )
    ]


def _parts(samples: Sequence[Sample], shard_bytes: int) -> Iterator[tuple[Sample, ...]]:
    part: list[Sample] = []
    size = 0
    for sample in samples:
        # A header and padding for the image, and as much for its class.
        length = sample.size_bytes + 4 * _BLOCK
        if part and size + length > shard_bytes:
            yield tuple(part)
            part, size = [], 0
        part.append(sample)
        size += length
    yield tuple(part)


def _finished_record(task: _Task, dataset: Store, there: dict[str, ObjectInfo]) -> _Record | None:
    """Return the record of a shard that is there and was made from the same inputs."""
    if not {task.tar, task.index, task.record} <= there.keys():
        return None
    try:
        record = _RECORD.validate_json(dataset.get(task.record))
    except ValidationError:  # damaged, or of another version: the shard is made again
        return None
    sound = (
        record.inputs == task.inputs
        and record.bytes == there[task.tar].bytes
        and record.index_sha256 == sha256(dataset.get(task.index))
    )
    return record if sound else None


def _write_shard(
    task: _Task, dataset: Store, quarantine: _Quarantine, after_each: Callable[[], None]
) -> _Record:
    tar = bytearray()
    columns: list[tuple[str, str, int, int, int, int | tuple[int, ...]]] = []
    quarantined: dict[str, str] = {}
    histogram = np.zeros((3, 256), np.int64)
    for sample in task.samples:
        original = _read(sample)
        try:
            data, extension, counts = _encoded(original)
        except DataError as error:
            quarantined[sample.key] = error.problem.what
            quarantine.add(sample, error.problem.what)
        else:
            histogram += counts
            label = NO_LABEL if sample.label is None else sample.label
            offset = len(tar) + _BLOCK
            columns.append((sample.key, extension, offset, len(data), zlib.crc32(data), label))
            tar += _member(f"{sample.key}.{extension}", data) + _described(sample)
        after_each()
    tar += bytes(2 * _BLOCK)
    index = canonical_json(Index(*(zip(*columns, strict=True) if columns else [()] * 6)))
    values = np.arange(256)
    record = _Record(
        inputs=task.inputs,
        bytes=len(tar),
        sha256=sha256(tar),
        index_sha256=sha256(index),
        quarantined=quarantined,
        pixels=int(histogram[0].sum()),
        sums=tuple((histogram @ values).tolist()),
        squares=tuple((histogram @ values**2).tolist()),
    )
    dataset.put(task.tar, bytes(tar))
    dataset.put(task.index, index)
    dataset.put(task.record, canonical_json(record))
    return record


def _described(sample: Sample) -> bytes:
    """Return what a tar holds of a sample beside its image."""
    members = b""
    if isinstance(sample.label, int):
        members += _member(f"{sample.key}.cls", str(sample.label).encode())
    facts = dict(sample.annotation or {})
    if isinstance(sample.label, tuple):
        facts["labels"] = sample.label
    return members + _member(f"{sample.key}.json", canonical_json(facts)) if facts else members


def _labels(sample: Sample) -> tuple[int, ...]:
    if sample.label is None:
        return ()
    return (sample.label,) if isinstance(sample.label, int) else sample.label


def _member(name: str, data: bytes) -> bytes:
    """Return one file of a tar: a USTAR header without time and owner, the data, padding."""
    header = tarfile.TarInfo(name)
    header.size = len(data)
    return header.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % _BLOCK)


def _read(sample: Sample) -> bytes:
    try:
        return sample.read()
    except OSError as error:
        raise DataError(f"cannot read {sample.origin}: {error}") from error


def _encoded(data: bytes) -> tuple[bytes, str, NDArray[np.int64]]:
    """Check one image. JPEG and PNG keep their bytes; other formats become PNG.

    Returns:
        The bytes, their extension, and the histogram int64[3, 256] of the pixels.

    Raises:
        DataError: the image does not decode.
    """
    rgb, kind = decode(data)
    counts = np.asarray(rgb.histogram(), np.int64).reshape(3, 256)
    return (data, _KEPT[kind], counts) if kind in _KEPT else (to_png(rgb), "png", counts)


def _describe(
    source: Source, name: str, shards: Sequence[_Finished], quarantined: Sequence[Quarantined]
) -> Manifest:
    by_split: dict[str, list[_Finished]] = {}
    for shard in sorted(shards, key=lambda shard: shard.task.stem):
        by_split.setdefault(shard.task.split, []).append(shard)
    splits = {split: _split(those, len(source.classes)) for split, those in by_split.items()}
    empty = [split for split in splits if not splits[split].images]
    if empty or not splits:
        raise DataError(f"no image is left in {', '.join(empty) or source.name}")
    mean, std = _moments([shard.record for shard in by_split.get("train", shards)])
    return Manifest(
        format=FORMAT,
        name=name,
        label=source.label,
        metric=source.metric,
        classes=tuple(source.classes),
        mean=mean,
        std=std,
        source=Origin(source.name, source.licence, source.credit, source.rule),
        splits=splits,
        quarantined=tuple(sorted(quarantined, key=lambda one: one.origin)),
    )


def _split(shards: Sequence[_Finished], classes: int) -> Split:
    described = tuple(shard.described for shard in shards)
    counts = Counter(label for shard in shards for label in shard.labels)
    return Split(
        images=sum(shard.images for shard in described),
        class_counts=tuple(counts[label] for label in range(classes)),
        shards=described,
    )


def _moments(
    records: Sequence[_Record],
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Return mean and standard deviation of each channel, 0 to 1, from exact sums."""
    pixels = sum(record.pixels for record in records)

    def moments(channel: int) -> tuple[float, float]:
        total = sum(record.sums[channel] for record in records)
        squares = sum(record.squares[channel] for record in records)
        variance = (pixels * squares - total**2) / pixels**2
        return total / pixels / 255, math.sqrt(variance) / 255

    (r, r_std), (g, g_std), (b, b_std) = map(moments, range(3))
    return (r, g, b), (r_std, g_std, b_std)


def _delete_stale(dataset: Store, tasks: Sequence[_Task], there: dict[str, ObjectInfo]) -> None:
    """Delete shards that an earlier, larger version of the dataset left behind."""
    wanted = {path for task in tasks for path in (task.tar, task.index, task.record)}
    ours = re.compile(r"[^/]+/[^/]+-\d{6}\.(tar|index\.json|done\.json)")
    for path in sorted(there.keys() - wanted):
        if ours.fullmatch(path):
            dataset.delete(path)
