"""VOC's own average precision, by which the numbers of papers on VOC 2007 are computed.

It differs from COCO's in three ways (Everingham et al., IJCV 2010, section 4.2; its development
kits). A detection is compared with the object that it overlaps most, and is wrong if another one
has hit that object before, where COCO lets it take the next best. Any number of detections may hit
a difficult object, and none of them counts, where COCO's rule forgives the first alone. And the
precision is averaged over 11 recalls (2007), or over all (from 2010 on), where COCO takes 101.

As detectron2 has it, the average precision is taken at COCO's ten overlaps. VOC counts pixels, COCO
lengths: a box from pixel 1 to pixel 5 is here one from 0 to 5, which has the same overlaps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpt_dist.evals import detection_coco
from hpt_dist.evals.detection import Detections, Floats, Scores, Truth, check
from hpt_dist.reading.boxes import Boxes

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Points = Literal["11", "all"]

_OVERLAPS = np.linspace(0.5, 0.95, 10)
_AT = {"AP50": 0, "AP75": 5}
_RECALLS = np.arange(0.0, 1.1, 0.1)
_IGNORED, _WRONG, _RIGHT = 0, -1, 1


def score(
    truth: Truth, found: Mapping[str, Detections], classes: Sequence[str], *, points: Points = "11"
) -> Scores:
    """Return VOC's AP, AP50 and AP75 of boxes, in per cent; crowds are difficult objects.

    Args:
        truth: see `detection.score`.
        found: see `detection.score`.
        classes: names in the order of their indices.
        points: 11 recalls, as of VOC 2007, or all.

    Raises:
        DataError, DivergedError, RequestError: as `detection.score`.
    """
    check(truth, found, len(classes), "boxes")
    averages = [_of_class(truth, found, label, points) for label in range(len(classes))]
    named = list(zip(classes, averages, strict=True))
    counted = [values for values in averages if values is not None]
    return Scores(
        kind="boxes",
        images=len(truth),
        metrics=_metrics(np.mean(counted, axis=0) if counted else None),
        per_class={name: _metrics(values) for name, values in named},
        without_truth=tuple(name for name, values in named if values is None),
    )


def _metrics(averages: Floats | None) -> dict[str, float | None]:
    if averages is None:
        return dict.fromkeys(("AP", *_AT))
    one = {name: 100 * float(averages[at]) for name, at in _AT.items()}
    return {"AP": 100 * float(averages.mean()), **one}


class _Compared(NamedTuple):
    """What each detection of a class in an image overlaps most.

    Args:
        scores: float64 [m].
        overlaps: float64 [m]; -1 where the image has no object of the class.
        objects: int64 [m], numbers of objects in the image.
        images: int64 [m], the number of the image.
    """

    scores: Floats
    overlaps: Floats
    objects: Ints
    images: Ints


def _of_class(
    truth: Truth, found: Mapping[str, Detections], label: int, points: Points
) -> Floats | None:
    """Return the average precision of a class at each overlap, [10]; None without an object."""
    compared = [
        _compared(boxes, found[key], label, number) for number, (key, boxes) in enumerate(truth)
    ]
    counted = [(boxes.labels == label) & ~(boxes.difficult | boxes.crowd) for _, boxes in truth]
    total = sum(int(one.sum()) for one in counted)
    if not total:
        return None
    every = _Compared(*map(np.concatenate, zip(*compared, strict=True)))
    order = np.argsort(-every.scores, kind="stable")
    ranked = _Compared(
        every.scores[order], every.overlaps[order], every.objects[order], every.images[order]
    )
    return np.array([_average(_outcomes(ranked, counted, one), total, points) for one in _OVERLAPS])


def _compared(truth: Boxes, found: Detections, label: int, number: int) -> _Compared:
    columns, rows = np.flatnonzero(truth.labels == label), np.flatnonzero(found.labels == label)
    scores = found.scores[rows]
    best, objects = np.full(len(rows), -1.0), np.zeros(len(rows), np.int64)
    if len(columns) and len(rows):
        some = Detections(found.boxes[rows], scores, found.labels[rows])
        nobody = [False] * len(columns)
        overlaps = detection_coco.overlaps(truth.take(columns), some, nobody, "boxes")
        best, objects = overlaps.max(axis=1), columns[overlaps.argmax(axis=1)]
    return _Compared(scores.astype(np.float64), best, objects, np.full(len(rows), number))


def _outcomes(ranked: _Compared, counted: Sequence[Bools], overlap: float) -> Ints:
    """Return what each detection is at an overlap, int64 [m]: right, wrong or ignored."""
    taken: set[tuple[int, int]] = set()
    outcomes = []
    places = zip(ranked.images.tolist(), ranked.objects.tolist(), strict=True)
    for value, place in zip(ranked.overlaps.tolist(), places, strict=True):
        if value <= overlap:
            outcomes.append(_WRONG)
        elif not counted[place[0]][place[1]]:
            outcomes.append(_IGNORED)
        else:
            outcomes.append(_WRONG if place in taken else _RIGHT)
            taken.add(place)
    return np.array(outcomes, np.int64)


def _average(outcomes: Ints, total: int, points: Points) -> float:
    """Return the average precision of outcomes [m], the surest first."""
    right, wrong = ((outcomes == one).cumsum() for one in (_RIGHT, _WRONG))
    recall = right / total
    precision = right / np.maximum(right + wrong, 1e-300)
    best = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    if points == "11":
        return float(best[np.searchsorted(recall, _RECALLS)].mean())
    return float((np.diff(recall, prepend=0.0) * best[:-1]).sum())
