"""Sharding: images of a source become WebDataset tars, their indexes and a manifest.

`shard_plan` decides which images share a shard before any of them is read. `shard_writer` writes
one shard, and `shard_workers` runs it in any number of processes. The manifest is written last.
Killed at any moment and run again, sharding continues from the finished shards and ends with the
same bytes. `shard_target` keeps a dataset that is there until another one is complete.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from dataclasses import replace as replaced

from hpt_dist.datasets import origins
from hpt_dist.datasets.description import WrittenShard, describe, in_order
from hpt_dist.datasets.manifest import Manifest, Quarantined, read_manifest
from hpt_dist.datasets.shard_plan import ShardToWrite, plan
from hpt_dist.datasets.shard_target import MANIFEST, ShardingPlan, Target
from hpt_dist.datasets.shard_workers import write_shards
from hpt_dist.datasets.verify import verify
from hpt_dist.errors import DataError, RequestError, StoreError
from hpt_dist.images import depth
from hpt_dist.images.formats import AS_IT_IS, Encoding
from hpt_dist.sources.sample import Source
from hpt_dist.store import Store

__all__ = [
    "Manifest",
    "Progress",
    "check",
    "read_manifest",
    "verify",
    "write_dataset",
    "write_part",
]

SHARD_BYTES = 256_000_000
MAX_BAD = 10

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*")
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


class _Account:
    """Counts finished images, and refuses to leave out more than a limit.

    Args:
        total: number of images.
        max_bad: how many may be left out.
        reused: shards that an earlier run finished.
        progress: called after every change.

    Raises:
        DataError: more than `max_bad` are left out.
    """

    def __init__(
        self,
        total: int,
        max_bad: int,
        reused: Sequence[WrittenShard],
        progress: Callable[[Progress], None],
    ) -> None:
        self._total = total
        self._max_bad = max_bad
        self._bad: list[Quarantined] = []
        self._reused = sum(len(shard.task.samples) for shard in reused)
        self._done = 0
        self._progress = progress
        self.add(self._reused, [bad for shard in reused for bad in shard.left_out])

    def add(self, images: int, bad: Sequence[Quarantined]) -> None:
        """Count images, and those of them that were left out."""
        self._bad += bad
        if len(self._bad) > self._max_bad:
            shown = [f"{one.origin}: {one.reason}" for one in in_order(self._bad)[:_BAD_SHOWN]]
            raise DataError(
                "\n".join([f"more than {self._max_bad} images cannot be used, among them", *shown]),
                fix="repair or remove them, or raise --max-bad",
            )
        self._done += images
        self._progress(Progress(self._done, self._total, self._reused))


def write_dataset(
    source: Source,
    store: Store,
    name: str,
    *,
    shard_bytes: int = SHARD_BYTES,
    max_bad: int = MAX_BAD,
    encoding: Encoding = AS_IT_IS,
    replace: bool = False,
    leave_out: Collection[str] = (),
    workers: int = 1,
    progress: Callable[[Progress], None] = lambda _: None,
) -> Manifest:
    """Write the images of a source as a dataset, or the part of it that is still missing.

    The same images give the same bytes, by any number of workers. Shards that an earlier run
    finished from the same inputs are kept: running again after a stop continues, and running again
    after the end writes nothing.

    Args:
        source: the images.
        store: the root of the store.
        name: of the dataset, such as `birds/photos`.
        shard_bytes: a shard ends before the image that would make it larger.
        max_bad: how many images may be left out because they cannot be read or do not decode.
        encoding: how images are stored.
        replace: a dataset of other images or options that is there may be replaced. It can be read
            until the new one is complete.
        leave_out: keys of images of the source that are not written; the manifest names them.
        workers: processes at once, each with one shard in its memory; 1 writes in this process.
        progress: called with what an earlier run had finished, then as images are done.

    Raises:
        RequestError: the name cannot be used, the samples cannot be sent to workers, another
            dataset is there that is not to be replaced, or images of more than 8 bits need a scale.
        DataError: keys are not unique, or too many images are left out.
        StoreError: the store refused, or another command deleted a shard.
    """
    sharding = _planned(source, store, name, shard_bytes, encoding, leave_out)
    target = sharding.target(replace, sharding.tasks)
    shards = _write(sharding.tasks, target, encoding, workers, max_bad, progress)
    if encoding.scale is None:
        depth.refuse_unfit(depth.joined(one.record.depths or depth.NONE for one in shards), name)
    left_out = [sample for sample in source.samples() if sample.key in leave_out]
    manifest = describe(source, name, shards, encoding, target.folder, left_out)
    if not replace:
        sharding.check(manifest, target)
    dataset = sharding.dataset
    there = {info.path: info.bytes for info in dataset.list()}
    _check_complete(target, shards, there)
    _note_origins(target, sharding.tasks, there)
    if MANIFEST not in sharding.listing or dataset.get(MANIFEST) != manifest.content:
        dataset.put(MANIFEST, manifest.content)
    for path in sharding.stale(target.folder, there):
        dataset.delete(path)
    return manifest


def write_part(
    source: Source,
    store: Store,
    name: str,
    part: int,
    parts: int,
    *,
    shard_bytes: int = SHARD_BYTES,
    max_bad: int = MAX_BAD,
    encoding: Encoding = AS_IT_IS,
    replace: bool = False,
    leave_out: Collection[str] = (),
    workers: int = 1,
    progress: Callable[[Progress], None] = lambda _: None,
) -> int:
    """Write every `parts`-th shard of a dataset, from number `part` on, and no manifest.

    Different parts may be written at the same time, on any machines. Afterwards `write_dataset`
    with the same arguments finds all shards finished and writes the manifest.

    Args:
        source: see `write_dataset`, as for all arguments that are not listed here.
        store: the root of the store.
        name: of the dataset.
        part: 0 to `parts` - 1.
        parts: number of parts.
        shard_bytes: the same for all parts.
        max_bad: how many images of this part may be left out.
        encoding: the same for all parts.
        replace: the same for all parts.
        leave_out: the same for all parts.
        workers: processes at once.
        progress: called as images of this part are done.

    Returns:
        How many images of the source this part covers, those left out included.

    Raises:
        RequestError: see `write_dataset`; or there is no such part.
        DataError: see `write_dataset`.
        StoreError: see `write_dataset`.
    """
    if not 0 <= part < parts:
        raise RequestError(f"there is no part {part} of {parts}", allowed=f"0 to {parts - 1}")
    sharding = _planned(source, store, name, shard_bytes, encoding, leave_out)
    tasks = sharding.tasks[part::parts]
    target = sharding.target(replace, tasks)
    _write(tasks, target, encoding, workers, max_bad, progress)
    return sum(len(task.samples) for task in tasks)


def check(
    source: Source,
    store: Store,
    name: str,
    *,
    shard_bytes: int = SHARD_BYTES,
    encoding: Encoding = AS_IT_IS,
    replace: bool = False,
    leave_out: Collection[str] = (),
) -> list[ShardToWrite]:
    """Return the planned shards of a dataset, or refuse what `write_dataset` would refuse.

    Args:
        source: see `write_dataset`, as for all arguments.
        store: the root of the store.
        name: of the dataset.
        shard_bytes: size of a shard.
        encoding: how images are stored.
        replace: whether another dataset may be replaced.
        leave_out: keys of images that are not written.

    Raises:
        RequestError: see `write_dataset`.
        DataError: keys are not unique.
    """
    sharding = _planned(source, store, name, shard_bytes, encoding, leave_out)
    sharding.target(replace, ())
    return list(sharding.tasks)


def _planned(
    source: Source,
    store: Store,
    name: str,
    shard_bytes: int,
    encoding: Encoding,
    leave_out: Collection[str],
) -> ShardingPlan:
    tasks = plan(source, stem_of(name), shard_bytes, leave_out)
    dataset = store.at(f"datasets/{name}")
    listing = {info.path: info for info in dataset.list()}
    return ShardingPlan(tasks, dataset, listing, encoding, len(leave_out))


def stem_of(name: str) -> str:
    """Return how the names of a dataset's shards begin, or refuse the name."""
    if not _NAME.fullmatch(name):
        raise RequestError(
            f"{name!r} cannot name a dataset",
            allowed="parts of letters, digits, '.', '_' and '-', joined by '/'",
        )
    return name.rpartition("/")[2]


def _write(
    tasks: Sequence[ShardToWrite],
    target: Target,
    encoding: Encoding,
    workers: int,
    max_bad: int,
    progress: Callable[[Progress], None],
) -> list[WrittenShard]:
    """Write the shards that are not finished; return all of them."""
    records, expected = target.records, target.expected
    shards = [WrittenShard(task, records[task.tar]) for task in tasks if task.tar in records]
    pending = [
        replaced(task, sha256=expected.get(task.tar, ""))
        for task in tasks
        if task.tar not in records
    ]
    account = _Account(sum(len(task.samples) for task in tasks), max_bad, shards, progress)
    for task in pending:
        if not task.sha256 and task.record in target.paths:
            target.store.delete(task.record)  # or the shard would count as finished too early
    with closing(write_shards(pending, target.store, encoding, workers, account.add)) as written:
        shards += [WrittenShard(task, record) for task, record in written]
    return shards


def _check_complete(
    target: Target, shards: Sequence[WrittenShard], there: Mapping[str, int]
) -> None:
    """Raise StoreError if another command deleted or replaced shards before the manifest is put."""
    below = f"{target.folder}/" if target.folder else ""
    lost = [one.task.tar for one in shards if there.get(below + one.task.tar) != one.record.bytes]
    if lost:
        raise StoreError(
            f"{len(lost):,} shards are gone: another command writes this dataset",
            where=f"{target.store.uri}/{lost[0]}",
            fix="wait for the other command; the same command then writes what is missing",
        )


def _note_origins(target: Target, tasks: Sequence[ShardToWrite], there: Mapping[str, int]) -> None:
    """Note the files of shards that an earlier version of this software wrote."""
    below = f"{target.folder}/" if target.folder else ""
    for task in tasks:
        if below + task.origins not in there:
            target.store.put(task.origins, origins.content(task.samples))
