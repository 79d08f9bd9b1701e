"""What a file of weights says of itself before its numbers are read: names, types, shapes.

Nothing here imports torch, or allocates what a header only declares: sizes are compared with the
file's own first.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from hpt_dist.errors import WeightsError
from hpt_dist.page import one_line

MAX_FILE_BYTES = 64 << 30  # twice the largest public backbone, 7 billion numbers of 4 bytes
_MAX_HEADER_BYTES = 32 << 20  # a hundred thousand entries
_MAX_ENTRIES = 100_000
_MAX_NAME = 1000  # letters
# An archive of weights is hardly smaller than what it holds; one of zeros is a thousandfold.
_MAX_RATIO = 50
_FREE_BYTES = 64 << 20  # an archive may unpack to so much, whatever its own size

# The bytes of one number of each type of safetensors, and numpy's or torch's name of the type.
_TYPES = {
    "BOOL": (1, "bool"),
    "U8": (1, "uint8"),
    "I8": (1, "int8"),
    "F8_E4M3": (1, "float8_e4m3fn"),
    "F8_E5M2": (1, "float8_e5m2"),
    "U16": (2, "uint16"),
    "I16": (2, "int16"),
    "F16": (2, "float16"),
    "BF16": (2, "bfloat16"),
    "U32": (4, "uint32"),
    "I32": (4, "int32"),
    "F32": (4, "float32"),
    "U64": (8, "uint64"),
    "I64": (8, "int64"),
    "F64": (8, "float64"),
    "C64": (8, "complex64"),
}
_OTHER_FILES = (
    (b"version https://git-lfs", "a pointer of Git LFS, not the weights", "git lfs pull"),
    (b"<!doctype", "a web page, not the weights", "download the file itself"),
    (b"<html", "a web page, not the weights", "download the file itself"),
    (b"<?xml", "an XML document, not the weights", "download the file itself"),
    (b"\x1f\x8b", "packed with gzip", "unpack it with gunzip"),
)
_RENAME = "give its name the suffix of its format: "


@dataclass(frozen=True)
class Entry:
    """What is known of an entry without its numbers.

    Args:
        shape: of the tensor.
        dtype: torch's name of its type, such as `float32`; or why it holds no plain numbers,
            such as `sparse`.
    """

    shape: tuple[int, ...]
    dtype: str


def check_names(names: Iterable[str]) -> None:
    """Refuse names that no network has.

    Raises:
        WeightsError: there are too many, or one is too long.
    """
    for count, name in enumerate(names, 1):
        if count > _MAX_ENTRIES:
            raise WeightsError(f"this holds more than {_MAX_ENTRIES:,} entries")
        if len(name) > _MAX_NAME:
            raise WeightsError(
                f"the name of an entry has {len(name):,} letters: {one_line(name, 40)}"
            )


def check_start(start: bytes, size: int, name: str) -> None:
    """Refuse a file that is plainly something else.

    Args:
        start: its first bytes, some hundred.
        size: of the file, bytes.
        name: of the file; its suffix determines the format.

    Raises:
        WeightsError: it is empty, too large, a web page, a pointer of Git LFS, packed, or of
            another format than its suffix says.
    """
    if not size:
        raise WeightsError("this file is empty", fix="copy it again")
    if size > MAX_FILE_BYTES:
        raise WeightsError(
            f"this file has {size:,} bytes", allowed=f"at most {MAX_FILE_BYTES:,} bytes"
        )
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for beginning, what, fix in _OTHER_FILES:
        if text.startswith(beginning):
            raise WeightsError(f"this is {what}", fix=fix)
    is_named = name.endswith(".safetensors")
    begins_so = int.from_bytes(start[:8], "little") <= size - 8 and start[8:9] == b"{"
    if is_named and not begins_so and start.startswith((b"PK", b"\x80")):
        raise WeightsError("this is a file of torch or numpy, not safetensors", fix=_RENAME + ".pt")
    if begins_so and not is_named:
        raise WeightsError(
            "this is a safetensors file by its content", fix=_RENAME + ".safetensors"
        )


def listed(file: BinaryIO, name: str, size: int) -> dict[str, Entry] | None:
    """Return the entries of a file, or None if only torch can tell them.

    Args:
        file: at its start.
        name: of the file; its suffix determines the format.
        size: of the file, bytes.

    Raises:
        WeightsError: it is damaged, or something else.
    """
    check_start(file.read(512), size, name)
    file.seek(0)
    if name.endswith(".safetensors"):
        return safetensors_entries(file, size)
    if name.endswith(".npz"):
        return {name: array.entry for name, array in npz_arrays(file).items()}
    if file.read(2) == b"PK":
        check_torch_archive(file)
    return None


def safetensors_entries(file: BinaryIO, size: int) -> dict[str, Entry]:
    """Return the entries of a safetensors file, whose numbers lie one after the other.

    Raises:
        WeightsError: its header is damaged, or does not describe the file.
    """
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > size - 8:
        raise _cut("its header is cut off")
    if length > _MAX_HEADER_BYTES:
        raise _cut(f"its header has {length:,} bytes, of {_MAX_HEADER_BYTES:,} at most")
    try:
        header = json.loads(file.read(length), object_pairs_hook=_without_twins)
    except (ValueError, RecursionError) as error:
        raise _cut(f"its header is no JSON: {one_line(str(error))}") from error
    if not isinstance(header, dict):
        raise _cut("its header is no JSON object")
    header.pop("__metadata__", None)
    check_names(header)
    entries, parts = {}, []
    for name, value in header.items():
        entries[name], start, end = _described(name, value)
        parts.append((start, end, name))
    at = 0
    for start, end, name in sorted(parts):
        if start != at:
            raise _cut(f"{one_line(name)} does not begin where the entry before it ends")
        at = end
    if at != size - 8 - length:
        raise _cut(
            f"its entries have {at:,} bytes, and the file has {size - 8 - length:,} for them"
        )
    return entries


def _described(name: str, value: object) -> tuple[Entry, int, int]:
    """Return an entry of a safetensors header, and where its bytes begin and end."""
    match value:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [int(start), int(end)]}:
            whole = all(type(n) is int and n >= 0 for n in (*shape, start, end))
            if dtype not in _TYPES:
                raise _cut(f"{one_line(name)} has the unknown type {one_line(dtype, 20)}")
            each, own_name = _TYPES[dtype]
            if whole and len(shape) <= 32 and end - start == each * math.prod(shape):
                return Entry(tuple(shape), own_name), start, end
    raise _cut(f"its header says nothing sensible of {one_line(name)}")


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in found if names.count(name) > 1)
        raise _cut(f"{one_line(twice)} is there twice")
    return found


def _cut(what: str) -> WeightsError:
    return WeightsError(f"this is no complete safetensors file: {what}", fix="copy it again")


# Archives: npz files, and torch's own.


@dataclass(frozen=True)
class Array:
    """An array of an npz archive.

    Args:
        member: its file in the archive.
        entry: its shape and type, as torch has it.
        axes: how its dimensions are turned to give that shape; None where they are not, and the
            shape is that of a reshaped array.
    """

    member: str
    entry: Entry
    axes: tuple[int, ...] | None = None


def check_torch_archive(file: BinaryIO) -> None:
    """Refuse a zip archive of torch's, which torch unpacks as a whole, if that is far too large.

    Raises:
        WeightsError: it unpacks to far more than it is, or it is cut off.
    """
    size = file.seek(0, 2)
    unpacked = sum(member.file_size for member in _opened(file).infolist())
    if unpacked > max(_FREE_BYTES, _MAX_RATIO * size):
        raise WeightsError(
            f"this archive of {size:,} bytes unpacks to {unpacked:,} bytes",
            allowed=f"at most {_MAX_RATIO} times its size",
            fix="write it again without compression: torch.save(state_dict, path)",
        )


def _opened(file: BinaryIO) -> zipfile.ZipFile:
    """Open a zip archive whose directory is sound."""
    file.seek(0)
    try:
        archive = zipfile.ZipFile(file)
        members = archive.infolist()
    # damaged bytes can raise almost anything
    except Exception as error:
        raise WeightsError(
            f"this archive is cut off or damaged ({type(error).__name__})", fix="copy it again"
        ) from error
    names = [member.filename for member in members]
    check_names(names)
    if len(set(names)) < len(names):
        raise WeightsError("this archive holds a member twice")
    return archive


def npz_arrays(file: BinaryIO) -> dict[str, Array]:
    """Return the arrays of an npz archive by name; of each, only its header is read.

    Haiku's are named and turned as torch has them, see `_haiku_arrays`.

    Raises:
        WeightsError: the archive is damaged, or holds what is no array of numbers.
    """
    file.seek(0)
    if file.read(6) == np.lib.format.MAGIC_PREFIX:
        raise WeightsError("this is a single array, not an npz archive", fix="use np.savez")
    try:
        archive = _opened(file)
    except WeightsError as error:
        what = f"this is no complete npz file: {error.problem.what}"
        raise WeightsError(what, fix=error.problem.fix) from error
    arrays: dict[str, Array] = {}
    for member in archive.infolist():
        name = member.filename.removesuffix(".npy")
        if name in arrays:
            raise WeightsError(f"this archive holds {one_line(name)} twice")
        arrays[name] = Array(member.filename, _array_entry(archive, member))
    return _haiku_arrays(arrays) if any("/~/" in name for name in arrays) else arrays


def _array_entry(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Entry:
    """Read the header of an array."""
    name = one_line(member.filename)
    try:
        with archive.open(member) as stream:
            version = np.lib.format.read_magic(stream)
            read = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }[version]
            shape, _, dtype = read(stream)
            begins = stream.tell()
    # damaged bytes can raise almost anything
    except Exception as error:
        raise WeightsError(
            f"{name} in this npz file cannot be read: {one_line(str(error))}",
            fix="write arrays of plain numbers: np.savez(path, **{name: np.asarray(value)})",
        ) from error
    if dtype.kind not in "biufc":
        raise WeightsError(
            f"this npz file cannot be read: {name} holds {one_line(str(dtype))}, no plain numbers",
            fix="write arrays of plain numbers: np.savez(path, **{name: np.asarray(value)})",
        )
    if any(n < 0 for n in shape) or begins + dtype.itemsize * math.prod(shape) != member.file_size:
        raise WeightsError(
            f"this is no complete npz file: {name} declares the shape {list(shape)}, and has "
            f"{member.file_size - begins:,} bytes",
            fix="copy it again",
        )
    return Entry(tuple(shape), dtype.newbyteorder("=").name)


def _haiku_arrays(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Give haiku's parameters dotted names and torch's order of dimensions.

    A convolution's `w` is [height, width, in, out] there and [out, in, height, width] here; a
    linear layer's is turned too. A norm's values are [1, 1, 1, channels]. Its averages keep
    `average`, which evaluation reads, and drop `hidden` and `counter`, from which it is computed.
    """
    found = {}
    for name, array in arrays.items():
        *module, last = name.replace("/~/", "/").split("/")
        if last in ("hidden", "counter"):
            continue
        shape, axes = array.entry.shape, None
        if last == "w":
            axes = (3, 2, 0, 1) if len(shape) == 4 else tuple(range(len(shape)))[::-1]
            shape = tuple(shape[axis] for axis in axes)
        else:
            shape = (math.prod(shape),)
        entry = Entry(shape, array.entry.dtype)
        found[".".join([*module, last])] = Array(array.member, entry, axes)
    return found
