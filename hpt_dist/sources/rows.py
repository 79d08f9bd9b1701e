"""The rows of a list of images, read from CSV or JSONL; `parquet` reads the third form."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from sys import intern
from typing import Any, NamedTuple

from hpt_dist.errors import RequestError
from hpt_dist.sources.problems import Problems

FIELDS = ("path", "label", "labels", "split")
SEPARATOR = "|"

_HEADERS = [
    ("path", "label"),
    ("path", "label", "split"),
    ("path", "labels"),
    ("path", "labels", "split"),
]


class Embedded(NamedTuple):
    """An image that the list itself contains; see `Sample`."""

    read: Callable[[], bytes]
    version: str
    size_bytes: int


class Row(NamedTuple):
    """One image of a list.

    Args:
        file: the list.
        line: of a text from 1, or the row of a Parquet file from 0.
        path: of the image's file, or the name of an embedded image.
        labels: names of its classes, one at most in a list of single labels; None without a label.
        split: as written, or an empty text.
        embedded: the image, unless it is a file.
    """

    file: Path
    line: int
    path: str
    labels: tuple[str, ...] | None
    split: str
    embedded: Embedded | None = None

    @property
    def where(self) -> str:
        """How messages name it."""
        return f"{self.file}:{'row ' if self.file.suffix == '.parquet' else ''}{self.line}"


@dataclass(frozen=True)
class Rows:
    """The content of a list.

    Args:
        rows: in its order.
        multi_label: the column is `labels`.
        classes: in the order of their ids, if the list itself declares them.
    """

    rows: list[Row]
    multi_label: bool
    classes: list[str] | None = None


def read_csv(path: Path) -> Rows:
    """Read a CSV list.

    Raises:
        RequestError: it is not UTF-8, or its header or the form of a row is wrong.
    """
    problems = Problems()
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            header = tuple(next(reader, ()))
            if header not in _HEADERS:
                raise RequestError(
                    f"the header is {','.join(header)!r}",
                    where=f"{path}:1",
                    allowed=" or ".join(",".join(one) for one in _HEADERS),
                )
            rows = list(_csv_rows(path, reader, header, problems))
        except csv.Error as error:
            raise RequestError(str(error), where=f"{path}:{reader.line_num}") from error
        except UnicodeDecodeError as error:
            raise RequestError(f"not UTF-8: {error}", where=str(path)) from error
    problems.refuse(f"the list {path}")
    return Rows(rows, multi_label="labels" in header)


def _csv_rows(
    path: Path, reader: Any, header: tuple[str, ...], problems: Problems
) -> Iterator[Row]:
    multi_label = "labels" in header
    for fields in reader:
        if not fields:  # an empty line
            continue
        if len(fields) != len(header):
            problems.add(f"{path}:{reader.line_num}", f"a row has {len(header)} fields")
            continue
        split = intern(fields[2]) if len(header) > 2 else ""
        cell = fields[1].strip() if multi_label else fields[1]
        labels: tuple[str, ...] | None
        if multi_label:
            labels = tuple(intern(one.strip()) for one in cell.split(SEPARATOR)) if cell else ()
        else:
            labels = (intern(cell),) if cell else None
        yield Row(path, reader.line_num, fields[0], labels, split)


def read_jsonl(path: Path) -> Rows:
    """Read a JSONL list.

    Raises:
        RequestError: it is not UTF-8, or the form of a line is wrong.
    """
    problems = Problems()
    rows = []
    columns: set[str] = set()
    try:
        with path.open(encoding="utf-8-sig", newline="\n") as file:
            for line, text in enumerate(file, start=1):
                if not text.strip():
                    continue
                try:
                    fields = _fields(text)
                    rows.append(_jsonl_row(path, line, fields))
                except _MistakeError as error:
                    problems.add(f"{path}:{line}", *error.args)
                    continue
                columns |= fields.keys() & {"label", "labels"}
                if len(columns) > 1:
                    problems.add(f"{path}:{line}", "label and labels in one list")
    except UnicodeDecodeError as error:
        raise RequestError(f"not UTF-8: {error}", where=str(path)) from error
    problems.refuse(f"the list {path}")
    return Rows(rows, multi_label="labels" in columns)


class _MistakeError(Exception):
    """A mistake in a line: the arguments of `Problems.add`."""


def _fields(text: str) -> dict[str, Any]:
    """Return the fields of a line."""
    try:
        fields = json.loads(text)
    except json.JSONDecodeError as error:
        raise _MistakeError(f"not JSON: {error}") from error
    if not isinstance(fields, dict) or not isinstance(fields.get("path"), str):
        raise _MistakeError('a line is an object with a "path" text')
    for name in fields:
        if name not in FIELDS:
            what = f"unknown {name!r}; allowed: {', '.join(FIELDS)}"
            raise _MistakeError(what, name, FIELDS)
    return fields


def _jsonl_row(path: Path, line: int, fields: dict[str, Any]) -> Row:
    labels: tuple[str, ...] | None
    if "labels" in fields:
        values = fields["labels"]
        if not isinstance(values, list | None):
            raise _MistakeError("labels must be a list of texts or whole numbers")
        labels = None if values is None else tuple(_text("each of labels", one) for one in values)
    else:
        label = _text("label", fields.get("label"))
        labels = (label,) if label else None
    return Row(path, line, fields["path"], labels, _text("split", fields.get("split")))


def _text(name: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | None):
        raise _MistakeError(f"{name} must be a text or a whole number")
    return "" if value is None else intern(str(value))
