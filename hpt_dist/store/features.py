"""Features that trials share: computed once for what determines them, under a key of their own.

```
features/<key>/<start of their SHA-256>.safetensors
features/<key>/DONE        written last: what they are of, and their digest
```
They are a copy of what can be computed again: one that is damaged, or deleted meanwhile, counts as
absent. Of several trials that compute the same at a time, the first to write DONE is read later.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hpt_dist.errors import HptError, StoreError
from hpt_dist.store import records
from hpt_dist.store.base import Store
from hpt_dist.store.paths import DONE, FEATURES
from hpt_dist.store.records import Count, PathPart, Sha256

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Done:
    """What the DONE of shared features says.

    Args:
        of: what they are of: the document whose SHA-256 is their key.
        name: of the object that holds them.
        bytes: of that object.
        sha256: of that object.
    """

    of: Mapping[str, Any]
    name: PathPart
    bytes: Count
    sha256: Sha256


def key_of(document: Mapping[str, Any]) -> str:
    """Return the key of features: the SHA-256 of what they are of."""
    return hashlib.sha256(_json(document)).hexdigest()


def find(store: Store, document: Mapping[str, Any]) -> bytes | None:
    """Return the features of a document as they were committed; None if there are none.

    Args:
        store: the root of the store.
        document: what they are of, in plain JSON values.
    """
    root = store.at(f"{FEATURES}/{key_of(document)}")
    try:
        done = records.read(root, DONE, Done)
        if done is None:
            return None
        info = root.stat(done.name)
        data = b"".join(root.stream(info)) if info else b""
    except HptError as error:
        log.warning("features are computed again: %s", error)
        return None
    if dict(done.of) != document or hashlib.sha256(data).hexdigest() != done.sha256:
        log.warning("features are computed again: %s/%s is damaged", root.uri, done.name)
        return None
    return data


def commit(store: Store, document: Mapping[str, Any], data: bytes) -> None:
    """Share features; where that fails, their next user computes them again.

    Args:
        store: the root of the store.
        document: what they are of, in plain JSON values.
        data: the features.
    """
    digest = hashlib.sha256(data).hexdigest()
    root = store.at(f"{FEATURES}/{key_of(document)}")
    name = f"{digest[:16]}.safetensors"
    done = Done(document, name, len(data), digest)
    try:
        # What another process computed may differ in its last bits, so it has another name.
        if root.put(name, data).bytes != len(data):
            log.warning("features are not shared: %s/%s is cut", root.uri, name)
            return
        before = root.stat(DONE)
        first = root.swap(DONE, _json(vars(done)), before.etag if before else None)
        kept = name if first else _name_in(root)
        others = [info.path for info in root.list() if info.path not in (kept, DONE)]
        for path in others if first else [one for one in others if one == name]:
            root.delete(path)
    except StoreError as error:
        log.warning("features are not shared: %s", error)


def _name_in(root: Store) -> str:
    """Return the object that a DONE names; empty without one."""
    done = records.read(root, DONE, Done)
    return done.name if done else ""


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
