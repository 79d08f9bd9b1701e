"""The objects of a finished trial: those that its `DONE` names, with their digests checked."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass

from hpt_dist.errors import StoreError
from hpt_dist.store import records
from hpt_dist.store.base import Store, absent
from hpt_dist.store.paths import DONE, stage_prefix
from hpt_dist.store.records import Count, DamagedRecordError, Name, Sha256

RESULT = "result.json"
WEIGHTS = "weights.safetensors"
MODEL = "model.safetensors"
HEAD = "head.safetensors"
REPLICATES = "replicates.json"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """An object that a trial committed."""

    bytes: Count
    sha256: Sha256


@dataclass(frozen=True)
class Done:
    """What the `DONE` of a finished trial says.

    Args:
        key: of the trial.
        objects: what it committed, by name.
        same_as: the key of the trial whose result it took; empty if it computed its own.
        replaced: the names of damaged images that others stand in for.
        chose: the settings that validation chose, in words; empty where it chose nothing.
        out: why it is no candidate any more; empty where it has a result.
    """

    key: Name
    objects: Mapping[str, Entry]
    same_as: str = ""
    replaced: tuple[str, ...] = ()
    chose: str = ""
    out: str = ""


def done(store: Store, key: str) -> Done | None:
    """Return what the `DONE` of a trial says, or None if the trial is not finished.

    Args:
        store: the root of the store.
        key: of the trial.

    Raises:
        StoreError: the store cannot be reached, or `DONE` is damaged, or that of another trial.
    """
    root = store.at(stage_prefix(key))
    if root.stat(DONE) is None:
        return None
    try:
        found = records.decoded(root.get(DONE), Done, where=f"{root.uri}/{DONE}")
    except DamagedRecordError as error:
        raise damaged(store, key, DONE, f"cannot be used: {error.problem.what}") from error
    if found.key != key:
        raise damaged(store, key, DONE, f"is that of another trial, {found.key[:12]}")
    if RESULT not in found.objects:
        raise damaged(store, key, DONE, f"names no {RESULT}, which every trial commits")
    return found


def is_done(store: Store, key: str) -> bool:
    """Return whether a trial is finished; not if its `DONE` is damaged, which the log then says.

    Args:
        store: the root of the store.
        key: of the trial.

    Raises:
        StoreError: the store cannot be reached.
    """
    try:
        return done(store, key) is not None
    except DamagedObjectError as error:
        log.warning("%s", error.problem.what)
        return False


def check(store: Store, key: str) -> bool:
    """Return whether a trial is finished, having read all that it committed.

    Raises:
        StoreError: `DONE` is damaged, or that of another trial, or an object of it is not there, or
            is not what was committed.
    """
    found = done(store, key)
    for name in found.objects if found else ():
        read(store, key, name)
    return found is not None


def digests(store: Store, key: str) -> dict[str, str]:
    """Return the SHA-256 of each object of a finished trial, by name.

    Raises:
        StoreError: its `DONE` is damaged, or does not exist.
    """
    found = done(store, key)
    if found is None:
        raise absent(f"{store.at(stage_prefix(key)).uri}/{DONE}")
    return {name: entry.sha256 for name, entry in found.objects.items()}


def read(store: Store, key: str, name: str) -> bytes:
    """Return an object of a finished trial.

    Raises:
        StoreError: it does not exist, or differs from what was committed.
    """
    root = store.at(stage_prefix(key))
    expected = digests(store, key).get(name)
    if expected is None:
        raise StoreError(f"{root.uri} holds no {name}", fix="launch the recipe that creates it")
    if root.stat(name) is None:
        raise damaged(store, key, name, "is not there any more")
    data = root.get(name)
    if hashlib.sha256(data).hexdigest() != expected:
        raise damaged(store, key, name, "is not what was committed: its SHA-256 differs")
    return data


def undone_by(store: Store, key: str) -> str:
    """Return what to delete, for a message, so that a finished trial is computed anew.

    It is also the `DONE` of the trial whose result it took, which it would take again.
    """
    found = done(store, key)
    keys = dict.fromkeys(filter(None, (key, found.same_as if found else "")))
    return "delete " + " and ".join(f"{store.at(stage_prefix(one)).uri}/{DONE}" for one in keys)


class DamagedObjectError(StoreError):
    """An object of a finished trial is not what was committed."""


def damaged(store: Store, key: str, name: str, what: str) -> DamagedObjectError:
    """Return the error of an object that cannot be used."""
    root = store.at(stage_prefix(key))
    return DamagedObjectError(
        f"{root.uri}/{name} {what}",
        fix=f"delete {root.uri}/{DONE} and launch again: the trial then goes on from its last "
        "saved state, if there is one, or begins again",
    )
