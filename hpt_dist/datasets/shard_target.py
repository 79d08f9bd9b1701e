"""Where shards are written: in the dataset's folder, or beside the dataset that they will replace.

A dataset that is there is never written over. Where other images or options would change it,
sharding is refused, or with `replace` writes into a folder of its own. The manifest names that
folder, so putting the manifest is the moment at which the new dataset takes the place of the old
one. Until then the old one can be read; its shards are deleted afterwards.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from dataclasses import replace as replaced

from hpt_dist.datasets.manifest import Manifest, canonical_json, parse_manifest, sha256
from hpt_dist.datasets.shard_plan import ShardToWrite
from hpt_dist.datasets.shard_writer import ShardRecord, finished_record, read_record
from hpt_dist.errors import DataError, RequestError
from hpt_dist.images.formats import Encoding
from hpt_dist.store import ObjectInfo, Store

MANIFEST = "manifest.json"

_RECORDS_AT_ONCE = 16
SHARD_FILE = re.compile(
    r"(version-[0-9a-f]{12}/)?[^/]+/[^/]+-\d{6}\.(tar|(index|origins|done)\.json)"
)


@dataclass(frozen=True)
class Target:
    """Where shards are written.

    Args:
        store: the folder that their paths start from.
        folder: the same below the dataset's folder; empty is the dataset's folder itself.
        records: of the shards that are finished there, by the path of the tar.
        paths: of the objects that are there.
        expected: SHA-256 of each tar by its path, where the dataset is there and only repaired.
        old: the manifest that is there, if its shards are these.
    """

    store: Store
    folder: str
    records: Mapping[str, ShardRecord]
    paths: Collection[str]
    expected: Mapping[str, str] = field(default_factory=dict)
    old: Manifest | None = None


@dataclass(frozen=True)
class ShardingPlan:
    """What is to be written, and what is there.

    Args:
        tasks: all shards of the dataset.
        dataset: its folder in the store.
        listing: the objects in that folder, by path.
        encoding: how images are stored.
        left_out: how many images of the source are in none of the shards.
    """

    tasks: Sequence[ShardToWrite]
    dataset: Store
    listing: Mapping[str, ObjectInfo]
    encoding: Encoding
    left_out: int = 0

    def target(self, replace: bool, part: Sequence[ShardToWrite]) -> Target:
        """Decide where the shards are written.

        Args:
            replace: a dataset of other images or options may be replaced.
            part: the shards that will be written.

        Raises:
            RequestError: such a dataset is there, and is not to be replaced.
        """
        if MANIFEST not in self.listing:
            return self._at("", part)
        old = self._manifest()
        there = self._at(old.folder if old else "", self.tasks)
        expected = {
            shard.path: shard.sha256
            for split in (old.splits.values() if old else ())
            for shard in split.shards
        }
        paths = {task.tar for task in self.tasks}
        if paths == there.records.keys() and (old is None or paths == expected.keys()):
            return replaced(there, old=old)
        if replace:
            return self._at(self._new_folder(), part)
        pending = [task for task in self.tasks if task.tar not in there.records]
        if paths != expected.keys() or any(self._differs(task, there.store) for task in pending):
            raise self._refusal(old)
        return replaced(there, expected=expected, old=old)

    def check(self, manifest: Manifest, target: Target) -> None:
        """Refuse a manifest that differs from the one that is there, though the shards are equal.

        Args:
            manifest: of the same shards, such as with other class names.
            target: where they lie.

        Raises:
            RequestError: it differs.
        """
        old = target.old
        if old is None or old.digest == manifest.digest:
            return
        renamed = replaced(manifest, source=replaced(manifest.source, name=old.source.name))
        if renamed.digest != old.digest:
            raise self._refusal(old)
        raise RequestError(
            f"a dataset of {_images(old)} is there, of the same images and classes; only the "
            f"name of its source was another, {old.source.name} and not {manifest.source.name}",
            where=self.dataset.uri,
            fix="use it as it is; --replace takes the new name, and with it another digest: "
            "trials of this dataset then run again",
        )

    def stale(self, folder: str, there: Iterable[str]) -> list[str]:
        """Return the files of shards that are not those of this dataset in a folder.

        Args:
            folder: of the target.
            there: paths below the dataset's folder.
        """
        prefix = f"{folder}/" if folder else ""
        current = {
            f"{prefix}{path}"
            for task in self.tasks
            for path in (task.tar, task.index, task.origins, task.record)
        }
        return [path for path in there if path not in current and SHARD_FILE.fullmatch(path)]

    def _at(self, folder: str, tasks: Sequence[ShardToWrite]) -> Target:
        """Return a folder as a target, with those of its shards that are finished."""
        store = self.dataset.at(folder) if folder else self.dataset
        prefix = f"{folder}/" if folder else ""
        listing = {
            path.removeprefix(prefix): info
            for path, info in self.listing.items()
            if path.startswith(prefix)
        }
        with ThreadPoolExecutor(_RECORDS_AT_ONCE) as threads:
            records = threads.map(
                lambda task: finished_record(task, store, listing, self.encoding), tasks
            )
            pairs = zip(tasks, records, strict=True)
            finished = {task.tar: record for task, record in pairs if record}
        return Target(store, folder, finished, listing.keys())

    def _manifest(self) -> Manifest | None:
        """Return the manifest that is there, or None if it is damaged."""
        try:
            return parse_manifest(self.dataset.get(MANIFEST), "")
        except DataError:
            return None

    def _new_folder(self) -> str:
        """Return a name that every part and every later run of this sharding finds again."""
        facts = [(task.stem, task.inputs(self.encoding)) for task in self.tasks]
        etag = sha256(self.dataset.get(MANIFEST))
        return f"version-{sha256(canonical_json([etag, facts]))[:12]}"

    def _differs(self, task: ShardToWrite, store: Store) -> bool:
        """Return whether a shard that is there was written from other images or options."""
        record = read_record(store, task)
        return record is not None and record.inputs != task.inputs(self.encoding)

    def _refusal(self, old: Manifest | None) -> RequestError:
        images = sum(len(task.samples) for task in self.tasks) + self.left_out
        there = f"a dataset of {_images(old)}" if old else "a dataset with a damaged manifest"
        return RequestError(
            f"{there} is there, and these {images:,} images, their classes or options differ "
            "from what it was written from, by names, sizes and times of files",
            where=self.dataset.uri,
            fix="choose another name; or replace it with --replace, which keeps it until the new "
            "one is complete. Files that were only copied give the same dataset again",
        )


def _images(manifest: Manifest) -> str:
    count = sum(split.images for split in manifest.splits.values()) + len(manifest.quarantined)
    return f"{count:,} images ({manifest.source.name})"
