"""Files that are no source: what to do with each, in words."""

from __future__ import annotations

import itertools
import lzma
import shlex
import tarfile
import zlib
from pathlib import Path

from hpt_dist.sources.sample import printable

# What stands for the dataset to write in the commands here; see `for_destination`.
DESTINATION = "DEST"
_SHARD = "hpt-dist shard"
_TAR = "mkdir -p {folder} && tar -xf {archive} -C {folder}"
_UNPACKERS = {
    ".zip": "unzip -q {archive} -d {folder}",
    ".tgz": _TAR,
    ".tar.gz": _TAR,
    ".tar.bz2": _TAR,
    ".tar.xz": _TAR,
    ".tar.zst": _TAR,
    ".7z": "7z x {archive} -o{folder}",
    ".rar": "mkdir -p {folder} && unrar x {archive} {folder}/",
}
# Of a compressed tar of samples: the plain tar is read as it is.
_DECOMPRESSORS = {
    ".tgz": "gunzip -k",
    ".tar.gz": "gunzip -k",
    ".tar.bz2": "bunzip2 -k",
    ".tar.xz": "unxz -k",
}
_IMAGES = (".jpg", ".jpeg", ".png", ".webp")
_LABELS = (".cls", ".json", ".txt")  # of a sample, beside its image
_MEMBERS_READ = 64
_UNREADABLE = (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError)
_ARROW = ".arrow"
_TABLE = "save the sheet as .csv"
_YOLO = "name the folder; labels of YOLO are converted to COCO first, as FiftyOne and CVAT do"
_WAYS = {
    ".xlsx": _TABLE,
    ".xls": _TABLE,
    ".ods": _TABLE,
    ".txt": "call it .csv, with a first line of the names of its columns: path, or path,label",
    ".yaml": _YOLO,
    ".yml": _YOLO,
    ".xml": "name the folder that holds Annotations/ and JPEGImages/",
    _ARROW: "write it as Parquet: datasets.load_from_disk(FOLDER).to_parquet(FILE)",
}


def is_archive(name: str) -> bool:
    """Return whether a file is an archive by its name."""
    return bool(_archive_suffix(name))


def holds_files(name: str) -> bool:
    """Return whether a file may hold all images of a folder by its name."""
    return is_archive(name) or name.casefold().endswith(_ARROW)


def way(file: Path) -> str:
    """Return what to do with a file that is not read, or an empty text."""
    if suffix := _archive_suffix(file.name):
        return _unpack(file, suffix)
    return _WAYS.get(file.suffix.casefold(), "")


def for_destination(fix: str, destination: str) -> str:
    """Return what to do with the dataset to write in its command, so that it can be pasted."""
    return fix.replace(f" {DESTINATION}", f" {shlex.quote(destination)}")


def for_verb(fix: str, verb: str) -> str:
    """Return what to do in the words of a command that takes images and names no dataset."""
    return fix.replace(_SHARD, f"hpt-dist {verb}").replace(f" {DESTINATION}", "")


def _unpack(archive: Path, suffix: str) -> str:
    folder = archive.with_name(archive.name[: -len(suffix)] or "images")
    packed, unpacked = (shlex.quote(printable(str(path))) for path in (archive, folder))
    if suffix in _DECOMPRESSORS and _holds_samples(archive):
        plain = shlex.quote(printable(f"{folder}.tar"))
        way = f"{_DECOMPRESSORS[suffix]} {packed} && {_SHARD} {plain} {DESTINATION}"
        return f"it holds samples, which are read from a plain tar: {way}"
    way = _UNPACKERS[suffix].format(archive=packed, folder=unpacked)
    return f"unpack it, and name the folder: {way} && {_SHARD} {unpacked} {DESTINATION}"


def _holds_samples(archive: Path) -> bool:
    """Return whether a compressed tar begins as one of webdataset: a label beside an image."""
    try:
        with tarfile.open(archive, "r|*") as members:
            names = [one.name for one in itertools.islice(members, _MEMBERS_READ) if one.isfile()]
    except _UNREADABLE:
        return False
    suffixes: dict[str, set[str]] = {}
    for name in names:
        parent, slash, base = name.rpartition("/")
        stem, _, field = base.partition(".")
        suffixes.setdefault(parent + slash + stem, set()).add(f".{field.casefold()}")
    return any(
        any(one.endswith(_IMAGES) for one in found) and any(one.endswith(_LABELS) for one in found)
        for found in suffixes.values()
    )


def _archive_suffix(name: str) -> str:
    folded = name.casefold()
    return next((suffix for suffix in _UNPACKERS if folded.endswith(suffix)), "")
