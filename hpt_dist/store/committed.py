"""The objects of a finished trial: those that its `DONE` names, with their digests checked."""

from __future__ import annotations

import hashlib
import json

from hpt_dist.errors import StoreError
from hpt_dist.store.base import Store
from hpt_dist.store.paths import DONE, stage_prefix

WEIGHTS = "weights.safetensors"
MODEL = "model.safetensors"


def is_done(store: Store, key: str) -> bool:
    """Return whether a trial is finished.

    Args:
        store: the root of the store.
        key: of the trial.

    Raises:
        StoreError: the store cannot be reached.
    """
    return store.at(stage_prefix(key)).stat(DONE) is not None


def digests(store: Store, key: str) -> dict[str, str]:
    """Return the SHA-256 of each object of a finished trial, by name.

    Raises:
        StoreError: its `DONE` is damaged, or does not exist.
    """
    root = store.at(stage_prefix(key))
    try:
        objects = json.loads(root.get(DONE))["objects"]
        return {name: entry["sha256"] for name, entry in objects.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise damaged(store, key, DONE, f"is damaged: {error!r}") from error


def read(store: Store, key: str, name: str) -> bytes:
    """Return an object of a finished trial.

    Raises:
        StoreError: it does not exist, or differs from what was committed.
    """
    root = store.at(stage_prefix(key))
    expected = digests(store, key).get(name)
    if expected is None:
        raise StoreError(f"{root.uri} holds no {name}", fix="launch the recipe that creates it")
    data = root.get(name)
    if hashlib.sha256(data).hexdigest() != expected:
        raise damaged(store, key, name, "is not what was committed: its SHA-256 differs")
    return data


def damaged(store: Store, key: str, name: str, what: str) -> StoreError:
    """Return the error of an object that cannot be used."""
    root = store.at(stage_prefix(key))
    return StoreError(f"{root.uri}/{name} {what}", fix=f"delete {root.uri}/{DONE} and launch again")
