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
from hpt_dist.report.points import Point, images_of, kind_of

GATE_METRIC = "val/top1"


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
    entries = entries_of(points, stage, GATE_METRIC, "init", "")
    num_images = images_of(points, stage, GATE_METRIC)
    differences = tuple(
        Difference(
            row, "", 1, compared(entries, row, baseline, GATE_METRIC, num_images, fixed_base=True)
        )
        for row in names_of(entry.row for entry in entries)
        if row != baseline
    )
    return Gate(stage, kind, baseline, cells_of(entries, GATE_METRIC), differences)
