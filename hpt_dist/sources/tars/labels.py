"""Which member of a sample is its image and which its label, and what the labels are called."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hpt_dist.errors import RequestError, StoreError
from hpt_dist.sources import class_names
from hpt_dist.sources.problems import Problems
from hpt_dist.sources.sample import Label, printable
from hpt_dist.sources.split_names import split_of, split_within
from hpt_dist.sources.tars.places import Places
from hpt_dist.sources.tars.samples import (
    MAX_LABEL_CHARACTERS,
    Image,
    Listing,
    TarSample,
    Unfit,
    Value,
    is_label,
)

NONE = "none"
_NUMBER = re.compile(r"[+-]?\d+")
_NUMBERS = re.compile(r"\d+(?:[\s,;]+\d+)+")
_BESIDE = {"classes", "classnames", "class_names", "labels", "label_names"}
_ONE_CLASS_FIX = "add tars of other classes; or read the images without labels: --label none"
# Parts of a name in a .json under which labels may be meant.
_WORDS = {"label", "class", "category", "species", "breed", "diagnosis", "dx", "finding", "truth"}
_SHOWN = 8


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


def images_of(listing: Listing, places: Places, chosen: str) -> list[Image]:
    """Return the image of each sample.

    Args:
        listing: all samples.
        places: the tars.
        chosen: its field, where samples have several; `left` also for `left.jpg` or `left.png`.

    Raises:
        RequestError: samples have several images and none is chosen, or lack the chosen one.
    """
    fields = {image.field: None for one in listing.samples for image in one.images}
    problems = Problems()
    picked = []
    for one in listing.samples:
        fit = [i for i in one.images if chosen in ("", i.field, i.field.rpartition(".")[0])]
        if len(fit) > 1 or (not fit and len(one.images) > 1):
            _ask_for_image(one, fields, places, chosen)
        if not fit:
            problems.add(places.where(one.tar.path), f"{printable(one.key)} has no {chosen}")
        picked += fit or [one.images[0]]
    problems.refuse(f"the samples of {places.name}", f"say --image with one of {_listed(fields)}")
    return picked


def _ask_for_image(
    sample: TarSample, fields: Mapping[str, None], places: Places, chosen: str
) -> None:
    held = ", ".join(printable(one.field) for one in sample.images[:_SHOWN])
    fix = f"say which is meant: --image {printable(sample.images[0].field)}"
    if any("." in one.field for one in sample.images):
        fix += (
            "; or, where each of these files is a sample of its own, give their names one dot only "
            "and pack them again: webdataset cuts names at the first dot"
        )
    raise RequestError(
        f"the sample {printable(sample.key)} has {len(sample.images)} images: {held}",
        where=places.where(sample.tar.path) if not chosen else f"--image {chosen}",
        allowed=f"one of {_listed(fields)}",
        fix=fix,
    )


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
    name = _field(listing, places, wanted)
    if not name:
        if classes:
            raise RequestError("there are no labels to name", where="--classes", fix="say --label")
        return Labels([], [None] * len(listing.samples), False, (_without(listing, wanted),))
    values = [_plain(one.values.get(name)) for one in listing.samples]
    multi_label = any(isinstance(value, tuple) for value in values)
    numbers = _are_numbers(values)
    names, source = _names(places, classes, numbers=numbers)
    ids, problems = _Ids(names, numbers), Problems()
    known = ids.known(values, splits)
    for sample, value, split in zip(listing.samples, values, splits, strict=True):
        if what := ids.fault(value, split, known):
            problems.add(f"{places.where(sample.tar.path)}: {printable(sample.key)}", what)
    problems.refuse(
        f"the labels in {name} of {places.name}",
        "correct the labels; or say which field holds them: --label FIELD, with none for no labels"
        + ("; or name the classes: --classes FILE" if numbers else ""),
    )
    where = printable(f"{name} of {places.name}")
    found = names if names is not None else sorted(known, key=_order)
    class_names.refuse_alike(found, where)
    class_names.refuse_single([] if multi_label else found, where, _ONE_CLASS_FIX)
    kind = "whole numbers" if numbers else "names"
    note = f"labels: {kind} in {name}" + (f", with names from {source}" if source else "")
    is_index = numbers and names is not None
    of = _numbered(found, values, splits, is_index=is_index, several=multi_label)
    return Labels(found, of, multi_label, (note,))


def _field(listing: Listing, places: Places, wanted: str) -> str:
    """Return the name of the values that are labels; empty for none."""
    if wanted == NONE:
        return ""
    counts = Counter(
        name for one in listing.samples for name, value in one.values.items() if value != ""
    )
    where = places.store.uri
    if wanted:
        if wanted not in counts:
            names = f"; a .json holds {listing.json_names()}" if listing.names else ""
            what = f"no sample has a label in {wanted!r}; the fields are "
            raise RequestError(
                f"{what}{_listed(listing.fields)}{names}",
                where="--label",
                allowed="cls, txt or another field; json:NAME; none",
            )
        return wanted
    plain = [
        name for name in counts if is_label(name) or (":" in name and not _is_unfit(listing, name))
    ]
    if len(plain) > 1 and not _agree(listing, plain):
        raise _undecided(f"{_listed(plain)} may hold the label", where, plain)
    if plain:
        return min(plain, key=lambda name: (":" in name, name))
    if doubtful := [name for name in listing.names if _WORDS & set(re.split(r"[\W_]+", name))]:
        asked = [f"json:{name}" for name in doubtful]
        raise _undecided(f"{_listed(asked)} may hold the label", where, asked)
    for name in counts:
        if _repeats([one.values.get(name) for one in listing.samples]):
            what = f"the texts in {name} repeat each other: they may be names of classes"
            raise _undecided(what, where, [name])
    _refuse_classes_by_name(listing, places)
    return ""


def _refuse_classes_by_name(listing: Listing, places: Places) -> None:
    """Raise where the names of tars, or of the folders in them, may be classes.

    Tars of one set differ by their numbers only; ImageNet's are one for each class.
    """
    folders = {
        "/".join(part for part in one.key.split("/")[:-1] if not split_of(part))
        for one in listing.samples
    }
    stems = {tar.path: tar.path.rpartition("/")[2].partition(".")[0] for tar in places.tars}
    kinds = {re.sub(r"\d+", "", stem) for stem in stems.values() if not split_within(stem)}
    own = all(one.key.startswith(f"{stems[one.tar.path]}_") for one in listing.samples)
    what = ""
    if len(folders) > 1:
        what = f"the names in the tars lie in {len(folders):,} folders ({_listed(sorted(folders))})"
    elif len(kinds) > 1 or (own and len(stems) > 1):
        what = (
            f"the {len(stems):,} tars have names of their own ({_listed(sorted(stems.values()))})"
        )
    if what:
        raise RequestError(
            f"there are no labels, but {what}: these may be classes",
            where=printable(places.store.uri),
            fix="if they are, unpack the tars into a folder for each class, and name the folder of "
            f"these; if they are not: --label {NONE}",
        )


def _undecided(what: str, where: str, names: Sequence[str]) -> RequestError:
    options = " or ".join(f"--label {name}" for name in [*names, NONE])
    return RequestError(what, where=printable(where), fix=f"say which is meant: {options}")


def _suffix(name: str, suffix: str) -> bool:
    return name.rpartition(".")[2] == suffix


def _is_unfit(listing: Listing, name: str) -> bool:
    """Return whether a name in a .json never holds what can be a label."""
    return all(isinstance(one.values.get(name, Unfit("")), Unfit) for one in listing.samples)


def _agree(listing: Listing, names: Sequence[str]) -> bool:
    """Return whether all of these values are the same in each sample."""
    return all(len({one.values.get(name) for name in names}) == 1 for one in listing.samples)


def _repeats(values: Sequence[Value | None]) -> bool:
    """Return whether texts are so few and short that they may be names of classes."""
    found = Counter(one for one in values if isinstance(one, str) and one)
    return 1 < len(found) <= found.total() // 2 and max(map(len, found)) <= MAX_LABEL_CHARACTERS


def _without(listing: Listing, wanted: str) -> str:
    """Say why there are no labels, and what might be one."""
    if wanted == NONE:
        return "labels: none, by --label none"
    texts = sorted(name for name in listing.fields if _suffix(name, "txt"))
    held = [f"{name} is read as text beside the image (--label {name} reads it)" for name in texts]
    if listing.names:
        held.append(
            f"json holds {listing.json_names()}, of which none is read (--label json:NAME reads it)"
        )
    return "; ".join(["labels: none", *held])


def _plain(value: Value | None) -> Value | None:
    """Return a value in the form of class names, None for no label."""
    if isinstance(value, str):
        name = class_names.plain(value)
        return None if name in ("", "-1") else str(int(name)) if _NUMBER.fullmatch(name) else name
    if isinstance(value, tuple):
        names = (class_names.plain(one) for one in value)
        return tuple(str(int(one)) if _NUMBER.fullmatch(one) else one for one in names)
    return value


def _each(value: Value | None) -> tuple[str, ...]:
    """Return the names of a value's classes."""
    if isinstance(value, tuple):
        return value
    return (value,) if isinstance(value, str) else ()


def _are_numbers(values: Sequence[Value | None]) -> bool:
    names = {name for value in values for name in _each(value)}
    return bool(names) and all(_NUMBER.fullmatch(name) for name in names)


@dataclass(frozen=True)
class _Ids:
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
            f"{_listed(beside)} may name the classes",
            where=places.where(""),
            fix="say which: --classes FILE",
        )
    try:
        content = places.store.get(beside[0])
    except StoreError as error:
        raise RequestError(error.problem.what, where=places.where(beside[0])) from error
    return _parsed(content, places.where(beside[0])), beside[0]


def _parsed(content: bytes, where: str) -> list[str]:
    """Return names of classes: a line each, or a JSON list, or `{"0": "name"}`."""
    try:
        text = content.decode("utf-8-sig")
        found = json.loads(text) if where.casefold().endswith(".json") else text.splitlines()
        if isinstance(found, dict):
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
    problems = Problems()
    for line, name in enumerate(names, start=1):
        if what := class_names.fault(name):
            problems.add(f"{where}:{line}", what)
    if not names:
        problems.add(where, "it is empty")
    problems.refuse("the names of the classes", "write one name in each line, in UTF-8")
    return names


def _listed(names: Sequence[str] | Mapping[str, object]) -> str:
    shown = [printable(name) or "no folder" for name in list(names)[:_SHOWN]]
    more = f" and {len(names) - len(shown):,} more" if len(names) > len(shown) else ""
    return ", ".join(shown) + more
