"""What lies below a folder: its files, without the litter that systems and programs leave there."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from hpt_dist.errors import RequestError
from hpt_dist.sources.sample import printable

Identity = tuple[int, int]  # device and inode

# Folders and files by their names in small letters, with what they are.
_LITTER_FOLDERS = {
    "@eadir": "thumbnails",
    ".thumbnails": "thumbnails",
    ".thumb": "thumbnails",
    "@__thumb": "thumbnails",
    "_thumbs": "thumbnails",
    ".picasaoriginals": "copies of a photo program",
    "__macosx": "macOS's copies",
    ".appledouble": "macOS's copies",
    "$recycle.bin": "deleted files",
    "recycler": "deleted files",
    "@recycle": "deleted files",
    "#recycle": "deleted files",
    "#snapshot": "copies of a file server",
    "@recently-snapshot": "copies of a file server",
    "system volume information": "files of the system",
    "lost+found": "files of the system",
    ".ipynb_checkpoints": "copies of a notebook",
    "__pycache__": "files of programs",
}
_LITTER_FILES = {
    "thumbs.db": "thumbnails",
    "ehthumbs.db": "thumbnails",
    "ehthumbs_vista.db": "thumbnails",
    "picasa.ini": "files of programs",
    "desktop.ini": "files of the system",
    "icon\r": "files of the system",
}
_LITTER_BEGINNINGS = ("synofile_thumb_", "synophoto_thumb_")
_HIDDEN = "hidden files"
# Files of other names may be images, also those without a suffix.
_NO_IMAGES = {
    "texts": "txt text md rst log html htm readme nfo",
    "documents": "pdf rtf doc docx odt ppt pptx odp bib cff tex",
    "tables and lists": "csv tsv xls xlsx ods json jsonl ndjson xml yaml yml toml sql parquet",
    "files beside photos": "xmp aae thm pp3 dop cos on1 lrcat lrprev ini cfg",
    "videos": "mp4 m4v mov avi mkv webm mpg mpeg wmv 3gp flv mts m2ts lrv insv",
    "sounds": "mp3 m4a aac wav flac ogg opus",
    "archives": "tar tgz gz bz2 xz zst zip 7z rar",
    "data of programs": "arrow feather tfrecord tfrecords h5 hdf5 npy npz mat pkl pickle db sqlite",
    "weights": "pt pth onnx safetensors",
    "files of programs": "py ipynb sh bat exe js css lock torrent md5 sha1 sha256 lnk url",
    "unfinished downloads": "part crdownload download",
}
_KIND_OF_SUFFIX = {suffix: kind for kind, names in _NO_IMAGES.items() for suffix in names.split()}
_KIND_OF_NAME = dict.fromkeys(
    ("readme", "license", "licence", "copying", "notice", "authors", "changelog"), "texts"
) | {"makefile": "files of programs"}
_SHOWN = 3


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is litter, or hidden by a dot at the start of its name."""
    folded = name.casefold()
    return folded.startswith((".", *_LITTER_BEGINNINGS)) or folded in _LITTER_FOLDERS


def kind_of_no_image(name: str) -> str:
    """Return what a file is by its name that cannot be an image, or an empty text."""
    start, _, suffix = name.casefold().rpartition(".")
    return (_KIND_OF_SUFFIX if start else _KIND_OF_NAME).get(suffix, "")


def may_be_image(name: str) -> bool:
    """Return whether a file may be an image by its name."""
    return not kind_of_no_image(name)


class FoundFile(NamedTuple):
    """A file below the folder.

    Args:
        parts: its path from the folder.
        identity: equal for links to one file; None where that cannot be known.
    """

    parts: tuple[str, ...]
    identity: Identity | None

    @property
    def relative(self) -> str:
        """Its path from the folder with `/`."""
        return "/".join(self.parts)


@dataclass
class SetAside:
    """What is not read, with the reason."""

    _counts: Counter[str] = field(default_factory=Counter)
    _names: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, name: str, count: int = 1) -> None:
        """Note files or a folder with this number of files."""
        self._counts[reason] += count
        names = self._names.setdefault(reason, [])
        if len(names) < _SHOWN:
            names.append(printable(name))

    def notes(self) -> list[str]:
        """Return a line for each reason, with the number of files and some names."""
        return [
            f"set aside: {reason}: {count:,} ({', '.join(self._names[reason])}"
            f"{', ...' if count > len(self._names[reason]) else ''})"
            for reason, count in self._counts.items()
        ]


@dataclass(frozen=True)
class Tree:
    """The files and folders below a folder, in the order of their names."""

    root: Path
    files: list[FoundFile]
    folders: list[tuple[str, ...]]
    aside: SetAside

    def images(self) -> list[FoundFile]:
        """Return the files that may be images by their names."""
        return [one for one in self.files if may_be_image(one.parts[-1])]

    def note_no_images(self, tops: Collection[str]) -> None:
        """Note the other files by what they are: those beside and in these top folders."""
        for one in self.files:
            kind = kind_of_no_image(one.parts[-1])
            if kind and (len(one.parts) == 1 or one.parts[0] in tops):
                self.aside.add(kind, one.relative)


def walk(root: Path) -> Tree:
    """List everything below a folder, through links to folders too.

    Raises:
        RequestError: a folder cannot be read, or a link leads to a folder above itself.
    """
    files: list[FoundFile] = []
    folders: list[tuple[str, ...]] = []
    aside = SetAside()
    waiting: list[tuple[tuple[str, ...], frozenset[Identity]]] = [((), frozenset())]
    while waiting:
        parts, above = waiting.pop()
        folder = root.joinpath(*parts)
        status = _looked_at(folder)
        here = (status.st_dev, status.st_ino)
        if here in above and _is_above_itself(folder, parts):
            raise RequestError(
                "this link leads to a folder above it, so its images would never end",
                where=printable(str(folder)),
                fix="remove the link",
            )
        for entry in entries(folder):
            below = (*parts, entry.name)
            if reason := _litter(entry):
                count = _count(entry.path) if is_folder(entry) else 1
                aside.add(reason, "/".join(below), count)
            elif is_folder(entry):
                folders.append(below)
                waiting.append((below, above | {here}))
            else:
                files.append(FoundFile(below, _identity(entry, status.st_dev)))
    return Tree(root, sorted(files, key=lambda one: one.parts), sorted(folders), aside)


def same_image(one: Path, other: Path) -> bool:
    """Return whether two paths of one device and inode are one file.

    Some file systems of networks give different files one inode, but count no links to it.
    """
    try:
        return one.stat().st_nlink > 1 or one.resolve() == other.resolve()
    except OSError:
        return False


def _is_above_itself(folder: Path, parts: tuple[str, ...]) -> bool:
    """Return whether a folder is one of those that its path leads through."""
    real = folder.resolve()
    return any(parent.resolve() == real for parent in list(folder.parents)[: len(parts)])


def _looked_at(folder: Path) -> os.stat_result:
    try:
        return folder.stat()
    except OSError as error:
        raise _unreadable(folder, error) from error


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """Return what is in a folder, in the order of the names.

    Raises:
        RequestError: it cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise _unreadable(folder, error) from error


def _unreadable(folder: Path, error: OSError) -> RequestError:
    return RequestError(
        f"the folder cannot be read: {error.strerror}",
        where=printable(str(folder)),
        fix="allow reading it, or remove it",
    )


def _litter(entry: os.DirEntry[str]) -> str:
    """Return what kind of litter an entry is, or an empty text."""
    name = entry.name.casefold()
    known = _LITTER_FOLDERS if is_folder(entry) else _LITTER_FILES
    if name in known:
        return known[name]
    if name.startswith(_LITTER_BEGINNINGS):
        return "thumbnails"
    return _HIDDEN if name.startswith(".") else ""


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder, or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _identity(entry: os.DirEntry[str], device: int) -> Identity | None:
    if not entry.is_symlink():
        return device, entry.inode()
    try:
        status = entry.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _count(folder: str) -> int:
    """Return the number of files below a folder, without those that cannot be read."""
    return sum(len(names) for _, _, names in os.walk(folder))
