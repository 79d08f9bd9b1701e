"""What a tar of a dataset holds, compared with its index."""

from __future__ import annotations

import io
import json
import tarfile
import zlib
from collections.abc import Callable, Iterator

import numpy as np

from hpt_dist.datasets.manifest import NO_LABEL, Index
from hpt_dist.errors import DataError, HptError
from hpt_dist.images.boxes import Boxes
from hpt_dist.page import one_line

Label = int | tuple[int, ...]
_Named = Callable[[str], str]


def member_problems(
    file: io.BufferedIOBase, size_bytes: int, index: Index, classes: int, named: _Named
) -> Iterator[str]:
    """Yield each difference between a tar and its index, in words.

    Args:
        file: the tar, which is read once, front to back.
        size_bytes: of the tar.
        index: of the shard.
        classes: how many classes the dataset has.
        named: adds its file to a key.

    Raises:
        StoreError: the store refused.
    """
    rows = {key: row for row, key in enumerate(index.keys)}
    seen: set[str] = set()
    labelled: set[str] = set()
    try:
        with tarfile.open(fileobj=file, mode="r|") as archive:
            for member in _members(archive, size_bytes):
                key, _, extension = member.name.partition(".")
                row = rows.get(key)
                if row is None or extension not in (index.extensions[row], "cls", "json"):
                    yield f"{one_line(member.name)} belongs to no image of the index"
                elif not member.isreg() or member.sparse is not None:
                    yield f"{member.name} is no plain file"
                elif member.name in seen:
                    yield f"{member.name} is in it twice"
                elif extension == index.extensions[row]:
                    yield from _image_problems(archive, member, index, row, named)
                elif index.boxes:
                    labelled.add(key)
                    yield from _box_problems(archive, member, index, row, classes, named)
                else:
                    yield from _label_problems(archive, member, index.labels[row], labelled)
                seen.add(member.name)
    except HptError:  # the store refused
        raise
    except Exception as error:  # noqa: BLE001 - tarfile raises almost anything on strange headers
        yield f"not a sound tar: {str(error) or type(error).__name__}"
    yield from _missing(index, seen, labelled, named)


def _members(archive: tarfile.TarFile, size_bytes: int) -> Iterator[tarfile.TarInfo]:
    """Yield the members of a tar of so many bytes.

    Raises:
        tarfile.TarError: one ends behind the tar; tarfile would search there for hours.
    """
    for member in archive:
        archive.members = []  # type: ignore[attr-defined]  # or they would all be kept
        if not 0 <= member.size <= size_bytes - member.offset_data:
            raise tarfile.ReadError(f"{one_line(member.name)} does not end in it")
        yield member


def _missing(index: Index, seen: set[str], labelled: set[str], named: _Named) -> Iterator[str]:
    for key, extension, label in zip(index.keys, index.extensions, index.labels, strict=True):
        if f"{key}.{extension}" not in seen:
            yield f"the image {named(key)} of the index is not in it"
        elif label != NO_LABEL and key not in labelled:
            yield f"{key} has label {label} in the index and none in the tar"


def _image_problems(
    archive: tarfile.TarFile, member: tarfile.TarInfo, index: Index, row: int, named: _Named
) -> Iterator[str]:
    key = index.keys[row]
    if (member.offset_data, member.size) != (index.offsets[row], index.lengths[row]):
        yield f"the image {named(key)} is not where the index says"
    elif zlib.crc32(_data(archive, member)) != index.crc32s[row]:
        yield f"the image {named(key)} is damaged: its CRC-32 differs from that in the index"


def _box_problems(
    archive: tarfile.TarFile,
    member: tarfile.TarInfo,
    index: Index,
    row: int,
    classes: int,
    named: _Named,
) -> Iterator[str]:
    """Compare the boxes in KEY.json with the index."""
    key, label = index.keys[row], index.labels[row]
    if label == NO_LABEL:
        yield f"{member.name} says boxes of an image that has no label in the index"
        return
    start, length, crc32 = index.place_of_boxes(row)
    data = _data(archive, member)
    if (member.offset_data, member.size) != (start, length):
        yield f"{member.name} is not where the index says"
    elif zlib.crc32(data) != crc32:
        yield f"the boxes of {named(key)} are damaged: their CRC-32 differs from that in the index"
    else:
        size = index.boxes[row][1], index.boxes[row][0]
        yield from _wrong_boxes(data, f"the boxes of {named(key)}", size, label, classes)


def _wrong_boxes(
    data: bytes, what: str, size: tuple[int, int], label: Label, classes: int
) -> Iterator[str]:
    try:
        found = Boxes.from_json(json.loads(data), what)
    except (ValueError, RecursionError):
        yield f"{what} are no JSON"
    except DataError as error:
        yield str(error.problem)
    else:
        if found.size != size:
            yield f"{what} are of height and width {found.size}; the index {size}"
        if found.present != label:
            yield f"{what} say label {found.present}; the index {label}"
        for number in np.flatnonzero(found.labels >= classes).tolist()[:1]:
            yield f"{what}: objects[{number}] is of a class {found.labels[number]}, of {classes}"


def _label_problems(
    archive: tarfile.TarFile, member: tarfile.TarInfo, label: Label, labelled: set[str]
) -> Iterator[str]:
    """Compare KEY.cls or KEY.json with the index; add the key to `labelled` if it has a label."""
    key, _, extension = member.name.partition(".")
    written = _label_in(_data(archive, member), extension)
    if extension == "cls" or written is not None:
        labelled.add(key)
        if written != label:
            yield f"{member.name} says label {one_line(str(written))}; the index {label}"


def _label_in(data: bytes, extension: str) -> Label | None:
    """Return the label in KEY.cls or KEY.json, None where an annotation has none."""
    try:
        if extension == "cls":
            return int(data)
        labels = json.loads(data).get("labels")
    except (ValueError, AttributeError, RecursionError):
        return NO_LABEL  # the content is no label
    if labels is None:
        return None
    sound = isinstance(labels, list) and all(type(one) is int for one in labels)
    return tuple(labels) if sound else NO_LABEL


def _data(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    return file.read() if file else b""
