"""Lists of one line an image: CSV, and the same with `;`, tabs or `|` between the columns."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from sys import intern
from typing import Any

from hpt_dist.errors import RequestError
from hpt_dist.sources import columns
from hpt_dist.sources.class_names import plain
from hpt_dist.sources.columns import Columns
from hpt_dist.sources.encodings import Encoding
from hpt_dist.sources.problems import Problems
from hpt_dist.sources.rows import Repeated, Row, Rows, decoded, lines

LABEL_SEPARATOR = "|"
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "|"}
_EXCEL = "sep="  # Excel writes its separator into a line of its own
_IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif")


def read(path: Path, chosen: Mapping[str, str]) -> Rows:
    """Read a list with a header.

    Args:
        path: the list.
        chosen: see `columns.parse`.

    Raises:
        RequestError: its encoding, its header or its quotation marks cannot be read.
    """
    return decoded(path, lambda encoding: _read(path, encoding, chosen))


def _read(path: Path, encoding: Encoding, chosen: Mapping[str, str]) -> Rows:
    problems = Problems()
    with path.open(encoding=encoding.name, newline="") as file:
        text = lines(path, file)
        first = next(text, "")
        skipped = 0
        separator = first[len(_EXCEL) :].strip("\r\n") if first.startswith(_EXCEL) else ""
        if separator:
            first, skipped = next(text, ""), 1
        separator = separator or _separator(first, chosen)
        reader = csv.reader(chain([first], text), delimiter=separator, strict=True)
        listing = _Listing(path, reader, skipped, chosen, problems)
        try:
            rows = list(listing.rows())
        except csv.Error as error:
            problems.add(*listing.here(f"{error}: look for a quotation mark without its second"))
            problems.refuse(f"the list {path}")
            raise
    between = _SEPARATORS.get(separator, separator)
    return Rows(
        rows,
        listing.columns,
        problems,
        how=f"read as a list: {encoding.words}, columns separated by {between}",
        unsure=listing.unsure,
        repeated=listing.repeated.found(),
    )


def _separator(first: str, chosen: Mapping[str, str]) -> str:
    """Return what separates the columns of a header: that by which most of them are known."""
    ranks = {
        separator: columns.known(next(csv.reader([first], delimiter=separator), []), chosen)
        for separator in _SEPARATORS
    }
    best = max(ranks, key=lambda separator: ranks[separator])  # of equals the first, the comma
    return best if ranks[best][1] else max(_SEPARATORS, key=first.count)


@dataclass
class _Listing:
    """A list while it is read.

    Args:
        path: of the list.
        reader: yields the fields of each line.
        skipped: lines before the header.
        chosen: see `columns.parse`.
        problems: receives the mistakes.
    """

    path: Path
    reader: Any
    skipped: int
    chosen: Mapping[str, str]
    problems: Problems
    columns: Columns = field(init=False)
    unsure: set[str] = field(default_factory=set)
    repeated: Repeated = field(default_factory=Repeated)

    def here(self, what: str) -> tuple[str, str, str, tuple[str, ...], tuple[str, int]]:
        """Return the arguments of `Problems.add` for a mistake on the line that was read last."""
        return f"{self.path}:{self._line}", what, "", (), (str(self.path), self._line)

    def rows(self) -> Iterator[Row]:
        """Yield the rows, and note those that are none."""
        header: list[str] = next(self.reader, [])
        where = f"{self.path}:{self._line or 1}"
        self.columns = columns.find(header, self.chosen, where)
        if "path" not in self.columns.names:
            _refuse_no_header(header, where)
            columns.refuse_no_path(header, where)
        take = {role: header.index(name) for role, name in self.columns.names.items()}
        others = [] if self.columns.label else [header.index(one) for one in self.columns.others]
        for fields in self.reader:
            if len(fields) == len(header):
                yield self._row(fields, take)
                for i in others:
                    self.repeated.add(header[i], fields[i])
            elif fields:  # and no empty line
                what = f"a row has {len(header)} fields, as the header has; this one {len(fields)}"
                self.problems.add(*self.here(what))
                self.unsure.update(plain(one) for one in fields)

    @property
    def _line(self) -> int:
        return self.skipped + int(self.reader.line_num)

    def _row(self, fields: Sequence[str], take: Mapping[str, int]) -> Row:
        split = intern(fields[take["split"]]) if "split" in take else ""
        group = intern(plain(fields[take["group"]])) if "group" in take else ""
        cell = plain(fields[take[self.columns.label]]) if self.columns.label else ""
        labels: tuple[str, ...] | None
        if self.columns.label == "labels":
            labels = tuple(plain(one) for one in cell.split(LABEL_SEPARATOR)) if cell else ()
        else:
            labels = (cell,) if cell else None
        return Row(self.path, self._line, fields[take["path"]], labels, split, group=group)


def _refuse_no_header(header: Sequence[str], where: str) -> None:
    """Raise where the first line is that of an image."""
    cells = [one.strip().casefold() for one in header]
    place = next((i for i, one in enumerate(cells) if one.endswith(_IMAGES)), None)
    if place is not None:
        names = ["path" if i == place else "label" for i in range(len(cells))]
        raise RequestError(
            "the list has no header: its first line is that of an image",
            where=where,
            allowed="a first line with the names of the columns",
            fix=f"write a first line, such as {','.join(names[:2])}",
        )
