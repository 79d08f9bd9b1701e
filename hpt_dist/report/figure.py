"""The plot of a report: a metric against one axis, with one line per row."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev

from hpt_dist.page import printable

# Okabe and Ito's colours: colour-blind readers can distinguish them. Markers differ too.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_BESIDE = 0.04  # from single trials to their mean, in columns
_APART = 0.12  # between neighbouring rows at one column, in columns


def draw(
    columns: Sequence[str],
    series: Mapping[str, Sequence[Sequence[float]]],
    *,
    x_label: str,
    y_label: str,
    title: str,
) -> bytes:
    """Draw means with their sample standard deviations, and every value as a small dot.

    Args:
        columns: names along the horizontal axis, evenly spaced.
        series: for each row, its values at each column; empty where nothing is done yet.
        x_label: name of the horizontal axis.
        y_label: name of the vertical axis.
        title: title of the plot.

    Returns:
        A PNG.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(6.0, 2.5 + len(columns)), 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for at, (row, values) in enumerate(series.items()):
        colour, marker = _COLOURS[at % len(_COLOURS)], _MARKERS[at % len(_MARKERS)]
        shift = (at - (len(series) - 1) / 2) * min(_APART, 0.8 / len(series))
        done = [(x + shift, cell) for x, cell in enumerate(values) if cell]
        dots = [(x - _BESIDE, value) for x, cell in done for value in cell]
        axes.plot(*_columns(dots), marker, color=colour, markersize=3, alpha=0.45, linestyle="none")
        axes.errorbar(
            [x for x, _ in done],
            [fmean(cell) for _, cell in done],
            yerr=[stdev(cell) if len(cell) > 1 else 0.0 for _, cell in done],
            color=colour,
            marker=marker,
            markersize=7,
            capsize=4,
            linestyle="-" if len(columns) > 1 else "none",
            label=_plain(row),
        )
    axes.set_xticks(range(len(columns)), list(map(_plain, columns)))
    axes.set_xlim(-0.5, len(columns) - 0.5)
    axes.set(xlabel=_plain(x_label), ylabel=_plain(y_label), title=_plain(title))
    axes.grid(axis="y", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False)
    buffer = io.BytesIO()
    # Without matplotlib's version in the file, equal results give equal bytes.
    figure.savefig(buffer, format="png", dpi=130, metadata={"Software": None})
    return buffer.getvalue()


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _plain(text: str) -> str:
    """Escape what cannot be drawn, and the signs that matplotlib would read as mathematics."""
    return printable(text).replace("$", r"\$")
