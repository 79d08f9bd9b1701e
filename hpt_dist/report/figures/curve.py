"""A metric against the columns, with a line for each row: its means, spreads and single trials."""

from __future__ import annotations

from hpt_dist.report.figures import svg
from hpt_dist.report.figures.axis import LEFT, RIGHT, Across, Frame, across, padded
from hpt_dist.report.figures.rows import (
    Rows,
    cells_of,
    extent,
    hint,
    values_in_words,
    y_label,
)
from hpt_dist.report.shown import Panel

_APART = 5.0  # between rows at one column, in pixels
_DASHES = ' stroke-dasharray="5 4"'


def draw(panel: Panel, rows: Rows, title: str) -> str:
    """Return a panel as SVG.

    Args:
        panel: what to draw.
        rows: the figure's.
        title: for screen readers.
    """
    table, cells = panel.table, cells_of(panel)
    axis = across(table.columns)
    values = [v for cell in table.cells for v in extent(cell)] + [p.value for p in panel.paper]
    frame = Frame(*padded(values))
    parts = frame.axes(table.columns_axis, y_label(panel), axis.texts)
    for row in table.rows:
        if row in panel.constant:
            parts += _level(panel, rows, frame, row)
        else:
            parts += _line(panel, rows, frame, axis, row)
    for value in panel.paper:
        if value.column in axis.names:
            at = frame.place(axis.at(value.column), value.value)
            paint = rows.colour(value.row) if value.row in rows.names else svg.BASELINE
            kind = rows.number(value.row) if value.row in rows.names else 0
            parts.append(
                svg.marker(at, kind, paint, f"paper, {value.row}: {value.value}", hollow=True)
            )
    if all(cells[key].mean is None for key in cells):
        parts.append(svg.text((svg.WIDTH / 2, 120), "nothing is done yet", more=' opacity=".6"'))
    return svg.drawing(svg.WIDTH, frame.height, parts, title=title, desc=values_in_words(panel))


def _level(panel: Panel, rows: Rows, frame: Frame, row: str) -> list[str]:
    """Return a row that is the same in every column, as a dashed line with its spread."""
    cell = next((c for c in panel.table.cells if c.row == row and c.mean is not None), None)
    if cell is None or cell.mean is None:
        return []
    paint, right = rows.colour(row), svg.WIDTH - RIGHT
    parts = []
    if cell.std:
        top, height = frame.y(cell.mean + cell.std), frame.y(cell.mean - cell.std)
        band = ' opacity=".15"'
        parts.append(svg.rectangle((LEFT, top), (right - LEFT, height - top), paint, more=band))
    y = frame.y(cell.mean)
    hinted = svg.rectangle((LEFT, y - 4), (right - LEFT, 8), "transparent", hint(panel, cell))
    return [*parts, svg.line((LEFT, y), (right, y), paint, width=1.8, more=_DASHES), hinted]


def _line(panel: Panel, rows: Rows, frame: Frame, axis: Across, row: str) -> list[str]:
    cells, paint = cells_of(panel), rows.colour(row)
    moving = [name for name in panel.table.rows if name not in panel.constant]
    shift = (moving.index(row) - (len(moving) - 1) / 2) * min(_APART, 24 / len(moving))
    done = [
        (axis.at(column) + shift, cell)
        for column in panel.table.columns
        if (cell := cells[row, column]).mean is not None
    ]
    done.sort(key=lambda pair: pair[0])
    parts = []
    for x, cell in done:
        parts += [svg.dot((x - 4, frame.y(v)), paint) for v in cell.values if len(cell.values) > 1]
        if cell.std is not None and cell.mean is not None:
            low, high = frame.y(cell.mean - cell.std), frame.y(cell.mean + cell.std)
            parts.append(svg.whisker(x, low, high, paint))
    middle = [(x, frame.y(cell.mean)) for x, cell in done if cell.mean is not None]
    if len(middle) > 1:
        parts.append(svg.path(middle, paint))
    marks = zip(middle, done, strict=True)
    kind = rows.number(row)
    return parts + [svg.marker(at, kind, paint, hint(panel, cell)) for at, (_, cell) in marks]
