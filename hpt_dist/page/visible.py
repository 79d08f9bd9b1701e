"""Texts of other people, made safe to show."""

from __future__ import annotations

import unicodedata

_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})  # Unicode's categories
_JOINERS = "\u200c\u200d"
_BLACK_FLAG = "\U0001f3f4"
_TAGS = range(0xE0020, 0xE0080)


def printable(text: str) -> str:
    r"""Return a text with what a terminal would obey, or nobody sees, as escapes such as `\x1b`.

    Line ends and tabs stay, and what emoji and other scripts are made of: joiners between letters
    beyond Latin ones, and the tags of a flag. Half a surrogate pair becomes an escape too, so the
    text can always be encoded.
    """
    if text.isprintable():
        return text
    return "".join(
        character if _is_seen(text, at) else character.encode("unicode_escape").decode()
        for at, character in enumerate(text)
    )


def one_line(text: str, most: int = 120) -> str:
    """Return a name or an error of another program for a message: printable, in one line, cut.

    Args:
        text: of any length.
        most: characters that are kept.
    """
    line = printable(" ".join(text[: most + 1].splitlines()))
    return f"{line[:most]}..." if len(text) > most or len(line) > most else line


def _is_seen(text: str, at: int) -> bool:
    """Return whether a character can be shown as it is."""
    character = text[at]
    if character in "\n\t" or unicodedata.category(character) not in _UNSEEN:
        return ord(character) & 0xFFFE != 0xFFFE  # these two of each plane are no characters
    if character in _JOINERS:
        around = text[at - 1 : at] + text[at + 1 : at + 2]
        return len(around) == 2 and min(around) >= "\u0300"
    is_tag = ord(character) in _TAGS
    return is_tag and text[:at].rstrip("".join(map(chr, _TAGS))).endswith(_BLACK_FLAG)
