"""Images in a list: CSV, JSONL or Parquet with `path,label[,split]` or `path,labels[,split]`.

Relative paths start at the list's own folder, or at `--root`. Without a split, each path decides it
(`HASH_SPLIT_RULE`).

`label` is the one class of an image. A row without it belongs to the split `unlabeled`, unless no
row has one. `labels` are any number of classes: names joined by `|` in CSV, a list elsewhere. There
an empty cell or list says that an image has none of the classes, except in `unlabeled`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from hpt_dist.errors import RequestError
from hpt_dist.sources import rows
from hpt_dist.sources.problems import Problems
from hpt_dist.sources.rows import Row, Rows
from hpt_dist.sources.sample import (
    HASH_SPLIT_RULE,
    SPLITS,
    FileSource,
    Label,
    Sample,
    file_sample,
    hash_split,
    key_of,
)


def open_list(file: Path, root: Path | None = None) -> FileSource:
    """Read a list and look up every file it names.

    Args:
        file: a .csv, .jsonl or .parquet file.
        root: where relative paths start, unless it is the list's own folder.

    Raises:
        RequestError: every mistake in the list, each with file:line.
    """
    return _source(file.name, file, _READERS[file.suffix](file), root or file.parent)


def has_parquet(folder: Path) -> bool:
    """Return whether a folder holds Parquet files, or its `data/` does, as on Hugging Face.

    Beside folders of images they are no part of the layout.
    """
    if not folder.is_dir():
        return False
    tops = {one.name for one in folder.iterdir() if one.is_dir() and not one.name.startswith(".")}
    return tops <= {"data"} and bool(_parquet_files(folder))


def open_parquet_folder(folder: Path) -> FileSource:
    """Read the Parquet files of a folder for which `has_parquet` is true.

    Without a column `split`, names such as `train-00000-of-00002.parquet` say it, if all do.

    Raises:
        RequestError: every mistake in the files, or they do not go together.
    """
    files = _parquet_files(folder)
    lists = [_read_parquet(file) for file in files]
    first = lists[0]
    for file, one in zip(files, lists, strict=True):
        if (one.multi_label, one.classes) != (first.multi_label, first.classes):
            raise RequestError(f"its labels are not of the kind of {files[0]}", where=str(file))
    splits = [file.stem.partition("-")[0] for file in files]
    by_name = all(split in SPLITS for split in splits)
    joined = [
        row._replace(split=split) if by_name and not row.split else row
        for split, one in zip(splits, lists, strict=True)
        for row in one.rows
    ]
    name = folder.resolve().name
    return _source(name, folder, Rows(joined, first.multi_label, first.classes), files[0].parent)


def _parquet_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.parquet")) or sorted((folder / "data").glob("*.parquet"))


def _read_parquet(file: Path) -> Rows:
    from hpt_dist.sources import parquet  # pyarrow takes long to import

    return parquet.read(file)


_READERS = {".csv": rows.read_csv, ".jsonl": rows.read_jsonl, ".parquet": _read_parquet}


def _source(name: str, where: Path, listed: Rows, base: Path) -> FileSource:
    if not listed.rows:
        raise RequestError("the list names no image", where=str(where))
    classes = _classes(listed)
    problems = Problems()
    _check(listed, classes, base, problems)
    problems.refuse(f"the list {where}")
    ids = {name: i for i, name in enumerate(classes)}
    return FileSource(
        name=name,
        rule="splits by the list" if listed.rows[0].split else HASH_SPLIT_RULE,
        classes=classes,
        files=[_sample(row, base, _label(row, ids, listed.multi_label)) for row in listed.rows],
        multi_label=listed.multi_label,
    )


def _classes(listed: Rows) -> list[str]:
    """Return the labels in the order of their ids: by number where all are numbers."""
    if listed.classes is not None:
        return listed.classes
    labels = {label for row in listed.rows for label in row.labels or ()} - {""}
    numbers = all(label.isdecimal() for label in labels)
    return sorted(labels, key=(lambda label: (int(label), label)) if numbers else None)


def _check(listed: Rows, classes: Sequence[str], base: Path, problems: Problems) -> None:
    has_splits = any(row.split for row in listed.rows)
    train = {
        label
        for row in listed.rows
        if SPLITS.get(row.split) == "train"
        for label in row.labels or ()
    }
    # A name that only val or test has is a misspelt one; classes that the list declares are not.
    known = train if train and listed.classes is None else None
    seen: dict[str, Row] = {}
    for row in listed.rows:
        if row.embedded is None:
            _check_file(row, base, seen, problems)
        if has_splits and row.split not in SPLITS:
            what = f"unknown split {row.split!r}; allowed: {', '.join(SPLITS)}"
            problems.add(row.where, what, row.split, SPLITS)
        elif classes and row.labels is None and SPLITS.get(row.split) != "unlabeled":
            problems.add(row.where, "no label; rows without one need the split unlabeled")
        _check_labels(row, known, problems)


def _check_file(row: Row, base: Path, seen: dict[str, Row], problems: Problems) -> None:
    if not (base / row.path).is_file():
        problems.add(row.where, f"no such file: {row.path!r}")
    first = seen.setdefault(os.path.normpath(row.path), row)
    if first is not row:
        place = f"on line {first.line}" if first.file == row.file else f"at {first.where}"
        problems.add(row.where, f"{row.path!r} is already {place}")


def _check_labels(row: Row, known: set[str] | None, problems: Problems) -> None:
    labels = row.labels or ()
    if len(set(labels)) < len(labels) or "" in labels:
        problems.add(row.where, f"an empty class name or one twice: {' '.join(map(repr, labels))}")
        return
    for label in labels:
        if known is not None and label not in known:
            problems.add(row.where, f"unknown label {label!r}: train has none", label, known)


def _label(row: Row, ids: dict[str, int], multi_label: bool) -> Label:
    if row.labels is None or not ids or not (row.labels or multi_label):
        return None
    if not multi_label:
        return ids[row.labels[0]]
    unlabelled = not row.labels and SPLITS.get(row.split) == "unlabeled"
    return None if unlabelled else tuple(sorted(ids[label] for label in row.labels))


def _sample(row: Row, base: Path, label: Label) -> Sample:
    split = SPLITS[row.split] if row.split else hash_split(row.path)
    if row.embedded is None:
        return file_sample(base / row.path, row.path, split, label)
    return Sample(
        key=key_of(row.path),
        split=split,
        label=label,
        origin=row.path,
        version=row.embedded.version,
        size_bytes=row.embedded.size_bytes,
        read=row.embedded.read,
    )
