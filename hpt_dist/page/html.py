"""A page as one self-contained HTML file: it asks for nothing else, and works without scripts."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence

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
    Lead,
    Link,
    Links,
    Paragraph,
    Picture,
    Sheet,
)
from hpt_dist.page.style import SCRIPT, STYLE
from hpt_dist.page.visible import printable

# The browser itself refuses what a name in the page might ask of another host.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
_SCHEMES = ("https://", "http://", "#")


def as_html(title: str, blocks: Sequence[Block]) -> str:
    """Return the page as one self-contained HTML file; `title` names its window."""
    body = "\n".join(map(_element, blocks))
    script = f"\n<script>\n{SCRIPT}\n</script>" if any(map(_is_sortable, blocks)) else ""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_escaped(title)}</title>\n<style>\n{STYLE}\n</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>{script}\n</body>\n</html>\n"
    )


def _is_sortable(block: Block) -> bool:
    return isinstance(block, Grid | Folded)


def _element(block: Block) -> str:  # noqa: C901 - one line for each kind of block
    match block:
        case Heading(level, text):
            return f"<h{level}>{_escaped(text)}</h{level}>"
        case Paragraph(text):
            return f"<p>{_escaped(text)}</p>"
        case Lead(verdict, text, tone):
            opening = f"<strong>{_escaped(verdict)}</strong>"
            return f'<p class="lead {tone}">{opening} {_escaped(text)}</p>'
        case Items(texts):
            items = "\n".join(f"<li>{_escaped(text)}</li>" for text in texts)
            return f"<ul>\n{items}\n</ul>"
        case Links(links):
            return "<ul>\n" + "\n".join(f"<li>{_link(one)}</li>" for one in links) + "\n</ul>"
        case Code(text):
            return f'<pre tabindex="0"><code>{_escaped(text)}</code></pre>'
        case Grid():
            return _table(block)
        case Picture():
            return _figure(block)
        case Sheet(pictures, px):
            figures = "\n".join(map(_figure, pictures))
            return f'<div class="sheet" style="--px: {px}px">\n{figures}\n</div>'
        case Drawings():
            return _drawings(block)
        case Folded(title, inner):
            content = "\n".join(map(_element, inner))
            return f"<details>\n<summary>{_escaped(title)}</summary>\n{content}\n</details>"


def _table(grid: Grid) -> str:
    head = _row("th", grid.header, grid.num_left)
    rows = "\n".join(_row("td", row, grid.num_left) for row in grid.rows)
    return (
        f'<div class="wide" tabindex="0"><table>\n<thead>{head}</thead>\n'
        f"<tbody>\n{rows}\n</tbody>\n</table></div>"
    )


def _row(tag: str, cells: Sequence[str], num_left: int) -> str:
    def kind(at: int, cell: str) -> str:
        words = [*(["number"] * (at >= num_left)), *(["faint"] * isinstance(cell, Faint))]
        return f' class="{" ".join(words)}"' if words else ""

    texts = (f"<{tag}{kind(at, cell)}>{_escaped(cell)}</{tag}>" for at, cell in enumerate(cells))
    return f"<tr>{''.join(texts)}</tr>"


def _link(link: Link) -> str:
    if not link.address.startswith(_SCHEMES):
        return f"{_escaped(link.text)}: {_escaped(link.address)}"
    return f'<a href="{_escaped(link.address)}" rel="noreferrer">{_escaped(link.text)}</a>'


def _figure(picture: Picture) -> str:
    data = base64.b64encode(picture.png).decode("ascii")
    kind = "webp" if picture.png[8:12] == b"WEBP" else "png"
    name, caption = _escaped(picture.name), _escaped(picture.caption)
    # The page cuts long captions.
    hint = f' title="{name}&#10;{caption}"'.replace("\n", "&#10;") if name else ""
    lines = caption.replace("\n", "<br>")
    return (
        f'<figure{hint}><img src="data:image/{kind};base64,{data}" alt="{name or caption}">'
        f"<figcaption>{lines}</figcaption></figure>"
    )


def _drawings(block: Drawings) -> str:
    keys = "".join(f"<li>{key.mark} {_escaped(key.name)}</li>" for key in block.keys)
    legend = f'<ul class="keys">{keys}</ul>\n' if keys else ""
    drawn = "\n".join(map(_drawing, block.drawings))
    caption = f"\n<figcaption>{_escaped(block.caption)}</figcaption>" if block.caption else ""
    alone = " alone" if len(block.drawings) == 1 else ""
    return (
        f'<figure class="drawings">\n{legend}<div class="panels{alone}" '
        f'style="--px: {block.px}px">\n{drawn}\n</div>{caption}\n</figure>'
    )


def _drawing(drawing: Drawing) -> str:
    heading = f"<h4>{_escaped(drawing.heading)}</h4>" if drawing.heading else ""
    return f"<div>{heading}{drawing.svg}</div>"


def _escaped(text: str) -> str:
    return html.escape(printable(text))
