"""What changed between two documents, in words. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return what changed between two documents, as `path: before -> after` lines."""
    old, new = _flat(before), _flat(after)
    return [
        f"{path}: {_short(old.get(path))} -> {_short(new.get(path))}"
        for path in sorted(old.keys() | new.keys())
        if old.get(path) != new.get(path)
    ]


def word(value: Any) -> str:
    """Return a plain value as a name or a message has it."""
    return value if isinstance(value, str) else json.dumps(value)


def _flat(document: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in document.items():
        path = f"{prefix}{key}"
        flat.update(_flat(value, f"{path}.") if isinstance(value, Mapping) else {path: value})
    return flat


def _short(value: Any) -> str:
    text = word(value)
    return f"{text[:12]}..." if len(text) > 40 else text
