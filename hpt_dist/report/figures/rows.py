"""How the rows of a figure are told apart: one colour and marker in each panel. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hpt_dist.evals.evidence import scale_of
from hpt_dist.page import Key
from hpt_dist.report.cells import Cell
from hpt_dist.report.figures import svg
from hpt_dist.report.shown import Panel, Shown


@dataclass(frozen=True)
class Rows:
    """The rows of a figure by number; the baseline is gray."""

    names: tuple[str, ...]
    baseline: str

    @classmethod
    def of(cls, figure: Shown) -> Rows:
        """Return the rows of all panels, the baseline last: the others' colours come first."""
        others = tuple(row for row in figure.rows if row != figure.baseline)
        there = (figure.baseline,) if figure.baseline in figure.rows else ()
        return cls((*others, *there), figure.baseline)

    def number(self, row: str) -> int:
        """Return the number of a row's marker."""
        return self.names.index(row)

    def colour(self, row: str) -> str:
        """Return a row's colour."""
        return svg.BASELINE if row == self.baseline else svg.colour(self.number(row))

    def keys(self, order: Sequence[str], paper: str = "") -> list[Key]:
        """Return what the colours stand for, in an order; and that hollow marks are a paper's."""
        found = [svg.key(self.number(row), row, is_baseline=row == self.baseline) for row in order]
        hollow = svg.key(0, f"hollow: {paper}", is_baseline=True, hollow=True)
        return [*found, hollow] if paper else found


def cells_of(panel: Panel) -> Mapping[tuple[str, str], Cell]:
    """Return a panel's cells by row and column."""
    return {(cell.row, cell.column): cell for cell in panel.table.cells}


def y_label(panel: Panel) -> str:
    """Return the metric with its unit."""
    unit = scale_of(panel.table.metric).unit
    return f"{panel.table.metric}, {unit}" if unit else panel.table.metric


def hint(panel: Panel, cell: Cell) -> str:
    """Return a cell in words, for who rests the pointer on its mark."""
    scale = scale_of(panel.table.metric)
    if cell.mean is None:
        return ""
    spread = f" \u00b1 {scale.text(cell.std)}" if cell.std is not None else ""
    place = f", {panel.table.columns_axis} {cell.column}" if cell.column else ""
    done = f"n={len(cell.values)} of {cell.planned}"
    unit = f" {scale.unit}" if scale.unit else ""
    ends = map(scale.text, cell.over_images or ())
    images = f", over images [{', '.join(ends)}]" if cell.over_images else ""
    return f"{cell.row}{place}: {scale.text(cell.mean)}{spread}{unit} ({done}){images}"


def extent(cell: Cell) -> tuple[float, ...]:
    """Return the values that a cell's mark reaches to."""
    if cell.mean is None:
        return ()
    std = cell.std or 0.0
    return (*cell.values, cell.mean - std, cell.mean + std)


def values_in_words(panel: Panel) -> str:
    """Return all means of a panel, for screen readers."""
    found = (hint(panel, cell) for cell in panel.table.cells if cell.mean is not None)
    return "; ".join(found) or "nothing is done yet"
