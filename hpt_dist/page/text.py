"""A page in Markdown that reads well in a terminal."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence

from hpt_dist.page.blocks import (
    Block,
    Code,
    Drawings,
    Folded,
    Grid,
    Heading,
    Items,
    Lead,
    Links,
    Paragraph,
    Picture,
    Sheet,
)
from hpt_dist.page.visible import printable

_WIDTH = 100  # of lines in Markdown; only tables are wider


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
    """Return the page in Markdown, without pictures and drawings."""
    parts = (part for block in blocks if (part := _part(block)))
    return printable("\n\n".join(parts) + "\n")


def _part(block: Block) -> str:
    match block:
        case Heading(level, text):
            return f"{'#' * level} {text}"
        case Paragraph(text):
            return _wrapped(text)
        case Lead(verdict, text):
            return _wrapped(f"**{verdict}** {text}")
        case Items(texts):
            return "\n".join(_wrapped(f"- {text}", indent="  ") for text in texts)
        case Links(links):
            return "\n".join(f"- [{one.text}]({one.address})" for one in links)
        case Code(text):
            return _fenced(text)
        case Grid(header, rows, num_left):
            return "\n".join(table_lines(header, rows, num_left))
        case Folded(title, inner):
            return f"**{title}**\n\n{markdown(inner).rstrip()}"
        case Picture() | Sheet() | Drawings():
            return ""


def _fenced(text: str) -> str:
    """Return lines as a block of code: its fence is longer than any in them."""
    longest = max(map(len, re.findall("`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}\n{text.rstrip()}\n{fence}"


def _wrapped(text: str, indent: str = "") -> str:
    """Break a text between words, so that names can still be copied."""
    return textwrap.fill(
        text, _WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
