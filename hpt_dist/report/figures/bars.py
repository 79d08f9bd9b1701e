"""A bar for each row from zero, in a group for each column; what is not done is an outline."""

from __future__ import annotations

from hpt_dist.report.cells import Cell
from hpt_dist.report.figures import svg
from hpt_dist.report.figures.axis import LEFT, RIGHT, Frame
from hpt_dist.report.figures.rows import (
    Rows,
    cells_of,
    extent,
    hint,
    values_in_words,
    y_label,
)
from hpt_dist.report.shown import Panel

_LEAST_BAR = 9.0  # pixels
_MOST_BAR = 46.0
_PENDING = ' stroke="currentColor" stroke-opacity=".4" stroke-dasharray="3 3"'


def draw(panel: Panel, rows: Rows, title: str) -> str:
    """Return a panel as SVG.

    Args:
        panel: what to draw.
        rows: the figure's.
        title: for screen readers.
    """
    table = panel.table
    groups, inner = len(table.columns), svg.WIDTH - LEFT - RIGHT
    inner = max(inner, groups * (len(table.rows) + 1) * _LEAST_BAR)
    width, gap = inner + LEFT + RIGHT, inner / groups
    bar = min(_MOST_BAR, gap / (len(table.rows) + 1))
    frame = Frame(*_range(panel), width)
    centres = [LEFT + gap * (n + 0.5) for n in range(groups)]
    texts = [
        (x, svg.shortened(name, gap - 4)) for x, name in zip(centres, table.columns, strict=True)
    ]
    parts = frame.axes(table.columns_axis, y_label(panel), texts)
    papers = {(one.row, one.column): one.value for one in panel.paper}
    cells = cells_of(panel)
    for centre, column in zip(centres, table.columns, strict=True):
        for at, row in enumerate(table.rows):
            left = centre + (at - len(table.rows) / 2) * bar
            parts += _bar(panel, cells[row, column], frame, rows.colour(row), left, bar * 0.88)
            if (row, column) in papers:
                value = papers[row, column]
                place = frame.place(left + bar * 0.44, value)
                said = f"paper, {row}: {value}"
                parts.append(svg.marker(place, 3, "currentColor", said, hollow=True))
    return svg.drawing(width, frame.height, parts, title=title, desc=values_in_words(panel))


def _range(panel: Panel) -> tuple[float, float]:
    """Return what the axis shows: zero is always on it."""
    values = [v for cell in panel.table.cells for v in extent(cell)]
    values += [one.value for one in panel.paper]
    low, high = min([*values, 0.0]) * 1.05, max([*values, 0.0]) * 1.05
    return low, high if high > low else low + 1.0


def _bar(panel: Panel, cell: Cell, frame: Frame, paint: str, left: float, wide: float) -> list[str]:
    """Return the bar of a cell with its spread and its trials."""
    if cell.mean is None:
        if not cell.planned:
            return []
        corner, said = (left, frame.floor - 24), f"{cell.row}: not done"
        return [svg.rectangle(corner, (wide, 24.0), "none", said, _PENDING)]
    top, zero = sorted((frame.y(cell.mean), frame.y(0.0)))
    parts = [svg.rectangle((left, top), (wide, zero - top), paint, hint(panel, cell))]
    middle = left + wide / 2
    if len(cell.values) > 1:
        parts += [svg.dot((middle, frame.y(value)), "currentColor") for value in cell.values]
    if cell.std is not None:
        ends = frame.y(cell.mean - cell.std), frame.y(cell.mean + cell.std)
        parts.append(svg.whisker(middle, *ends, "currentColor"))
    return parts
