"""Lists of one JSON object a line."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from hpt_dist.sources import columns
from hpt_dist.sources.class_names import plain
from hpt_dist.sources.columns import LABELS, Columns
from hpt_dist.sources.encodings import Encoding
from hpt_dist.sources.problems import Problems
from hpt_dist.sources.rows import Repeated, Row, Rows, decoded, lines

_SHOWN = 200


def read(path: Path, chosen: Mapping[str, str]) -> Rows:
    """Read a list; its columns are the fields of its objects.

    Args:
        path: the list.
        chosen: see `columns.parse`.

    Raises:
        RequestError: its encoding cannot be read, or two fields may be the path or the label.
    """
    return decoded(path, lambda encoding: _read(path, encoding, chosen))


def _read(path: Path, encoding: Encoding, chosen: Mapping[str, str]) -> Rows:
    problems = Problems()
    listing = _Listing(path, chosen, problems)
    with path.open(encoding=encoding.name, newline="\n") as file:
        rows = list(listing.rows(file))
    how = f"read as a list: {encoding.words}, a JSON object a line"
    repeated = listing.repeated.found()
    return Rows(rows, listing.columns(), problems, how=how, repeated=repeated)


class _MistakeError(Exception):
    """A mistake in a line."""


class _Listing:
    """A list while it is read; objects may have different fields."""

    def __init__(self, path: Path, chosen: Mapping[str, str], problems: Problems) -> None:
        self._path = path
        self._chosen = chosen
        self._problems = problems
        self._of_fields: dict[tuple[str, ...], Columns] = {}
        self._names: dict[str, str] = {}
        self.repeated = Repeated()

    def columns(self) -> Columns:
        """Return the columns of all lines together.

        Raises:
            RequestError: a column that is asked for is in none of them.
        """
        if any(role not in self._names for role, one in self._chosen.items() if one):
            fields = {name: None for names in self._of_fields for name in names}
            columns.find([*fields], self._chosen, str(self._path))
        others = (one for columns in self._of_fields.values() for one in columns.others)
        return Columns(self._names, tuple(dict.fromkeys(others)))

    def rows(self, file: TextIO) -> Iterator[Row]:
        """Yield the rows, and note the lines that are none."""
        for line, text in enumerate(lines(self._path, file), start=1):
            if not text.strip():
                continue
            where = f"{self._path}:{line}"
            try:
                fields = _fields(text)
                found = self._columns(fields, where)
                yield self._row(line, fields, found)
            except _MistakeError as error:
                self._problems.add(where, str(error), at=(str(self._path), line))
                continue
            for one in found.others:
                if isinstance(fields[one], str | int):
                    self.repeated.add(one, str(fields[one]))

    def _columns(self, fields: Mapping[str, Any], where: str) -> Columns:
        """Return the columns of a line, which must be those of the lines before it."""
        names = tuple(fields)
        if names not in self._of_fields:
            there = {
                role: one
                for role, one in self._chosen.items()
                if not one or columns.written(one, names)
            }
            self._of_fields[names] = columns.find(names, there, where)
        found = self._of_fields[names]
        for role, name in found.names.items():
            roles = LABELS if role in LABELS else (role,)
            other = next((self._names[one] for one in roles if one in self._names), name)
            if other != name:
                raise _MistakeError(f"{other} and {name} in one list")
            self._names[role] = name
        if "path" not in found.names:
            listed = ", ".join(names)[:_SHOWN]
            raise _MistakeError(f'a line is an object with a "path" text; its fields are {listed}')
        return found

    def _row(self, line: int, fields: Mapping[str, Any], found: Columns) -> Row:
        cells = {role: fields[name] for role, name in found.names.items()}
        path = cells["path"]
        if not isinstance(path, str):
            raise _MistakeError(f'a line is an object with a "path" text; {path!r:.40} is none')
        labels: tuple[str, ...] | None
        if "labels" in cells:
            values = cells["labels"]
            if not isinstance(values, list | None):
                raise _MistakeError("labels must be a list of texts or whole numbers")
            labels = (
                None if values is None else tuple(_text("each of labels", one) for one in values)
            )
        else:
            label = _text("label", cells.get("label"))
            labels = (label,) if label else None
        split, group = (_text(name, cells.get(name)) for name in ("split", "group"))
        return Row(self._path, line, path, labels, split, group=group)


def _fields(text: str) -> dict[str, Any]:
    """Return the fields of a line."""
    try:
        fields = json.loads(text, object_pairs_hook=_without_repeats)
    except RecursionError as error:
        raise _MistakeError("too many brackets inside each other") from error
    except ValueError as error:  # also for a number of thousands of digits
        raise _MistakeError(f"not JSON: {str(error).partition(';')[0]}") from error
    if not isinstance(fields, dict):
        raise _MistakeError('a line is an object with a "path" text')
    return fields


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise _MistakeError(f"{twice[:_SHOWN]!a} is there twice")
    return fields


def _text(name: str, value: Any) -> str:
    if isinstance(value, list) and name == "label":
        raise _MistakeError("label must be a text or a whole number; call a list labels")
    if isinstance(value, bool) or not isinstance(value, str | int | None):
        raise _MistakeError(f"{name} must be a text or a whole number")
    return "" if value is None else plain(str(value))
