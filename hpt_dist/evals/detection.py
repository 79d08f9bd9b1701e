"""What a detector gives, and its scores: COCO's average precision of boxes and of masks.

COCO's rule (Lin et al., arXiv 1405.0312; https://cocodataset.org/#detection-eval): AP is the mean
of the precision at 101 values of recall, over ten overlaps from 0.5 to 0.95 and over classes; of
each image and class the hundred surest detections count. Crowds are ignored as COCO ignores them.
So are objects that VOC calls difficult: what is matched to one counts neither as right nor as
wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hpt_dist.errors import DataError, DivergedError
from hpt_dist.evals import detection_coco
from hpt_dist.evals.detection_types import Detections, Floats, Kind, Truth
from hpt_dist.reading.boxes import Boxes

__all__ = [
    "METRICS",
    "MOST",
    "Detections",
    "Floats",
    "Kind",
    "Scores",
    "Truth",
    "check",
    "merged",
    "score",
]

# Over all overlaps, at an overlap of 0.5 and of 0.75; of small objects (below 32 x 32 pixels), of
# medium ones and of large ones (above 96 x 96).
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
MOST = 100  # detections of a class in an image that count
_AT = {"AP50": 0, "AP75": 5}  # of the ten overlaps
_AREAS = {"APs": 1, "APm": 2, "APl": 3}
_NAMED = 5


@dataclass(frozen=True)
class Scores:
    """How good detections are, in per cent.

    Args:
        kind: what was compared, boxes or masks.
        images: how many.
        metrics: by the names of `METRICS`; None where no object counts, such as APs where none is
            small.
        per_class: the same of each class, by its name.
        without_truth: the classes of which no object counts: they have no AP, and are in no mean.
    """

    kind: Kind
    images: int
    metrics: Mapping[str, float | None]
    per_class: Mapping[str, Mapping[str, float | None]]
    without_truth: tuple[str, ...]


def score(
    truth: Truth,
    found: Mapping[str, Detections],
    classes: Sequence[str],
    *,
    kind: Kind = "boxes",
) -> Scores:
    """Return COCO's scores of what a detector found.

    Equally sure detections of a class count in the order of the images in `truth`, and in an image
    in their own order, so that the same detections always have the same scores.

    An object is small, medium or large by its annotated area; without one by that of its mask, and
    without a mask by that of its box.

    Args:
        truth: the objects of every image, by its key.
        found: of every image, by its key.
        classes: names in the order of their indices.
        kind: what is compared; masks need masks on both sides.

    Raises:
        DataError: an image is missing, unknown or twice there, or its detections are no detections;
            it names the image.
        DivergedError: boxes or scores are not finite.
        RequestError: the evaluator is not installed.
    """
    check(truth, found, len(classes), kind)
    precision = detection_coco.precision(truth, found, len(classes), kind)
    has_truth = [bool((precision[:, :, c, 0] >= 0).any()) for c in range(len(classes))]
    return Scores(
        kind=kind,
        images=len(truth),
        metrics=_metrics(precision),
        per_class={name: _metrics(precision[:, :, [c]]) for c, name in enumerate(classes)},
        without_truth=tuple(name for name, has in zip(classes, has_truth, strict=True) if not has),
    )


def _metrics(precision: Floats) -> dict[str, float | None]:
    """Return the metrics of precisions [overlaps, recalls, classes, areas]; -1 is no object."""
    parts = {
        name: precision[slice(None) if name not in _AT else _AT[name], ..., _AREAS.get(name, 0)]
        for name in METRICS
    }
    counted = {name: part[part >= 0] for name, part in parts.items()}
    return {
        name: 100 * float(values.mean()) if values.size else None
        for name, values in counted.items()
    }


def merged(shares: Iterable[Iterable[tuple[str, Detections]]]) -> dict[str, Detections]:
    """Return what all ranks found, by the images' keys.

    Args:
        shares: of each rank its images with what was found.

    Raises:
        DataError: an image was answered twice; it names the image and the ranks.
    """
    found: dict[str, Detections] = {}
    by: dict[str, int] = {}
    for rank, share in enumerate(shares):
        for key, one in share:
            if key in found:
                raise DataError(f"the image {key} was answered twice, by rank {by[key]} and {rank}")
            found[key], by[key] = one, rank
    return found


def check(truth: Truth, found: Mapping[str, Detections], num_classes: int, kind: Kind) -> None:
    """Refuse what cannot be scored; raises as `score`."""
    twice = [key for key, count in Counter(key for key, _ in truth).items() if count > 1]
    keys = {key for key, _ in truth}
    missing = [key for key, _ in truth if key not in found]
    unknown = [key for key in found if key not in keys]
    for wrong, what in (
        (twice, "there is more than one truth of"),
        (missing, "nothing was answered about"),
        (unknown, "detections are given, but no truth, of"),
    ):
        if wrong:
            raise DataError(
                f"{what} {_listed(wrong)}", allowed="every image of the split exactly once"
            )
    for key, boxes in truth:
        _check_image(key, boxes, found[key], num_classes, kind)


def _check_image(key: str, truth: Boxes, found: Detections, num_classes: int, kind: Kind) -> None:
    count = len(found.scores)
    if found.boxes.shape != (count, 4) or found.labels.shape != (count,):
        shapes = f"{list(found.boxes.shape)} boxes, {count} scores, {len(found.labels)} labels"
        raise DataError(f"the detections of the image {key} do not fit each other: {shapes}")
    if not (np.isfinite(found.boxes).all() and np.isfinite(found.scores).all()):
        raise DivergedError(f"boxes or scores of the image {key} are not finite")
    if (found.boxes[:, 2:] < found.boxes[:, :2]).any():
        raise DataError(f"a box of the image {key} ends before it begins")
    for labels, whose in ((found.labels, "a detection"), (truth.labels, "an object")):
        if labels.size and not 0 <= labels.min() <= labels.max() < num_classes:
            what = f"{whose} of the image {key} is of a class that there is not"
            raise DataError(what, allowed=f"0 to {num_classes - 1}")
    if kind == "masks":
        for masks, length, whose in (
            (found.masks, count, "detections"),
            (truth.masks, len(truth.labels), "objects"),
        ):
            if masks is None or len(masks) != length:
                held = "no" if masks is None else str(len(masks))
                raise DataError(f"the {length} {whose} of the image {key} have {held} masks")


def _listed(keys: Sequence[str]) -> str:
    more = len(keys) - _NAMED
    images = f"{len(keys):,} image{'s' * (len(keys) != 1)}"
    return f"{images}: {', '.join(keys[:_NAMED])}" + (f" and {more:,} more" if more > 0 else "")
