"""Files that are no source: what to do with each, in words."""

from __future__ import annotations

import shlex
from pathlib import Path

from hpt_dist.sources.sample import printable

_TAR = "mkdir {folder} && tar -xf {archive} -C {folder}"
_UNPACKERS = {
    ".zip": "unzip -q {archive} -d {folder}",
    ".tgz": _TAR,
    ".tar.gz": _TAR,
    ".tar.bz2": _TAR,
    ".tar.xz": _TAR,
    ".tar.zst": _TAR,
    ".7z": "7z x {archive} -o{folder}",
    ".rar": "mkdir {folder} && unrar x {archive} {folder}/",
}
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


def _unpack(archive: Path, suffix: str) -> str:
    folder = archive.with_name(archive.name[: -len(suffix)] or "images")
    quoted = {
        "archive": shlex.quote(printable(str(archive))),
        "folder": shlex.quote(printable(str(folder))),
    }
    unpack = _UNPACKERS[suffix].format(**quoted)
    return f"unpack it, and name the folder: {unpack} && hpt-dist shard {quoted['folder']} DEST"


def _archive_suffix(name: str) -> str:
    folded = name.casefold()
    return next((suffix for suffix in _UNPACKERS if folded.endswith(suffix)), "")
