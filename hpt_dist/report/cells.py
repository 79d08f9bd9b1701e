"""The trials of a stage in rows and columns, and their differences from a baseline row. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from hpt_dist.evals import evidence
from hpt_dist.evals.evidence import Axes, Comparison, is_accuracy
from hpt_dist.report.points import Computed, Point

_NUMERICS_AXES = ("precision", "memory_format")
_SAME = "no difference: it kept the weights of {}, so its result is the same"
_SPLITS = {"val": "validation", "test": "test"}


@dataclass(frozen=True)
class Cell:
    """Trials of one row and one column.

    Args:
        row: its name.
        column: its name.
        planned: number of its trials, done or not.
        values: the metric of each finished trial, on the printed scale.
        mean: mean of the values; None if there are none.
        std: their sample standard deviation; None if there are fewer than two.
    """

    row: str
    column: str
    planned: int
    values: tuple[float, ...]
    mean: float | None
    std: float | None


@dataclass(frozen=True)
class Difference:
    """A row against the baseline row.

    Args:
        row: name of the row.
        column: name of the column; empty for the mean over `columns`.
        columns: number of columns that it covers.
        comparison: the verdict.
    """

    row: str
    column: str
    columns: int
    comparison: Comparison


@dataclass(frozen=True)
class Entry:
    """A trial in a table.

    Args:
        row: name of its row.
        column: name of its column.
        axes: its settings without those in the row's name.
        value: the table's metric; None while the trial is not done.
        computed: see `Point`.
        sweeps_numerics: whether the recipe sweeps over precision or memory format.
        read: what tells computations apart, its origin and its inputs; see `Finished`. Nothing
            while it is not done.
    """

    row: str
    column: str
    axes: Axes
    value: float | None
    computed: Computed = frozenset()
    sweeps_numerics: bool = False
    read: frozenset[str] = frozenset()


def entries_of(
    points: Sequence[Point], stage: str, metric: str, rows: str, columns: str
) -> list[Entry]:
    """Place a stage's trials in rows and columns; only seeds are averaged.

    Every other swept setting, of the stage or of the stages it starts from, gets rows of its own:
    a mean over different settings would describe no setting.
    """
    entries = []
    for point in points:
        if point.stage != stage:
            continue
        other = [a for a in point.axes if a not in (rows, columns) and not evidence.is_seed(a)]
        settings = ", ".join(f"{axis}={point.axes[axis]}" for axis in other)
        row = point.axes.get(rows, "")
        kept = {axis: v for axis, v in point.axes.items() if axis not in (rows, *other)}
        column = point.axes.get(columns, "")
        entries.append(
            Entry(
                f"{row} ({settings})" if settings else row,
                column,
                kept,
                point.value(metric),
                point.computed if point.finished else frozenset(),
                any(axis.rpartition(".")[2] in _NUMERICS_AXES for axis in point.axes),
                frozenset({one.origin, one.inputs}) if (one := point.finished) else frozenset(),
            )
        )
    return entries


def cells_of(entries: Sequence[Entry], metric: str) -> tuple[Cell, ...]:
    """Return the cells of a table, row by row, with values on the metric's printed scale."""
    factor = evidence.scale_of(metric).factor
    cells = []
    for row in names_of(entry.row for entry in entries):
        for column in names_of(entry.column for entry in entries):
            here = [entry for entry in entries if (entry.row, entry.column) == (row, column)]
            values = tuple(entry.value * factor for entry in here if entry.value is not None)
            mean = fmean(values) if values else None
            std = stdev(values) if len(values) > 1 else None
            cells.append(Cell(row, column, len(here), values, mean, std))
    return tuple(cells)


def values_of(entries: Sequence[Entry], row: str) -> list[tuple[Axes, float]]:
    """Return axes and value of each finished trial of a row."""
    return [(e.axes, e.value) for e in entries if e.row == row and e.value is not None]


def names_of(names: Iterable[str]) -> tuple[str, ...]:
    """Return each name once, in the order of its first."""
    return tuple(dict.fromkeys(names))


def _mixed(entries: Iterable[Entry]) -> str:
    """Return why trials must not be compared: one kind of stage trained in several precisions.

    If the recipe sweeps over precision, that is the question, and comparing is right.
    """
    ways: dict[str, set[str]] = {}
    for kind, numerics in frozenset().union(
        *(e.computed for e in entries if not e.sweeps_numerics)
    ):
        ways.setdefault(kind, set()).add(numerics)
    mixed = [f"{kind} in {' and in '.join(sorted(w))}" for kind, w in ways.items() if len(w) > 1]
    if not mixed:
        return ""
    return f"not compared: {', '.join(sorted(mixed))}; launch both sides on the same kind of device"


def _are_the_same(entries: Sequence[Entry], row: str, baseline: str) -> bool:
    """Return whether each finished trial of a row is a trial of the baseline by another name."""
    ours = [entry.read for entry in entries if entry.row == row and entry.read]
    base = {one for entry in entries if entry.row == baseline for one in entry.read}
    return bool(ours) and all(read & base for read in ours)


def why_not_comparable(entries: Sequence[Entry], row: str, baseline: str) -> str:
    """Return why two rows must not be compared; empty if they may be."""
    both = [entry for entry in entries if entry.row in (row, baseline)]
    return _mixed(both) or (_SAME.format(baseline) if _are_the_same(both, row, baseline) else "")


def compared(
    entries: Sequence[Entry],
    row: str,
    baseline: str,
    metric: str,
    num_images: int | None = None,
    *,
    fixed_base: bool = False,
) -> Comparison:
    """Compare a row with the baseline row over seeds.

    Args:
        entries: of both rows, at least.
        row: name of the row.
        baseline: name of the row to compare with.
        metric: the metric of the entries.
        num_images: that an accuracy was measured on. Where the seeds give no interval and each side
            has one value, its error is that of the images; None gives no verdict then.
        fixed_base: see `evidence.seed_differences`.
    """
    scale = evidence.scale_of(metric)
    if why := why_not_comparable(entries, row, baseline):
        return evidence.refused(why)
    ours, base = values_of(entries, row), values_of(entries, baseline)
    differences = evidence.seed_differences(ours, base, fixed_base=fixed_base)
    over_seeds = evidence.paired([d * scale.factor for d in differences], scale)
    single = all(len({value for _, value in side}) == 1 for side in (ours, base))
    if over_seeds.verdict == "none" and single and num_images and is_accuracy(metric):
        split = metric.partition("/")[0]
        name = _SPLITS.get(split, split)
        return evidence.on_images(ours[0][1], base[0][1], num_images, name, scale)
    return over_seeds
