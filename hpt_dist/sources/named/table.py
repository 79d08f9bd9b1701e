"""Datasets that a table in this package describes, file by file.

The table `NAME.csv` lists the path of each image, its class (empty: unlabelled; or why it cannot be
used), its family (empty: it is one by itself, see `families`), and the first 16 hexadecimal digits
of its SHA-256. Classes and families were decided by looking at every image. What the package holds
beside these files is set aside.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Callable, Sequence
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from hpt_dist.errors import DataError
from hpt_dist.sources import families
from hpt_dist.sources.problems import Problems
from hpt_dist.sources.sample import FileSource, Sample, key_of, read_file

# Of tuxpaint and openclipart: photographs and clip-arts of the same things, so that one may be the
# source of the other.
CLASSES = (
    *("bird", "fish", "flower", "fruit", "insect", "mammal", "musical instrument"),
    *("planet", "road sign", "tableware", "tool", "vegetable", "vehicle"),
)
RULE = (
    f"{len(CLASSES)} classes, by hand; {families.IN_WORDS}; unlabeled: the others, but no "
    "relatives of val and test"
)
UNUSABLE = ("nothing drawn", "no size")
_DIGITS = 16


class Row(NamedTuple):
    """A line of a table."""

    path: str
    name: str
    family: str
    sha256: str


def rows(name: str) -> list[Row]:
    """Return the lines of a table, in the order of their paths."""
    text = files(__package__).joinpath(f"{name}.csv").read_text(encoding="utf-8")
    lines = csv.reader(io.StringIO(text))
    next(lines)
    return [
        Row(path, class_name, family or path, sha256) for path, class_name, family, sha256 in lines
    ]


def open_table(
    name: str,
    root: Path,
    *,
    encoded: Callable[[bytes], bytes],
    version: str,
    note: str,
    reinstall: str,
) -> FileSource:
    """List the images of a table, after a look at each file.

    Args:
        name: of the table and the dataset.
        root: the folder that its paths start from.
        encoded: what a file becomes before it is stored; it can be pickled.
        version: changes whenever `encoded` may give other bytes.
        note: what the table leaves out, in words.
        reinstall: what to do about a damaged or missing file.

    Raises:
        RequestError: all files that are missing, or are not as the table knows them.
    """
    found = rows(name)
    listed = [row for row in found if row.name not in UNUSABLE]
    splits = families.assign_splits([(row.family, row.name) for row in listed], CLASSES)
    problems = Problems()
    samples = []
    for row in listed:
        if split := families.place(splits.get(row.family), row.name in CLASSES):
            size_bytes = _checked_size(root / row.path, row.sha256, problems)
            samples.append(_sample(row, split, size_bytes, root, encoded, version))
    problems.refuse(f"the files of {name}", reinstall)
    notes = (note, *_unusable(found))
    if relatives := len(listed) - len(samples):
        notes += (f"set aside: {relatives} unlabelled relatives of images of val and test",)
    return FileSource(name, RULE, list(CLASSES), samples, notes=notes)


def _sample(
    row: Row,
    split: str,
    size_bytes: int,
    root: Path,
    encoded: Callable[[bytes], bytes],
    version: str,
) -> Sample:
    return Sample(
        key=key_of(row.path),
        split=split,
        label=CLASSES.index(row.name) if row.name in CLASSES else None,
        origin=row.path,
        version=f"{row.sha256} {version}".strip(),
        size_bytes=size_bytes,
        read=partial(_read, root / row.path, row.sha256, encoded),
    )


def _unusable(found: Sequence[Row]) -> list[str]:
    """Return a note about the images that cannot be used, for each reason."""
    by_reason = {why: [row.path for row in found if row.name == why] for why in UNUSABLE}
    return [
        f"set aside: {len(paths)} with {why}: {', '.join(paths)}"
        for why, paths in by_reason.items()
        if paths
    ]


def _checked_size(file: Path, sha256: str, problems: Problems) -> int:
    """Return the size of a file in bytes; one that is not as it should be is a problem."""
    try:
        return len(content(file, sha256))
    except OSError as error:
        problems.add(str(file), error.strerror or type(error).__name__)
    except DataError as error:
        problems.add(str(file), error.problem.what)
    return 0


def content(file: Path, sha256: str) -> bytes:
    """Return the bytes of a file of a table.

    Args:
        file: its path.
        sha256: the first digits of its digest.

    Raises:
        OSError: it cannot be read.
        DataError: it has another digest.
    """
    data = read_file(file)
    digest = hashlib.sha256(data).hexdigest()[:_DIGITS]
    if digest != sha256:
        raise DataError(
            f"its SHA-256 begins with {digest}, not {sha256}: damaged, or of another version"
        )
    return data


def _read(file: Path, sha256: str, encoded: Callable[[bytes], bytes]) -> bytes:
    return encoded(content(file, sha256))
