"""Finished trials as numbers: cells, differences from the baseline, the gate, the cost. Pure.

A trial is read by its name in the launch (`stage/axis=value,...`), never by the axes in its result:
another launch, with other sweeps, may have made that result under the same key.
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

# (kind of stage, its numerics in words)
Computed = frozenset[tuple[str, str]]

_NUMERICS_AXES = ("precision", "memory_format")
_NEXT_AXIS = re.compile(r",(?=[\w.-]+=)")
_SAME = "nothing to compare: it reads the weights that {} reads, so its result is the same one"
GATE_METRIC = "val/top1"


@dataclass(frozen=True)
class Point:
    """One trial of a launch, done or not.

    Args:
        name: `stage/axis=value,...`.
        stage: name of its stage.
        axes: its settings as text.
        finished: what it left; None while it is not done.
        computed: how it and the trials that it starts from trained, by their stage's kind; nothing
            of those that train nothing, or are not done.
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
        planned: how many trials there are in all.
        values: the metric of each finished one, on the printed scale.
        mean: of the values; None without one.
        std: their sample standard deviation; None of fewer than two.
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
        stage: whose trials fill it.
        metric: in its cells.
        rows_axis: the axis that makes rows.
        columns_axis: the axis that makes columns.
        baseline: the row that the others are compared with.
        rows: names, in the recipe's order.
        columns: names, in the recipe's order.
        cells: row by row.
        over: the axes that a cell's mean is taken over.
        num_images: of the split that the metric is of; None if unknown.
        standard_error: the largest binomial standard error of a cell's accuracy that those images
            give, on the printed scale; None if unknown.
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
        row: its name.
        column: its name; empty for the mean over `columns`.
        columns: how many columns it covers.
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
        stage: the evaluation.
        kind: knn or linear.
        baseline: the stage of the backbone to beat.
        cells: validation accuracy of each backbone.
        differences: of each backbone but the baseline.
    """

    stage: str
    kind: str
    baseline: str
    cells: tuple[Cell, ...]
    differences: tuple[Difference, ...]


@dataclass(frozen=True)
class Cost:
    """What one trial took; `images` are image views fed to the network in training."""

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
        row: its name.
        column: its name.
        axes: all but those that make its row.
        value: of the table's metric; None while it is not done.
        computed: see `Point`.
        sweeps_numerics: whether numerics are among what is compared.
        origin: the key of the trial that computed the value; empty while it is not done.
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
        done: the finished ones, in any order.
        documents: what was hashed for each trial, by its name; it names the trial's parent.
    """
    by_name = {finished.name: finished for finished in done}
    parents = {name: document.get("init", "") for name, document in (documents or {}).items()}
    names = {key: name for name, key in trials.items()}
    points = []
    for name in trials:
        stage, _, text = name.partition("/")
        pairs = (axis.partition("=") for axis in _NEXT_AXIS.split(text) if axis)
        axes = {axis: value for axis, _, value in pairs}
        line = _line(name, names, parents)
        computed = (_computed(by_name[one]) for one in line if one in by_name)
        points.append(Point(name, stage, axes, by_name.get(name), frozenset().union(*computed)))
    return points


def _line(name: str, names: Mapping[str, str], parents: Mapping[str, str]) -> list[str]:
    """Return the names of a trial and of those that it starts from, one after the other."""
    line = [name]
    while (parent := names.get(parents.get(line[-1], ""), "")) and parent not in line:
        line.append(parent)
    return line


def _computed(finished: Finished) -> Computed:
    numerics = str(finished.run.get("numerics", ""))
    return frozenset({(str(finished.result["kind"]), numerics)} if numerics else ())


def computed_by_row(table: Table, points: Sequence[Point]) -> dict[str, str]:
    """Return how the trials of each row of a table trained, in words, those before them included.

    Args:
        table: of a stage.
        points: of the launch.
    """
    entries = _entries(points, table.stage, table.metric, table.rows_axis, table.columns_axis)
    told = {}
    for row in table.rows:
        found = sorted(frozenset().union(*(e.computed for e in entries if e.row == row)))
        told[row] = "; ".join(f"{kind} in {numerics}" for kind, numerics in found)
    return {row: text for row, text in told.items() if text}


def _mixed(entries: Iterable[_Entry]) -> str:
    """Return why some trials must not be compared: one kind of stage computed in several ways.

    Where precision is what the recipe sweeps over, it is the question and no accident.
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
        points: of the launch.
        stage: whose trials fill the table.
        metric: in its cells.
        rows: the axis that makes rows.
        columns: the axis that makes columns.
        baseline: a row.
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
        points: of the launch.
        baseline: the stage of the backbone to beat; where a gate lacks it, its first backbone.
    """
    found = []
    for stage in dict.fromkeys(point.stage for point in points):
        results = [p.finished.result for p in points if p.stage == stage and p.finished]
        kind = results[0]["kind"] if results else ""
        inits = [p.axes["init"] for p in points if p.stage == stage and "init" in p.axes]
        if kind and KINDS[kind].JUDGES and len(set(inits)) > 1:
            found.append(_gate(points, stage, kind, baseline if baseline in inits else inits[0]))
    return found


def single_runs(points: Sequence[Point], rows: Iterable[str]) -> tuple[str, ...]:
    """Return the rows that are a pretraining stage of one trial: its own variance is unknown."""
    kinds = {p.stage: p.finished.result["kind"] for p in points if p.finished}
    trials = Counter(point.stage for point in points)
    return tuple(row for row in rows if _pretrains(kinds.get(row, "")) and trials[row] == 1)


def _pretrains(kind: str) -> bool:
    return kind in KINDS and KINDS[kind].TRAINS and KINDS[kind].LEAVES == "weights"


def costs(done: Sequence[Finished]) -> list[Cost]:
    """Return what each finished trial took; trials of one key are one."""
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
    """Compare over seeds; where only one model stands on each side, by the images' error."""
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

    Whatever else is swept over, by the stage or by the stages it starts from, makes rows of its
    own: a mean over different settings would be nobody's result.
    """
    entries = []
    for point in points:
        if point.stage != stage:
            continue
        other = [a for a in point.axes if a not in (rows, columns) and not evidence.is_seed(a)]
        told = ", ".join(f"{axis}={point.axes[axis]}" for axis in other)
        row = point.axes.get(rows, "")
        kept = {axis: v for axis, v in point.axes.items() if axis not in (rows, *other)}
        column = point.axes.get(columns, "")
        entries.append(
            _Entry(
                f"{row} ({told})" if told else row,
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
        found = evidence.seed_differences(_values(here, row), _values(here, baseline))
        return evidence.paired([difference * scale.factor for difference in found], scale)

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
    """Return whether every finished trial of a row is one of the baseline's under another name."""
    ours, base = (
        {entry.origin for entry in entries if entry.row == name and entry.origin}
        for name in (row, baseline)
    )
    return bool(ours) and ours <= base


def same_trials(points: Sequence[Point]) -> list[str]:
    """Return a line for each trial that took the result of another of this launch."""
    names = {point.finished.key: point.name for point in points if point.finished}
    return [
        f"{point.name} reads what {names.get(origin, origin[:12])} has read: it is the same result."
        for point in points
        if point.finished and (origin := point.finished.origin) != point.finished.key
    ]


def _values(entries: Sequence[_Entry], row: str) -> list[tuple[Axes, float]]:
    return [(e.axes, e.value) for e in entries if e.row == row and e.value is not None]


def _num_images(points: Sequence[Point], stage: str, metric: str) -> int | None:
    """Return how many images the metric's split has, if every trial says the same."""
    name = f"n_{metric.partition('/')[0]}"
    told = {
        p.finished.result["details"].get(name) for p in points if p.stage == stage and p.finished
    }
    return int(told.pop()) if len(told) == 1 and None not in told else None


def _names(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))
