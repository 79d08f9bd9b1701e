"""The images of a list: each file once, however many rows and paths name it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from hpt_dist.sources.folder_tree import Identity, same_image
from hpt_dist.sources.listed_paths import Base, NoFileError
from hpt_dist.sources.problems import Problems
from hpt_dist.sources.rows import Row
from hpt_dist.sources.split_names import split_of_cell

_SHOWN = 3


class ListedImage(NamedTuple):
    """A row with its image.

    Args:
        row: the first one that names it.
        relative: its path from the base, or its name in the list that contains it.
        path: its file; the list where that contains it.
    """

    row: Row
    relative: str
    path: Path


@dataclass
class ListedImages:
    """The images of a list, and what to say about them."""

    kept: list[ListedImage] = field(default_factory=list)
    again: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)

    def notes(self) -> list[str]:
        """Return lines for the terminal."""
        notes = []
        if self.again:
            shown = ", ".join(self.again[:_SHOWN])
            notes.append(f"set aside: rows that name an image again: {len(self.again):,} ({shown})")
        if self.outside:
            first = self.outside[0]
            notes.append(f"outside of the list's folder: {len(self.outside):,}, such as {first}")
        return notes


def list_images(rows: Iterable[Row], base: Path, problems: Problems) -> ListedImages:
    """Look up the file of each row.

    A row that names a file again is left out where it says the same, and is a mistake otherwise.

    Args:
        rows: of the list.
        base: where relative paths start.
        problems: receives each mistake.
    """
    images, places = ListedImages(), Base(base)
    first: dict[Identity, ListedImage] = {}
    for row in rows:
        if row.embedded is not None:
            images.kept.append(ListedImage(row, row.path, row.file))
            continue
        try:
            file = places.find(row.path)
        except NoFileError as error:
            problems.add(row.where, str(error), at=row.at)
            continue
        image = ListedImage(row, file.relative, file.path)
        other = first.setdefault(file.identity, image)
        if other is image or not same_image(other.path, image.path):
            images.kept.append(image)
            if file.relative.startswith("../"):
                images.outside.append(file.relative)
        elif difference := _difference(other.row, row):
            place = other.row.place if other.row.file == row.file else f"at {other.row.where}"
            what = f"{row.path!r} is already {place}, {difference}"
            problems.add(row.where, what, at=row.at)
        else:
            images.again.append(row.where)
    return images


def _difference(one: Row, other: Row) -> str:
    """Return in words what two rows of one image say differently, or an empty text."""
    if set(one.labels or ()) != set(other.labels or ()):
        labels = [" ".join(map(repr, row.labels or ())) or "none" for row in (one, other)]
        return f"with another label: {' and '.join(labels)}"
    if split_of_cell(one.split) != split_of_cell(other.split):
        return f"in another split: {one.split or 'none'} and {other.split or 'none'}"
    if one.group != other.group:
        return f"in another group: {one.group or 'none'} and {other.group or 'none'}"
    return ""
