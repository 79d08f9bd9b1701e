"""Verdicts on validation: of a pretraining on itself, and of backbones by frozen features. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hpt_dist.evals.evidence import scale_of
from hpt_dist.page import Block, Grid
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
from hpt_dist.train.averages import Average, Place, in_words, of_details


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
        averages: of the backbones that are averages, a line each.
    """

    stage: str
    kind: str
    metric: str
    baseline: str
    cells: tuple[Cell, ...]
    differences: tuple[Difference, ...]
    averages: tuple[str, ...] = ()


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


def verdict_of(details: Mapping[str, Any]) -> str:
    """Return a pretraining trial's verdict on itself; empty if no label judged it.

    Args:
        details: of its result.
    """
    judged = (details.get(name, {}).get("says", "") for name in ("gate", "forgetting"))
    text = "; ".join(filter(None, map(str, judged)))
    if text and (collapsed := details.get("collapsed")):
        text += f"; its features have collapsed ({', '.join(collapsed)})"
    return text


def left_average(details: Mapping[str, Any]) -> str:
    """Return in words that a trial left an average, which is neither its start nor a step."""
    average = of_details(details)
    return f"it left an average, {average}" if average else ""


def of_averages(details: Mapping[str, Any]) -> list[Block]:
    """Return the metric along the way from the start to the last step; nothing without averages.

    Args:
        details: of a pretraining's result.
    """
    shares: Mapping[str, Mapping[str, float]] = details.get("averages", {})
    looks = {int(step): found for step, found in details.get("monitor", {}).items()}
    last = max(looks, default=0)
    if not shares or not last:
        return []
    way = {Average(float(share), last): found for share, found in shares.items()}
    ordered: dict[Place, Mapping[str, float]] = {0: looks.get(0, {})}
    ordered |= {one: way[one] for one in sorted(way, key=lambda one: one.share)}
    ordered[last] = looks[last]
    metrics = [name for name in ordered[last] if not name.startswith("monitor/")]
    if not metrics:
        return []
    metric, step = metrics[0], int(details.get("kept_step", last))
    kept: Place = of_details(details) or step
    if kept not in ordered:
        ordered[kept] = looks.get(step, {})
    scale = scale_of(metric)
    rows = [
        [in_words(place), scale.text(scale.factor * found[metric]), "kept" * (place == kept)]
        for place, found in ordered.items()
        if metric in found
    ]
    return [Grid(["weights", f"{metric}, {scale.unit}", ""], rows)]


def _averages(points: Sequence[Point], stages: Sequence[str]) -> list[str]:
    """Return which trials of stages left an average, a line each."""
    found = {
        point.name: left_average(point.finished.result["details"])
        for point in points
        if point.stage in stages and point.finished
    }
    return [f"{name}: {says}" for name, says in found.items() if says]


def _base_of(row: str, baseline: str, rows: Sequence[str]) -> str:
    """Return the row that one is compared with: the baseline's with the same other values.

    Where an evaluation sweeps more than its start, a row is named `hpt (shots=1)`.
    """
    same = baseline + row[len(row.partition(" (")[0]) :]
    return same if same in rows else baseline


def _gate(points: Sequence[Point], stage: str, kind: str, baseline: str) -> Gate:
    metric = metric_of(points, stage, "val")
    entries = entries_of(points, stage, metric, "init", "")
    num_images = images_of(points, stage, metric)
    rows = names_of(entry.row for entry in entries)
    differences = tuple(
        Difference(row, "", 1, compared(entries, row, base, metric, num_images, fixed_base=True))
        for row in rows
        if (base := _base_of(row, baseline, rows)) != row
    )
    cells = cells_of(entries, metric, num_images)
    inits = [str(p.axes["init"]) for p in points if p.stage == stage and "init" in p.axes]
    averages = tuple(_averages(points, inits))
    return Gate(stage, kind, metric, baseline, cells, differences, averages)
