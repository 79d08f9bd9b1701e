"""What is sharded, and what one of the jobs that share the work does."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from hpt_dist import sources
from hpt_dist.datasets import leave_out, shards
from hpt_dist.datasets.shard_plan import ShardToWrite
from hpt_dist.errors import StoreAwayError, StoreError
from hpt_dist.errors.secrets import without_secrets
from hpt_dist.images.formats import Encoding
from hpt_dist.slurm import commands as slurm
from hpt_dist.slurm import jobs as slurm_jobs
from hpt_dist.slurm.script import AGAIN
from hpt_dist.sources import Sample, Source, TarOptions
from hpt_dist.store import Store, lease, marker, open_store
from hpt_dist.store.paths import DONE, FAILURE, LEASE, SUBMITTING, sharding_prefix
from hpt_dist.trial import starts


def id_of(store: str, name: str) -> str:
    """Return how the jobs that shard a dataset are called.

    Args:
        store: URI of the store.
        name: of the dataset.
    """
    place = hashlib.sha256(f"{store}\n{name}".encode()).hexdigest()
    return f"shard-{slurm.plain(name)}-{place[:12]}"


@dataclass(frozen=True)
class ShardingRequest:
    """What is sharded, in values that mean the same on every node.

    Args:
        source: what `sources.open_source` takes.
        folder: where relative paths in `source` and `root` begin.
        store: URI of the store.
        name: of the dataset.
        shard_bytes: see `shards.write_dataset`.
        max_bad: see `shards.write_dataset`.
        encoding: how images are stored.
        root: see `sources.open_source`; empty for none.
        replace: see `shards.write_dataset`.
        layout: see `sources.open_source`.
        group_by: see `sources.open_source`.
        columns: see `sources.open_source`.
        tars: see `sources.open_source`.
        leave_out: the file that lists images which are not written; empty for none.
        boxes: see `sources.open_source`.
    """

    source: str
    folder: str
    store: str
    name: str
    shard_bytes: int
    max_bad: int
    encoding: Encoding
    root: str = ""
    replace: bool = False
    layout: str = ""
    group_by: str | None = None
    columns: str = ""
    tars: TarOptions | None = None
    leave_out: str = ""
    boxes: bool = False

    @property
    def id(self) -> str:
        """The name of its jobs and their folders: one for each dataset of each store."""
        return id_of(self.store, self.name)

    @property
    def are_tars(self) -> bool:
        """Whether the source is tars; see `sources.are_tars`."""
        return sources.are_tars(self.source, Path(self.root) if self.root else None, self.layout)

    def open_source(
        self, progress: Callable[[int, int], None] = lambda _done, _total: None
    ) -> Source:
        """Open the images; see `sources.open_source` for `progress`."""
        root = Path(self.root) if self.root else None
        return sources.open_source(
            self.source,
            root,
            layout=self.layout,
            group_by=self.group_by,
            columns=self.columns,
            tar_options=self.tars,
            boxes=self.boxes,
            progress=progress,
        )

    def left_out(self, source: Source) -> dict[str, Sample]:
        """Return the images that are not written, by key.

        Args:
            source: what `open_source` returned.

        Raises:
            RequestError: with every mistake in the list.
        """
        if not self.leave_out:
            return {}
        uri = f"{open_store(self.store).uri}/datasets/{self.name}"
        return leave_out.read(Path(self.leave_out), self.name, uri, source)

    def check(self, store: Store, source: Source) -> list[ShardToWrite]:
        """Return the planned shards of what `open_source` returned, or refuse as `write` would."""
        return shards.check(
            source,
            store,
            self.name,
            shard_bytes=self.shard_bytes,
            encoding=self.encoding,
            replace=self.replace,
            leave_out=self.left_out(source).keys(),
        )

    def write(
        self,
        source: Source,
        store: Store,
        workers: int,
        progress: Callable[[shards.Progress], None],
        part: int | None = None,
        parts: int = 1,
    ) -> None:
        """Write one part; or, without a part, what is left and the manifest.

        Args:
            source: the opened one.
            store: its own, opened.
            workers: see `shards.write_dataset`.
            progress: see `shards.write_dataset`.
            part: which one; None for the rest.
            parts: how many there are.
        """
        where = (source, store, self.name)
        options: dict[str, Any] = {
            "shard_bytes": self.shard_bytes,
            "max_bad": self.max_bad,
            "encoding": self.encoding,
            "replace": self.replace,
            "leave_out": self.left_out(source).keys(),
            "workers": workers,
            "progress": progress,
        }
        if part is None:
            shards.write_dataset(*where, **options)
        else:
            shards.write_part(*where, part, parts, **options)


@dataclass(frozen=True)
class ShardingPart:
    """What one job does: write one part, or, without a part, what is left and the manifest.

    Args:
        request: what is sharded.
        key: under which the job is noted.
        workers: processes that write shards.
        requeue_limit: restarts in a row that may finish no shard.
        part: which one; None for the merge.
        parts: how many there are.
    """

    request: ShardingRequest
    key: str
    workers: int
    requeue_limit: int
    part: int | None
    parts: int

    def __call__(self) -> None:
        """Do it, in a job's own process; exit 1 where it fails."""
        # submitit lets SIGTERM pass, and Slurm then waits for a while and kills.
        signal.signal(signal.SIGTERM, lambda *_: self.checkpoint())
        if Path(self.request.folder).is_dir():
            os.chdir(self.request.folder)
        with slurm.failures_are_final():
            store = marker.existing(open_store(self.request.store))
            self._write(store)
            if self.part is None:
                self._put_away(store)

    def checkpoint(self) -> NoReturn:
        """Answer the signal before the job's end, which submitit takes: another start goes on."""
        slurm.go_on()
        sys.exit(AGAIN)

    def _write(self, store: Store) -> None:
        root = store.at(sharding_prefix(self.key))
        job, term = slurm.job_id(), slurm.restarts()

        def note(progress: shards.Progress) -> None:
            if progress.images == progress.reused:  # nothing is done yet
                starts.note(root, progress.reused, job, self.requeue_limit, "image")
            held.beat(images=progress.images)
            if held.is_lost:
                held.check()

        with lease.hold(root, LEASE, job=job, restarts=term, patience_s=math.inf) as held:
            root.delete(FAILURE)
            try:
                source = self.request.open_source()
                self.request.write(source, store, self.workers, note, self.part, self.parts)
                held.check()
            except (lease.LeaseLostError, StoreAwayError):
                raise
            except Exception as error:
                message = without_secrets(str(error)) or type(error).__name__
                with contextlib.suppress(StoreError):
                    root.put(FAILURE, json.dumps({"error": message}).encode())
                raise
            root.put(DONE, b"")

    def _put_away(self, store: Store) -> None:
        """Delete what was noted of the jobs, while nobody submits others."""
        root = store.at(sharding_prefix(self.request.id))
        with lease.hold(store, SUBMITTING, patience_s=math.inf):
            # Without its lease, a process that lives on where Slurm has lost it stops.
            for info in list(root.list()):
                root.delete(info.path)
            slurm_jobs.forget(store, self.request.id)
