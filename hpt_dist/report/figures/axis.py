"""Axes: from values to pixels, and the ticks that they are read by. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from hpt_dist.report.axes import numbers_of
from hpt_dist.report.figures import svg
from hpt_dist.report.figures.svg import Point

LEFT, RIGHT, TOP, BOTTOM = 54.0, 14.0, 12.0, 46.0
GRID = 'stroke="currentColor" stroke-opacity=".14"'
_TICKS = 5
_HEIGHT = 290.0
_LOG_FROM = 20.0  # times from the least to the largest: below, a linear axis shows more


@dataclass(frozen=True)
class Ticks:
    """Values with their texts, evenly spaced by a round step."""

    values: tuple[float, ...]
    texts: tuple[str, ...]


def ticks(low: float, high: float, about: int = _TICKS) -> Ticks:
    """Return round values from low to high.

    Args:
        low: the least value.
        high: the largest; equal to `low` where there is one.
        about: how many.
    """
    span = (high - low) or abs(high) or 1.0
    raw = span / about
    power = 10 ** math.floor(math.log10(raw))
    step = power * next(m for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    values = tuple(n * step for n in range(first, last + 1))
    decimals = max(0, -math.floor(math.log10(step) + 1e-9), 1 if step in (2.5, 0.25) else 0)
    if not math.isclose(step * 10**decimals, round(step * 10**decimals)):
        decimals += 1
    return Ticks(values, tuple(_plain(value, decimals) for value in values))


def _plain(value: float, decimals: int) -> str:
    if abs(value) >= 1e6:
        return f"{value:.3g}".replace("e+0", "e").replace("e+", "e")
    text = f"{value:,.{min(decimals, 8)}f}"
    return text.removeprefix("-") if float(text.replace(",", "")) == 0 else text


def short(value: float) -> str:
    """Return a count in few letters, such as 5k or 1.5M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def padded(values: Sequence[float], share: float = 0.08) -> tuple[float, float]:
    """Return the range of finite values with some space around it."""
    finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    space = (high - low) * share or abs(high) * 0.1 or 0.5
    return low - space, high + space


@dataclass(frozen=True)
class Across:
    """A horizontal axis: the place of each name in pixels.

    Args:
        names: of the columns.
        places: of each name, in pixels.
        texts: below the axis, with their places.
    """

    names: tuple[str, ...]
    places: tuple[float, ...]
    texts: tuple[tuple[float, str], ...]

    def at(self, name: str) -> float:
        """Return where a name is, in pixels."""
        return self.places[self.names.index(name)]


def across(names: Sequence[str], width: float = svg.WIDTH) -> Across:
    """Return an axis of columns: by their logarithm where they are numbers that span much.

    Names that are no numbers are evenly spaced, in their order.
    """
    left, right = LEFT + 16, width - RIGHT - 16
    values = numbers_of(names)
    if values is None or len(set(values)) < len(values) or len(values) == 1:
        gap = (right - left) / len(names)
        places = [left + gap * (n + 0.5) for n in range(len(names))]
        texts = [(x, svg.shortened(name, gap - 4)) for x, name in zip(places, names, strict=True)]
        return Across(tuple(names), tuple(places), tuple(texts))
    is_log = min(values) > 0 and max(values) / min(values) >= _LOG_FROM
    scaled = [math.log10(value) for value in values] if is_log else values
    low, high = min(scaled), max(scaled)
    places = [left + (right - left) * (one - low) / (high - low) for one in scaled]
    labelled = sorted((x, short(value)) for x, value in zip(places, values, strict=True))
    return Across(tuple(names), tuple(places), tuple(_apart(labelled)))


def _apart(labelled: Sequence[tuple[float, str]]) -> list[tuple[float, str]]:
    """Leave out the texts that would touch the one before."""
    kept: list[tuple[float, str]] = []
    for x, text in labelled:
        if not kept or x - kept[-1][0] >= 4 * (len(text) + len(kept[-1][1])) + 4:
            kept.append((x, text))
    return kept


@dataclass(frozen=True)
class Frame:
    """The space of a drawing with its upright axis.

    Args:
        low: value at the bottom.
        high: value at the top.
        width: of the drawing.
        height: of the drawing.
    """

    low: float
    high: float
    width: float = svg.WIDTH
    height: float = _HEIGHT
    bottom: float = field(default=BOTTOM)

    @property
    def floor(self) -> float:
        """The bottom of the axis, in pixels."""
        return self.height - self.bottom

    def y(self, value: float) -> float:
        """Return where a value is, in pixels."""
        share = (value - self.low) / (self.high - self.low)
        return self.floor - share * (self.floor - TOP)

    def place(self, x: float, value: float) -> Point:
        """Return the point at x of a value."""
        return x, self.y(value)

    def axes(self, x_label: str, y_label: str, texts: Sequence[tuple[float, str]]) -> list[str]:
        """Return the axes with grid lines, ticks and labels."""
        found = ticks(self.low, self.high)
        end = svg.number(self.width - RIGHT)
        lines = "".join(f"M{svg.number(LEFT)} {svg.number(self.y(v))}H{end}" for v in found.values)
        parts = [f'<path d="{lines}" {GRID}/>' if lines else ""]
        parts += [
            svg.text((LEFT - 6, self.y(value) + 4), label, anchor="end")
            for value, label in zip(found.values, found.texts, strict=True)
        ]
        bottom = f"M{svg.number(LEFT)} {svg.number(self.floor)}H{end}"
        parts.append(f'<path d="{bottom}" stroke="currentColor" stroke-opacity=".6"/>')
        parts += [svg.text((x, self.floor + 16), label) for x, label in texts]
        middle = (LEFT + self.width - RIGHT) / 2
        if x_label:
            label = svg.shortened(x_label, self.width - LEFT)
            parts.append(svg.text((middle, self.floor + 36), label, more=' opacity=".75"'))
        at = (TOP + self.floor) / 2
        turned = f' opacity=".75" transform="rotate(-90 13 {svg.number(at)})"'
        parts.append(svg.text((13, at), svg.shortened(y_label, self.floor - TOP), more=turned))
        return parts
