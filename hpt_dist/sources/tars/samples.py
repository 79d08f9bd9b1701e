"""The members of tars become samples: those of one key, by webdataset's own rules.

`group_by_keys` cuts a name at the first dot after its last slash: what precedes is the key, what
follows the field. Files of one key must follow each other.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from sys import intern
from typing import Any, NamedTuple

from hpt_dist.sources import folder_tree
from hpt_dist.sources.class_names import MAX_CHARACTERS
from hpt_dist.sources.folder_tree import SetAside
from hpt_dist.sources.problems import Problems
from hpt_dist.sources.sample import Label, Sample, key_of, printable
from hpt_dist.sources.tars.members import DamagedTarError, Member, members
from hpt_dist.sources.tars.places import Places
from hpt_dist.store import ObjectInfo, Store

_IMAGES = """
jpg jpeg jpe jfif png webp gif bmp dib tif tiff ppm pgm pbm pnm avif jp2 j2k jpx heic heif
"""
_IMAGE_FIELDS = frozenset(_IMAGES.split())
# Names in a .json that may be its label.
_LABEL_NAMES = (
    *("label", "labels", "label_name", "label_id", "class", "classes", "class_name", "classname"),
    *("class_id", "class_idx", "class_label", "category", "categories", "category_name"),
    *("category_id", "cls", "target", "targets", "target_name", "tags"),
)
_TEXTS = {"cls", "json", "txt"}
_LABEL_WORDS = {"cls", "label", "class", "target", "category"}
_META = re.compile(r"__[^/]*__($|/)")  # webdataset passes over these
_NAMES_SHOWN = 12
_TOLD_EVERY = 500  # samples
_FIX = "pack the files of a sample once, and next to each other: tar --sort=name; remove copies"


class Image(NamedTuple):
    """One image of a sample: its field, and where its bytes are in the tar."""

    field: str
    offset: int
    size_bytes: int


@dataclass(frozen=True)
class Unfit:
    """A value that cannot be a label; `what` says what it is."""

    what: str


Value = str | tuple[str, ...] | Unfit
Progress = Callable[[int, int], None]


class TarSample(NamedTuple):
    """A sample with at least one image.

    Args:
        tar: where it is.
        key: its key in the tar.
        images: one at least.
        values: what may be its label, by `cls`, `txt`, `json:NAME` or another field.
        annotation: its whole .json, where that was asked for.
        split: what its .json says under `split`, or an empty text.
    """

    tar: ObjectInfo
    key: str
    images: tuple[Image, ...]
    values: Mapping[str, Value]
    annotation: Mapping[str, Any] | None
    split: str = ""

    def origin(self, image: Image) -> str:
        """Return how messages name an image."""
        return f"{self.tar.path}/{self.key}.{image.field}"


@dataclass
class Listing:
    """All samples of the tars, and what else is in them.

    Args:
        samples: in the order of the tars.
        fields: how many samples have each field.
        names: how many .json have each name.
        aside: members that are no part of a sample.
    """

    samples: list[TarSample] = field(default_factory=list)
    fields: Counter[str] = field(default_factory=Counter)
    names: Counter[str] = field(default_factory=Counter)
    aside: SetAside = field(default_factory=SetAside)

    def json_names(self) -> str:
        """Return the names in the .json files in words."""
        names = [printable(name) for name, _ in self.names.most_common(_NAMES_SHOWN)]
        return ", ".join(names) + (", ..." if len(self.names) > len(names) else "")


def image_sample(store: Store, one: TarSample, image: Image, split: str, label: Label) -> Sample:
    """Return an image of a tar as a sample, which is read at its place in the tar.

    Args:
        store: where the tar lies.
        one: the sample in the tar.
        image: which of its images.
        split: see `Sample`.
        label: see `Sample`.
    """
    origin, tar = one.origin(image), one.tar
    return Sample(
        key=key_of(origin),
        split=split,
        label=label,
        origin=printable(origin),
        version=f"{tar.etag} {image.offset}",
        size_bytes=image.size_bytes,
        read=partial(store.get, tar.path, image.offset, image.size_bytes, tar.etag),
    )


@dataclass(frozen=True)
class _Part:
    """A member as the value of a field."""

    member: Member


def list_samples(
    places: Places,
    *,
    label: str = "",
    image: str = "",
    annotations: bool = False,
    progress: Progress = lambda _done, _total: None,
) -> Listing:
    """Read the headers of all tars, and their labels.

    Args:
        places: the tars.
        label: the field, or `json:NAME`, that was named as the label.
        image: the field that was named as the image.
        annotations: whether the whole .json is needed.
        progress: called from time to time with the number of samples that are read, and of all, as
            the bytes that are read make one expect.

    Raises:
        RequestError: all damaged tars, and samples that contradict themselves.
        StoreError: the store refused.
    """
    listing, problems = Listing(), Problems()
    reader = _Reader(listing, problems, label.partition(":"), image, annotations)
    total_bytes, before_bytes = sum(info.bytes for info in places.tars), 0
    fixes: dict[str, None] = {}
    for info in places.tars:
        try:
            for at_byte in reader.read(places, info):
                share = (before_bytes + at_byte) / total_bytes
                progress(len(listing.samples), round(len(listing.samples) / share))
        except DamagedTarError as error:
            problems.add(places.where(info.path), str(error))
            fixes[error.fix] = None
        before_bytes += info.bytes
    _note_copies(places, listing, problems)
    problems.refuse(f"the tars of {places.name}", "; ".join(fixes) or _FIX)
    return listing


@dataclass(frozen=True)
class _Reader:
    """Reads tars one after the other into a listing."""

    listing: Listing
    problems: Problems
    label: tuple[str, str, str]
    image: str
    annotations: bool

    def read(self, places: Places, info: ObjectInfo) -> Iterator[int]:
        """Read the samples of a tar; yield the byte that is reached after some of them."""
        from webdataset.tariterators import group_by_keys  # it imports torch

        where = places.where(info.path)
        seen: set[str] = set()

        def note(error: Exception) -> bool:
            name = str(error.args[0]).partition(": duplicate")[0]
            self.problems.add(where, f"{printable(name)} is there twice, in any case of its field")
            return True

        for grouped in group_by_keys(self._files(places, info), handler=note):
            key = grouped["__key__"]
            if key in seen:
                self.problems.add(where, f"the files of {printable(key)} are in two places")
            seen.add(key)
            parts = {k: v.member for k, v in grouped.items() if type(v) is _Part}
            self._add(info, key, parts)
            if parts and len(seen) % _TOLD_EVERY == 0:
                yield max(one.offset + one.size_bytes for one in parts.values())

    def _files(self, places: Places, info: ObjectInfo) -> Iterator[dict[str, Any]]:
        """Yield the files of a tar as `group_by_keys` takes them."""
        from webdataset.tariterators import base_plus_ext

        for member in members(places.store, info, self._is_wanted):
            name = f"{info.path}/{member.name}"
            if member.other:
                if member.other != "folders":
                    self.listing.aside.add(f"{member.other} in the tars", name)
            elif any(folder_tree.is_hidden(part) for part in member.name.split("/")):
                self.listing.aside.add("hidden files in the tars", name)
            elif _META.match(member.name):
                self.listing.aside.add("webdataset's own files in the tars", name)
            elif not base_plus_ext(member.name)[0]:
                self.listing.aside.add("files without a field in their name", name)
            else:
                yield {"fname": member.name, "data": _Part(member), "__url__": info.path}

    def _is_wanted(self, name: str) -> bool:
        """Return whether the content of a member may be a label."""
        from webdataset.tariterators import base_plus_ext

        found = (base_plus_ext(name)[1] or "").lower()
        return _is_text(found) or found == self.label[0]

    def _add(self, info: ObjectInfo, key: str, parts: Mapping[str, Member]) -> None:
        """Add a sample, unless it holds no image."""
        names = [one for one in parts if self._is_image(one)]
        if not names:
            first = next(iter(parts), "")
            self.listing.aside.add("samples without an image", f"{info.path}/{key}.{first}")
            return
        self.listing.fields.update(map(intern, parts))
        images = tuple(Image(intern(n), parts[n].offset, parts[n].size_bytes) for n in names)
        values: dict[str, Value] = {}
        annotation: Mapping[str, Any] | None = None
        split = ""
        for name, member in parts.items():
            if name in names:
                continue
            if name.rpartition(".")[2] == "json":
                found = self._json(f"{info.path}/{member.name}", member)
                annotation = found if self.annotations else annotation
                values.update(self._named(name, found))
                split = str(found["split"]) if isinstance(found.get("split"), str) else split
            elif _is_text(name) or name == self.label[0]:
                values[intern(name)] = _text(member.content)
        self.listing.samples.append(TarSample(info, key, images, values, annotation, intern(split)))

    def _is_image(self, name: str) -> bool:
        return name.rpartition(".")[2] in _IMAGE_FIELDS or is_chosen(name, self.image)

    def _json(self, where: str, member: Member) -> Mapping[str, Any]:
        """Return the object in a .json; nothing where it is none and no label was named in it."""
        try:
            found = json.loads(member.content or b"")
        except (ValueError, RecursionError):
            found = None
        if isinstance(found, dict):
            self.listing.names.update(intern(str(name)[:MAX_CHARACTERS]) for name in found)
            return found
        if self.label[1] or self.annotations:
            self.problems.add(printable(where), "no JSON object")
        else:
            self.listing.aside.add("fields .json that hold no JSON object", where)
        return {}

    def _named(self, name: str, found: Mapping[str, Any]) -> Iterator[tuple[str, Value]]:
        """Yield what may be a label in a .json."""
        chosen = (self.label[2],) if self.label[0] == name else ()
        for one in dict.fromkeys((*_LABEL_NAMES, *chosen)):
            if one in found and (value := _value(found[one])) is not None:
                yield intern(f"{name}:{one}"), value


def _note_copies(places: Places, listing: Listing, problems: Problems) -> None:
    """Note tars that hold the same samples as another one."""
    held: dict[str, list[TarSample]] = {}
    for one in listing.samples:
        held.setdefault(one.tar.path, []).append(one)
    first: dict[int, str] = {}
    for path, those in held.items():
        other = first.setdefault(hash(tuple((one.key, one.images) for one in those)), path)
        if other != path and _content(places, those[0]) == _content(places, held[other][0]):
            problems.add(places.where(path), f"it holds the same samples as {printable(other)}")


def _content(places: Places, one: TarSample) -> bytes:
    image = one.images[0]
    return places.store.get(one.tar.path, image.offset, image.size_bytes, one.tar.etag)


def is_chosen(name: str, chosen: str) -> bool:
    """Return whether a field is one of those that are chosen, as `jpg;png`.

    `left` is also `left.jpg` and `left.png`.
    """
    return not {name, name.rpartition(".")[0]}.isdisjoint(filter(None, chosen.split(";")))


def is_label(name: str) -> bool:
    """Return whether a field is a label by its name: `cls`, `label`, `class.txt`."""
    parts = name.split(".")
    return parts[-1] == "cls" or (
        not _LABEL_WORDS.isdisjoint(parts) and (len(parts) == 1 or parts[-1] == "txt")
    )


def _is_text(name: str) -> bool:
    """Return whether the content of a field is read."""
    return name.rpartition(".")[2] in _TEXTS or is_label(name)


def _text(content: bytes | None) -> Value:
    """Return the text of a field; its beginning, where it is too long for the name of a class."""
    if content is None:
        return Unfit("a file of more than 16 MB")
    try:
        text = content.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        return Unfit("no text in UTF-8")
    return intern(text[: MAX_CHARACTERS + 1])


def _value(value: Any) -> Value | None:
    """Return a value of JSON as a label, or None where it is one of no label."""
    if not isinstance(value, list):
        return _one(value)
    names = list(map(_one, value))
    if all(isinstance(name, str) for name in names):
        return tuple(dict.fromkeys(name for name in names if isinstance(name, str)))
    return Unfit("a list of other things than names and whole numbers")


def _one(value: Any) -> str | Unfit | None:
    """Return one name or whole number as a text, or None for no label."""
    if isinstance(value, float):
        # Not a number is what programs write for an empty cell.
        value = None if math.isnan(value) else int(value) if value.is_integer() else value
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, str | int):
        return Unfit(f"neither a name nor a whole number, but of the type {type(value).__name__}")
    return intern(str(value).strip()[: MAX_CHARACTERS + 1])
