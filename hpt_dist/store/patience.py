"""How long this process waits for a store that is out of reach."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_hurried = threading.Event()


@contextmanager
def hurried() -> Iterator[None]:
    """Let requests give up after some seconds: a person waits for the answer."""
    _hurried.set()
    try:
        yield
    finally:
        _hurried.clear()


def in_haste() -> bool:
    """Return whether `hurried` lasts."""
    return _hurried.is_set()
