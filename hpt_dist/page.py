"""A page of text as blocks, and its two forms: Markdown that reads well in a terminal, and HTML.

Names in texts come from other people's files. `printable` makes them safe to show.
"""

from __future__ import annotations

import base64
import html
import textwrap
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass


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


@dataclass(frozen=True)
class Grid:
    """A table of texts; its first `num_left` columns are words, the others numbers."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    num_left: int = 1


@dataclass(frozen=True)
class Picture:
    """A PNG, the caption below it, and a name that screen readers read; it may be empty.

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


Block = Heading | Paragraph | Items | Grid | Picture | Sheet

_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})  # Unicode's categories
_JOINERS = "\u200c\u200d"
_BLACK_FLAG = "\U0001f3f4"
_TAGS = range(0xE0020, 0xE0080)

_WIDTH = 100  # of lines in Markdown; only tables are wider

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .8rem; border-bottom: 1px solid #ccc; text-align: left }
.number { text-align: right }
img { max-width: 100% }
h1, h2, p, li { overflow-wrap: anywhere }
figcaption { color: #555 }
body:has(.sheet) { max-width: none }
.sheet { display: grid; gap: 12px; grid-template-columns: repeat(auto-fill, var(--px)) }
.sheet figure { margin: 0; font-size: 12px; text-align: center }
.sheet img { width: 100%; aspect-ratio: 1; object-fit: scale-down; outline: 1px solid #e4e4e4 }
.sheet figcaption { overflow: hidden; white-space: nowrap; text-overflow: ellipsis }
.sheet figcaption::first-line { color: CanvasText }
@media (max-width: 40rem) {
  th, td { padding: .3rem .4rem }
  table { display: block; overflow-x: auto }
}
""".strip()


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


def table_lines(
    header: Sequence[str], rows: Sequence[Sequence[str]], num_left: int = 1
) -> list[str]:
    """Return a Markdown table with columns that are aligned in plain text too.

    Args:
        header: names of the columns.
        rows: as many texts each as the header has.
        num_left: how many columns are aligned left; the others are aligned right.
    """
    cells = [[printable(cell).replace("|", "\\|") for cell in row] for row in (header, *rows)]
    widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]

    def line(row: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if at < num_left else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |"

    rule = [
        "-" * width if at < num_left else "-" * (width - 1) + ":" for at, width in enumerate(widths)
    ]
    return [line(cells[0]), line(rule), *map(line, cells[1:])]


def markdown(blocks: Sequence[Block]) -> str:
    """Return the page in Markdown, without pictures."""
    parts = []
    for block in blocks:
        match block:
            case Heading(level, text):
                parts.append(f"{'#' * level} {text}")
            case Paragraph(text):
                parts.append(_wrapped(text))
            case Items(texts):
                parts.append("\n".join(_wrapped(f"- {text}", indent="  ") for text in texts))
            case Grid(header, rows, num_left):
                parts.append("\n".join(table_lines(header, rows, num_left)))
            case Picture() | Sheet():
                pass
    return printable("\n\n".join(parts) + "\n")


def as_html(title: str, blocks: Sequence[Block]) -> str:
    """Return the page as one self-contained HTML file; `title` names its window."""
    body = "\n".join(map(_element, blocks))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_escaped(title)}</title>\n<style>\n{_STYLE}\n</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def _element(block: Block) -> str:
    match block:
        case Heading(level, text):
            return f"<h{level}>{_escaped(text)}</h{level}>"
        case Paragraph(text):
            return f"<p>{_escaped(text)}</p>"
        case Items(texts):
            items = "\n".join(f"<li>{_escaped(text)}</li>" for text in texts)
            return f"<ul>\n{items}\n</ul>"
        case Grid(header, rows, num_left):
            lines = [_row("th", header, num_left), *(_row("td", row, num_left) for row in rows)]
            return "<table>\n" + "\n".join(lines) + "\n</table>"
        case Picture():
            return _figure(block)
        case Sheet(pictures, px):
            figures = "\n".join(map(_figure, pictures))
            return f'<div class="sheet" style="--px: {px}px">\n{figures}\n</div>'


def _figure(picture: Picture) -> str:
    data = base64.b64encode(picture.png).decode("ascii")
    name, caption = _escaped(picture.name), _escaped(picture.caption)
    # The page cuts long captions.
    hint = f' title="{name}&#10;{caption}"'.replace("\n", "&#10;") if name else ""
    lines = caption.replace("\n", "<br>")
    return (
        f'<figure{hint}><img src="data:image/png;base64,{data}" alt="{name or caption}">'
        f"<figcaption>{lines}</figcaption></figure>"
    )


def _escaped(text: str) -> str:
    return html.escape(printable(text))


def _wrapped(text: str, indent: str = "") -> str:
    """Break a text between words, so that names can still be copied."""
    return textwrap.fill(
        text, _WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def _row(tag: str, cells: Sequence[str], num_left: int) -> str:
    kinds = ("" if at < num_left else ' class="number"' for at in range(len(cells)))
    texts = (
        f"<{tag}{kind}>{_escaped(cell)}</{tag}>" for kind, cell in zip(kinds, cells, strict=True)
    )
    return f"<tr>{''.join(texts)}</tr>"
