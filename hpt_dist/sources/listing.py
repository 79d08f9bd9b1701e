"""Images in a list: CSV with the header `path,label[,split]`, or JSONL with the same names.

Relative paths start at the list's own folder. Without a split, each path decides it
(`HASH_SPLIT_RULE`). A row without a label belongs to the split `unlabeled`, unless no row has one.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hpt_dist.errors import RequestError, nearest
from hpt_dist.sources.sample import HASH_SPLIT_RULE, SPLITS, FileSource, file_sample, hash_split

_FIELDS = ("path", "label", "split")
_PROBLEMS_SHOWN = 10


@dataclass(frozen=True)
class _Row:
    line: int
    path: str
    label: str
    split: str


def open_list(path: Path) -> FileSource:
    """Read a list and look up every file it names.

    Raises:
        RequestError: every mistake in the list, each with file:line.
    """
    try:
        rows = list((_csv_rows if path.suffix == ".csv" else _jsonl_rows)(path))
    except UnicodeDecodeError as error:
        raise RequestError(f"not UTF-8: {error}", where=str(path)) from error
    if not rows:
        raise RequestError("the list names no image", where=str(path))
    classes = _classes(rows)
    problems = list(_problems(path, rows))
    if problems:
        shown = problems[:_PROBLEMS_SHOWN]
        more = len(problems) - len(shown)
        title = f"{len(problems)} problem{'s' if len(problems) > 1 else ''} in the list {path}"
        raise RequestError("\n".join([title, *shown, *([f"and {more} more"] if more else [])]))
    ids = {name: i for i, name in enumerate(classes)}
    return FileSource(
        name=path.name,
        rule="splits by the list" if rows[0].split else HASH_SPLIT_RULE,
        classes=classes,
        files=[
            file_sample(
                path.parent / row.path,
                row.path,
                SPLITS[row.split] if row.split else hash_split(row.path),
                ids.get(row.label),
            )
            for row in rows
        ],
    )


def _csv_rows(path: Path) -> Iterator[_Row]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        header = tuple(reader.fieldnames or ())
        if header not in {_FIELDS, _FIELDS[:2]}:
            raise RequestError(
                f"the header is {','.join(header)!r}",
                where=f"{path}:1",
                allowed="path,label or path,label,split",
            )
        try:
            for fields in reader:
                if None in fields or None in fields.values():
                    raise RequestError(
                        f"a row has {len(header)} fields", where=f"{path}:{reader.line_num}"
                    )
                yield _Row(
                    reader.line_num, fields["path"], fields["label"], fields.get("split", "")
                )
        except csv.Error as error:
            raise RequestError(str(error), where=f"{path}:{reader.line_num}") from error


def _jsonl_rows(path: Path) -> Iterator[_Row]:
    for line, text in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1):
        if not text.strip():
            continue
        where = f"{path}:{line}"
        try:
            fields = json.loads(text)
        except json.JSONDecodeError as error:
            raise RequestError(f"not JSON: {error}", where=where) from error
        if not isinstance(fields, dict) or not isinstance(fields.get("path"), str):
            raise RequestError('a line is an object with a "path" text', where=where)
        for name, value in fields.items():
            if name not in _FIELDS:
                fix = nearest(name, _FIELDS)
                raise RequestError(
                    f"unknown {name!r}", where=where, allowed="path, label, split", fix=fix
                )
            if isinstance(value, bool) or not isinstance(value, str | int | None):
                raise RequestError(f"{name} must be a text or a whole number", where=where)
        texts = {name: "" if value is None else str(value) for name, value in fields.items()}
        yield _Row(line, texts["path"], texts.get("label", ""), texts.get("split", ""))


def _classes(rows: list[_Row]) -> list[str]:
    """Return the labels in the order of their ids: by number where all are numbers."""
    labels = {row.label for row in rows if row.label}
    numbers = all(label.isdecimal() for label in labels)
    return sorted(labels, key=(lambda label: (int(label), label)) if numbers else None)


def _problems(path: Path, rows: list[_Row]) -> Iterator[str]:
    has_splits = any(row.split for row in rows)
    has_labels = any(row.label for row in rows)
    train = {row.label for row in rows if SPLITS.get(row.split) == "train"}
    seen: dict[str, int] = {}
    for row in rows:
        where = f"{path}:{row.line}:"
        if not (path.parent / row.path).is_file():
            yield f"{where} no such file: {row.path!r}"
        first = seen.setdefault(os.path.normpath(row.path), row.line)
        if first != row.line:
            yield f"{where} {row.path!r} is already on line {first}"
        if has_splits and row.split not in SPLITS:
            yield (
                f"{where} unknown split {row.split!r}; allowed: {', '.join(SPLITS)} "
                f"{nearest(row.split, SPLITS)}".rstrip()
            )
        elif has_labels and not row.label and SPLITS.get(row.split) != "unlabeled":
            yield f"{where} no label; rows without one need the split unlabeled"
        if row.label and train and row.label not in train:
            known = nearest(row.label, train)
            yield f"{where} unknown label {row.label!r}: train has none {known}".rstrip()
