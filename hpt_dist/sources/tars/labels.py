"""The labels of samples as numbers of classes, and what the classes are called."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hpt_dist.errors import RequestError, StoreError
from hpt_dist.sources import class_names
from hpt_dist.sources.problems import Problems
from hpt_dist.sources.sample import Label, printable
from hpt_dist.sources.tars.fields import label_field, listed, without_labels
from hpt_dist.sources.tars.places import Places
from hpt_dist.sources.tars.samples import Listing, Unfit, Value

_NUMBER = re.compile(r"([+-]?\d+)(?:\.0*)?")
_NUMBERS = re.compile(r"\d+(?:[\s,;]+\d+)+")
_BESIDE = {"classes", "classnames", "class_names", "labels", "label_names", "id2label"}
_BESIDE |= {"class_to_idx", "idx_to_class"}
_ONE_CLASS_FIX = "add tars of other classes; or read the images without labels: --label none"


@dataclass(frozen=True)
class Labels:
    """The labels of a source.

    Args:
        classes: in the order of their ids; empty without labels.
        of: a label for each sample.
        multi_label: an image has any number of classes.
        notes: how they were understood.
    """

    classes: list[str]
    of: list[Label]
    multi_label: bool
    notes: tuple[str, ...]


def labels_of(
    listing: Listing, places: Places, splits: Sequence[str], wanted: str, classes: Path | None
) -> Labels:
    """Return the labels of all samples, by the field that was named or is plain.

    Args:
        listing: all samples.
        places: the tars.
        splits: of the samples.
        wanted: `--label`: a field, `json:NAME`, `none`, or empty.
        classes: `--classes`: a file with names of classes.

    Raises:
        RequestError: several fields may be the label, the named one is missing, or labels
            contradict each other.
    """
    name = label_field(listing, places, wanted)
    if not name:
        if classes:
            raise RequestError("there are no labels to name", where="--classes", fix="say --label")
        return Labels([], [None] * len(listing.samples), False, (without_labels(listing, wanted),))
    values = [_plain(one.values.get(name)) for one in listing.samples]
    multi_label = any(isinstance(value, tuple) for value in values)
    numbers = _are_numbers(values)
    names, source = _names(places, classes, numbers=numbers)
    allowed, problems = _Allowed(names, numbers), Problems()
    known = allowed.known(values, splits)
    for sample, value, split in zip(listing.samples, values, splits, strict=True):
        if what := allowed.fault(value, split, known):
            problems.add(f"{places.where(sample.tar.path)}: {printable(sample.key)}", what)
    found = names if names is not None else sorted(known, key=_order)
    where = printable(f"{name} of {places.name}")
    class_names.note_alike(found, where, problems)
    problems.refuse(
        f"the labels in {name} of {places.name}",
        "correct the labels; or say which field holds them: --label FIELD, with none for no labels"
        + ("; or name the classes: --classes FILE" if numbers else ""),
    )
    class_names.refuse_single([] if multi_label else found, where, _ONE_CLASS_FIX)
    kind = "whole numbers" if numbers else "names"
    note = f"labels: {kind} in {name}" + (f", with names from {source}" if source else "")
    is_index = numbers and names is not None
    of = _numbered(found, values, splits, is_index=is_index, several=multi_label)
    return Labels(found, of, multi_label, (note,))


def _plain(value: Value | None) -> Value | None:
    """Return a value in the form of class names, None for no label."""
    if isinstance(value, str):
        name = _named(value)
        return None if name in ("", "-1") else name
    return tuple(map(_named, value)) if isinstance(value, tuple) else value


def _named(text: str) -> str:
    """Return the name of a class in its plain form; a whole number as Python writes it."""
    name = class_names.plain(text)
    match = _NUMBER.fullmatch(name)
    return str(int(match[1])) if match else name


def _each(value: Value | None) -> tuple[str, ...]:
    """Return the names of a value's classes."""
    if isinstance(value, tuple):
        return value
    return (value,) if isinstance(value, str) else ()


def _are_numbers(values: Sequence[Value | None]) -> bool:
    names = {name for value in values for name in _each(value)}
    return bool(names) and all(_NUMBER.fullmatch(name) for name in names)


@dataclass(frozen=True)
class _Allowed:
    """What a label may be.

    Args:
        names: of the classes, where a file gives them.
        numbers: the labels are the places of their classes in that order.
    """

    names: list[str] | None
    numbers: bool

    def known(self, values: Sequence[Value | None], splits: Sequence[str]) -> set[str]:
        """Return the names that a label may have: those of train, or of all without train."""
        if self.names is not None:
            return {str(i) for i in range(len(self.names))} if self.numbers else {*self.names}
        pairs = zip(values, splits, strict=True)
        train = {name for value, split in pairs if split == "train" for name in _each(value)}
        return train or {name for value in values for name in _each(value)}

    def fault(self, value: Value | None, split: str, known: set[str]) -> str:
        """Return what is wrong with a label, or an empty text."""
        if isinstance(value, Unfit):
            return f"the label is {value.what}"
        if value is None:
            return "" if split == "unlabeled" else "no label, unlike others"
        for name in _each(value):
            if isinstance(value, str) and _NUMBERS.fullmatch(name):
                return f"the label is several numbers: {name!r}"
            if what := class_names.fault(name):
                return what
            if self.names is None and class_names.is_missing(name):
                return f"the label is {name!r}, as programs write no value"
            if self.numbers and name.startswith("-"):
                return f"the label is {name}, below zero"
            if name not in known:
                which = f"there are {len(self.names):,} classes" if self.names else "train has none"
                return f"unknown label {name!r}: {which}"
        return ""


def _order(name: str) -> tuple[int, int, str]:
    """Order names of classes: numbers by their value, before others."""
    return (0, int(name), name) if _NUMBER.fullmatch(name) else (1, 0, name)


def _numbered(
    classes: Sequence[str],
    values: Sequence[Value | None],
    splits: Sequence[str],
    *,
    is_index: bool,
    several: bool,
) -> list[Label]:
    places = {name: i for i, name in enumerate(classes)}
    found: list[Label] = []
    for value, split in zip(values, splits, strict=True):
        numbers = sorted({int(one) if is_index else places[one] for one in _each(value)})
        if value is None or (not numbers and split == "unlabeled"):
            found.append(None)
        else:
            found.append(tuple(numbers) if several else numbers[0])
    return found


def _names(places: Places, file: Path | None, *, numbers: bool) -> tuple[list[str] | None, str]:
    """Return names of classes from a file, and which; None where there is no file.

    Beside the tars they are looked for where labels are numbers.

    Raises:
        RequestError: the file cannot be read, or there are several.
    """
    if file:
        try:
            content = file.read_bytes()
        except OSError as error:
            raise RequestError(
                f"{file} cannot be read: {error.strerror}", where="--classes"
            ) from error
        return _parsed(content, str(file)), file.name
    beside = [
        name
        for name in places.beside
        if (parts := name.casefold().rpartition("."))[0] in _BESIDE and parts[2] in ("txt", "json")
    ]
    if not numbers or not beside:
        return None, ""
    if len(beside) > 1:
        raise RequestError(
            f"{listed(beside)} may name the classes",
            where=places.where(""),
            fix="say which: --classes FILE",
        )
    try:
        content = places.store.get(beside[0])
    except StoreError as error:
        raise RequestError(error.problem.what, where=places.where(beside[0])) from error
    return _parsed(content, places.where(beside[0])), beside[0]


def _parsed(content: bytes, where: str) -> list[str]:
    """Return names of classes: a line each, a JSON list, `{"0": "name"}` or `{"name": 0}`."""
    try:
        text = content.decode("utf-8-sig")
        found = json.loads(text) if where.casefold().endswith(".json") else text.splitlines()
        if isinstance(found, dict):
            if all(type(one) is int for one in found.values()):
                found = {number: name for name, number in found.items()}
            by_id = {int(number): name for number, name in found.items()}
            found = [by_id[number] for number in range(len(by_id))]
        names = [class_names.plain(one) for one in found]
    except (UnicodeDecodeError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise RequestError(
            "it names no classes",
            where=where,
            allowed='a name in each line; or .json: ["cat", "dog"] or {"0": "cat", "1": "dog"}',
        ) from error
    while names and not names[-1]:
        names.pop()
    problems, first = Problems(), dict[str, int]()
    for line, name in enumerate(names, start=1):
        if what := class_names.fault(name):
            problems.add(f"{where}:{line}", what)
        elif (other := first.setdefault(name, line)) != line:
            problems.add(f"{where}:{line}", f"{name!r} is on line {other} already")
    if not names:
        problems.add(where, "it is empty")
    problems.refuse("the names of the classes", "write one name in each line, in UTF-8")
    return names
