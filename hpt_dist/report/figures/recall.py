"""A small drawing of precision against recall."""

from __future__ import annotations

from collections.abc import Sequence

from hpt_dist.report.figures import svg
from hpt_dist.report.figures.axis import GRID

_WIDTH, _HEIGHT = 180.0, 140.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 30.0, 10.0, 10.0, 32.0
_FAINT = ' opacity=".7"'


def draw(precision: Sequence[float], title: str) -> str:
    """Return a curve as SVG.

    Args:
        precision: shares of 1, at recalls that are evenly spaced from 0 to 1.
        title: for screen readers.
    """
    floor, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    last = max(1, len(precision) - 1)
    points = [
        (_LEFT + at / last * (right - _LEFT), floor - value * (floor - _TOP))
        for at, value in enumerate(precision)
    ]
    lines = "".join(
        f"M{svg.number(_LEFT)} {svg.number(floor - share * (floor - _TOP))}H{svg.number(right)}"
        for share in (0.0, 0.5, 1.0)
    )
    parts = [
        f'<path d="{lines}" {GRID}/>',
        svg.path(points, svg.COLOURS[0], width=1.6),
        *(
            svg.text((_LEFT - 5, floor - share * (floor - _TOP) + 4), text, anchor="end")
            for share, text in ((0.0, "0"), (1.0, "1"))
        ),
        svg.text((_LEFT, floor + 15), "0", more=_FAINT),
        svg.text((right, floor + 15), "1", more=_FAINT),
        svg.text(((_LEFT + right) / 2, floor + 26), "recall", more=_FAINT),
    ]
    mean = sum(precision) / max(1, len(precision))
    says = f"average precision {mean:.3f}; precision {precision[0]:.3f} at a recall of 0"
    reached = max((at for at, value in enumerate(precision) if value > 0), default=0) / last
    return svg.drawing(
        _WIDTH, _HEIGHT, parts, title=title, desc=f"{says}; recall reaches {reached:.2f}"
    )
