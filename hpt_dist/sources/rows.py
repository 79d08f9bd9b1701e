"""The rows of a list of images, as `delimited`, `jsonl` and `parquet` read them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, TextIO

from hpt_dist.errors import RequestError
from hpt_dist.sources import encodings
from hpt_dist.sources.columns import Columns
from hpt_dist.sources.encodings import Encoding
from hpt_dist.sources.problems import At, Problems

MAX_ROWS = 50_000_000
MAX_LINE_CHARACTERS = 1_000_000
_MOST_CLASSES = 1000
_DECIMAL = re.compile(r"[+-]?\d*[.,]\d+(?:e[+-]?\d+)?", re.IGNORECASE)


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
    def at(self) -> At:
        """Its place among those of other mistakes."""
        return str(self.file), self.line

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
        columns: what they were read from.
        problems: what is wrong with others.
        classes: in the order of their ids, if the list itself declares them.
        how: how the list was read, in words for the terminal.
        unsure: what may be labels in rows that could not be read.
        repeated: the distinct values of columns that are not read, where they repeat.
    """

    rows: list[Row]
    columns: Columns
    problems: Problems
    classes: list[str] | None = None
    how: str = ""
    unsure: Collection[str] = frozenset()
    repeated: Mapping[str, Collection[str]] = field(default_factory=dict)

    @property
    def multi_label(self) -> bool:
        """Whether an image has any number of classes."""
        return self.columns.label == "labels"

    def in_split(self, split: str) -> Rows:
        """Return the list with a split for the rows that name none."""
        rows = [row if row.split else row._replace(split=split) for row in self.rows]
        return replace(self, rows=rows)


def lines(path: Path, file: TextIO) -> Iterator[str]:
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


def decoded(path: Path, read: Callable[[Encoding], Rows]) -> Rows:
    """Read a list in the encoding that it is in.

    Args:
        path: the list.
        read: reads it in an encoding.

    Raises:
        RequestError: it cannot be read, or its encoding is not plain.
    """
    try:
        encoding = encodings.by_start(path)
        try:
            return read(encoding)
        except UnicodeDecodeError as error:
            if encoding != encodings.UTF_8:
                what = f"not {encoding.words}, as its start says: {error.reason}"
                raise RequestError(what, where=str(path), fix="save it as UTF-8") from error
        return read(encodings.without_utf_8(path))
    except OSError as error:
        raise RequestError(f"cannot be read: {error.strerror}", where=str(path)) from error


class Repeated:
    """The values of columns that are not read, of which few may be classes."""

    def __init__(self) -> None:
        self._values: dict[str, set[str]] = {}
        self._count: Counter[str] = Counter()

    def add(self, column: str, value: str) -> None:
        """Note a cell; empty ones do not count."""
        if not value:
            return
        self._count[column] += 1
        values = self._values.setdefault(column, set())
        if len(values) < _MOST_CLASSES:
            values.add(value)

    def found(self) -> dict[str, Collection[str]]:
        """Return the columns whose values repeat as those of classes do, and are no decimals."""
        return {
            column: values
            for column, values in self._values.items()
            if 2 <= len(values) < _MOST_CLASSES
            and 2 * len(values) <= self._count[column]
            and not any(_DECIMAL.fullmatch(value) for value in values)
        }
