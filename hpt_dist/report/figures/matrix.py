"""A field of numbers in rows and columns, coloured by their value; what is not done is empty."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hpt_dist.evals.evidence import scale_of
from hpt_dist.report.figures import svg
from hpt_dist.report.figures.rows import Rows, cells_of, hint, values_in_words
from hpt_dist.report.shown import Panel

_LEFT, _TOP = 120.0, 34.0
_LEAST, _HEIGHT = 46.0, 30.0  # pixels of a field
_LINE = 14.0  # between lines of text
_COLOUR = svg.COLOURS[0]
_FAINT = ' opacity=".8" pointer-events="none"'
_EMPTY = ("currentColor", "nothing to measure", ' fill-opacity=".06"')
_PENDING = ' stroke="currentColor" stroke-opacity=".35" stroke-dasharray="3 3"'


def draw(panel: Panel, rows: Rows, title: str) -> str:  # noqa: ARG001 - rows have no colours here
    """Return a panel as SVG.

    Args:
        panel: what to draw.
        rows: the figure's.
        title: for screen readers.
    """
    table, cells, scale = panel.table, cells_of(panel), scale_of(panel.table.metric)
    wide = max(_LEAST, (svg.WIDTH - _LEFT) / max(1, len(table.columns)))
    # Fields are narrow: a column of several axes has a line for the value of each.
    heads = [column.split(", ") for column in table.columns]
    top = _TOP + _LINE * (max(map(len, heads), default=1) - 1)
    paper = {(one.row, one.column): f"[{one.value}]" for one in panel.paper}
    high = _HEIGHT + _LINE * bool(paper)
    width, height = _LEFT + wide * len(table.columns), top + high * len(table.rows) + 8
    means = [cell.mean for cell in table.cells if cell.mean is not None]
    least, most = (min(means), max(means)) if means else (0.0, 1.0)
    parts = list(_heads(panel, heads, wide, top))
    for down, row in enumerate(table.rows):
        y = top + high * down
        name = svg.shortened(row, _LEFT - 10)
        parts.append(svg.text((_LEFT - 8, y + high / 2 + 4), name, anchor="end"))
        for at, column in enumerate(table.columns):
            cell, corner, size = (
                cells[row, column],
                (_LEFT + wide * at + 1, y + 1),
                (wide - 2, high - 2),
            )
            middle = _LEFT + wide * (at + 0.5)
            if theirs := paper.get((row, column)):
                parts.append(svg.text((middle, y + high - 8), theirs, more=_FAINT))
            if cell.mean is None:
                look = ("none", "not done", _PENDING) if cell.planned else _EMPTY
                parts.append(svg.rectangle(corner, size, *look))
                continue
            share = (cell.mean - least) / (most - least) if most > least else 0.5
            # From nearly the paper's colour to half of ours: the ink stays legible on all of it.
            tint = f' fill-opacity="{0.04 + 0.46 * share:.2f}"'
            parts.append(svg.rectangle(corner, size, _COLOUR, hint(panel, cell), tint))
            place = (middle, y + _HEIGHT / 2 + 4)
            parts.append(svg.text(place, scale.text(cell.mean), more=' pointer-events="none"'))
    return svg.drawing(width, height, parts, title=title, desc=values_in_words(panel))


def _heads(panel: Panel, heads: Sequence[Sequence[str]], wide: float, top: float) -> Iterator[str]:
    """Yield the names of the axes and, in lines, of the columns."""
    table = panel.table
    axes = table.rows_axis
    if axes != table.columns_axis:
        axes = f"{axes} \u2193   {table.columns_axis} \u2192"
    yield svg.text((0, 12), svg.shortened(axes, _LEFT), anchor="start", more=' opacity=".75"')
    for at, lines in enumerate(heads):
        for up, line in enumerate(reversed(lines)):
            place = (_LEFT + wide * (at + 0.5), top - 8 - _LINE * up)
            yield svg.text(place, svg.shortened(line, wide - 4))
