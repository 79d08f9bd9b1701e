"""The table of a launch, and each row's difference from the baseline row. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hpt_dist.evals import evidence
from hpt_dist.evals.evidence import Comparison
from hpt_dist.recipe import KINDS
from hpt_dist.report.cells import (
    Cell,
    Difference,
    Entry,
    cells_of,
    compared,
    entries_of,
    names_of,
)
from hpt_dist.report.points import Point, images_of, kind_of, leave_val_alone


@dataclass(frozen=True)
class Table:
    """The table of a launch.

    Args:
        stage: the stage that the trials belong to.
        metric: the metric in the cells.
        rows_axis: the axis with one row per value.
        columns_axis: the axis with one column per value; empty where there is one column.
        baseline: the row that the others are compared with.
        rows: names of the rows, in the recipe's order.
        columns: names of the columns, in the recipe's order.
        cells: the cells, row by row.
        over: the axes that a cell's mean, or median, is taken over.
        num_images: number of images of the metric's split; None if unknown.
        standard_error: the largest binomial standard error of a cell's accuracy on that many
            images, on the printed scale; None if unknown.
        median: whether cells hold medians.
        val_unread: whether its trials kept their last weights without a look at validation.
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
    median: bool = False
    val_unread: bool = False


def tabulate(
    points: Sequence[Point],
    stage: str,
    metric: str,
    rows: str,
    columns: str,
    baseline: str,
    *,
    median: bool = False,
) -> tuple[Table, tuple[Difference, ...]]:
    """Return the table of a stage, and each row's difference from the baseline row.

    Args:
        points: all trials of the launch.
        stage: the stage that the table's trials belong to.
        metric: the metric in its cells.
        rows: the axis with one row per value.
        columns: the axis with one column per value; empty for one column.
        baseline: name of the row to compare with.
        median: whether cells hold the median of their trials; differences are means all the same.
    """
    entries = entries_of(points, stage, metric, rows, columns)
    num_images = images_of(points, stage, metric)
    cells = cells_of(entries, metric, num_images, median=median)
    means = [cell.mean for cell in cells if cell.mean is not None]
    scale = evidence.scale_of(metric)
    error = None
    if num_images and means and evidence.is_accuracy(metric):
        shares = (mean / scale.factor for mean in means)
        error = max(evidence.standard_error(s, num_images) for s in shares) * scale.factor
    over = {axis: None for entry in entries for axis in entry.axes if axis != columns}
    table = Table(
        stage=stage,
        metric=metric,
        rows_axis=rows,
        columns_axis=columns,
        baseline=baseline,
        rows=names_of(entry.row for entry in entries),
        columns=names_of(entry.column for entry in entries),
        cells=cells,
        over=tuple(over),
        num_images=num_images,
        standard_error=error,
        median=median,
        val_unread=leave_val_alone(points, stage),
    )
    kind = kind_of(points, stage)
    judges = bool(kind) and KINDS[kind].JUDGES
    return table, _differences(entries, baseline, metric, num_images, judges=judges)


def computed_by_row(table: Table, points: Sequence[Point]) -> dict[str, str]:
    """Return how the trials of each row, and the trials they start from, trained, in words.

    Args:
        table: the table.
        points: all trials of the launch.
    """
    entries = entries_of(points, table.stage, table.metric, table.rows_axis, table.columns_axis)
    texts = {}
    for row in table.rows:
        ways = sorted(frozenset().union(*(e.computed for e in entries if e.row == row)))
        texts[row] = "; ".join(f"{kind} in {numerics}" for kind, numerics in ways)
    return {row: text for row, text in texts.items() if text}


def _differences(
    entries: Sequence[Entry],
    baseline: str,
    metric: str,
    num_images: int | None,
    *,
    judges: bool,
) -> tuple[Difference, ...]:
    """Return each row's difference at each column, and over all columns where there are several.

    Of frozen features, whose evaluation may not depend on its seed, one value a side is judged by
    the number of images.
    """
    columns = names_of(entry.column for entry in entries)

    def compare(row: str, here: Sequence[Entry]) -> Comparison:
        return compared(here, row, baseline, metric, num_images, judges=judges)

    differences = []
    for row in names_of(entry.row for entry in entries):
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
