"""The trials of a stage in rows and columns, and their differences from a baseline row. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from statistics import median as middle
from typing import Any

from hpt_dist.evals import evidence, resampled
from hpt_dist.evals.evidence import Axes, Comparison, is_accuracy
from hpt_dist.report.points import Computed, Point

_NUMERICS_AXES = ("precision", "memory_format")
SAME = "no difference: it kept the weights of {}, so its result is the same"
_SPLITS = {"val": "validation", "test": "test"}


@dataclass(frozen=True)
class Cell:
    """Trials of one row and one column.

    Args:
        row: its name.
        column: its name.
        planned: number of its trials, done or not.
        values: the metric of each finished trial, on the printed scale.
        mean: mean of the values, or their median in a table of medians; None if there are none.
        std: their sample standard deviation; None if there are fewer than two.
        over_images: the 95 % interval of the mean over images, (low, high); None if unknown.
    """

    row: str
    column: str
    planned: int
    values: tuple[float, ...]
    mean: float | None
    std: float | None
    over_images: tuple[float, float] | None = None


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
        replicates: of the value over resampled images; none where it has none.
    """

    row: str
    column: str
    axes: Axes
    value: float | None
    computed: Computed = frozenset()
    sweeps_numerics: bool = False
    read: frozenset[str] = frozenset()
    replicates: Sequence[float] = ()


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
                point.finished.replicates.get(metric, ()) if point.finished else (),
            )
        )
    return entries


def cells_of(
    entries: Sequence[Entry], metric: str, num_images: int | None = None, *, median: bool = False
) -> tuple[Cell, ...]:
    """Return the cells of a table, row by row, with values on the metric's printed scale.

    Args:
        entries: of the table.
        metric: of the entries.
        num_images: that it was measured on; None gives no interval over images.
        median: whether a cell's mean is the median of its values.
    """
    factor = evidence.scale_of(metric).factor
    cells = []
    for row in names_of(entry.row for entry in entries):
        for column in names_of(entry.column for entry in entries):
            here = [entry for entry in entries if (entry.row, entry.column) == (row, column)]
            values = tuple(entry.value * factor for entry in here if entry.value is not None)
            mean = (middle(values) if median else fmean(values)) if values else None
            std = stdev(values) if len(values) > 1 else None
            ends = _over_images(here, num_images, factor)
            cells.append(Cell(row, column, len(here), values, mean, std, ends))
    return tuple(cells)


def _over_images(
    entries: Sequence[Entry], num_images: int | None, factor: float
) -> tuple[float, float] | None:
    """Return the interval of a cell's mean over images; None unless all its trials have one."""
    done = [entry for entry in entries if entry.value is not None]
    draws = {len(entry.replicates) for entry in done}
    if not num_images or len(draws) != 1 or 0 in draws:
        return None
    import numpy as np

    from hpt_dist.evals.bootstrap import interval

    mean = fmean(entry.value for entry in done if entry.value is not None)
    ends = interval(mean, np.mean([entry.replicates for entry in done], axis=0), num_images)
    return (ends[0] * factor, ends[1] * factor) if ends else None


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
    return _mixed(both) or (SAME.format(baseline) if _are_the_same(both, row, baseline) else "")


def compared(
    entries: Sequence[Entry],
    row: str,
    baseline: str,
    metric: str,
    num_images: int | None = None,
    *,
    fixed_base: bool = False,
    judges: bool = True,
) -> Comparison:
    """Compare a row with the baseline row, over seeds and over images.

    Of accuracies, the images count where the seeds give no interval and each side has one value.
    Other metrics have no images that are right or wrong: these are resampled, for both sides alike,
    and a verdict over seeds needs the images' too.

    Args:
        entries: of both rows, at least.
        row: name of the row.
        baseline: name of the row to compare with.
        metric: the metric of the entries.
        num_images: that it was measured on; None gives no verdict over images.
        fixed_base: see `evidence.seed_differences`.
        judges: whether one value of each side can be judged by images alone: of what trains, the
            seed counts as well.
    """
    scale = evidence.scale_of(metric)
    if why := why_not_comparable(entries, row, baseline):
        return evidence.refused(why)
    ours, base = values_of(entries, row), values_of(entries, baseline)
    differences = evidence.seed_differences(ours, base, fixed_base=fixed_base)
    over_seeds = evidence.paired([d * scale.factor for d in differences], scale)
    single = judges and all(len({value for _, value in side}) == 1 for side in (ours, base))
    alone = over_seeds.verdict == "none" and single
    split = metric.partition("/")[0]
    name = _SPLITS.get(split, split)
    if not num_images or (is_accuracy(metric) and not alone):
        return over_seeds
    if is_accuracy(metric):
        return evidence.on_images(ours[0][1], base[0][1], num_images, name, scale)
    half = _half_width_over_images(entries, row, baseline, num_images, fixed_base=fixed_base)
    if half is None or over_seeds.mean is None:
        return over_seeds
    half *= scale.factor
    if over_seeds.verdict != "none":
        return resampled.by_seeds_and_images(over_seeds, half, num_images, name, scale)
    return (
        resampled.one_model_each(over_seeds.mean, half, num_images, name, scale)
        if alone
        else over_seeds
    )


def _half_width_over_images(
    entries: Sequence[Entry], row: str, baseline: str, num_images: int, *, fixed_base: bool
) -> float | None:
    """Return half of the interval over images of the seeds' mean difference, a share of 1.

    None unless all trials of both rows have replicates of the same draws.
    """
    both = [entry for entry in entries if entry.row in (row, baseline) and entry.value is not None]
    draws = {len(entry.replicates) for entry in both}
    if len(draws) != 1 or 0 in draws:
        return None
    import numpy as np

    def side(name: str) -> list[tuple[Axes, Any]]:
        return [(e.axes, np.asarray(e.replicates)) for e in both if e.row == name]

    def mean(values: Iterable[Any]) -> Any:
        return np.mean(list(values), axis=0)

    differences = evidence.seed_differences(
        side(row), side(baseline), fixed_base=fixed_base, mean=mean
    )
    return resampled.half_width(mean(differences).tolist(), num_images) if differences else None
