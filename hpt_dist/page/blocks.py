"""What a page is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Heading:
    """A heading; level 1 is the page's title."""

    level: int
    text: str


@dataclass(frozen=True)
class Paragraph:
    """One paragraph."""

    text: str


@dataclass(frozen=True)
class Items:
    """A list of short texts."""

    texts: Sequence[str]


class Faint(str):
    """A text of a grid for what is not there yet."""

    __slots__ = ()


@dataclass(frozen=True)
class Grid:
    """A table of texts; its first `num_left` columns are words, the others numbers."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    num_left: int = 1


@dataclass(frozen=True)
class Picture:
    """A PNG or WebP, the caption below it, and a name that screen readers read; it may be empty.

    A caption may have several lines.
    """

    png: bytes
    caption: str
    name: str = ""


@dataclass(frozen=True)
class Sheet:
    """Small pictures side by side, each in a square of `px` above its caption."""

    pictures: Sequence[Picture]
    px: int


@dataclass(frozen=True)
class Lead:
    """The page's answer in a paragraph, which opens with its verdict.

    Args:
        verdict: a word or two.
        text: the rest of the paragraph.
        tone: good, bad or neutral.
    """

    verdict: str
    text: str
    tone: Literal["good", "bad", "neutral"] = "neutral"


@dataclass(frozen=True)
class Link:
    """A text that leads to an address, which others may have written; other schemes stay text."""

    text: str
    address: str


@dataclass(frozen=True)
class Links:
    """A list of links."""

    links: Sequence[Link]


@dataclass(frozen=True)
class Code:
    """Lines as they are, such as a file or a command."""

    text: str


@dataclass(frozen=True)
class Key:
    """What one colour of a drawing stands for: its mark as SVG, and its name."""

    mark: str
    name: str


@dataclass(frozen=True)
class Drawing:
    """An SVG that our own code has drawn, with all texts in it escaped, and a heading above it."""

    svg: str
    heading: str = ""


@dataclass(frozen=True)
class Drawings:
    """Drawings beside each other, what their colours stand for, and the caption below them.

    Args:
        drawings: at least one.
        keys: in the order of the colours.
        caption: below.
        px: the least width of a drawing, as long as the page is as wide.
    """

    drawings: Sequence[Drawing]
    keys: Sequence[Key] = ()
    caption: str = ""
    px: int = 420


@dataclass(frozen=True)
class Folded:
    """Blocks below a title that opens them; in Markdown they are open."""

    title: str
    blocks: Sequence[Block]


Block = (
    Heading | Paragraph | Lead | Items | Links | Code | Grid | Picture | Sheet | Drawings | Folded
)
