"""Evaluations that no table of the report shows: what validation and test say of each. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from hpt_dist.report.cells import Cell, cells_of, entries_of
from hpt_dist.report.points import Point, leave_val_alone

_SPLITS = ("val", "test")


@dataclass(frozen=True)
class Evaluated:
    """The trials of a stage with the same settings but for their seeds.

    Args:
        name: of the stage, and its swept settings.
        metric: by which val chose, such as `top1`.
        val: its mean on validation.
        test: its mean on test.
        val_unread: whether its stage kept last weights without a look at validation.
    """

    name: str
    metric: str
    val: Cell
    test: Cell
    val_unread: bool = False


def evaluated(points: Sequence[Point], shown: Collection[str]) -> list[Evaluated]:
    """Return the evaluations of the stages that are not shown elsewhere, in their order.

    A stage counts from its first finished trial that has read test.

    Args:
        points: all trials of the launch.
        shown: stages to leave out.
    """
    found = []
    for stage in dict.fromkeys(point.stage for point in points if point.stage not in shown):
        if not (metric := _chose(points, stage)):
            continue
        val, test = (
            cells_of(entries_of(points, stage, name, "", ""), name)
            for name in (f"{split}/{metric}" for split in _SPLITS)
        )
        unread = leave_val_alone(points, stage)
        found += [
            Evaluated(f"{stage} {one.row.strip()}".strip(), metric, one, other, unread)
            for one, other in zip(val, test, strict=True)
        ]
    return found


def _chose(points: Sequence[Point], stage: str) -> str:
    """Return the metric by which val chose in a stage; empty if no trial of it has read test."""
    for point in points:
        if point.stage == stage and point.finished:
            result = point.finished.result
            metric = str(result.get("details", {}).get("metric", "top1"))
            if f"test/{metric}" in result["metrics"]:
                return metric
    return ""
