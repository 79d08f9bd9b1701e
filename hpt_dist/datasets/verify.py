"""Checking a dataset: every digest, count, key and label of it against its manifest.

Tars are read as streams and their images hashed one at a time, so that memory does not grow with
the size of shards or the number of images.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import blake2b
from hashlib import sha256 as new_sha256
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from hpt_dist.datasets import origins
from hpt_dist.datasets.manifest import (
    NO_LABEL,
    Index,
    Manifest,
    Shard,
    parse_index,
    read_manifest,
    sha256,
)
from hpt_dist.datasets.members import member_problems
from hpt_dist.datasets.subset import FOLDER, read_subset, subset_names
from hpt_dist.errors import DataError, Problem, StoreError
from hpt_dist.store import PIECE_BYTES, Store
from hpt_dist.store.records import DamagedRecordError

if TYPE_CHECKING:
    from typing_extensions import Buffer  # collections.abc has it from Python 3.12 on

_SHARDS_AT_ONCE = 4  # each is a stream of up to 50 MB of memory from a remote store
_SHARDS_QUEUED = 64
_MANIFEST = "manifest.json"
_FIX = "delete it and run the same hpt-dist shard again"
_CLASSES_SHOWN = 5
_PROBLEMS_SHOWN = 100  # of one tar
_SEVERAL = ("multi", "boxes")

Progress = Callable[[int, int], None]


@dataclass
class _ShardCheck:
    """The result for one shard; `keys` is None if its index could not be used."""

    problems: list[Problem] = field(default_factory=list)
    keys: npt.NDArray[np.uint64] | None = None
    counts: Counter[int] = field(default_factory=Counter)


def verify(
    store: Store, name: str, progress: Progress = lambda _done, _total: None
) -> list[Problem]:
    """Check every digest, count, key and label of a dataset, and its subsets.

    Args:
        store: the root of the store.
        name: of the dataset.
        progress: called with (images checked, images).

    Returns:
        The problems; none for an intact dataset.

    Raises:
        RequestError: the store has no such dataset.
        DataError: its manifest is damaged.
        StoreError: the store cannot be reached.
    """
    manifest = read_manifest(store, name)
    dataset = manifest.shards_in(store.at(f"datasets/{name}"))
    shards = [(name, shard) for name, split in manifest.splits.items() for shard in split.shards]
    total = sum(split.images for split in manifest.splits.values())
    problems: list[Problem] = []
    checks: dict[str, list[_ShardCheck]] = {split: [] for split in manifest.splits}
    done = 0
    with ThreadPoolExecutor(_SHARDS_AT_ONCE) as threads:
        for start in range(0, len(shards), _SHARDS_QUEUED):
            some = shards[start : start + _SHARDS_QUEUED]
            results = threads.map(lambda pair: _check_shard(dataset, pair[1], manifest), some)
            for (split, shard), result in zip(some, results, strict=True):
                checks[split].append(result)
                problems += result.problems
                result.problems = []
                progress(done := done + shard.images, total)
    for split, results_of_split in checks.items():
        problems += _count_problems(dataset, manifest, split, results_of_split)
    problems += _repeated_keys(dataset, shards, [one for some in checks.values() for one in some])
    problems += _subset_problems(store, name)
    return problems


def strays(store: Store, name: str) -> list[str]:
    """Return the paths below a dataset's folder that its manifest does not account for, sorted."""
    manifest = read_manifest(store, name)
    shards = [shard for split in manifest.splits.values() for shard in split.shards]
    below = f"{manifest.folder}/" if manifest.folder else ""
    stems = [shard.path.removesuffix(".tar") for shard in shards]
    paths_of_shards = [shard.path for shard in shards] + [shard.index for shard in shards]
    paths_of_shards += [f"{stem}{end}" for stem in stems for end in (".done.json", ".origins.json")]
    known = {_MANIFEST} | {f"{below}{path}" for path in paths_of_shards}
    known |= {f"{FOLDER}/{subset}.json" for subset in subset_names(store, name)}
    paths = [info.path for info in store.at(f"datasets/{name}").list()]
    # A dataset may lie below another one: `birds/photos` and `birds`.
    inner = {path.removesuffix(_MANIFEST) for path in paths if path.endswith(f"/{_MANIFEST}")}
    return [path for path in paths if path not in known and not path.startswith(tuple(inner))]


def _check_shard(dataset: Store, shard: Shard, manifest: Manifest) -> _ShardCheck:
    """Check one shard and its index."""
    check = _ShardCheck()
    index = None
    try:
        index = _checked_index(dataset, shard)
    except (DataError, StoreError) as error:
        check.problems.append(_problem(dataset, error))
    try:
        check.problems += _tar_problems(dataset, shard, index, len(manifest.classes))
    except (DataError, StoreError) as error:
        check.problems.append(_problem(dataset, error))
    if index:
        check.problems += _index_problems(dataset, shard, index, manifest)
        check.problems += _origin_problems(dataset, shard, index)
        check.keys = _key_hashes(index.keys)
        for label in index.labels:
            check.counts.update(label if isinstance(label, tuple) else [label])
    return check


def _problem(dataset: Store, error: DataError | StoreError) -> Problem:
    if isinstance(error, StoreError):
        dataset.stat(_MANIFEST)  # raises if the whole store fails, and not only this object
    return error.problem


def _checked_index(dataset: Store, shard: Shard) -> Index:
    where = f"{dataset.uri}/{shard.index}"
    if dataset.stat(shard.index) is None:
        raise DataError("missing", where=where, fix=_FIX)
    data = dataset.get(shard.index)
    if sha256(data) != shard.index_sha256:
        raise DataError("its SHA-256 differs from that in the manifest", where=where, fix=_FIX)
    return parse_index(data, where)


def _index_problems(
    dataset: Store, shard: Shard, index: Index, manifest: Manifest
) -> Iterator[Problem]:
    where = f"{dataset.uri}/{shard.index}"
    if len(index.keys) != shard.images:
        yield Problem(
            f"{len(index.keys)} images are in it; the manifest says {shard.images}", where, fix=_FIX
        )
    labelled = any(label != NO_LABEL for label in index.labels)
    if manifest.label == "boxes" and labelled and not index.boxes:
        yield Problem("it does not say where the boxes are", where, fix=_FIX)
    classes = len(manifest.classes)
    for key, label in zip(index.keys, index.labels, strict=True):
        several = isinstance(label, tuple)
        values = label if isinstance(label, tuple) else (label,)
        allowed = range(0 if several else NO_LABEL, classes)
        if (several and manifest.label not in _SEVERAL) or any(
            one not in allowed for one in values
        ):
            yield Problem(
                f"the label of {key} is {label}",
                where,
                allowed=f"ids of {classes} classes, label kind {manifest.label}",
            )


def _origin_problems(dataset: Store, shard: Shard, index: Index) -> Iterator[Problem]:
    """Check the note of the images' files, which datasets of earlier versions do not have."""
    try:
        files = origins.read(dataset, shard)
    except DamagedRecordError as error:
        yield error.problem
        return
    if missing := [key for key in index.keys if files and key not in files]:
        where = f"{dataset.uri}/{origins.path_of(shard)}"
        what = f"it names no file of {len(missing)} images, such as {missing[0]}"
        yield Problem(what, where, fix=_FIX)


class _HashedStream(io.RawIOBase):
    """A stored object as a file that is read once, front to back, and hashed on the way."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._left = memoryview(b"")
        self.digest = new_sha256()
        self.size_bytes = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, target: Buffer, /) -> int:
        """Fill a buffer, or its beginning, with the next bytes; return their number."""
        if not self._left and (piece := next(self._pieces, b"")):
            self.digest.update(piece)
            self.size_bytes += len(piece)
            self._left = memoryview(piece)
        view = memoryview(target)
        part, self._left = self._left[: len(view)], self._left[len(view) :]
        view[: len(part)] = part
        return len(part)


def _tar_problems(dataset: Store, shard: Shard, index: Index | None, classes: int) -> list[Problem]:
    """Check a tar's digest, and its members against the index if there is one."""
    where = f"{dataset.uri}/{shard.path}"
    info = dataset.stat(shard.path)
    if info is None:
        raise DataError("missing", where=where, fix=_FIX)
    content = _HashedStream(dataset.stream(info))
    file = io.BufferedReader(content, PIECE_BYTES)

    def named(key: str) -> str:
        return key + origins.suffix(dataset, shard, key)

    members = member_problems(file, info.bytes, index, classes, named) if index else iter(())
    found = list(islice(members, _PROBLEMS_SHOWN + 1))
    if len(found) > _PROBLEMS_SHOWN:
        found[_PROBLEMS_SHOWN:] = ["and more"]
    inside = [Problem(what, where) for what in found]
    while file.read(PIECE_BYTES):
        pass
    if (content.size_bytes, content.digest.hexdigest()) == (shard.bytes, shard.sha256):
        return inside
    what = "its SHA-256 differs from that in the manifest"
    if content.size_bytes != shard.bytes:
        what += f", and so does its size: {content.size_bytes:,} bytes, not {shard.bytes:,}"
    return [Problem(what, where, fix=_FIX), *inside]


def _count_problems(
    dataset: Store, manifest: Manifest, name: str, checks: list[_ShardCheck]
) -> list[Problem]:
    """Compare a split's counts with those of its indexes, if all of them could be read."""
    keys = [one.keys for one in checks if one.keys is not None]
    if len(keys) < len(checks):
        return []
    split, where = manifest.splits[name], f"{dataset.uri}/{name}"
    counts = sum((one.counts for one in checks), Counter[int]())
    problems = []
    if (images := sum(map(len, keys))) != split.images:
        problems.append(
            Problem(f"its shards hold {images} images; the manifest says {split.images}", where)
        )
    pairs = zip(manifest.classes, split.class_counts, strict=False)
    wrong = [
        f"{class_name} {counts[number]}, not {count}"
        for number, (class_name, count) in enumerate(pairs)
        if counts[number] != count
    ]
    if wrong or len(split.class_counts) != len(manifest.classes):
        shown = ", ".join(wrong[:_CLASSES_SHOWN])
        what = f"class counts other than the manifest's in {len(wrong)} classes: {shown}"
        problems.append(Problem(what, where))
    return problems


def _key_hashes(keys: tuple[str, ...]) -> npt.NDArray[np.uint64]:
    """Return 8 bytes for each key: the keys themselves may be too many for memory."""
    digests = b"".join(blake2b(key.encode(), digest_size=8).digest() for key in keys)
    return np.frombuffer(digests, np.uint64)


def _repeated_keys(
    dataset: Store, shards: list[tuple[str, Shard]], checks: list[_ShardCheck]
) -> Iterator[Problem]:
    """Name the keys that occur more than once in a dataset."""
    hashes = [np.empty(0, np.uint64) if one.keys is None else one.keys for one in checks]
    values, counts = np.unique(
        np.concatenate([np.empty(0, np.uint64), *hashes]), return_counts=True
    )
    doubtful = values[counts > 1]
    if not len(doubtful):
        return
    seen: set[str] = set()
    for (_, shard), key_hashes in zip(shards, hashes, strict=True):
        rows = np.flatnonzero(np.isin(key_hashes, doubtful))
        if not len(rows):
            continue
        index = _checked_index(dataset, shard)
        for row in rows.tolist():
            key = index.keys[row]
            if key in seen:
                yield Problem(f"the key {key} occurs twice", f"{dataset.uri}/{shard.path}")
            seen.add(key)


def _subset_problems(store: Store, name: str) -> Iterator[Problem]:
    for subset_name in subset_names(store, name):
        try:
            read_subset(store, name, subset_name)
        except DataError as error:
            yield error.problem
