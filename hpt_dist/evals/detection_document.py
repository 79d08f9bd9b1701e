"""What a detector's trial leaves for reports: scores, curves and the worst images, as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from hpt_dist.errors import DataError
from hpt_dist.evals import detection_matches as matches
from hpt_dist.evals.detection import Detections, Kind, Scores, Truth
from hpt_dist.store import records
from hpt_dist.store.records import Count, PathPart

SURE = 0.5  # detections at or above this score are looked at one by one
WORST = 12  # images that are shown
_FORMAT = 1
_DECIMALS = 4
_LISTED = 20  # of the misses of one image

Share = Annotated[float, Field(ge=0, le=1)]
Percent = Annotated[float, Field(ge=0, le=100 + 1e-6)]


@dataclass(frozen=True)
class OfClass:
    """How a class fared.

    Args:
        name: of the class.
        objects: that count.
        metrics: by the names of `detection.METRICS`, in per cent; None where no object counts.
        right: detections at or above a score of `Shown.sure` that are right.
        wrong: those that are wrong.
        missed: objects that none of them hit.
        precision: at recalls of 0, 0.01 to 1, by the overlap of 0.5; empty without an object.
    """

    name: str
    objects: Count
    metrics: Mapping[str, Percent | None]
    right: Count
    wrong: Count
    missed: Count
    precision: tuple[Share, ...]


@dataclass(frozen=True)
class Worst:
    """One of the images with the most mistakes.

    Args:
        key: of the image.
        objects: of it that count.
        missed: the classes of the objects that were missed, the first twenty.
        wrong: the classes of the detections that are wrong, the surest twenty.
        mistakes: how many there are of both.
    """

    key: str
    objects: Count
    missed: tuple[str, ...]
    wrong: tuple[str, ...]
    mistakes: Count


@dataclass(frozen=True)
class Shown:
    """All of it, of one split, by boxes or by masks.

    Args:
        format: version of this form.
        split: its name.
        kind: what was compared.
        images: how many.
        sure: the score from which detections are looked at one by one.
        metrics: see `detection.Scores`.
        without_truth: see `detection.Scores`.
        precision: of all classes together, see `OfClass`.
        classes: in the order of their ids.
        worst: the images with the most mistakes first; none of an image without one.
        picture: the file that shows these, in their order; empty without one.
    """

    format: Count
    split: PathPart
    kind: Literal["boxes", "masks"]
    images: Count
    sure: float
    metrics: Mapping[str, Percent | None]
    without_truth: tuple[str, ...]
    precision: tuple[Share, ...]
    classes: tuple[OfClass, ...]
    worst: tuple[Worst, ...]
    picture: str = ""


def file_of(split: str, kind: Kind) -> str:
    """Return the name of the file, beside result.json."""
    return f"detection.{split}.{kind}.json"


def is_file(name: str) -> bool:
    """Return whether an object of a trial is such a file."""
    return name.startswith("detection.") and name.endswith(".json")


def shown(
    truth: Truth,
    found: Mapping[str, Detections],
    matched: Sequence[matches.Matched],
    classes: Sequence[str],
    scores: Scores,
    *,
    split: str,
    sure: float = SURE,
    picture: str = "",
) -> Shown:
    """Return what there is to show.

    Args:
        truth: the objects of every image.
        found: what was detected, by the images' keys.
        matched: by `detection_matches.of_images`.
        classes: names in the order of their ids.
        scores: by `detection.score`.
        split: its name.
        sure: see `Shown`.
        picture: see `Shown`.
    """
    every, by_class = matches.ranked(truth, found, matched, len(classes))
    right, wrong, missed = _counted(truth, found, matched, len(classes), sure)
    curves = [matches.curve(one) for one in by_class]
    return Shown(
        format=_FORMAT,
        split=split,
        kind=scores.kind,
        images=len(truth),
        sure=sure,
        metrics=dict(scores.metrics),
        without_truth=scores.without_truth,
        precision=_points(matches.curve(every)),
        classes=tuple(
            OfClass(
                name,
                curve.objects,
                dict(scores.per_class[name]),
                right[label],
                wrong[label],
                missed[label],
                _points(curve),
            )
            for label, (name, curve) in enumerate(zip(classes, curves, strict=True))
        ),
        worst=tuple(worst(truth, found, matched, classes, sure=sure)),
        picture=picture,
    )


def _counted(
    truth: Truth,
    found: Mapping[str, Detections],
    matched: Sequence[matches.Matched],
    num_classes: int,
    sure: float,
) -> tuple[list[int], list[int], list[int]]:
    """Return how many sure detections are right and wrong, and objects missed, by class."""
    totals = np.zeros((3, num_classes), np.int64)
    for (key, boxes), one in zip(truth, matched, strict=True):
        is_sure = found[key].scores >= sure
        labels = found[key].labels
        for row, these in enumerate(
            (
                labels[one.right & is_sure],
                labels[one.wrong & is_sure],
                boxes.labels[one.missed(is_sure)],
            )
        ):
            totals[row] += np.bincount(these, minlength=num_classes)
    right, wrong, missed = totals.tolist()
    return right, wrong, missed


def _points(curve: matches.Curve) -> tuple[float, ...]:
    return tuple(curve.precision.round(_DECIMALS).tolist()) if curve.objects else ()


def worst(
    truth: Truth,
    found: Mapping[str, Detections],
    matched: Sequence[matches.Matched],
    classes: Sequence[str],
    *,
    sure: float = SURE,
    count: int = WORST,
) -> list[Worst]:
    """Return the images with the most mistakes, of equally many the first.

    A mistake is an object that no sure detection hit, or a sure detection that is wrong. Arguments
    are those of `shown`.
    """
    listed = []
    for (key, boxes), one in zip(truth, matched, strict=True):
        is_sure = found[key].scores >= sure
        missed = np.flatnonzero(one.missed(is_sure))
        wrong = np.flatnonzero(one.wrong & is_sure)
        wrong = wrong[np.argsort(-found[key].scores[wrong], kind="stable")]
        if mistakes := len(missed) + len(wrong):
            of_missed, of_wrong = (
                tuple(classes[label] for label in labels[rows[:_LISTED]].tolist())
                for labels, rows in ((boxes.labels, missed), (found[key].labels, wrong))
            )
            listed.append(Worst(key, int(one.scored.sum()), of_missed, of_wrong, mistakes))
    return sorted(listed, key=lambda one: -one.mistakes)[:count]


def encoded(one: Shown) -> bytes:
    """Return the file of what there is to show: the same bytes for the same values."""
    return (json.dumps(asdict(one), sort_keys=True, separators=(",", ":")) + "\n").encode()


def decoded(data: bytes, where: str) -> Shown:
    """Return what a file holds.

    Raises:
        DamagedRecordError: it is no such file.
        DataError: it has a format that this version does not know.
    """
    found = records.decoded(data, Shown, where=where)
    if found.format != _FORMAT:
        what = f"detections of format {found.format} are not known"
        raise DataError(what, where=where, allowed=str(_FORMAT), fix="update hpt-dist")
    return found
