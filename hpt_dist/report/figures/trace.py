"""A small drawing of one curve of a training: a metric against its steps."""

from __future__ import annotations

import math
from collections.abc import Sequence

from hpt_dist.report.figures import svg
from hpt_dist.report.figures.axis import GRID, padded, short

_WIDTH, _HEIGHT = 180.0, 96.0
_LIMITS_LETTERS = 12  # between the first and the last step
_LEFT, _RIGHT, _TOP, _BOTTOM = 4.0, 48.0, 8.0, 20.0


def draw(points: Sequence[tuple[int, float]], title: str) -> str:
    """Return a curve as SVG; values that are not finite are left out.

    Args:
        points: (step, value), in the order of steps.
        title: for screen readers.
    """
    finite = [(step, value) for step, value in points if math.isfinite(value)]
    if not finite:
        words = [svg.text((_WIDTH / 2, 50), "no finite value", more=' opacity=".6"')]
        return svg.drawing(_WIDTH, _HEIGHT, words, title=title, desc="no finite value")
    low, high = padded([value for _, value in finite])
    first, last = finite[0][0], finite[-1][0]
    floor, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT

    def place(step: int, value: float) -> svg.Point:
        x = _LEFT + (step - first) / ((last - first) or 1) * (right - _LEFT)
        return x, floor - (value - low) / (high - low) * (floor - _TOP)

    end = place(*finite[-1])
    parts = [
        f'<path d="M{svg.number(_LEFT)} {svg.number(floor)}H{svg.number(right)}" {GRID}/>',
        svg.path([place(*one) for one in finite], svg.COLOURS[0], width=1.6),
        svg.marker(end, 0, svg.COLOURS[0], f"step {last}: {finite[-1][1]:.4g}"),
        svg.text((end[0] + 8, end[1] + 4), f"{finite[-1][1]:.3g}", anchor="start"),
        svg.text((_LEFT, _HEIGHT - 5), short(first), anchor="start", more=' opacity=".7"'),
        svg.text((right, _HEIGHT - 5), short(last), anchor="end", more=' opacity=".7"'),
    ]
    values = [value for _, value in finite]
    limits = f"{min(values):.2g} to {max(values):.2g}"
    if len(limits) <= _LIMITS_LETTERS:
        parts.append(svg.text(((_LEFT + right) / 2, _HEIGHT - 5), limits, more=' opacity=".7"'))
    says = (
        f"from {values[0]:.4g} at step {first} to {values[-1]:.4g} at step {last}; "
        f"least {min(values):.4g}, largest {max(values):.4g}"
    )
    return svg.drawing(_WIDTH, _HEIGHT, parts, title=title, desc=says)
