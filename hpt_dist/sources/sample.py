"""A source: a named list of labelled images, each with its split."""

from __future__ import annotations

import errno
import hashlib
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from stat import S_ISREG
from typing import Any, Literal, Protocol

LabelKind = Literal["single", "multi", "boxes", "none"]
BoxKind = Literal["", "boxes", "masks"]
Label = int | tuple[int, ...] | None

# The split names of folders and lists, and what they are called in a dataset.
SPLITS = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "unlabeled": "unlabeled",
    "unlabelled": "unlabeled",
}

METRICS: dict[LabelKind, str] = {"single": "top1", "multi": "auroc", "boxes": "", "none": ""}

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")

HASH_SPLIT_RULE = "70 % train, 15 % val and 15 % test by SHA-256 of each file's path"


@dataclass(frozen=True, slots=True)
class Sample:
    """One image of a source, not yet read.

    Args:
        key: unique in the source; letters, digits, `_` and `-` only.
        split: the split it belongs to.
        label: class id, or the ascending ids of a multi-label image, or None without a label.
        origin: how messages and reports name it.
        version: changes whenever the bytes that `read` returns may have changed.
        size_bytes: approximate size of the encoded image; decides only where a shard ends.
        read: returns the encoded image; it can be pickled.
        annotation: further facts about the image, as JSON: `width` and `height` of the frame,
            pixels, and `objects`, each with `class` (id), `box` [left, top, width, height] in
            pixels of that frame, `crowd` and, where there is one, `segmentation` as COCO writes it.
        boxes: whether the objects are stored to detect them, in pixels of the stored image, and
            with their masks, which all of them have then; empty stores the annotation as it is.
        areas: of the annotation's objects, square pixels of the frame, None where one has none;
            they are only stored with `boxes`, as `area` of each object. Empty for none.
    """

    key: str
    split: str
    label: Label
    origin: str
    version: str
    size_bytes: int
    read: Callable[[], bytes]
    annotation: Mapping[str, Any] | None = None
    boxes: BoxKind = ""
    areas: tuple[float | None, ...] = ()


class Source(Protocol):
    """A named list of samples. Listing them is cheap: images are read later, one at a time."""

    @property
    def name(self) -> str:
        """A short name; never a path of this machine."""

    @property
    def licence(self) -> str:
        """The licence of the images."""

    @property
    def credit(self) -> str:
        """Whom a user of the images must credit."""

    @property
    def rule(self) -> str:
        """How the samples were chosen and split, in words."""

    @property
    def label(self) -> LabelKind:
        """Whether an image has one class, any number of them, objects in boxes, or none."""

    @property
    def metric(self) -> str:
        """The metric of its evaluations: `top1`, `auroc`, or empty without labels and of boxes."""

    @property
    def classes(self) -> list[str]:
        """The class names in the order of their ids; empty without labels."""

    def samples(self) -> Iterable[Sample]:
        """Every sample, always in the same order."""


@dataclass(frozen=True)
class FileSource:
    """A source with a complete list of images, from a folder, a list or an annotation file.

    Args:
        name: see `Source`.
        rule: see `Source`.
        classes: see `Source`.
        files: every sample.
        licence: see `Source`.
        credit: see `Source`.
        multi_label: an image has any number of classes.
        notes: how the files were understood and what was set aside, a line each, for the terminal.
        groups: of images that must share a split, such as those of a patient, by the sample's key.
        boxes: the objects of an image are what is learned: `Sample.boxes` of each labelled one.
    """

    name: str
    rule: str
    classes: list[str]
    files: list[Sample]
    licence: str = "not stated"
    credit: str = "not stated"
    multi_label: bool = False
    notes: tuple[str, ...] = ()
    groups: Mapping[str, str] = field(default_factory=dict)
    boxes: bool = False

    @property
    def label(self) -> LabelKind:
        """Follows from the classes, `multi_label` and `boxes`."""
        if self.boxes:
            return "boxes"
        return ("multi" if self.multi_label else "single") if self.classes else "none"

    @property
    def metric(self) -> str:
        """The metric of the paper for this kind of label (HPT, arXiv 2103.12718, table 5)."""
        return METRICS[self.label]

    def samples(self) -> list[Sample]:
        """Every sample, in the order of the folder or the list."""
        return self.files


def file_sample(
    path: Path,
    relative: str,
    split: str,
    label: Label,
    annotation: Mapping[str, Any] | None = None,
) -> Sample:
    """Describe one image file.

    Args:
        path: the file.
        relative: its path from the source's root with `/`; key and reports come from it.
        split: the split it belongs to.
        label: see `Sample`.
        annotation: see `Sample`.

    A file whose status cannot be read gets a sample too: reading it reports the reason.
    """
    try:
        status = path.stat()
        version, size_bytes = f"{status.st_size} {status.st_mtime_ns}", status.st_size
    except OSError:
        version, size_bytes = "unreadable", 0
    return Sample(
        key=key_of(relative),
        split=split,
        label=label,
        origin=printable(relative),
        version=version,
        size_bytes=size_bytes,
        read=partial(read_file, path),
        annotation=annotation,
    )


def read_file(path: Path) -> bytes:
    """Return the bytes of a regular file; another kind could block the reader for ever.

    Raises:
        OSError: it cannot be read.
    """
    if not S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "not a regular file")
    return path.read_bytes()


def is_file(path: Path) -> bool:
    """Return whether a file is there; there is none of a name that is too long for one."""
    try:
        return path.is_file()
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return False


def printable(text: str) -> str:
    """Return a name or path of a file as UTF-8 without control characters; others are escaped."""
    text = text.encode("utf-8", "backslashreplace").decode()
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def key_of(relative: str) -> str:
    """Return a readable key without dots; its hash part keeps it unique."""
    relative = unicodedata.normalize("NFC", relative)
    readable = re.sub(r"[^A-Za-z0-9_-]+", "_", relative.rpartition(".")[0] or relative)
    return f"{readable[-60:].lstrip('-') or '_'}-{_sha256(relative).hex()[:12]}"


def hash_split(relative: str) -> str:
    """Return the split of a file or a group in a source without splits, by `HASH_SPLIT_RULE`.

    The same for both forms in which systems write accents (NFC and NFD).
    """
    digest = _sha256(unicodedata.normalize("NFC", relative))
    share = int.from_bytes(digest[:8], "big") / 2**64
    return "train" if share < 0.70 else "val" if share < 0.85 else "test"


def _sha256(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
