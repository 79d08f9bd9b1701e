"""A page of text as blocks, and its two forms: Markdown that reads well in a terminal, and HTML.

Names in texts come from other people's files. `printable` makes them safe to show.
"""

from hpt_dist.page.blocks import (
    Block,
    Code,
    Drawing,
    Drawings,
    Faint,
    Folded,
    Grid,
    Heading,
    Items,
    Key,
    Lead,
    Link,
    Links,
    Paragraph,
    Picture,
    Sheet,
)
from hpt_dist.page.html import as_html
from hpt_dist.page.text import markdown, table_lines
from hpt_dist.page.visible import one_line, printable

__all__ = [
    "Block",
    "Code",
    "Drawing",
    "Drawings",
    "Faint",
    "Folded",
    "Grid",
    "Heading",
    "Items",
    "Key",
    "Lead",
    "Link",
    "Links",
    "Paragraph",
    "Picture",
    "Sheet",
    "as_html",
    "markdown",
    "one_line",
    "printable",
    "table_lines",
]
