"""Which file a path in a list means, under one name wherever the list lies."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path
from stat import S_ISREG
from typing import NamedTuple
from urllib.parse import unquote

from hpt_dist.sources.folder_tree import Identity

MAX_CHARACTERS = 4096
_SUFFIXES = (".jpg", ".png", ".jpeg", ".JPG")  # that lists of names leave out


class ListedFile(NamedTuple):
    """A file that a list names.

    Args:
        path: where it is.
        relative: its path from the base with `/`, without `.`, and with `..` only at its start.
        identity: equal for all paths of one file.
    """

    path: Path
    relative: str
    identity: Identity


class NoFileError(Exception):
    """The path means no file below the base; the text says why."""


class Base:
    """Where the relative paths of a list start, and below which its absolute paths must be.

    Args:
        folder: that folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._absolute = Path(os.path.normpath(Path.cwd() / folder))
        self._resolved = folder.resolve()

    def find(self, text: str) -> ListedFile:
        """Look up the file that a path means.

        `a.jpg`, `./a.jpg`, `x/../a.jpg`, `x//a.jpg` and an absolute path are one file with one
        name.

        Args:
            text: the path, as the list writes it.

        Raises:
            NoFileError: there is no such file, or its name would depend on this machine.
        """
        if what := _fault(text):
            raise NoFileError(what)
        identity = _identity(self._folder / text)
        if identity is None:
            # macOS writes accents in another form than most lists.
            forms = {unicodedata.normalize(form, text) for form in ("NFC", "NFD")} - {text}
            found = next((form for form in sorted(forms) if _identity(self._folder / form)), "")
            if found:
                return self.find(found)
            raise NoFileError(f"no such file: {text!r}{self._hint(text)}")
        relative = self._relative(text)
        if ".." in Path(text).parts and _identity(self._folder / relative) != identity:
            raise NoFileError(f"{text!r} leads through a link and back; write it without '..'")
        return ListedFile(self._folder / text, relative, identity)

    def _relative(self, text: str) -> str:
        if not text.startswith("/"):
            short = os.path.normpath(text)
            if not short.startswith(".."):
                return short
            return os.path.relpath(os.path.normpath(self._absolute / text), self._absolute)
        for start, path in (
            (self._absolute, Path(os.path.normpath(text))),
            (self._resolved, Path(text).resolve()),
        ):
            if path.is_relative_to(start):
                return path.relative_to(start).as_posix()
        raise NoFileError(
            f"{text!r} is an absolute path outside of {self._folder}, so that its name would "
            "depend on this machine; name a folder above the images with --root"
        )

    def _hint(self, text: str) -> str:
        """Return which other spelling of a path has a file."""
        spellings = {
            "with / in place of \\": text.replace("\\", "/"),
            "without %-signs": unquote(text),
            "without spaces around it": text.strip(),
            **{f"with {suffix} at its end": text + suffix for suffix in _SUFFIXES},
        }
        for how, spelling in spellings.items():
            if spelling != text and not _fault(spelling) and _identity(self._folder / spelling):
                return f"; {how} there is one"
        return ""


def _fault(text: str) -> str:
    if not text.strip():
        return "the path is empty"
    if len(text) > MAX_CHARACTERS:
        return f"a path of {len(text):,} characters; allowed: up to {MAX_CHARACTERS:,}"
    if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
        return f"{text!a} can be no path"
    return ""


def _identity(path: Path) -> Identity | None:
    """Return the device and inode of a regular file, or None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return (status.st_dev, status.st_ino) if S_ISREG(status.st_mode) else None
