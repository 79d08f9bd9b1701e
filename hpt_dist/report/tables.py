"""Finished trials as numbers: cells, differences from the baseline, the gate, the cost. Pure.

A trial's axes come from its name in the launch (`stage/axis=value,...`), never from its result:
another launch, with other sweeps, may have produced that result under the same key.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from hpt_dist.evals import evidence
from hpt_dist.evals.evidence import Axes, Comparison
from hpt_dist.recipe import KINDS
from hpt_dist.trial.records import Finished

# Pairs of (kind of stage, its numerics in words).
Computed = frozenset[tuple[str, str]]

_NUMERICS_AXES = ("precision", "memory_format")
_NEXT_AXIS = re.compile(r",(?=[\w.-]+=)")
_SAME = "nothing to compare: it starts from the same weights as {}, so its result is the same"
GATE_METRIC = "val/top1"


@dataclass(frozen=True)
class Point:
    """One trial of a launch, done or not.

    Args:
        name: `stage/axis=value,...`.
        stage: name of its stage.
        axes: its settings as text.
        finished: its record; None while it is not done.
        computed: how it and the trials that it starts from trained, by their stage's kind; trials
            that train nothing or are not done are left out.
    """

    name: str
    stage: str
    axes: Axes
    finished: Finished | None
    computed: Computed = frozenset()

    def value(self, metric: str) -> float | None:
        """Return a metric of a finished trial, or None."""
        return self.finished.result["metrics"].get(metric) if self.finished else None


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
class Table:
    """The table of a launch.

    Args:
        stage: the stage that the trials belong to.
        metric: the metric in the cells.
        rows_axis: the axis with one row per value.
        columns_axis: the axis with one column per value.
        baseline: the row that the others are compared with.
        rows: names of the rows, in the recipe's order.
        columns: names of the columns, in the recipe's order.
        cells: the cells, row by row.
        over: the axes that a cell's mean is taken over.
        num_images: number of images of the metric's split; None if unknown.
        standard_error: the largest binomial standard error of a cell's accuracy on that many
            images, on the printed scale; None if unknown.
    """

    stage: str
    metric: str
    rows_axis: str
    columns_axis: str
    baseline: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: tuple[Cell, ...]
    over: tuple[str, ...]
    num_images: int | None
    standard_error: float | None


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
class Gate:
    """Pretrained backbones against the baseline's, by frozen features on validation.

    Args:
        stage: the stage that evaluates.
        kind: knn or linear.
        baseline: the stage of the backbone to beat.
        cells: validation accuracy of each backbone.
        differences: the difference of each other backbone from the baseline.
    """

    stage: str
    kind: str
    baseline: str
    cells: tuple[Cell, ...]
    differences: tuple[Difference, ...]


@dataclass(frozen=True)
class Cost:
    """The cost of one trial; `images` are image views fed to the network in training."""

    trial: str
    key: str
    seed: int
    images: int
    seconds: float
    host: str


@dataclass(frozen=True)
class _Entry:
    """A trial in a table.

    Args:
        row: name of its row.
        column: name of its column.
        axes: its settings without those in the row's name.
        value: the table's metric; None while the trial is not done.
        computed: see `Point`.
        sweeps_numerics: whether the recipe sweeps over precision or memory format.
        origin: key of the trial that computed the value; empty while it is not done.
    """

    row: str
    column: str
    axes: Axes
    value: float | None
    computed: Computed = frozenset()
    sweeps_numerics: bool = False
    origin: str = ""


def read_points(
    trials: Mapping[str, str],
    done: Sequence[Finished],
    documents: Mapping[str, Any] | None = None,
) -> list[Point]:
    """Return every trial of a launch, in its order.

    Args:
        trials: names to keys.
        done: the finished trials, in any order.
        documents: the document behind each trial's key, by its name; it names the trial's parent.
    """
    by_name = {finished.name: finished for finished in done}
    parents = {name: document.get("init", "") for name, document in (documents or {}).items()}
    names = {key: name for name, key in trials.items()}
    points = []
    for name in trials:
        stage, _, text = name.partition("/")
        pairs = (axis.partition("=") for axis in _NEXT_AXIS.split(text) if axis)
        axes = {axis: value for axis, _, value in pairs}
        chain = _chain(name, names, parents)
        computed = (_computed(by_name[one]) for one in chain if one in by_name)
        points.append(Point(name, stage, axes, by_name.get(name), frozenset().union(*computed)))
    return points


def _chain(name: str, names: Mapping[str, str], parents: Mapping[str, str]) -> list[str]:
    """Return the names of a trial, its parent, that one's parent, and so on."""
    chain = [name]
    while (parent := names.get(parents.get(chain[-1], ""), "")) and parent not in chain:
        chain.append(parent)
    return chain


def _computed(finished: Finished) -> Computed:
    numerics = str(finished.run.get("numerics", ""))
    return frozenset({(str(finished.result["kind"]), numerics)} if numerics else ())


def computed_by_row(table: Table, points: Sequence[Point]) -> dict[str, str]:
    """Return how the trials of each row, and the trials they start from, trained, in words.

    Args:
        table: the table.
        points: all trials of the launch.
    """
    entries = _entries(points, table.stage, table.metric, table.rows_axis, table.columns_axis)
    texts = {}
    for row in table.rows:
        ways = sorted(frozenset().union(*(e.computed for e in entries if e.row == row)))
        texts[row] = "; ".join(f"{kind} in {numerics}" for kind, numerics in ways)
    return {row: text for row, text in texts.items() if text}


def _mixed(entries: Iterable[_Entry]) -> str:
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


def tabulate(
    points: Sequence[Point], stage: str, metric: str, rows: str, columns: str, baseline: str
) -> tuple[Table, tuple[Difference, ...]]:
    """Return the table of a stage, and each row's difference from the baseline row.

    Args:
        points: all trials of the launch.
        stage: the stage that the table's trials belong to.
        metric: the metric in its cells.
        rows: the axis with one row per value.
        columns: the axis with one column per value.
        baseline: name of the row to compare with.
    """
    entries = _entries(points, stage, metric, rows, columns)
    cells = _cells(entries, metric)
    means = [cell.mean for cell in cells if cell.mean is not None]
    num_images = _num_images(points, stage, metric)
    scale = evidence.scale_of(metric)
    error = None
    if num_images and means and scale.unit == "%":
        shares = (mean / scale.factor for mean in means)
        error = max(evidence.standard_error(s, num_images) for s in shares) * scale.factor
    over = {axis: None for entry in entries for axis in entry.axes if axis != columns}
    table = Table(
        stage=stage,
        metric=metric,
        rows_axis=rows,
        columns_axis=columns,
        baseline=baseline,
        rows=_names(entry.row for entry in entries),
        columns=_names(entry.column for entry in entries),
        cells=cells,
        over=tuple(over),
        num_images=num_images,
        standard_error=error,
    )
    return table, _differences(entries, baseline, metric)


def gates(points: Sequence[Point], baseline: str) -> list[Gate]:
    """Return the step-0 gate of each evaluation of frozen features that has several backbones.

    Args:
        points: all trials of the launch.
        baseline: the stage of the backbone to beat; a gate without it takes its first backbone.
    """
    result = []
    for stage in dict.fromkeys(point.stage for point in points):
        results = [p.finished.result for p in points if p.stage == stage and p.finished]
        kind = results[0]["kind"] if results else ""
        inits = [p.axes["init"] for p in points if p.stage == stage and "init" in p.axes]
        if kind and KINDS[kind].JUDGES and len(set(inits)) > 1:
            result.append(_gate(points, stage, kind, baseline if baseline in inits else inits[0]))
    return result


def single_runs(points: Sequence[Point], rows: Iterable[str]) -> tuple[str, ...]:
    """Return the rows that are a pretraining stage with one trial: its variance is unknown."""
    kinds = {p.stage: p.finished.result["kind"] for p in points if p.finished}
    trials = Counter(point.stage for point in points)
    return tuple(row for row in rows if _pretrains(kinds.get(row, "")) and trials[row] == 1)


def _pretrains(kind: str) -> bool:
    return kind in KINDS and KINDS[kind].TRAINS and KINDS[kind].LEAVES == "weights"


def costs(done: Sequence[Finished]) -> list[Cost]:
    """Return the cost of each finished trial; trials with the same key count once."""
    unique = {finished.key: finished for finished in reversed(done)}
    return [
        Cost(
            trial=finished.name,
            key=finished.key,
            seed=int(finished.result["seed"]),
            images=int(finished.result["images"]) if finished.origin == finished.key else 0,
            seconds=float(finished.run["seconds"]),
            host=str(finished.run.get("host", "")),
        )
        for finished in reversed(unique.values())
    ]


def _gate(points: Sequence[Point], stage: str, kind: str, baseline: str) -> Gate:
    entries = _entries(points, stage, GATE_METRIC, "init", "")
    num_images = _num_images(points, stage, GATE_METRIC)
    differences = tuple(
        Difference(row, "", 1, _features_compared(entries, row, baseline, num_images))
        for row in _names(entry.row for entry in entries)
        if row != baseline
    )
    return Gate(stage, kind, baseline, _cells(entries, GATE_METRIC), differences)


def _features_compared(
    entries: Sequence[_Entry], row: str, baseline: str, num_images: int | None
) -> Comparison:
    """Compare over seeds; with one model on each side, by the error that the images give."""
    scale = evidence.scale_of(GATE_METRIC)
    if why := _mixed(entry for entry in entries if entry.row in (row, baseline)):
        return evidence.refused(why)
    if _are_the_same(entries, row, baseline):
        return evidence.refused(_SAME.format(baseline))
    ours, base = _values(entries, row), _values(entries, baseline)
    differences = evidence.seed_differences(ours, base, fixed_base=True)
    over_seeds = evidence.paired([d * scale.factor for d in differences], scale)
    single = all(len({value for _, value in side}) == 1 for side in (ours, base))
    if over_seeds.verdict == "none" and single and num_images:
        return evidence.on_images(ours[0][1], base[0][1], num_images, "validation", scale)
    return over_seeds


def _entries(
    points: Sequence[Point], stage: str, metric: str, rows: str, columns: str
) -> list[_Entry]:
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
            _Entry(
                f"{row} ({settings})" if settings else row,
                column,
                kept,
                point.value(metric),
                point.computed if point.finished else frozenset(),
                any(axis.rpartition(".")[2] in _NUMERICS_AXES for axis in point.axes),
                point.finished.origin if point.finished else "",
            )
        )
    return entries


def _cells(entries: Sequence[_Entry], metric: str) -> tuple[Cell, ...]:
    factor = evidence.scale_of(metric).factor
    cells = []
    for row in _names(entry.row for entry in entries):
        for column in _names(entry.column for entry in entries):
            here = [entry for entry in entries if (entry.row, entry.column) == (row, column)]
            values = tuple(entry.value * factor for entry in here if entry.value is not None)
            mean = fmean(values) if values else None
            std = stdev(values) if len(values) > 1 else None
            cells.append(Cell(row, column, len(here), values, mean, std))
    return tuple(cells)


def _differences(entries: Sequence[_Entry], baseline: str, metric: str) -> tuple[Difference, ...]:
    scale = evidence.scale_of(metric)
    columns = _names(entry.column for entry in entries)

    def compare(row: str, here: Sequence[_Entry]) -> Comparison:
        if why := _mixed(entry for entry in here if entry.row in (row, baseline)):
            return evidence.refused(why)
        if _are_the_same(here, row, baseline):
            return evidence.refused(_SAME.format(baseline))
        by_seed = evidence.seed_differences(_values(here, row), _values(here, baseline))
        return evidence.paired([difference * scale.factor for difference in by_seed], scale)

    differences = []
    for row in _names(entry.row for entry in entries):
        if row == baseline:
            continue
        each = [
            Difference(row, column, 1, compare(row, [e for e in entries if e.column == column]))
            for column in columns
        ]
        differences += each
        covered = sum(difference.comparison.n > 0 for difference in each)
        if covered > 1:
            differences.append(Difference(row, "", covered, compare(row, entries)))
    return tuple(differences)


def _are_the_same(entries: Sequence[_Entry], row: str, baseline: str) -> bool:
    """Return whether each finished trial of a row is a trial of the baseline by another name."""
    ours, base = (
        {entry.origin for entry in entries if entry.row == name and entry.origin}
        for name in (row, baseline)
    )
    return bool(ours) and ours <= base


def same_trials(points: Sequence[Point]) -> list[str]:
    """Return a line for each trial that reuses the result of another trial of this launch."""
    names = {point.finished.key: point.name for point in points if point.finished}
    return [
        f"{point.name} starts from the same weights as {names.get(origin, origin[:12])}, "
        "so its result is the same."
        for point in points
        if point.finished and (origin := point.finished.origin) != point.finished.key
    ]


def _values(entries: Sequence[_Entry], row: str) -> list[tuple[Axes, float]]:
    return [(e.axes, e.value) for e in entries if e.row == row and e.value is not None]


def _num_images(points: Sequence[Point], stage: str, metric: str) -> int | None:
    """Return the number of images of the metric's split, if all trials agree on it."""
    name = f"n_{metric.partition('/')[0]}"
    counts = {
        p.finished.result["details"].get(name) for p in points if p.stage == stage and p.finished
    }
    return int(counts.pop()) if len(counts) == 1 and None not in counts else None


def _names(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))
