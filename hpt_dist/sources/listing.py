"""Images in a list: CSV, JSONL or Parquet, with columns for path, label, split and group.

`columns` finds them by their names, or as `--columns` says. Relative paths start at the list's own
folder, or at `--root`. Without a split, each path decides it (`HASH_SPLIT_RULE`), or each group
(`groups`). A file counts once, whichever paths name it.

`label` is the one class of an image. A row without it belongs to the split `unlabeled`, unless no
row has one. `labels` are any number of classes: names joined by `|` in CSV, a list elsewhere. There
an empty cell or list says that an image has none of the classes, except in `unlabeled`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from hpt_dist.errors import RequestError
from hpt_dist.sources import class_names, columns, delimited, jsonl, list_checks
from hpt_dist.sources.listed_images import ListedImage, list_images
from hpt_dist.sources.problems import Problems
from hpt_dist.sources.rows import Row, Rows
from hpt_dist.sources.sample import (
    HASH_SPLIT_RULE,
    FileSource,
    Label,
    Sample,
    file_sample,
    hash_split,
    key_of,
    printable,
)
from hpt_dist.sources.split_names import split_of, split_of_cell

_ONE_CLASS_FIX = (
    "add images of other classes; to train without labels, leave all labels empty, or say "
    "--columns label="
)


def open_list(
    file: Path, root: Path | None = None, chosen: Mapping[str, str] | None = None
) -> FileSource:
    """Read a list and look up every file it names.

    Args:
        file: one whose suffix is in `SUFFIXES`.
        root: where relative paths start, unless it is the list's own folder.
        chosen: see `columns.parse`.

    Raises:
        RequestError: every mistake in the list, each with file:line.
    """
    return source(file.name, file, read(file, chosen or {}), root or file.parent, chosen or {})


def read(file: Path, chosen: Mapping[str, str]) -> Rows:
    """Read the rows of a list.

    Args:
        file: see `open_list`.
        chosen: see `columns.parse`.

    Raises:
        RequestError: its form or its columns cannot be read.
    """
    return _READERS[file.suffix.lower()](file, chosen)


def has_parquet(folder: Path) -> bool:
    """Return whether a folder holds Parquet files, or its `data/` does, as on Hugging Face.

    Beside folders of images they are no part of the layout.
    """
    if not folder.is_dir():
        return False
    tops = {one.name for one in folder.iterdir() if one.is_dir() and not one.name.startswith(".")}
    return tops <= {"data"} and bool(_parquet_files(folder))


def open_parquet_folder(folder: Path, chosen: Mapping[str, str] | None = None) -> FileSource:
    """Read the Parquet files of a folder for which `has_parquet` is true.

    Without a column `split`, names such as `train-00000-of-00002.parquet` say it, if all do.

    Args:
        folder: the folder.
        chosen: see `columns.parse`.

    Raises:
        RequestError: every mistake in the files, or they do not go together.
    """
    files = _parquet_files(folder)
    lists = [_read_parquet(file, chosen or {}) for file in files]
    first = lists[0]
    for file, one in zip(files, lists, strict=True):
        if (one.multi_label, one.classes) != (first.multi_label, first.classes):
            raise RequestError(f"its labels are not of the kind of {files[0]}", where=str(file))
    splits = [split_of(file.stem.partition("-")[0]) for file in files]
    by_name = all(splits)
    if any(splits) and not by_name and not all(row.split for one in lists for row in one.rows):
        unnamed = files[splits.index("")]
        raise RequestError(
            "other files beside it are named by splits, but this one is not",
            where=str(unnamed),
            fix="rename it, such as train-0.parquet, or give all files a column split",
        )
    joined = join(
        [one.in_split(split) if by_name else one for split, one in zip(splits, lists, strict=True)]
    )
    name = folder.resolve().name
    return source(name, folder, joined, files[0].parent, chosen or {})


def join(lists: Sequence[Rows]) -> Rows:
    """Return several lists of the same columns as one."""
    problems = Problems()
    for one in lists:
        problems.join(one.problems)
    return dataclasses.replace(
        lists[0], rows=[row for one in lists for row in one.rows], problems=problems
    )


def _parquet_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.parquet")) or sorted((folder / "data").glob("*.parquet"))


def _read_parquet(file: Path, chosen: Mapping[str, str]) -> Rows:
    from hpt_dist.sources import parquet  # pyarrow takes long to import

    return parquet.read(file, chosen)


_READERS: dict[str, Callable[[Path, Mapping[str, str]], Rows]] = {
    ".csv": delimited.read,
    ".tsv": delimited.read,
    ".jsonl": jsonl.read,
    ".ndjson": jsonl.read,
    ".parquet": _read_parquet,
}
SUFFIXES = tuple(_READERS)


def source(
    name: str, where: Path, listed: Rows, base: Path, chosen: Mapping[str, str]
) -> FileSource:
    """Return the images of a list.

    Args:
        name: of the source.
        where: the list, or the folder of several.
        listed: its rows.
        base: where relative paths start.
        chosen: see `columns.parse`.

    Raises:
        RequestError: every mistake in the list.
    """
    problems = listed.problems
    if not listed.rows:
        problems.refuse(f"the list {where}")
        raise RequestError("the list names no image", where=str(where))
    listed = list_checks.with_certain_splits(listed, chosen)
    columns.refuse_overlooked(listed.columns, chosen, str(where), listed.repeated)
    classes = _classes(listed)
    list_checks.check(listed, problems)
    images = list_images(listed.rows, base, problems)
    nothing = f"the paths start at {printable(str(base))}; name another folder with --root"
    problems.refuse(f"the list {where}", "" if images.kept else nothing)
    class_names.refuse_single([] if listed.multi_label else classes, str(where), _ONE_CLASS_FIX)
    ids = {one: i for i, one in enumerate(classes)}
    files = [_sample(image, _label(image.row, ids, listed.multi_label)) for image in images.kept]
    groups = [image.row.group for image in images.kept]
    return FileSource(
        name=name,
        rule="splits by the list" if listed.rows[0].split else HASH_SPLIT_RULE,
        classes=classes,
        files=files,
        multi_label=listed.multi_label,
        notes=(
            listed.how,
            *columns.in_words(listed.columns),
            *list_checks.remarks(listed),
            *images.notes(),
        ),
        groups={one.key: group for one, group in zip(files, groups, strict=True) if group},
    )


def _classes(listed: Rows) -> list[str]:
    """Return the labels in the order of their ids: by number where all are numbers."""
    if listed.classes is not None:
        return listed.classes
    labels = {label for row in listed.rows for label in row.labels or ()} - {""}
    numbers = all(label.isdecimal() and not class_names.fault(label) for label in labels)
    return sorted(labels, key=(lambda label: (int(label), label)) if numbers else None)


def _label(row: Row, ids: dict[str, int], multi_label: bool) -> Label:
    if row.labels is None or not ids or not (row.labels or multi_label):
        return None
    if not multi_label:
        return ids[row.labels[0]]
    unlabelled = not row.labels and split_of_cell(row.split) == "unlabeled"
    return None if unlabelled else tuple(sorted(ids[label] for label in row.labels))


def _sample(image: ListedImage, label: Label) -> Sample:
    row = image.row
    split = split_of_cell(row.split) or hash_split(image.relative)
    if row.embedded is None:
        return file_sample(image.path, image.relative, split, label)
    return Sample(
        key=key_of(image.relative),
        split=split,
        label=label,
        origin=printable(image.relative),
        version=row.embedded.version,
        size_bytes=row.embedded.size_bytes,
        read=row.embedded.read,
    )
