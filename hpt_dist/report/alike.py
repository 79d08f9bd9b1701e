"""How alike trials of two configurations are on average, in rows and columns. Pure.

A configuration is what was compared without its seeds. Each cell is the mean over the pairs of
different trials of its two configurations, so the diagonal is that of trials that differ in the
seed alone; no trial is compared with itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from statistics import fmean, stdev
from typing import Any

from hpt_dist.evals.evidence import is_seed
from hpt_dist.evals.similarity_tables import is_whole
from hpt_dist.recipe.figures import COMPARED, Figure
from hpt_dist.recipe.kinds.similarity import MATRICES, always
from hpt_dist.report.cells import Cell, names_of
from hpt_dist.report.points import Point, stage_and_axes
from hpt_dist.report.tables import Table

_Matrix = Sequence[Sequence[float | None]]


def panels_of(
    figure: Figure, stage: str, points: Sequence[Point], compared: Callable[[str], Sequence[str]]
) -> list[tuple[str, Table]]:
    """Return the name and the table of each panel of a figure of a similarity stage.

    Args:
        figure: of compared trials.
        stage: one of its stages.
        points: all trials of the launch.
        compared: the names of the trials that a trial compares, by its name.
    """
    ours = [point for point in points if point.stage == stage]
    several = len(ours) > 1 or len(figure.stages) > 1
    return [
        (f"{point.name}: {table.metric}" if several else table.metric, table)
        for point in ours
        for table in tables_of(point, compared(point.name), figure.metric or "")
    ]


def tables_of(point: Point, names: Sequence[str], metric: str) -> list[Table]:
    """Return a table of each matrix of a trial of kind similarity.

    Args:
        point: the trial, done or not.
        names: of the trials that it compares, in the matrices' order.
        metric: the matrix to take, such as errors/iou; empty for all.
    """
    details: Mapping[str, Any] = point.finished.result["details"] if point.finished else {}
    matrices: Mapping[str, _Matrix] = details["matrices"] if is_whole(details) else {}
    wanted = [metric] if metric else [m for m in MATRICES if m in matrices or always(m)]
    axes, configurations = configurations_of(names)
    return [_table(point.stage, one, axes, configurations, matrices.get(one)) for one in wanted]


def compared_by(documents: Mapping[str, Any], name: str) -> list[str]:
    """Return the names of the trials that a trial compares, by the document behind its key."""
    return [str(one) for one in documents.get(name, {}).get("compared", {})]


def configurations_of(names: Sequence[str]) -> tuple[str, list[str]]:
    """Return what tells trials apart but for seeds: the axes in words, and each trial's.

    These are its values alone where all trials have the same axes. Else each value has its axis,
    and the stage comes first where there are several; it stands alone where no axis is left.

    Args:
        names: of the trials, `stage/axis=value,...`.
    """
    parts = [stage_and_axes(name) for name in names]
    every = [axes for _, axes in parts]
    differs = [
        axis
        for axis in names_of(axis for axes in every for axis in axes)
        if not is_seed(axis) and len({axes.get(axis) for axes in every}) > 1
    ]
    several = len({stage for stage, _ in parts}) > 1
    if differs and not several and all(set(differs) <= axes.keys() for axes in every):
        return ", ".join(differs), [", ".join(axes[axis] for axis in differs) for axes in every]
    found = []
    for stage, axes in parts:
        kept = [f"{axis}={value}" for axis, value in axes.items() if axis in differs]
        found.append(", ".join([stage] * (several or not kept) + kept))
    return COMPARED, found


def _table(
    stage: str, metric: str, axes: str, configurations: Sequence[str], matrix: _Matrix | None
) -> Table:
    rows = names_of(configurations)
    pairs: dict[tuple[str, str], list[float | None]] = {}
    for (i, one), (j, other) in combinations(enumerate(configurations), 2):
        value = matrix[i][j] if matrix else None
        for place in {(one, other), (other, one)}:
            pairs.setdefault(place, []).append(value)
    # A similarity that cannot be computed, such as of the errors of two that make none, is none.
    if matrix:
        pairs = {place: [one for one in p if one is not None] for place, p in pairs.items()}
    return Table(
        stage=stage,
        metric=metric,
        rows_axis=axes,
        columns_axis=axes,
        baseline="",
        rows=rows,
        columns=rows,
        cells=tuple(_cell(r, c, pairs.get((r, c), [])) for r in rows for c in rows),
        over=(),
        num_images=None,
        standard_error=None,
    )


def _cell(row: str, column: str, pairs: Sequence[float | None]) -> Cell:
    values = tuple(value for value in pairs if value is not None)
    mean = fmean(values) if values else None
    return Cell(row, column, len(pairs), values, mean, stdev(values) if len(values) > 1 else None)
