"""A folder of images with a list `metadata.csv` in it, as Hugging Face's `imagefolder` has it.

The list lies in the folder itself, or in each folder of a split; its paths start where it lies.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path

from hpt_dist.errors import RequestError
from hpt_dist.sources import folder_tree, listing
from hpt_dist.sources.rows import Rows
from hpt_dist.sources.sample import FileSource, printable
from hpt_dist.sources.split_names import split_of

_STEM = "metadata"
_COLUMN = b"file_name"
_LOOKED_AT_BYTES = 2**16
_SHOWN = 3


def has_metadata(folder: Path) -> bool:
    """Return whether a folder, or a folder of a split in it, holds such a list and images."""
    lists = _lists(folder)
    return bool(lists) and all(_holds_images(one.parent) for one in lists)


def open_folder(folder: Path, chosen: Mapping[str, str]) -> FileSource:
    """List the images of a folder for which `has_metadata` is true.

    Args:
        folder: the folder.
        chosen: see `columns.parse`.

    Raises:
        RequestError: every mistake in the lists; or the images lie in folders that may be their
            classes too.
    """
    files = _lists(folder)
    lists = [_from(folder, file, listing.read(file, chosen)) for file in files]
    joined = _in_their_splits(listing.join(lists))
    source = listing.source(folder.resolve().name, folder, joined, folder, chosen)
    names = ", ".join(printable(str(one.relative_to(folder))) for one in files)
    notes = [f"read as an image folder with a list: {names}"]
    listed = {one.origin for one in source.files}
    tree = folder_tree.walk(folder)
    others = [one.relative for one in tree.images() if printable(one.relative) not in listed]
    if others:
        shown = ", ".join(map(printable, others[:_SHOWN]))
        notes.append(f"set aside: images that the list does not name: {len(others):,} ({shown})")
    if not chosen:
        _refuse_classes(folder, source, names)
    return dataclasses.replace(source, notes=(*notes, *source.notes))


def _lists(folder: Path) -> list[Path]:
    """Return the lists: that of the folder, or those of the folders of splits."""
    if not folder.is_dir():
        return []
    tops = sorted(one for one in folder.iterdir() if one.is_dir() and split_of(one.name))
    for places in ([folder], tops):
        found = [
            place / f"{_STEM}{suffix}"
            for place in places
            for suffix in listing.SUFFIXES
            if _names_files(place / f"{_STEM}{suffix}")
        ]
        if found:
            return found
    return []


def _names_files(path: Path) -> bool:
    """Return whether a list has the column that Hugging Face asks for: the names of files."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        start = file.read(_LOOKED_AT_BYTES)
        if path.suffix == ".parquet":  # its columns are named at the end
            file.seek(-min(_LOOKED_AT_BYTES, path.stat().st_size), os.SEEK_END)
            start = file.read()
    return _COLUMN in start.replace(b"\0", b"")


def _holds_images(folder: Path) -> bool:
    """Return whether there is anything beside the list that may be an image, or a folder."""
    entries = (one for one in folder_tree.entries(folder) if not folder_tree.is_hidden(one.name))
    return any(folder_tree.is_folder(one) or folder_tree.may_be_image(one.name) for one in entries)


def _from(folder: Path, file: Path, listed: Rows) -> Rows:
    """Return a list with its paths from the folder, as they start where the list lies."""
    below = file.parent.relative_to(folder).as_posix()
    if below == ".":
        return listed
    rows = [row._replace(path=f"{below}/{row.path}") if row.path else row for row in listed.rows]
    return dataclasses.replace(listed, rows=rows)


def _in_their_splits(listed: Rows) -> Rows:
    """Return a list in which the top folders name the splits, where all of them do."""
    splits = [
        split_of(row.path.partition("/")[0]) if "/" in row.path else "" for row in listed.rows
    ]
    if not all(splits) or any(row.split for row in listed.rows):
        return listed
    rows = [row._replace(split=one) for row, one in zip(listed.rows, splits, strict=True)]
    return dataclasses.replace(listed, rows=rows)


def _refuse_classes(folder: Path, source: FileSource, names: str) -> None:
    """Raise where the images of the list lie in folders that may be classes."""
    folders = {one.origin.rpartition("/")[0].rpartition("/")[2] for one in source.files}
    classes = sorted(one for one in folders if one and not split_of(one))
    if len(classes) > 1:
        raise RequestError(
            f"{names} lists the images, and the folders of its images may be classes too: "
            f"{', '.join(classes[:_SHOWN])}",
            where=printable(str(folder)),
            allowed="one of both",
            fix="name the list itself; or say --layout classes or splits, to read the folders",
        )
