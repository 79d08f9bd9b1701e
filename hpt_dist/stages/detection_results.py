"""What a detector's trial leaves of a split: metrics, intervals, and what reports show.

```
found = detection_results.gathered(accelerator, ours)     # every rank's images, each once
left = detection_results.exhibit(truth, found, manifest.classes, images, split="test")
Result(left.metrics, left.details, replicates=left.replicates, pictures=left.files, ...)
```
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch.distributed as dist

from hpt_dist.errors import HptError
from hpt_dist.evals import bootstrap, detection_document, detection_matches, detection_voc
from hpt_dist.evals.detection import Detections, Kind, Scores, Truth, merged, score
from hpt_dist.evals.detection_document import SURE, Shown
from hpt_dist.evals.detection_matches import Bools, Matched
from hpt_dist.images.marked import Mark, marked
from hpt_dist.images.sheet import Pixels, encoded
from hpt_dist.reading.boxes import Boxes
from hpt_dist.reading.pool import Pool
from hpt_dist.train.loop import Accelerator

# The images of some keys: uint8 [h, w, 3], upright, of the size that truth and detections refer to.
Images = Callable[[Sequence[str]], Mapping[str, Pixels]]

_PX = 240
_HIT, _MISSED, _RIGHT, _WRONG, _IGNORED = "#009E73", "#D55E00", "#1B7FC4", "#B3261E", "#808080"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Exhibit:
    """What a trial leaves of a split.

    Args:
        metrics: shares of 1: "test/AP", "test/AP50", "test/AP75", "test/APs", "test/APm" and
            "test/APl" where objects count in them; of masks "test/mask_AP" and so on; of VOC's rule
            "test/voc_AP", "test/voc_AP50" and "test/voc_AP75".
        details: "metric", by which val may choose; "classes", the same of each class by kind, in
            per cent; "without_truth", by kind; "intervals" of AP50 over images; "n_test", images.
        replicates: of AP50, from which reports pair trials; see `evals.bootstrap`.
        files: by name, for `Result.pictures`: what `report.detections` shows.
    """

    metrics: dict[str, float]
    details: dict[str, Any]
    replicates: dict[str, Sequence[float]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)


def exhibit(
    truth: Truth,
    found: Mapping[str, Detections],
    classes: Sequence[str],
    images: Images,
    *,
    split: str,
    kinds: Sequence[Kind] = ("boxes",),
    voc: detection_voc.Points | None = None,
    sure: float = SURE,
) -> Exhibit:
    """Return what a trial leaves of a split; a picture that cannot be made is left out.

    For 500 images with 100 detections each it takes about 3 s of a core: a third is COCO's scores,
    a third the matches of curves and misses, a fifth the interval. It grows with the number of
    detections. VOC's rule takes 2 s more.

    Args:
        truth: the objects of every image of the split, by its key.
        found: what was detected, by the images' keys, every image once.
        classes: names in the order of their ids.
        images: reads some images, for the picture of the worst; see `images_of`.
        split: its name, with which names of metrics start.
        kinds: what is compared, the first of which the picture shows.
        voc: also score boxes by VOC's rule, at 11 recalls or at all; None does not.
        sure: the score from which detections are looked at one by one.

    Raises:
        DataError, DivergedError, RequestError: as `detection.score`.
    """
    details = {"metric": "AP", "classes": {}, "without_truth": {}, "intervals": {}}
    left = Exhibit({}, {**details, f"n_{split}": len(truth)})
    for kind in kinds:
        scores = score(truth, found, classes, kind=kind)
        matched = detection_matches.of_images(truth, found, len(classes), kind=kind)
        name = f"{split}/{'mask_' if kind == 'masks' else ''}"
        _note(left, scores, name, kind)
        _note_interval(left, truth, found, matched, len(classes), f"{name}AP50")
        picture = f"worst.{split}.webp" if kind == kinds[0] else ""
        shown = detection_document.shown(
            truth, found, matched, classes, scores, split=split, sure=sure, picture=picture
        )
        if picture and shown.worst:
            try:
                left.files[picture] = worst_picture(shown, truth, found, matched, classes, images)
            except HptError as error:
                log.warning("%s is left out: %s", picture, error)
        left.files[detection_document.file_of(split, kind)] = detection_document.encoded(shown)
    if voc:
        of_voc = detection_voc.score(truth, found, classes, points=voc)
        _note(left, of_voc, f"{split}/voc_", "voc")
    return left


def _note(left: Exhibit, scores: Scores, name: str, kind: str) -> None:
    left.metrics.update(
        {f"{name}{one}": value / 100 for one, value in scores.metrics.items() if value is not None}
    )
    left.details["classes"][kind] = {one: dict(of) for one, of in scores.per_class.items()}
    left.details["without_truth"][kind] = list(scores.without_truth)


def _note_interval(
    left: Exhibit,
    truth: Truth,
    found: Mapping[str, Detections],
    matched: Sequence[Matched],
    num_classes: int,
    name: str,
) -> None:
    """Note the replicates of AP50, and its interval over images where there is one."""
    if name not in left.metrics:
        return
    _, by_class = detection_matches.ranked(truth, found, matched, num_classes)
    drawn = detection_matches.ap50_replicates(by_class, len(truth))
    left.replicates[name] = drawn.tolist()
    if ends := bootstrap.interval(left.metrics[name], drawn, len(truth)):
        left.details["intervals"][name] = list(ends)


def gathered(
    accelerator: Accelerator, ours: Iterable[tuple[str, Detections]]
) -> dict[str, Detections]:
    """Return what all ranks found, on every rank; a collective call.

    Args:
        accelerator: its ranks.
        ours: of this rank's images.

    Raises:
        DataError: an image was answered twice, on every rank.
    """
    share = list(ours)
    shares: list[Any] = [share]
    if accelerator.num_processes > 1:
        shares = [None] * accelerator.num_processes
        dist.all_gather_object(shares, share)
    return merged(shares)


def images_of(pool: Pool) -> Images:
    """Return what reads some images of a pool by their keys."""
    rows = {key: row for row, key in enumerate(pool.keys)}
    return lambda keys: {key: pool.image(rows[key]).numpy() for key in keys}


def worst_picture(
    shown: Shown,
    truth: Truth,
    found: Mapping[str, Detections],
    matched: Sequence[Matched],
    classes: Sequence[str],
    images: Images,
) -> bytes:
    """Return the worst images as a WebP, two a row: each with its objects, then with detections.

    Objects are green where a sure detection hit them, orange where none did, and gray where they
    do not count; sure detections are blue where right, red where wrong, and gray where they do not
    count.

    Args:
        shown: names the images.
        truth: the objects of every image.
        found: what was detected.
        matched: by `detection_matches.of_images`.
        classes: names in the order of their ids.
        images: reads them.
    """
    by_key = {key: (boxes, one) for (key, boxes), one in zip(truth, matched, strict=True)}
    keys = [one.key for one in shown.worst]
    pixels = images(keys)
    cells: list[Pixels] = []
    for key in keys:
        boxes, one = by_key[key]
        sure = found[key].scores >= shown.sure
        marks = (
            _of_objects(boxes, one, sure, classes),
            _of_detections(found[key], one, sure, classes),
        )
        cells += [marked(pixels[key], each, _PX) for each in marks]
    per_row = 4 if len(keys) % 2 == 0 else 2
    rows = [cells[start : start + per_row] for start in range(0, len(cells), per_row)]
    return encoded(rows, _PX, wide_gap_after=(1,))


def _of_objects(boxes: Boxes, matched: Matched, sure: Bools, classes: Sequence[str]) -> list[Mark]:
    missed = matched.missed(sure)
    colours = np.where(missed, _MISSED, np.where(matched.scored, _HIT, _IGNORED)).tolist()
    return [
        Mark(corners, classes[label], colour)
        for corners, label, colour in zip(
            boxes.corners.tolist(), boxes.labels.tolist(), colours, strict=True
        )
    ]


def _of_detections(
    found: Detections, matched: Matched, sure: Bools, classes: Sequence[str]
) -> list[Mark]:
    colours = np.where(matched.right, _RIGHT, np.where(matched.wrong, _WRONG, _IGNORED)).tolist()
    # The surest lie above the others.
    rows = [i for i in np.argsort(found.scores, kind="stable").tolist() if sure[i]]
    return [
        Mark(
            found.boxes[i].tolist(),
            f"{found.scores[i]:.2f} {classes[found.labels[i]]}",
            colours[i],
        )
        for i in rows
    ]
