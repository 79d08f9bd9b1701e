"""Pretrained backbones against the baseline's, by frozen features on validation. Pure."""

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
    entries_of,
    names_of,
    values_of,
    why_not_comparable,
)
from hpt_dist.report.points import Point, images_of

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
    for stage in dict.fromkeys(point.stage for point in points):
        results = [p.finished.result for p in points if p.stage == stage and p.finished]
        kind = results[0]["kind"] if results else ""
        inits = [p.axes["init"] for p in points if p.stage == stage and "init" in p.axes]
        if kind and KINDS[kind].JUDGES and len(set(inits)) > 1:
            result.append(_gate(points, stage, kind, baseline if baseline in inits else inits[0]))
    return result


def _gate(points: Sequence[Point], stage: str, kind: str, baseline: str) -> Gate:
    entries = entries_of(points, stage, GATE_METRIC, "init", "")
    num_images = images_of(points, stage, GATE_METRIC)
    differences = tuple(
        Difference(row, "", 1, _features_compared(entries, row, baseline, num_images))
        for row in names_of(entry.row for entry in entries)
        if row != baseline
    )
    return Gate(stage, kind, baseline, cells_of(entries, GATE_METRIC), differences)


def _features_compared(
    entries: Sequence[Entry], row: str, baseline: str, num_images: int | None
) -> Comparison:
    """Compare over seeds; with one model on each side, by the error that the images give."""
    scale = evidence.scale_of(GATE_METRIC)
    if why := why_not_comparable(entries, row, baseline):
        return evidence.refused(why)
    ours, base = values_of(entries, row), values_of(entries, baseline)
    differences = evidence.seed_differences(ours, base, fixed_base=True)
    over_seeds = evidence.paired([d * scale.factor for d in differences], scale)
    single = all(len({value for _, value in side}) == 1 for side in (ours, base))
    if over_seeds.verdict == "none" and single and num_images:
        return evidence.on_images(ours[0][1], base[0][1], num_images, "validation", scale)
    return over_seeds
