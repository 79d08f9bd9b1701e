"""A metric against what training cost, in images and in hours of devices; a line for each base."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hpt_dist.report.cells import names_of
from hpt_dist.report.figures import svg
from hpt_dist.report.figures.axis import LEFT, RIGHT, Frame, padded, short
from hpt_dist.report.figures.rows import Rows, cells_of, extent, hint, values_in_words, y_label
from hpt_dist.report.lineage import Spent
from hpt_dist.report.shown import Panel

_ZERO = LEFT + 22  # where no cost is: a logarithm has no place for it
_BREAK = LEFT + 44


@dataclass(frozen=True)
class _Axis:
    """From a cost to pixels: zero at the left, then by its logarithm."""

    low: float
    high: float

    def x(self, cost: float) -> float:
        if cost <= 0:
            return _ZERO
        if self.high <= self.low:
            return (_BREAK + svg.WIDTH - RIGHT) / 2
        return _BREAK + 14 + self.share(cost) * (svg.WIDTH - RIGHT - _BREAK - 40)

    def share(self, cost: float) -> float:
        return math.log(cost / self.low) / math.log(self.high / self.low)


def draw(panel: Panel, rows: Rows, title: str, of: str = "images") -> str:
    """Return a panel as SVG.

    Args:
        panel: what to draw.
        rows: the figure's.
        title: for screen readers.
        of: images or hours.
    """
    cells = cells_of(panel)
    known = [one for one in panel.spent if (one.row, one.column) in cells]
    done = [one for one in known if cells[one.row, one.column].mean is not None]
    frame = Frame(*padded([v for one in done for v in extent(cells[one.row, one.column])]))
    costs = sorted({cost for one in done if (cost := _cost(one, of)) > 0})
    axis = _Axis(costs[0], costs[-1]) if costs else _Axis(1.0, 1.0)
    texts = [(axis.x(cost), short(cost)) for cost in _labelled(costs)]
    unit = names_of(one.unit for one in done if one.hours > 0) or ("hours",)
    label = {"images": "image views in training", "hours": f"{', '.join(unit)} of training"}[of]
    parts = frame.axes(label, y_label(panel), [(_ZERO, "0"), *texts])
    for base in names_of(one.base for one in done):
        ours = sorted((o for o in done if o.base == base), key=lambda one: _cost(one, of))
        points = [
            frame.place(axis.x(_cost(one, of)), mean)
            for one in ours
            if (mean := cells[one.row, one.column].mean) is not None
        ]
        faint = ' stroke-opacity=".45"'
        parts.append(svg.path(points, "currentColor", width=1.5, more=faint))
        for at, one in zip(points, ours, strict=True):
            cell, paint = cells[one.row, one.column], rows.colour(one.row)
            if cell.std is not None and cell.mean is not None:
                ends = frame.y(cell.mean - cell.std), frame.y(cell.mean + cell.std)
                parts.append(svg.whisker(at[0], *ends, paint))
            said = f"{hint(panel, cell)}; {one.images:,.0f} images, {one.hours:.2f} {one.unit}"
            parts.append(svg.marker(at, rows.number(one.row), paint, said))
    if not done:
        words = "no cost is known yet"
        parts.append(svg.text((svg.WIDTH / 2, 120), words, more=' opacity=".6"'))
    return svg.drawing(svg.WIDTH, frame.height, parts, title=title, desc=values_in_words(panel))


def _cost(one: Spent, of: str) -> float:
    return one.images if of == "images" else one.hours


def _labelled(costs: Sequence[float]) -> list[float]:
    """Return the costs that get a text: the least, the largest and what is well between."""
    if not costs:
        return []
    kept = [costs[0]]
    for cost in costs[1:]:
        span = math.log(costs[-1] / costs[0]) or 1.0
        if math.log(cost / kept[-1]) / span > 0.18:
            kept.append(cost)
    return kept
