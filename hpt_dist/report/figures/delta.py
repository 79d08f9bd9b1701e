"""Each row's difference from the baseline row with its 95 % interval, beside a line at zero."""

from __future__ import annotations

from dataclasses import dataclass

from hpt_dist.evals.evidence import scale_of
from hpt_dist.report.cells import Difference
from hpt_dist.report.figures import svg
from hpt_dist.report.figures.axis import GRID, TOP, padded, ticks
from hpt_dist.report.figures.rows import Rows
from hpt_dist.report.shown import Panel

_LINE = 26.0  # pixels for each difference
_LEFT, _RIGHT = 168.0, 14.0
_FAINT = ' opacity=".6"'


@dataclass(frozen=True)
class _Axis:
    """The horizontal axis of differences, with its line at zero."""

    low: float
    high: float
    floor: float

    def x(self, value: float) -> float:
        """Return where a difference is, in pixels."""
        return _LEFT + (value - self.low) / (self.high - self.low) * (svg.WIDTH - _LEFT - _RIGHT)

    def upright(self, value: float) -> str:
        """Return the way of an upright line at a difference."""
        return f"M{svg.number(self.x(value))} {svg.number(TOP)}V{svg.number(self.floor)}"

    def parts(self, label: str) -> list[str]:
        """Return the axis with grid lines, ticks and its label."""
        marked = ticks(self.low, self.high, about=6)
        lines = "".join(map(self.upright, marked.values))
        middle = (_LEFT + svg.WIDTH - _RIGHT) / 2
        bold = 'stroke="currentColor" stroke-opacity=".7" stroke-width="1.4"'
        label = svg.shortened(label, svg.WIDTH - _LEFT)
        return [
            f'<path d="{lines}" {GRID}/>',
            f'<path d="{self.upright(0.0)}" {bold}/>',
            svg.text((middle, self.floor + 35), label, more=' opacity=".75"'),
            *(
                svg.text((self.x(value), self.floor + 15), _signed(value, text))
                for value, text in zip(marked.values, marked.texts, strict=True)
            ),
        ]


def draw(panel: Panel, rows: Rows, title: str) -> str:
    """Return a panel as SVG.

    Args:
        panel: what to draw.
        rows: the figure's.
        title: for screen readers.
    """
    found = panel.differences
    ends = [0.0]
    for one in found:
        mean, half = one.comparison.mean, one.comparison.half_width or 0.0
        ends += [] if mean is None else [mean - half, mean + half]
    floor = TOP + _LINE * max(1, len(found))
    axis = _Axis(*padded(ends), floor)
    step = scale_of(panel.table.metric).step
    unit = f",{step}" if step else ""
    parts = axis.parts(f"{panel.table.metric}, difference from {panel.table.baseline}{unit}")
    for number, one in enumerate(found):
        parts += _difference(panel, rows, one, TOP + _LINE * (number + 0.5), axis)
    if not found:
        at = (_LEFT + 10, TOP + _LINE / 2 + 4)
        parts.append(svg.text(at, "nothing to compare yet", anchor="start", more=_FAINT))
    says = "; ".join(f"{_name(panel, one)}: {one.comparison.says}" for one in found)
    desc = says or "nothing to compare yet"
    return svg.drawing(svg.WIDTH, floor + 44, parts, title=title, desc=desc)


def _signed(value: float, text: str) -> str:
    if value == 0:
        return text
    return f"+{text}" if value > 0 else f"\u2212{text.lstrip('-')}"


def _difference(panel: Panel, rows: Rows, one: Difference, y: float, axis: _Axis) -> list[str]:
    """Return one difference: its name, its interval and its mean."""
    comparison, paint = one.comparison, rows.colour(one.row)
    bold = ' font-weight="600"' if one.columns > 1 else ""
    name = svg.shortened(_name(panel, one), _LEFT - 16)
    mean, half = comparison.mean, comparison.half_width
    if mean is None:
        faint = svg.text((_LEFT + 10, y + 4), "not done yet", anchor="start", more=_FAINT)
        return [svg.text((_LEFT - 10, y + 4), name, anchor="end", more=_FAINT), faint]
    parts = [svg.text((_LEFT - 10, y + 4), name, anchor="end", more=bold)]
    if half is not None:
        ends = (axis.x(mean - half), y), (axis.x(mean + half), y)
        parts.append(svg.line(*ends, paint, width=2.4))
    hollow = comparison.verdict not in ("helped", "harmed")
    at, number = (axis.x(mean), y), rows.number(one.row)
    return [*parts, svg.marker(at, number, paint, comparison.says, hollow=hollow)]


def _name(panel: Panel, one: Difference) -> str:
    """Return what a difference is of."""
    if one.columns > 1:
        return f"{one.row}, mean of {one.columns}"
    return f"{one.row}, {panel.table.columns_axis} {one.column}" if one.column else one.row
