"""The rows of a list of images, read from CSV or JSONL; `parquet` reads the third form."""

from __future__ import annotations

import codecs
import csv
import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from sys import intern
from typing import Any, NamedTuple, TextIO

from hpt_dist.errors import RequestError
from hpt_dist.sources.class_names import plain
from hpt_dist.sources.problems import Problems

FIELDS = ("path", "label", "labels", "split", "group")
SEPARATOR = "|"
MAX_ROWS = 50_000_000
MAX_LINE_CHARACTERS = 1_000_000
_BLOCK_BYTES = 2**20
_SHOWN = 200

_HEADERS = [
    ("path", label, *more)
    for label in ("label", "labels")
    for more in ((), ("split",), ("group",), ("split", "group"))
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
        group: of images that must share a split, or an empty text.
    """

    file: Path
    line: int
    path: str
    labels: tuple[str, ...] | None
    split: str
    embedded: Embedded | None = None
    group: str = ""

    @property
    def where(self) -> str:
        """How messages name it."""
        return f"{self.file}:{'row ' if self._is_parquet else ''}{self.line}"

    @property
    def place(self) -> str:
        """How a message about another row of the list names it."""
        return f"in row {self.line}" if self._is_parquet else f"on line {self.line}"

    @property
    def _is_parquet(self) -> bool:
        return self.file.suffix.lower() == ".parquet"


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
    with _as_utf8(path), path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(_lines(path, file), strict=True)
        try:
            header = tuple(next(reader, ()))
            if header not in _HEADERS:
                raise RequestError(
                    f"the header is {','.join(header)[:_SHOWN]!r}",
                    where=f"{path}:1",
                    allowed="path,label or path,labels; then split, group, or split,group",
                    fix="write this header, with commas, and leave out other columns",
                )
            rows = list(_csv_rows(path, reader, header, problems))
        except csv.Error as error:
            raise RequestError(
                str(error),
                where=f"{path}:{reader.line_num}",
                fix="look for a quotation mark without its second",
            ) from error
    problems.refuse(f"the list {path}")
    return Rows(rows, multi_label="labels" in header)


def _lines(path: Path, file: TextIO) -> Iterator[str]:
    """Yield the lines of a list, each of a limited length.

    Raises:
        RequestError: a line is too long, or there are too many.
    """
    number = 0
    while line := file.readline(MAX_LINE_CHARACTERS + 1):
        number += 1
        if len(line) > MAX_LINE_CHARACTERS:
            raise RequestError(
                "the line is too long for a list of images",
                where=f"{path}:{number}",
                allowed=f"up to {MAX_LINE_CHARACTERS:,} characters",
            )
        if number > MAX_ROWS:
            raise RequestError(
                "the list is too long",
                where=f"{path}:{number}",
                allowed=f"up to {MAX_ROWS:,} lines",
                fix="make several datasets; a recipe can train on all of them",
            )
        yield line


@contextmanager
def _as_utf8(path: Path) -> Iterator[None]:
    """Raise RequestError where a list cannot be read, with the line where it is not UTF-8."""
    try:
        yield
    except OSError as error:
        raise RequestError(f"cannot be read: {error.strerror}", where=str(path)) from error
    except UnicodeDecodeError as error:
        with path.open("rb") as file:
            begin = file.read(2)
        if begin in (b"\xff\xfe", b"\xfe\xff"):
            what, where = "the list is in UTF-16", str(path)
        else:
            what, where = f"not UTF-8: {error.reason}", f"{path}:{_line_not_utf8(path)}"
        raise RequestError(what, where=where, fix="save the list as UTF-8") from error


def _line_not_utf8(path: Path) -> int:
    decoder = codecs.getincrementaldecoder("utf-8")()
    line = 1
    with path.open("rb") as file:
        for part in iter(lambda: file.read(_BLOCK_BYTES), b""):
            try:
                decoder.decode(part)
            except UnicodeDecodeError as error:
                return line + error.object[: error.start].count(b"\n")
            line += part.count(b"\n")
    return line


def _csv_rows(
    path: Path, reader: Any, header: tuple[str, ...], problems: Problems
) -> Iterator[Row]:
    multi_label = "labels" in header
    columns = {name: i for i, name in enumerate(header)}
    for fields in reader:
        if not fields:  # an empty line
            continue
        if len(fields) != len(header):
            what = f"a row has {len(header)} fields, as the header has; this one {len(fields)}"
            problems.add(f"{path}:{reader.line_num}", what)
            continue
        split = intern(fields[columns["split"]]) if "split" in columns else ""
        group = intern(plain(fields[columns["group"]])) if "group" in columns else ""
        cell = plain(fields[1])
        labels: tuple[str, ...] | None
        if multi_label:
            labels = tuple(plain(one) for one in cell.split(SEPARATOR)) if cell else ()
        else:
            labels = (cell,) if cell else None
        yield Row(path, reader.line_num, fields[0], labels, split, group=group)


def read_jsonl(path: Path) -> Rows:
    """Read a JSONL list.

    Raises:
        RequestError: it is not UTF-8, or the form of a line is wrong.
    """
    problems = Problems()
    rows = []
    columns: set[str] = set()
    with _as_utf8(path), path.open(encoding="utf-8-sig", newline="\n") as file:
        for line, text in enumerate(_lines(path, file), start=1):
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
    problems.refuse(f"the list {path}")
    return Rows(rows, multi_label="labels" in columns)


class _MistakeError(Exception):
    """A mistake in a line: the arguments of `Problems.add`."""


def _fields(text: str) -> dict[str, Any]:
    """Return the fields of a line."""
    try:
        fields = json.loads(text, object_pairs_hook=_without_repeats)
    except RecursionError as error:
        raise _MistakeError("too many brackets inside each other") from error
    except ValueError as error:  # also for a number of thousands of digits
        raise _MistakeError(f"not JSON: {str(error).partition(';')[0]}") from error
    if not isinstance(fields, dict) or not isinstance(fields.get("path"), str):
        raise _MistakeError('a line is an object with a "path" text')
    for name in fields:
        if name not in FIELDS:
            what = f"unknown {name[:_SHOWN]!a}; allowed: {', '.join(FIELDS)}"
            raise _MistakeError(what, name, FIELDS)
    return fields


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise _MistakeError(f"{twice[:_SHOWN]!a} is there twice")
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
    split, group = (_text(name, fields.get(name)) for name in ("split", "group"))
    return Row(path, line, fields["path"], labels, split, group=group)


def _text(name: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | None):
        raise _MistakeError(f"{name} must be a text or a whole number")
    return "" if value is None else plain(str(value))
