"""Which classes gain and lose most between a row of a figure and its baseline. Pure.

What the trials answered is read from the store by `launch.by_class`; nothing here reads.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpt_dist.evals.evidence import is_seed
from hpt_dist.page import Block, Grid, Heading, Paragraph, one_line
from hpt_dist.report.points import stage_and_axes
from hpt_dist.report.shown import Panel, Shown

if TYPE_CHECKING:
    from hpt_dist.evals.by_class import ClassChange

_SHOWN = 5  # classes that gain most, and as many that lose most
_DATASETS_SHOWN = 3
_NAME_LETTERS = 60
_METRIC = "top1"


@dataclass(frozen=True)
class Gains:
    """How the classes of one split of a dataset fare in a row, against the baseline.

    Args:
        row: of the figure.
        baseline: of the figure.
        dataset: its name in its store.
        split: that was answered.
        pairs: of a trial of the row and one of the baseline.
        classes: those with images, what gains most first.
    """

    row: str
    baseline: str
    dataset: str
    split: str
    pairs: int
    classes: tuple[ClassChange, ...]


@dataclass(frozen=True)
class Wanted:
    """Which trials show the gains of a row.

    Args:
        row: of a figure, the one that the answer is about.
        baseline: of the figure.
        split: that the figure's metric is of.
        pairs: names of a trial of the row and of one of the baseline, of the same column and seed.
    """

    row: str
    baseline: str
    split: str
    pairs: tuple[tuple[str, str], ...]


def wanted(figures: Sequence[Shown], row: str, done: Collection[str]) -> Wanted | None:
    """Return the trials of the first figure that compares a row; None where none does by top-1.

    Args:
        figures: of a report.
        row: that its answer is about.
        done: names of finished trials.
    """
    for figure in figures:
        if any(one.row == row for panel in figure.panels for one in figure.verdicts(panel)):
            first = figure.panels[0].table
            split, _, metric = first.metric.rpartition("/")
            pairs = tuple(pair for panel in figure.panels for pair in _pairs(panel, row, done))
            is_right = metric == _METRIC and bool(pairs)
            return Wanted(row, first.baseline, split, pairs) if is_right else None
    return None


def _pairs(panel: Panel, row: str, done: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield the pairs of a panel that are done, of one column and of the seeds that both have."""
    ours, base = (
        [
            (column, _seeds(name), name)
            for one, column, name in panel.trials
            if one == which and name in done
        ]
        for which in (row, panel.table.baseline)
    )
    for column, seeds, name in ours:
        for other_column, other_seeds, other in base:
            shared = seeds.keys() & other_seeds.keys()
            if column == other_column and all(seeds[a] == other_seeds[a] for a in shared):
                yield name, other


def _seeds(name: str) -> Mapping[str, str]:
    _, axes = stage_and_axes(name)
    return {axis: value for axis, value in axes.items() if is_seed(axis)}


def blocks(gains: Sequence[Gains]) -> list[Block]:
    """Return the classes that gain and lose most, of each dataset."""
    found: list[Block] = []
    for one in gains[:_DATASETS_SHOWN]:
        found += _of_dataset(one)
    if (more := len(gains) - _DATASETS_SHOWN) > 0:
        text = f"The classes of {more} more datasets are in report.json, under gains."
        found.append(Paragraph(text))
    return found


def _of_dataset(gains: Gains) -> list[Block]:
    every = gains.classes
    up = [one for one in every if one.change > 0]
    down = [one for one in every if one.change < 0]
    if not (up or down):
        return []
    shown = [*up[:_SHOWN], *down[-_SHOWN:]]
    where = f"{gains.dataset}/{gains.split}"
    header = ("class", "images", gains.baseline, gains.row, "points", "95 % over images")
    text = (
        f"Accuracy in % on the images of a class in {where}, mean over {_counted(gains.pairs)} of "
        f"trials of {gains.row} and {gains.baseline}; up and down: in how many of these pairs more "
        "or fewer of them are right. The interval is over the images of the class (Agresti and "
        f"Min, 2005), with these models. Of {len(every):,} classes {len(up):,} gain, "
        f"{len(down):,} lose and {len(every) - len(up) - len(down):,} stay; by chance alone about "
        f"{0.05 * len(every):.2g} of so many intervals miss the true value, and the extremes are "
        "the luckiest of all. report.json has every class, under gains."
    )
    return [
        Heading(2, f"Classes that gain and lose most: {gains.row} against {gains.baseline}"),
        Grid((*header, "up", "down"), [_row(one) for one in shown]),
        Paragraph(text),
    ]


def _counted(pairs: int) -> str:
    return f"{pairs:,} pairs" if pairs > 1 else "one pair"


def _row(one: ClassChange) -> tuple[str, ...]:
    shares = f"{100 * one.base:.1f}", f"{100 * one.ours:.1f}", f"{100 * one.change:+.1f}"
    ends = f"[{100 * one.low:+.1f}, {100 * one.high:+.1f}]"
    name = one_line(one.name, _NAME_LETTERS)
    return name, f"{one.images:,}", *shares, ends, str(one.up), str(one.down)
