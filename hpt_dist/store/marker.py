"""The marker of a store, an object at its root that only commands of people write.

A process that finds no marker has the wrong place before it, or the store is away. Trials and jobs
never write one, so they make no new store in an empty place.
"""

from __future__ import annotations

from dataclasses import replace

from hpt_dist.errors import StoreAwayError, StoreError
from hpt_dist.store.base import Store
from hpt_dist.store.folder import FolderStore

MARKER = "STORE"
_TEXT = b"This is a store of hpt-dist. Without this file nothing is written here.\n"
# What stores of before have instead.
_CONTENTS = ("launches", "stages", "datasets", "sharding")


def is_new(store: Store) -> bool:
    """Return whether there is no store yet.

    Args:
        store: the root of the store.

    Raises:
        StoreError: it cannot be reached.
    """
    return store.stat(MARKER) is None and _content(store) is None


def begin(store: Store) -> Store:
    """Mark a store as one, for a command of a person that is about to write to it.

    Args:
        store: the root of the store.

    Returns:
        The same store; from now on nothing is written while it is away.

    Raises:
        StoreError: it cannot be reached or written.
    """
    if store.stat(MARKER) is None:
        store.put(MARKER, _TEXT)
    return _anchored(store, MARKER)


def existing(store: Store) -> Store:
    """Return a store for a process that does work in it: nothing is written while it is away.

    Args:
        store: the root of the store.

    Raises:
        StoreError: there is no store.
        StoreAwayError: its folder is not there; it may be mounted again.
    """
    anchor = MARKER if store.stat(MARKER) else _content(store)
    if anchor is None:
        # Nobody can tell a folder that was deleted from one that is not mounted.
        error = StoreError if store.folder is None else StoreAwayError
        raise error(
            f"there is no store: no {MARKER} and no content",
            where=store.uri,
            fix="mount the folder, or move it back, and launch again: it goes on",
        )
    return _anchored(store, anchor)


def _content(store: Store) -> str | None:
    """Return a part that a store has; None if it is empty or does not exist."""
    return next((part for part in _CONTENTS if next(store.list(f"{part}/"), None)), None)


def _anchored(store: Store, anchor: str) -> Store:
    return replace(store, anchor=store.root / anchor) if isinstance(store, FolderStore) else store
