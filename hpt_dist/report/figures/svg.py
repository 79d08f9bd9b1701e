"""The elements of a drawing as compact SVG. Pure.

Texts and axes have the colour of the text around them, so that a drawing fits a light page and a
dark one; colours of rows are legible on both, and markers differ too.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence

from hpt_dist.page import Key, printable

# After Okabe and Ito's colours, which colour-blind readers can distinguish; those that would not
# show on a white page or on a black one are a little darker or lighter.
COLOURS = ("#1B7FC4", "#D55E00", "#009E73", "#CC79A7", "#B98500", "#7A5AC8", "#3FA7B5")
BASELINE = "#808080"
_MARKERS = 5
_LETTER = 6.6  # mean width of one at 12 pixels

Point = tuple[float, float]


def number(value: float) -> str:
    """Return a coordinate in the fewest letters that still show."""
    text = f"{value:.1f}"
    return text[:-2] if text.endswith(".0") else text


def escaped(text: str) -> str:
    """Return a text of other people as content of an element or an attribute."""
    return html.escape(printable(text))


def colour(at: int) -> str:
    """Return the colour of a row by its number."""
    return COLOURS[at % len(COLOURS)]


def drawing(width: float, height: float, parts: Iterable[str], *, title: str, desc: str) -> str:
    """Return a whole drawing.

    Args:
        width: of its own pixels; the page scales it.
        height: of its own pixels.
        parts: its elements.
        title: what it is, for screen readers.
        desc: what it shows, for screen readers.
    """
    least = f' style="min-width:{width * 0.72:.0f}px"' if width > WIDTH else ""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {number(width)} {number(height)}" '
        f'role="img" aria-label="{escaped(title)}" fill="currentColor" '
        f'font-family="system-ui,sans-serif" font-size="12"{least}>'
        f"<title>{escaped(title)}</title><desc>{escaped(desc)}</desc>{''.join(parts)}</svg>"
    )


WIDTH = 440.0  # of a usual drawing


def text(at: Point, content: str, *, anchor: str = "middle", more: str = "") -> str:
    """Return a line of text; `anchor` is start, middle or end."""
    where = f'x="{number(at[0])}" y="{number(at[1])}"'
    aligned = "" if anchor == "start" else f' text-anchor="{anchor}"'
    return f"<text {where}{aligned}{more}>{escaped(content)}</text>"


def shortened(content: str, width: float) -> str:
    """Return a text that fits into so many pixels, cut with an ellipsis."""
    content = " ".join(content[:1000].split())
    most = max(1, int(width / _LETTER))
    return content if len(content) <= most else f"{content[: most - 1].rstrip()}\u2026"


def line(start: Point, end: Point, stroke: str, *, width: float = 1, more: str = "") -> str:
    """Return a straight line."""
    (x1, y1), (x2, y2) = start, end
    ends = f"M{number(x1)} {number(y1)}L{number(x2)} {number(y2)}"
    return f'<path d="{ends}" stroke="{stroke}" stroke-width="{number(width)}" fill="none"{more}/>'


def path(points: Sequence[Point], stroke: str, *, width: float = 2, more: str = "") -> str:
    """Return a line through points."""
    steps = "L".join(f"{number(x)} {number(y)}" for x, y in points)
    return (
        f'<path d="M{steps}" stroke="{stroke}" stroke-width="{number(width)}" fill="none"{more}/>'
    )


def rectangle(corner: Point, size: Point, fill: str, hint: str = "", more: str = "") -> str:
    """Return a filled rectangle; `hint` shows where a pointer rests on it."""
    (x, y), (width, height) = corner, size
    sides = f'width="{number(max(width, 0))}" height="{number(max(height, 0))}"'
    return f'<rect x="{number(x)}" y="{number(y)}" {sides} fill="{fill}"{more}>{_hint(hint)}</rect>'


def marker(at: Point, kind: int, fill: str, hint: str = "", *, hollow: bool = False) -> str:
    """Return a mark of one of five shapes; a hollow one was not measured here."""
    x, y = at
    shapes = (
        _circle(x, y, 4.2),
        _polygon(x, y, 4.6, 4, 45),
        _polygon(x, y, 5.2, 3, -90),
        _polygon(x, y, 5.2, 4, 0),
        _polygon(x, y, 5.2, 3, 90),
    )
    paint = f'fill="none" stroke="{fill}" stroke-width="1.6"' if hollow else f'fill="{fill}"'
    return f'<path d="{shapes[kind % _MARKERS]}" {paint}>{_hint(hint)}</path>'


def dot(at: Point, fill: str) -> str:
    """Return the small dot of one trial."""
    return f'<circle cx="{number(at[0])}" cy="{number(at[1])}" r="2" fill="{fill}" opacity=".45"/>'


def whisker(x: float, low: float, high: float, stroke: str) -> str:
    """Return an upright bar of error from low to high, in pixels."""
    x1, x2 = number(x - 3.5), number(x + 3.5)
    bottom, top = number(low), number(high)
    bars = f"M{number(x)} {bottom}V{top}M{x1} {bottom}H{x2}M{x1} {top}H{x2}"
    return f'<path d="{bars}" stroke="{stroke}" stroke-width="1.4" fill="none"/>'


def key(at: int, name: str, *, is_baseline: bool = False, hollow: bool = False) -> Key:
    """Return what a row's colour and marker stand for."""
    fill = BASELINE if is_baseline else colour(at)
    mark = marker((12, 5), at, fill, hollow=hollow)
    return Key(f'<svg viewBox="0 0 24 10" aria-hidden="true">{mark}</svg>', name)


def _hint(text_: str) -> str:
    return f"<title>{escaped(text_)}</title>" if text_ else ""


def _circle(x: float, y: float, radius: float) -> str:
    r, across = number(radius), number(2 * radius)
    return f"M{number(x - radius)} {number(y)}a{r} {r} 0 1 0 {across} 0a{r} {r} 0 1 0 -{across} 0z"


def _polygon(x: float, y: float, radius: float, corners: int, turned: float) -> str:
    """Return the corners of a regular polygon, the first turned by so many degrees."""
    angles = (math.radians(turned + 360 * n / corners) for n in range(corners))
    places = ((x + radius * math.cos(a), y + radius * math.sin(a)) for a in angles)
    return "M" + "L".join(f"{number(px)} {number(py)}" for px, py in places) + "z"
