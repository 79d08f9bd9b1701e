"""Which detections hit which objects at one overlap, and what follows: curves, misses, intervals.

The rule is that of COCO's evaluator (see `detection`), which gives no matches away: a class's AP50
here is the evaluator's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpt_dist.evals import bootstrap, detection_coco
from hpt_dist.evals.detection import MOST, Detections, Floats, Kind, Truth, check
from hpt_dist.reading.boxes import Boxes

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

OVERLAP = 0.5
RECALLS = np.linspace(0, 1, 101)
_ALL = 1 - 1e-10  # an overlap of 1 is one, up to rounding
_AT_ONCE = 2**22  # weights in memory at a time


class Matched(NamedTuple):
    """What the detections of one image hit.

    Args:
        objects: int64 [m], which object a detection hit; -1 for none.
        counts: bool [m], whether a detection counts as right or wrong: it does not if it hit an
            object that is ignored, or if a hundred of its class in the image are surer.
        scored: bool [n], whether an object counts: it is neither a crowd nor difficult.
    """

    objects: Ints
    counts: Bools
    scored: Bools

    @property
    def right(self) -> Bools:
        """Which detections are right, bool [m]."""
        return self.counts & (self.objects >= 0)

    @property
    def wrong(self) -> Bools:
        """Which detections are wrong, bool [m]."""
        return self.counts & (self.objects < 0)

    def missed(self, sure: Bools) -> Bools:
        """Return which objects that count no detection among some hit, bool [n].

        Args:
            sure: bool [m], the detections that are looked at: those above a score.
        """
        hit = np.zeros(len(self.scored), np.bool_)
        hit[self.objects[sure & (self.objects >= 0)]] = True
        return self.scored & ~hit


@dataclass(frozen=True)
class Ranked:
    """All detections that count, of a class or of all, the surest first.

    Args:
        scores: float64 [m].
        right: bool [m].
        images: int64 [m], the number of each one's image.
        positives: int64 [images], the objects of each image that count.
    """

    scores: Floats
    right: Bools
    images: Ints
    positives: Ints


@dataclass(frozen=True)
class Curve:
    """A precision-recall curve at an overlap of 0.5.

    Args:
        objects: that count.
        precision: float64 [101], shares of 1 at recalls of 0, 0.01 to 1: the best precision at that
            recall or a higher one; 0 where it is not reached.
        scores: float64 [101], the least score of the detections that reach a recall; 0 where none
            do.
    """

    objects: int
    precision: Floats
    scores: Floats

    @property
    def average(self) -> float | None:
        """The average precision, a share of 1; None without an object."""
        return float(self.precision.mean()) if self.objects else None


def of_images(
    truth: Truth, found: Mapping[str, Detections], num_classes: int, *, kind: Kind = "boxes"
) -> list[Matched]:
    """Return what was hit in each image, in the order of `truth`.

    Arguments and errors are those of `detection.score`.
    """
    check(truth, found, num_classes, kind)
    return [of_image(boxes, found[key], kind) for key, boxes in truth]


def of_image(truth: Boxes, found: Detections, kind: Kind) -> Matched:
    """Return what the detections of one image hit: of each class the surest chooses first."""
    ignored = truth.crowd | truth.difficult
    objects = np.full(len(found), -1, np.int64)
    counts = np.ones(len(found), np.bool_)
    for label in np.unique(found.labels).tolist():
        rows = np.flatnonzero(found.labels == label)
        rows = rows[np.argsort(-found.scores[rows].astype(np.float64), kind="stable")]
        counts[rows[MOST:]] = False
        rows, columns = rows[:MOST], np.flatnonzero(truth.labels == label)
        if not len(columns):
            continue
        overlaps = detection_coco.overlaps(
            truth.take(columns), _some(found, rows), truth.crowd[columns].tolist(), kind
        )
        hit = _assigned(overlaps, ignored[columns], truth.crowd[columns])
        is_hit = hit >= 0
        objects[rows[is_hit]] = columns[hit[is_hit]]
        counts[rows[is_hit]] = ~ignored[columns[hit[is_hit]]]
    return Matched(objects, counts, ~ignored)


def _some(found: Detections, rows: Ints) -> Detections:
    masks = None if found.masks is None else tuple(found.masks[row] for row in rows.tolist())
    return Detections(found.boxes[rows], found.scores[rows], found.labels[rows], masks)


def _assigned(overlaps: Floats, ignored: Bools, crowd: Bools) -> Ints:
    """Return which object each detection hits, int64 [m], -1 for none; the surest stands first.

    It takes the free object that it overlaps most, of equal ones the last, and an ignored one only
    if there is no other; a crowd stays free.
    """
    free = np.ones(overlaps.shape[1], np.bool_)
    hit = np.full(len(overlaps), -1, np.int64)
    reaches = overlaps >= min(OVERLAP, _ALL)
    for row in np.flatnonzero(reaches.any(axis=1)).tolist():
        for among in (free & ~ignored, free & ignored):
            candidates = np.flatnonzero(among & reaches[row])
            if len(candidates):
                values = overlaps[row, candidates]
                hit[row] = candidates[np.flatnonzero(values == values.max())[-1]]
                free[hit[row]] = crowd[hit[row]]
                break
    return hit


def ranked(
    truth: Truth, found: Mapping[str, Detections], matched: Sequence[Matched], num_classes: int
) -> tuple[Ranked, list[Ranked]]:
    """Return the detections that count, of all classes together and of each class.

    Args:
        truth: the objects of every image.
        found: by the images' keys.
        matched: see `of_images`.
        num_classes: of the dataset.
    """
    every = [found[key] for key, _ in truth]
    counts = np.concatenate([one.counts for one in matched])
    sizes = [len(one) for one in every]
    scores, labels, right, images = (
        column[counts]
        for column in (
            np.concatenate([one.scores.astype(np.float64) for one in every]),
            np.concatenate([one.labels for one in every]),
            np.concatenate([one.right for one in matched]),
            np.repeat(np.arange(len(every)), sizes),
        )
    )
    # Equally sure ones stay in the order of images, and of an image's own detections.
    order = np.argsort(-scores, kind="stable")
    scores, labels, right, images = (one[order] for one in (scores, labels, right, images))
    positives = np.stack(
        [
            np.bincount(boxes.labels[one.scored], minlength=num_classes)
            for (_, boxes), one in zip(truth, matched, strict=True)
        ]
    ).astype(np.int64)
    by_class = []
    for label in range(num_classes):
        rows = labels == label
        by_class.append(Ranked(scores[rows], right[rows], images[rows], positives[:, label]))
    return Ranked(scores, right, images, positives.sum(axis=1)), by_class


def curve(of: Ranked) -> Curve:
    """Return the precision-recall curve of detections."""
    total = int(of.positives.sum())
    precision, scores = np.zeros(len(RECALLS)), np.zeros(len(RECALLS))
    if total and len(of.scores):
        hits = of.right.cumsum()
        best = _envelope(hits / np.arange(1, len(hits) + 1))
        places = np.searchsorted(hits / total, RECALLS)
        reached = places < len(hits)
        precision[reached] = best[places[reached]]
        scores[reached] = of.scores[places[reached]]
    return Curve(total, precision, scores)


def _envelope(precision: Floats) -> Floats:
    """Return the best precision at each place or a later one, along the first axis."""
    return np.asarray(np.maximum.accumulate(precision[::-1])[::-1])


def ap50_replicates(by_class: Sequence[Ranked], images: int) -> Floats:
    """Return AP50 of resampled images, [draws], shares of 1 to nine decimals.

    An image that is drawn twice counts twice, with its objects and its detections. NaN is a draw in
    which no object counts. It adds up weights of all detections a thousand times.

    Args:
        by_class: the ranked detections of each class.
        images: how many; they are drawn as `bootstrap.counts` draws them.
    """
    draws = bootstrap.draws_for(images, max(1, len(by_class)))
    blocks = []
    for weights in bootstrap.counts(images, draws):
        values = np.stack([_weighted(one, weights) for one in by_class])
        counted = np.isfinite(values)
        sums, number = np.where(counted, values, 0).sum(axis=0), counted.sum(axis=0)
        blocks.append(np.where(number > 0, sums / np.maximum(number, 1), np.nan))
    return np.concatenate(blocks).round(9)


def _weighted(of: Ranked, weights: Floats) -> Floats:
    """Return the average precision [draws] by weights of images [images, draws]; NaN is none.

    Recall grows, and precision is highest, at detections that are right: the others only count.
    """
    totals = of.positives @ weights
    found = np.where(totals > 0, 0.0, np.nan)
    rows = np.flatnonzero(of.right)
    at_once = max(1, _AT_ONCE // max(1, len(of.scores)))
    for start in range(0, len(totals) if len(rows) else 0, at_once):
        some = slice(start, start + at_once)
        each = weights[of.images, some]
        every, hits = each.cumsum(axis=0)[rows], each[rows].cumsum(axis=0)
        best = _envelope(hits / np.maximum(every, 1e-300))
        recall = hits / np.maximum(totals[some], 1)
        reached = np.searchsorted(RECALLS, recall, side="right")  # recalls up to each
        found[some] += (best * np.diff(reached, axis=0, prepend=0)).sum(axis=0) / len(RECALLS)
    return found
