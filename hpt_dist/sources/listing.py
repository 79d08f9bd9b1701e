"""Images in a list: CSV, JSONL or Parquet with `path,label` or `path,labels`, `split` and `group`.

Relative paths start at the list's own folder, or at `--root`. Without a split, each path decides it
(`HASH_SPLIT_RULE`), or each group (`groups`). A file counts once, whichever paths name it.

`label` is the one class of an image. A row without it belongs to the split `unlabeled`, unless no
row has one. `labels` are any number of classes: names joined by `|` in CSV, a list elsewhere. There
an empty cell or list says that an image has none of the classes, except in `unlabeled`.
"""

from __future__ import annotations

from pathlib import Path

from hpt_dist.errors import RequestError
from hpt_dist.sources import class_names, rows
from hpt_dist.sources.listed_images import ListedImage, list_images
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
    printable,
)
from hpt_dist.sources.split_names import split_of, split_of_cell

_MISSING_FIX = "leave it empty, or call the class by another name"
_ONE_CLASS_FIX = "add images of other classes; to train without labels, leave all labels empty"


def open_list(file: Path, root: Path | None = None) -> FileSource:
    """Read a list and look up every file it names.

    Args:
        file: a .csv, .jsonl or .parquet file.
        root: where relative paths start, unless it is the list's own folder.

    Raises:
        RequestError: every mistake in the list, each with file:line.
    """
    return _source(file.name, file, _READERS[file.suffix.lower()](file), root or file.parent)


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
    splits = [split_of(file.stem.partition("-")[0]) for file in files]
    by_name = all(splits)
    if any(splits) and not by_name and not all(row.split for one in lists for row in one.rows):
        unnamed = files[splits.index("")]
        raise RequestError(
            "other files beside it are named by splits, but this one is not",
            where=str(unnamed),
            fix="rename it, such as train-0.parquet, or give all files a column split",
        )
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
    _check(listed, problems)
    images = list_images(listed.rows, base, problems)
    problems.refuse(f"the list {where}")
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
        notes=tuple(images.notes()),
        groups={one.key: group for one, group in zip(files, groups, strict=True) if group},
    )


def _classes(listed: Rows) -> list[str]:
    """Return the labels in the order of their ids: by number where all are numbers."""
    if listed.classes is not None:
        return listed.classes
    labels = {label for row in listed.rows for label in row.labels or ()} - {""}
    numbers = all(label.isdecimal() and not class_names.fault(label) for label in labels)
    return sorted(labels, key=(lambda label: (int(label), label)) if numbers else None)


def _check(listed: Rows, problems: Problems) -> None:
    has_splits = any(row.split for row in listed.rows)
    has_labels = listed.classes is not None or any(row.labels for row in listed.rows)
    splits = [split_of_cell(row.split) for row in listed.rows]
    train = {
        label
        for row, split in zip(listed.rows, splits, strict=True)
        if split == "train"
        for label in row.labels or ()
    }
    # A name that only val or test has is a misspelt one; classes that the list declares are not.
    known = train if train and listed.classes is None else None
    for row, split in zip(listed.rows, splits, strict=True):
        if has_splits and not split:
            what = f"unknown split {row.split!r}" if row.split else "no split, unlike other rows"
            problems.add(row.where, f"{what}; allowed: {', '.join(SPLITS)}", row.split, SPLITS)
        elif has_labels and row.labels is None and split != "unlabeled":
            problems.add(row.where, "no label; rows without one need the split unlabeled")
        _check_labels(row, known, problems, is_declared=listed.classes is not None)
    _check_groups(listed, problems)
    if listed.classes is None:
        _check_alike(listed, known, problems)


def _check_groups(listed: Rows, problems: Problems) -> None:
    first: dict[str, Row] = {}
    for row in listed.rows:
        if not row.group:
            continue
        if class_names.is_missing(row.group):
            what = f"the group is {row.group!r}, as programs write no value; leave it empty"
            problems.add(row.where, what)
        elif what := class_names.fault(row.group):
            problems.add(row.where, what.replace("a class name", "a name of a group", 1))
        else:
            first.setdefault(row.group, row)
    for group, *others in class_names.alike(first):
        for other in others:
            what = f"the groups {other!r} and {group!r} ({first[group].place}) look like one"
            problems.add(first[other].where, f"{what}; write one of them everywhere")


def _check_labels(
    row: Row, known: set[str] | None, problems: Problems, *, is_declared: bool
) -> None:
    labels = row.labels or ()
    if len(set(labels)) < len(labels) or "" in labels:
        problems.add(row.where, f"an empty class name or one twice: {' '.join(map(repr, labels))}")
        return
    for label in labels:
        if is_declared:
            continue
        if what := class_names.fault(label):
            problems.add(row.where, what)
        elif class_names.is_missing(label):
            what = f"the label is {label!r}, as programs write no value; {_MISSING_FIX}"
            problems.add(row.where, what)
        elif known is not None and label not in known:
            problems.add(row.where, f"unknown label {label!r}: train has none", label, known)


def _check_alike(listed: Rows, known: set[str] | None, problems: Problems) -> None:
    first: dict[str, Row] = {}
    for row in listed.rows:
        for label in row.labels or ():
            if (known is None or label in known) and label not in first:
                first[label] = row
    sound = [label for label in first if not class_names.fault(label)]
    for label, *others in class_names.alike(sound):
        for other in others:
            what = f"{other!r} and {label!r} ({first[label].place}) look like one class"
            problems.add(first[other].where, f"{what}; write one of them everywhere")


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
