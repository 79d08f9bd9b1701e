"""Resumable training state in a store: committed whole or not at all.

A checkpoint is an object with the state and, written after it, a record that commits it: step,
object, length and SHA-256. An object without a record does not count, so a process may die at
any moment and the last committed state still loads.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import uuid
from collections import OrderedDict
from collections.abc import Callable, Set
from dataclasses import asdict, dataclass
from types import NoneType
from typing import Any

from hpt_dist.errors import StoreError, TrainingError
from hpt_dist.store import Store

_log = logging.getLogger(__name__)

_FOLDER = "state/"

State = dict[str, Any]


@dataclass(frozen=True)
class Record:
    """What commits a checkpoint.

    Args:
        step: optimizer steps done.
        object: the path of the state in the store.
        bytes: its length.
        sha256: its digest, in hexadecimal.
    """

    step: int
    object: str
    bytes: int
    sha256: str


class Checkpoints:
    """The checkpoints of one trial, for one writer at a time.

    Args:
        store: the trial's part of the store.
        keep: how many checkpoints to keep; two survive damage to the newest.
    """

    def __init__(self, store: Store, keep: int = 2) -> None:
        if keep < 1:
            raise ValueError(f"keep must be at least 1, not {keep}")
        self._store = store
        self._keep = keep

    def save(self, step: int, state: State, guard: Callable[[], None] = lambda: None) -> None:
        """Commit a state, then delete what it makes superfluous.

        Args:
            step: optimizer steps done. Checkpoints of this step or later ones are replaced:
                their run could not be gone on with.
            state: nested dicts and lists of tensors, numbers, strings and None.
            guard: called before the commit and before anything is deleted; raises if this
                process may no longer write.

        Raises:
            TypeError: the state holds something that could not be loaded again.
            StoreError: the store did not take it; the checkpoints before are untouched.
        """
        data = _serialised(state)
        stem = f"{_FOLDER}{uuid.uuid4().hex}"
        record = Record(step, f"{stem}.pt", len(data), hashlib.sha256(data).hexdigest())
        self._store.put(record.object, data)
        written = self._store.stat(record.object)
        if written is None or written.bytes != record.bytes:
            raise StoreError(
                f"the state of step {step} was not written whole",
                where=f"{self._store.uri}/{record.object}",
                fix="check the store's free space; the same command goes on",
            )
        guard()
        self._store.put(f"{stem}.json", json.dumps(asdict(record), sort_keys=True).encode())
        guard()
        self._prune(f"{stem}.json", record)

    def latest(self) -> tuple[int, State] | None:
        """Load the newest checkpoint that is whole, or return None if there is none.

        Damaged ones are passed over with a warning in the log.
        """
        for record in self._newest_first().values():
            if (data := self._read(record)) is not None:
                return record.step, _deserialised(data)
        return None

    def steps(self) -> list[int]:
        """Return the steps of the committed checkpoints, newest first, without reading them."""
        return [record.step for record in self._newest_first().values()]

    def clear(self) -> None:
        """Delete every checkpoint; to be called when the trial's result is safe."""
        self._delete_all_but(frozenset())

    def _newest_first(self) -> dict[str, Record]:
        """Return the readable records by their path."""
        records = {}
        for info in self._store.list(_FOLDER):
            if info.path.endswith(".json"):
                try:
                    records[info.path] = Record(**json.loads(self._store.get(info.path)))
                except (ValueError, TypeError) as error:
                    self._warn(info.path, f"its record is damaged ({error})")
        return dict(sorted(records.items(), key=lambda item: item[1].step, reverse=True))

    def _read(self, record: Record) -> bytes | None:
        if self._store.stat(record.object) is None:
            self._warn(record.object, f"the state of step {record.step} is missing")
            return None
        data: bytes = self._store.get(record.object)
        if hashlib.sha256(data).hexdigest() != record.sha256:
            self._warn(record.object, f"the state of step {record.step} is damaged")
            return None
        return data

    def _warn(self, path: str, what: str) -> None:
        _log.warning("%s/%s: %s; falling back to the one before", self._store.uri, path, what)

    def _prune(self, newest_path: str, newest: Record) -> None:
        """Delete all but the newest, which was just verified, and those kept before it."""
        earlier = [item for item in self._newest_first().items() if item[1].step < newest.step][
            : self._keep - 1
        ]
        kept = {newest_path, newest.object}
        kept.update(path for path, record in earlier for path in (path, record.object))
        self._delete_all_but(kept)

    def _delete_all_but(self, kept: Set[str]) -> None:
        # Sorted by path, a record goes before its object: none is left without.
        for info in list(self._store.list(_FOLDER)):
            if info.path not in kept:
                self._store.delete(info.path)


def _serialised(state: State) -> bytes:
    import torch  # here, so that steps() works where torch is not wanted

    _check_loadable(state, "state")
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def _deserialised(data: bytes) -> State:
    import torch

    state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    if not isinstance(state, dict):
        raise TrainingError(f"a checkpoint holds a {type(state).__name__}, not a state")
    return state


def _check_loadable(value: Any, where: str) -> None:
    """Refuse at once what `weights_only=True` would refuse when it is too late."""
    import torch

    if type(value) in (dict, OrderedDict):
        for key, entry in value.items():
            _check_loadable(key, f"a key of {where}")
            _check_loadable(entry, f"{where}[{key!r}]")
    elif type(value) in (list, tuple):
        for index, entry in enumerate(value):
            _check_loadable(entry, f"{where}[{index}]")
    elif type(value) not in (torch.Tensor, torch.nn.Parameter, bool, int, float, str, NoneType):
        raise TypeError(f"{where} is a {type(value).__name__}, which no checkpoint can hold")
