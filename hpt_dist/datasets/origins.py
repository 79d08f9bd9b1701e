"""Which file of its source an image came from, by its key.

Each shard has a note of it, `<stem>.origins.json`: a JSON object of keys to the names that messages
give the files, which are their paths from the source's root. No digest depends on it. Datasets of
earlier versions have none until the same `hpt-dist shard` runs again, which writes no image then.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from hpt_dist.datasets.manifest import NO_LABEL, Index, Manifest, Shard, canonical_json, read_index
from hpt_dist.errors import HptError, RequestError, nearest
from hpt_dist.sources.sample import Sample
from hpt_dist.store import Store, records
from hpt_dist.store.records import Line

_ENDING = ".origins.json"
_READERS = 16
_SHOWN = 10
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Image:
    """An image of a dataset, and where it came from.

    Args:
        key: its name in the dataset.
        split: that it is in.
        classes: names of its classes; none without a label.
        file: of the source; empty where that was not noted.
        shard: the path of its tar, below the folder of the dataset's shards.
    """

    key: str
    split: str
    classes: tuple[str, ...]
    file: str
    shard: str


def content(samples: Iterable[Sample]) -> bytes:
    """Return the note of a shard's samples."""
    return canonical_json({sample.key: sample.origin for sample in samples})


def path_of(shard: Shard) -> str:
    """Return the path of a shard's note, below the folder of the shards."""
    return shard.path.removesuffix(".tar") + _ENDING


def read(folder: Store, shard: Shard) -> Mapping[str, str]:
    """Return the files of a shard's images by their keys; none where they were not noted.

    Args:
        folder: of the dataset's shards in its store.
        shard: from its manifest.

    Raises:
        DamagedRecordError: the note is damaged.
    """
    fix = "delete it and run the same hpt-dist shard again, which writes it anew"
    return records.read(folder, path_of(shard), dict[str, Line], fix=fix) or {}


def suffix(folder: Store, shard: Shard, key: str) -> str:
    """Return the words ` (file NAME)` for a message about an image; empty where it is not known."""
    try:
        file = read(folder, shard).get(key)
    except HptError:  # the message is about something worse
        return ""
    return f" (file {file})" if file else ""


def files_of(folder: Store, manifest: Manifest, keys: Collection[str]) -> dict[str, str]:
    """Return the files of some images by their keys, as far as they were noted.

    Args:
        folder: of the dataset's shards in its store.
        manifest: of the dataset.
        keys: of the images.

    Raises:
        DamagedRecordError: a note is damaged.
        StoreError: the store cannot be read.
    """
    if not keys:
        return {}
    shards = [shard for split in manifest.splits.values() for shard in split.shards]
    return {key: file for key, file in files_in(folder, shards).items() if key in keys}


def files_in(folder: Store, shards: Sequence[Shard]) -> dict[str, str]:
    """Return the files of the images of some shards by their keys; raises as `files_of`."""
    notes = _threaded(lambda shard: read(folder, shard), shards)
    return {key: file for note in notes for key, file in note.items()}


def trace(folder: Store, manifest: Manifest, names: Sequence[str]) -> list[Image]:
    """Return the images that keys, or files of the source, stand for.

    Args:
        folder: of the dataset's shards in its store.
        manifest: of the dataset.
        names: keys, or paths as the source named them.

    Raises:
        RequestError: it holds no such image.
        DataError: an index is damaged.
        DamagedRecordError: a note is damaged.
        StoreError: the store cannot be read.
    """
    shards = [(name, shard) for name, split in manifest.splits.items() for shard in split.shards]
    classes = manifest.classes

    def looked_at(pair: tuple[str, Shard]) -> tuple[Index, Mapping[str, str]]:
        return read_index(folder, pair[1], len(classes)), read(folder, pair[1])

    wanted, known, found = set(names), list[str](), dict[str, Image]()
    for (split, shard), (index, files) in zip(shards, _threaded(looked_at, shards), strict=True):
        known += index.keys
        for key, label in zip(index.keys, index.labels, strict=True):
            labels = label if isinstance(label, tuple) else (label,)
            of_image = tuple(classes[one] for one in labels if one != NO_LABEL)
            for name in {key, files.get(key, key)} & wanted:
                found[name] = Image(key, split, of_image, files.get(key, ""), shard.path)
    if missing := [name for name in names if name not in found]:
        raise _absent(manifest, missing, known)
    return [found[name] for name in names]


def _absent(manifest: Manifest, missing: Sequence[str], known: Sequence[str]) -> RequestError:
    more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
    left_out = [one for one in manifest.quarantined if one.origin in missing]
    why = "; ".join(f"{one.origin} was left out: {one.reason}" for one in left_out[:_SHOWN])
    return RequestError(
        f"{manifest.name} holds no image {', '.join(missing[:_SHOWN])}{more}",
        fix=why or nearest(missing[0], known) or "name a key, or a file as its source named it",
    )


def _threaded(look: Callable[[T], R], things: Sequence[T]) -> list[R]:
    with ThreadPoolExecutor(_READERS) as threads:
        return list(threads.map(look, things))
