"""What a finished trial left in the store, digests checked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from hpt_dist.errors import DataError, StoreError
from hpt_dist.store import Store
from hpt_dist.store.paths import DONE, stage_prefix

WEIGHTS = "weights.safetensors"


def is_done(store: Store, key: str) -> bool:
    """Return whether a trial is finished.

    Args:
        store: the root of the store.
        key: of the trial.

    Raises:
        StoreError: the store cannot be asked.
    """
    return store.at(stage_prefix(key)).stat(DONE) is not None


def objects_of(root: Store) -> Mapping[str, Mapping[str, Any]]:
    """Return the size and SHA-256 of each object of a finished trial, as its `DONE` says.

    Args:
        root: the store at the trial's prefix.

    Raises:
        StoreError: the trial is not done, or `DONE` is damaged.
    """
    try:
        objects: dict[str, dict[str, Any]] = json.loads(root.get(DONE))["objects"]
        for entry in objects.values():
            entry["sha256"], entry["bytes"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(
            f"{root.uri}/{DONE} is damaged: {error!r}",
            fix=f"delete {root.uri}/{DONE} and launch again",
        ) from error
    return objects


def read_object(store: Store, key: str, name: str) -> bytes:
    """Return an object of a finished trial.

    Raises:
        StoreError: the trial is not done, or left no such object.
        DataError: the object is not what was committed.
    """
    root = store.at(stage_prefix(key))
    expected = objects_of(root).get(name)
    if expected is None:
        raise StoreError(f"{root.uri} holds no {name}", fix="launch the recipe that makes it")
    data = root.get(name)
    if hashlib.sha256(data).hexdigest() != expected["sha256"]:
        raise DataError(
            f"{root.uri}/{name} is not what was committed: its SHA-256 differs",
            fix=f"delete {root.uri}/{DONE} and launch again",
        )
    return data
