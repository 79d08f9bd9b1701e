"""The encoding of a list: UTF-8, UTF-16, or Windows-1252 where no other can be meant."""

from __future__ import annotations

import codecs
import re
from pathlib import Path
from typing import NamedTuple

from hpt_dist.errors import RequestError

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_LOOKED_AT_BYTES = 512
_MAX_LINE_BYTES = 4_000_000
_HIGH = re.compile(rb"[\x80-\xff]+")
# Letters that Latin-1 and Windows-1252 have at the same place. The other high bytes are letters of
# DOS's and macOS's encodings; those of Greek and Cyrillic form whole words.
_LETTERS = re.compile(rb"[\xc0-\xd6\xd8-\xf6\xf8-\xff]{1,2}")
_ASCII_LETTER = re.compile(rb"[A-Za-z]")
_WORD = re.compile(rb"[A-Za-z\x80-\xff]+")
_SHOWN = 3


class Encoding(NamedTuple):
    """An encoding: its name for Python, and in words for the terminal."""

    name: str
    words: str


UTF_8 = Encoding("utf-8-sig", "UTF-8")


def by_start(path: Path) -> Encoding:
    """Return the encoding that the first bytes of a text say; UTF-8 where they say nothing.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(_LOOKED_AT_BYTES)
    for mark, name in _MARKS:
        if start.startswith(mark):
            return Encoding(name, name.removesuffix("-sig").upper())
    # ASCII in UTF-16 is zero in every second byte.
    for name, zeros, others in (
        ("utf-16-le", start[1::2], start[::2]),
        ("utf-16-be", start[::2], start[1::2]),
    ):
        if len(start) > 1 and not any(zeros) and all(others):
            return Encoding(name, "UTF-16")
    return UTF_8


def without_utf_8(path: Path) -> Encoding:
    """Return the encoding of a text that is not UTF-8.

    Raises:
        RequestError: it may be several; with the first line that is not UTF-8.
        OSError: the file cannot be read.
    """
    words: list[str] = []
    first = number = 0
    with path.open("rb") as file:
        while line := file.readline(_MAX_LINE_BYTES):
            number += 1
            if not _HIGH.search(line):
                continue
            first = first or (0 if _is_utf_8(line) else number)
            if not _is_western(line):
                raise RequestError(
                    "not UTF-8, and not plainly in another encoding",
                    where=f"{path}:{first or number}",
                    fix="save the list as UTF-8; a list of Western Europe by: "
                    "iconv -f WINDOWS-1252 -t UTF-8 OLD > NEW",
                )
            found = (word for word in _WORD.findall(line) if _HIGH.search(word))
            words += (word.decode("cp1252") for word in found)
            words = list(dict.fromkeys(words))[:_SHOWN]
    shown = ", ".join(words)
    return Encoding("cp1252", f"Windows-1252, as it is not UTF-8 ({shown}: right?)")


def _is_utf_8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def _is_western(line: bytes) -> bool:
    """Return whether the high bytes of a line are single letters in words of Western Europe."""
    return all(
        _LETTERS.fullmatch(run[0])
        and (
            _ASCII_LETTER.match(line[run.start() - 1 : run.start()])
            or _ASCII_LETTER.match(line[run.end() : run.end() + 1])
        )
        for run in _HIGH.finditer(line)
    )
