"""Resumable training state in a store: committed whole or not at all, while training goes on.

A checkpoint is an object with the state and, written after it, a record that commits it: step,
object, length and SHA-256. An object without a record does not count, so a process may die at
any moment and the last committed state still loads.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import time
import uuid
from collections.abc import Callable, Iterable, Set
from concurrent import futures
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Self

from hpt_dist.errors import DataError, StoreError
from hpt_dist.store import Content, ObjectInfo, Store, records
from hpt_dist.store.records import Count, DamagedRecordError, Name, Sha256
from hpt_dist.train.snapshot import Snapshot, State, load_state

_log = logging.getLogger(__name__)

_FOLDER = "state/"
_ATTEMPTS = 100
Guard = Callable[[], None]


@dataclass(frozen=True)
class CheckpointRecord:
    """The record that commits a checkpoint.

    Args:
        step: optimizer steps done.
        object: the path of the state in the store.
        bytes: its length.
        sha256: its digest, in hexadecimal.
    """

    step: Count
    object: Name
    bytes: Count
    sha256: Sha256


def _no_guard() -> None:
    """Do nothing: any process may write."""


class Checkpoints:
    """The checkpoints of one trial, for one writer and any number of readers at a time.

    Args:
        store: the trial's part of the store.
        keep: how many checkpoints to keep; two survive damage to the newest.
    """

    def __init__(self, store: Store, keep: int = 2) -> None:
        if keep < 1:
            raise ValueError(f"keep must be at least 1, not {keep}")
        self._store = store
        self._keep = keep
        self._damaged: set[str] = set()  # paths of records that latest() skipped

    def save(self, step: int, state: State, guard: Guard = _no_guard) -> None:
        """Commit a state, then delete superfluous checkpoints; `Saver` does this in a thread.

        Args:
            step: optimizer steps done. Checkpoints of this step or later ones are replaced:
                no run can resume from them.
            state: nested dicts, lists and tuples of tensors, numbers, strings and None. Tensors
                are loaded as plain ones on the CPU, of the same type, shape and strides.
            guard: called before the commit and before anything is deleted; raises if this
                process may no longer write.

        Raises:
            TypeError: the state holds something that could not be loaded again.
            StoreError: the store refused it; earlier checkpoints are untouched.
        """
        snapshot = Snapshot()
        snapshot.take(step, state)
        self.commit(snapshot, guard)

    def commit(self, snapshot: Snapshot, guard: Guard = _no_guard) -> None:
        """Commit the state in a snapshot; see `save`."""
        data = snapshot.data()
        stem = f"{_FOLDER}{uuid.uuid4().hex}"
        record = CheckpointRecord(
            snapshot.step, f"{stem}.state", len(data), hashlib.sha256(data).hexdigest()
        )
        try:
            self._put_whole(record, data)
            guard()
        except BaseException as error:
            # Nobody else knows its name: after a takeover nobody would delete it.
            with contextlib.suppress(StoreError):
                self._store.delete(record.object)
            if isinstance(error, StoreError):
                guard()  # whoever takes a trial over deletes what is being written: report that
            raise
        self._store.put(f"{stem}.json", json.dumps(asdict(record), sort_keys=True).encode())
        guard()
        self._prune(f"{stem}.json", record)

    def _put_whole(self, record: CheckpointRecord, data: Content) -> None:
        self._store.put(record.object, data)
        written = self._store.stat(record.object)
        if written is None or written.bytes != record.bytes:
            raise StoreError(
                f"the state of step {record.step} was not written whole",
                where=f"{self._store.uri}/{record.object}",
                fix="check the store's free space; the same command goes on",
            )

    def latest(self) -> tuple[int, State] | None:
        """Load the newest intact checkpoint, or return None if there is none.

        Damaged checkpoints are skipped with a warning in the log; later saves of this object do not
        count them as kept.

        Raises:
            StoreError: the store cannot be read.
            TrainingError: a state is intact, but this version cannot load it.
        """
        for _ in range(_ATTEMPTS):
            for path, record in self._newest_first().items():
                try:
                    return record.step, self._read(record)
                except DataError as error:
                    if self._store.stat(path) is None:
                        break  # its writer has replaced it in between
                    self._damaged.add(path)
                    self._warn(record.object, error.problem.what)
            else:
                return None
        raise StoreError("states are replaced faster than they can be read", where=self._store.uri)

    def steps(self) -> list[int]:
        """Return the steps of the committed checkpoints, newest first, without reading them."""
        return [record.step for record in self._newest_first().values()]

    def kept_bytes(self) -> int:
        """Return the bytes of all checkpoints."""
        return sum(info.bytes for info in self._store.list(_FOLDER))

    def clear(self) -> None:
        """Delete every checkpoint; call it when the trial's result is committed."""
        self._delete_all_but(frozenset(), list(self._store.list(_FOLDER)))

    def _newest_first(
        self, infos: Iterable[ObjectInfo] | None = None
    ) -> dict[str, CheckpointRecord]:
        """Return the readable records by path; `infos` are the objects, if already listed."""
        records = {}
        for info in self._store.list(_FOLDER) if infos is None else infos:
            if info.path.endswith(".json"):
                try:
                    records[info.path] = _record(info.path, self._store.get(info.path))
                except DamagedRecordError as error:
                    self._warn(info.path, error.problem.what)
                except StoreError:
                    if self._store.stat(info.path) is not None:
                        raise
        return dict(sorted(records.items(), key=lambda item: item[1].step, reverse=True))

    def _read(self, record: CheckpointRecord) -> State:
        """Load a state; raises DataError if it is missing or differs from what was written."""
        where = f"{self._store.uri}/{record.object}"
        try:
            data: bytes = self._store.get(record.object)
        except StoreError as error:
            if self._store.stat(record.object) is not None:
                raise
            raise DataError(f"the state of step {record.step} is missing", where=where) from error
        whole = len(data) == record.bytes and hashlib.sha256(data).hexdigest() == record.sha256
        if not whole:
            raise DataError(f"the state of step {record.step} is damaged", where=where)
        return load_state(record.step, data, where)

    def _warn(self, path: str, what: str) -> None:
        _log.warning("%s/%s: %s; falling back to the one before", self._store.uri, path, what)

    def _prune(self, newest_path: str, newest: CheckpointRecord) -> None:
        """Delete all but the newest, which was just verified, and the kept ones before it."""
        infos = list(self._store.list(_FOLDER))
        sizes = {info.path: info.bytes for info in infos}
        earlier = [
            (path, record)
            for path, record in self._newest_first(infos).items()
            if record.step < newest.step
            and sizes.get(record.object) == record.bytes
            and path not in self._damaged
        ][: self._keep - 1]
        kept = {newest_path, newest.object}
        kept.update(path for path, record in earlier for path in (path, record.object))
        self._delete_all_but(kept, infos)

    def _delete_all_but(self, kept: Set[str], infos: Iterable[ObjectInfo]) -> None:
        # In path order a record is deleted before its object: no record loses its object.
        for info in infos:
            if info.path not in kept:
                self._store.delete(info.path)


def _record(path: str, data: bytes) -> CheckpointRecord:
    """Read a record; raises DamagedRecordError."""
    record = records.decoded(data, CheckpointRecord, where=path)
    if record.object.rpartition(".")[0] != path.removesuffix(".json"):
        raise DamagedRecordError("it names the state of another record", where=path)
    return record


class Saver:
    """Saves states while training goes on: one is copied, then written by a thread.

    Use it in a `with` block. The end of the block completes the running write, also after an error;
    its own error is raised, or logged if another one is raised. Memory: one copy of the state.

    Args:
        checkpoints: receives the states; no other writer may save there meanwhile.
    """

    def __init__(self, checkpoints: Checkpoints) -> None:
        self._checkpoints = checkpoints
        self._snapshot = Snapshot()
        self._writer = futures.ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: futures.Future[None] | None = None

    def save(self, step: int, state: State, guard: Guard = _no_guard) -> float:
        """Wait for the previous write, copy a state, start to write it and return.

        Once this has returned, the state may change. It is committed when `wait` has returned.

        Args:
            step: see `Checkpoints.save`.
            state: see `Checkpoints.save`.
            guard: see `Checkpoints.save`; called in the thread that writes.

        Returns:
            The seconds that training waited.

        Raises:
            TypeError: the state holds something that could not be loaded again.
            Exception: the error of the previous write; this state is not saved then.
        """
        began = time.perf_counter()
        self.wait()
        self._snapshot.take(step, state)
        self._writing = self._writer.submit(self._checkpoints.commit, self._snapshot, guard)
        return time.perf_counter() - began

    def wait(self) -> None:
        """Return once the state that was saved last is committed.

        Raises:
            Exception: the error of its write, once; earlier checkpoints are untouched.
        """
        if self._writing is not None:
            futures.wait([self._writing])  # may be interrupted: the write still counts then
            writing, self._writing = self._writing, None
            writing.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.wait()
        except Exception as lost:
            if error is None:
                raise
            _log.warning("the last state could not be saved: %s", lost)
        finally:
            self._writer.shutdown(wait=False)
