"""Pretrained backbones against the baseline's, by frozen features on validation. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hpt_dist.recipe import KINDS
from hpt_dist.report.cells import (
    Cell,
    Difference,
    cells_of,
    compared,
    entries_of,
    names_of,
)
from hpt_dist.report.points import Point, images_of, kind_of, metric_of


@dataclass(frozen=True)
class Gate:
    """Pretrained backbones against the baseline's, by frozen features on validation.

    Args:
        stage: the stage that evaluates.
        kind: knn or linear.
        metric: of validation, by which the stage chooses, such as `val/auroc`.
        baseline: the stage of the backbone to beat.
        cells: the metric of each backbone.
        differences: the difference of each other backbone from the baseline.
    """

    stage: str
    kind: str
    metric: str
    baseline: str
    cells: tuple[Cell, ...]
    differences: tuple[Difference, ...]


def gates(points: Sequence[Point], baseline: str) -> list[Gate]:
    """Return the step-0 gate of each evaluation of frozen features that has several backbones.

    Args:
        points: all trials of the launch.
        baseline: the stage of the backbone to beat; a gate without it takes its first backbone.
    """
    result = []
    for stage in dict.fromkeys(point.stage for point in points if not point.is_candidate):
        kind = kind_of(points, stage)
        inits = [p.axes["init"] for p in points if p.stage == stage and "init" in p.axes]
        if kind and KINDS[kind].JUDGES and len(set(inits)) > 1:
            result.append(_gate(points, stage, kind, baseline if baseline in inits else inits[0]))
    return result


def _gate(points: Sequence[Point], stage: str, kind: str, baseline: str) -> Gate:
    metric = metric_of(points, stage, "val")
    entries = entries_of(points, stage, metric, "init", "")
    num_images = images_of(points, stage, metric)
    differences = tuple(
        Difference(
            row, "", 1, compared(entries, row, baseline, metric, num_images, fixed_base=True)
        )
        for row in names_of(entry.row for entry in entries)
        if row != baseline
    )
    cells = cells_of(entries, metric, num_images)
    return Gate(stage, kind, metric, baseline, cells, differences)
