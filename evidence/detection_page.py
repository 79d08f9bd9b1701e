"""The page's section on detectors, from the records of their units alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean, stdev

from evidence import cells, pooled, records, rows
from evidence.matrix import BASE, DETECTIONS, DETECTOR, Target, units
from evidence.records import Detector, TrialRecord, UnitRecord
from hpt_dist.page import Block, Grid, Heading, Items, Paragraph

_NOT_MEASURED = "*not measured yet*"
_ARMS = {BASE: "published weights", "hpt": "HPT: pretraining on the pictures, without their boxes"}
_OVERLAPS = {"AP": "over ten overlaps", "AP50": "at an overlap of 0.5"}

_QUESTION = """\
Does HPT help an ImageNet network (EfficientNet-Lite0) to find objects? OpenMoji's drawings of 12
classes on backgrounds, one to three in a picture, with boxes; no drawing of one split is in
another. Faster R-CNN with a pyramid, all of which learns; {begun} of {units} units of a seed are
begun.
"""
_READING = (
    "A seed is a whole pipeline: a pretraining on the pictures of train, and a detector on the "
    "same pictures with their boxes. The last weights are judged, on test, once. Numbers are per "
    "cent by COCO's rule, ± the standard deviation over seeds.",
    "A difference is that of HPT from the published weights, seed by seed, with two 95 % intervals "
    "as above; that over images is of AP50, from resampled pictures. Pictures of test share "
    "drawings, so it is somewhat too narrow. AP has no interval over images, and no verdict.",
    "Colour drawings are also what pretraining alone was tuned on, as classes of single drawings "
    "(docs/quickstart.md); none of its settings changed by that. Those of the detector were chosen "
    "on val, from the published weights (evidence/tried.yaml).",
)


def blocks(results: Path) -> Iterator[Block]:
    """Return the section, of the records in a folder.

    Raises:
        DamagedRecordError: a record is damaged.
    """
    planned = units(DETECTIONS)
    every = [records.read(unit, results) for unit in planned]
    begun = sum(bool(one.trials) for one in every)
    yield Heading(2, "Objects in pictures")
    yield Paragraph(_QUESTION.format(begun=begun, units=len(every)))
    yield Items(_READING)
    for target in DETECTIONS:
        yield from _target(target, [one for one in every if one.target == target.name])
    yield Heading(3, "Command and commit of each detector")
    yield cells.origins(planned, every)
    yield Items(cells.machines(every) or [_NOT_MEASURED])


def _target(target: Target, its: Sequence[UnitRecord]) -> Iterator[Block]:
    yield Heading(3, target.title)
    found = rows.paired(its, _of("hpt"), _of(BASE))
    recipe = f"Recipe: recipes/evidence/{target.name}.yaml."
    if not found:
        arms = " and ".join(_ARMS)
        yield Paragraph(f"{recipe} {_NOT_MEASURED}: {arms}, {target.seeds} seeds.")
        return
    yield Paragraph(f"{recipe} {found[0][0].images:,} test pictures.")
    sides = {"hpt": [ours for ours, _ in found], BASE: [base for _, base in found]}
    seeds = f"{len(found)} of {target.seeds}"
    yield Grid(
        ["arm", "AP", "AP50", "seeds"],
        [[says, *_values(sides[arm]), seeds] for arm, says in _ARMS.items()],
        num_left=1,
    )
    header = ["HPT minus base", "difference", "± seeds", "± images", "verdict"]
    yield Grid(header, _differences(sides["hpt"], sides[BASE]), num_left=1)


def _of(arm: str) -> rows.Find:
    return lambda record: record.find(DETECTOR, init=arm)


def _values(trials: Sequence[TrialRecord]) -> list[str]:
    """Return AP and AP50 as means with their spread over seeds."""
    every = [_detector(one) for one in trials]
    return [_spread([one.ap for one in every]), _spread([one.ap50 for one in every])]


def _spread(shares: Sequence[float]) -> str:
    spread = f" ± {100 * stdev(shares):.1f}" if len(shares) > 1 else ""
    return f"{100 * fmean(shares):.1f}{spread}"


def _differences(row: Sequence[TrialRecord], base: Sequence[TrialRecord]) -> list[list[str]]:
    """Return a line for AP50 with its verdict, and one for AP."""
    ours, theirs = ([_detector(one) for one in trials] for trials in (row, base))
    at_half = pooled.of_metrics(
        [(one.ap50, one.resampled()) for one in ours],
        [(one.ap50, one.resampled()) for one in theirs],
        row[0].images,
    )
    changes = [100 * (one.ap - other.ap) for one, other in zip(ours, theirs, strict=True)]
    seeds = pooled.over_targets(changes).half_width
    half = "" if seeds is None else f"{seeds:.1f}"
    return [
        [f"AP50, {_OVERLAPS['AP50']}", *cells.difference(at_half), cells.verdict(at_half)],
        [f"AP, {_OVERLAPS['AP']}", cells.signed(fmean(changes)), half, "", ""],
    ]


def _detector(one: TrialRecord) -> Detector:
    if one.detector is None:
        raise ValueError(f"trial {one.key} is no detector")
    return one.detector
