"""What makes the splits, labels and groups of a list contradict each other."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Mapping

from hpt_dist.sources import class_names, columns
from hpt_dist.sources.problems import Problems
from hpt_dist.sources.rows import Row, Rows
from hpt_dist.sources.sample import SPLITS
from hpt_dist.sources.split_names import split_of_cell

# Between names of classes in one cell: of a column `label`, and of a column `labels`.
_SIGN = re.compile(r"\|")
_OTHER_SIGNS = re.compile(r"[;,]")
_MISSING_FIX = "leave it empty, or call the class by another name"


def with_certain_splits(listed: Rows, chosen: Mapping[str, str]) -> Rows:
    """Return a list without a column such as `fold` for its split, unless it names splits.

    Args:
        listed: the list.
        chosen: see `columns.parse`.
    """
    found = listed.columns
    is_certain = found.split_is_certain or "split" in chosen
    if is_certain or columns.name_splits(row.split for row in listed.rows):
        return listed
    names = {role: name for role, name in found.names.items() if role != "split"}
    return dataclasses.replace(
        listed,
        rows=[row._replace(split="") for row in listed.rows],
        columns=columns.Columns(names, (*found.others, found.names["split"])),
    )


def remarks(listed: Rows) -> list[str]:
    """Return what else to say about the labels of a list."""
    if listed.multi_label and all(len(row.labels or ()) == 1 for row in listed.rows):
        name = listed.columns.names["labels"]
        return [f"one class an image in {name}: {columns.OPTION} label={name} evaluates them so"]
    return []


def check(listed: Rows, problems: Problems) -> None:
    """Note every mistake in the splits, labels and groups of a list.

    Args:
        listed: the list.
        problems: receives them.
    """
    has_splits = any(row.split for row in listed.rows)
    has_labels = listed.classes is not None or any(row.labels for row in listed.rows)
    splits = [split_of_cell(row.split) for row in listed.rows]
    train = {
        label
        for row, split in zip(listed.rows, splits, strict=True)
        if split == "train"
        for label in row.labels or ()
    }
    train |= set(listed.unsure) if train else set()
    # A name that only val or test has is a misspelt one; classes that the list declares are not.
    known = train if train and listed.classes is None else None
    for row, split in zip(listed.rows, splits, strict=True):
        if has_splits and not split:
            what = f"unknown split {row.split!r}" if row.split else "no split, unlike other rows"
            what += f"; allowed: {', '.join(SPLITS)}"
            problems.add(row.where, what, row.split, SPLITS, row.at)
        elif has_labels and row.labels is None and split != "unlabeled":
            problems.add(
                row.where, "no label; rows without one need the split unlabeled", at=row.at
            )
        _check_labels(row, known, problems, is_declared=listed.classes is not None)
    _check_groups(listed, problems)
    if listed.classes is None:
        _check_joined(listed, problems)
        _check_alike(listed, known, problems)


def _check_groups(listed: Rows, problems: Problems) -> None:
    first: dict[str, Row] = {}
    for row in listed.rows:
        if not row.group:
            continue
        if class_names.is_missing(row.group):
            what = f"the group is {row.group!r}, as programs write no value; leave it empty"
            problems.add(row.where, what, at=row.at)
        elif what := class_names.fault(row.group):
            what = what.replace("a class name", "a name of a group", 1)
            problems.add(row.where, what, at=row.at)
        else:
            first.setdefault(row.group, row)
    for group, *others in class_names.alike(first):
        for other in others:
            what = f"the groups {other!r} and {group!r} ({first[group].place}) look like one"
            problems.add(
                first[other].where, f"{what}; write one of them everywhere", at=first[other].at
            )


def _check_labels(
    row: Row, known: set[str] | None, problems: Problems, *, is_declared: bool
) -> None:
    labels = row.labels or ()
    if len(set(labels)) < len(labels) or "" in labels:
        what = f"an empty class name or one twice: {' '.join(map(repr, labels))}"
        problems.add(row.where, what, at=row.at)
        return
    for label in labels:
        if is_declared:
            continue
        if what := class_names.fault(label):
            problems.add(row.where, what, at=row.at)
        elif class_names.is_missing(label):
            what = f"the label is {label!r}, as programs write no value; {_MISSING_FIX}"
            problems.add(row.where, what, at=row.at)
        elif known is not None and label not in known:
            what = f"unknown label {label!r}: train has none"
            problems.add(row.where, what, label, known, row.at)


def _check_joined(listed: Rows, problems: Problems) -> None:
    """Note labels that join names of classes by another sign than the one that separates them."""
    first: dict[str, Row] = {}
    for row in listed.rows:
        for label in row.labels or ():
            first.setdefault(label, row)
    signs = _OTHER_SIGNS if listed.multi_label else _SIGN
    parts = {label: _parts(label, signs) for label in first}
    known = Counter(part for names in parts.values() for part in names or ())
    known.update(label for label in first if not parts[label])
    for label, names in parts.items():
        if names and any(known[name] > 1 for name in names):
            what = f"{label!r} may be {len(names)} classes, {' and '.join(map(repr, names))}"
            way = "join them by |" if listed.multi_label else f"say {columns.OPTION} labels=COLUMN"
            where = f"{what}: {way}, or write one class so that it is none of several"
            problems.add(first[label].where, where, at=first[label].at)


def _parts(label: str, signs: re.Pattern[str]) -> tuple[str, ...]:
    """Return the words that a label joins; nothing for one of other signs."""
    bare = label.strip("[]")
    names = tuple(one.strip(" '\"") for one in signs.split(bare))
    are_words = len(names) > 1 and all(len(one) > 1 and one[0].isalpha() for one in names)
    return names if are_words else ()


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
            problems.add(
                first[other].where, f"{what}; write one of them everywhere", at=first[other].at
            )
