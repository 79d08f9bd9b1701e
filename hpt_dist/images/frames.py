"""The boxes of an annotation, which are in pixels of its own frame, in pixels of the image.

An image may have been resized since it was annotated, or be resized while it is sharded. What the
annotation says of it is scaled with it, and boxes that reach out of the frame end at its edge.
Areas are kept as they are annotated; where only some objects of an image have one, those of the
others are measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpt_dist.errors import DataError
from hpt_dist.images import run_lengths
from hpt_dist.images.boxes import Boxes, counts_of

Size = tuple[int, int]  # height, width
_MOST_PIXELS = 2**28  # of a frame: its masks are decoded where they are resized


def boxes_in_image(annotation: Mapping[str, Any], size: Size, *, masks: bool) -> Boxes:
    """Return the objects of an annotation as boxes in an image.

    Args:
        annotation: as `sources.sample.Sample` has it, with its objects.
        size: height and width of the image as decoded upright, pixels.
        masks: whether each object has a segmentation, which is wanted.

    Raises:
        DataError: the image has other proportions than the frame, a box covers none of it, a
            segmentation is none, or an area is no finite number of 0 or above.
        RequestError: masks are polygons, and what fills them is not installed.
    """
    frame = (annotation["height"], annotation["width"])
    _refuse_other_proportions(frame, size)
    scale = np.array([size[1] / frame[1], size[0] / frame[0]])
    objects = annotation["objects"]
    corners = _corners([one["box"] for one in objects], frame, scale, size)
    empty = np.flatnonzero((corners[:, :2] >= corners[:, 2:]).any(axis=1))
    if len(empty):
        number = int(empty[0])
        raise DataError(f"objects[{number}]: the box {objects[number]['box']} has no area left")
    boxes = Boxes(
        size,
        corners,
        np.array([one["class"] for one in objects], np.int64),
        np.array([bool(one.get("difficult")) for one in objects], np.bool_),
        np.array([one["crowd"] for one in objects], np.bool_),
        tuple(_mask(one, i, frame, scale, size) for i, one in enumerate(objects))
        if masks
        else None,
    )
    return _with_areas(boxes, [one.get("area") for one in objects], float(scale.prod()))


def _with_areas(boxes: Boxes, annotated: list[float | None], scale: float) -> Boxes:
    """Return objects with their areas, of which those of None are measured; all None is none.

    Args:
        boxes: the objects.
        annotated: square pixels of the frame, or None, of each object.
        scale: square pixels of the image in one of the frame.
    """
    if all(area is None for area in annotated):
        return boxes
    areas = boxes.measured()
    for number, area in enumerate(annotated):
        if area is not None:
            areas[number] = area * scale
    try:
        return replace(boxes, areas=areas)
    except ValueError as error:
        raise DataError(str(error)) from error


def _refuse_other_proportions(frame: Size, size: Size) -> None:
    """Raise where an image is not its frame resized; either side may be rounded by half a pixel."""
    (height, width), (h, w) = size, frame
    if h * w > _MOST_PIXELS:
        raise DataError(f"its boxes are in a frame of {w} x {h} pixels, more than {_MOST_PIXELS:,}")
    if abs(width * h - height * w) > (h + w) / 2:
        raise DataError(
            f"its boxes are in a frame of {w} x {h} pixels, and the upright image has "
            f"{width} x {height}"
        )


def _corners(
    boxes: list[list[float]], frame: Size, scale: NDArray[np.float64], size: Size
) -> NDArray[np.float32]:
    values = np.array(boxes, np.float64).reshape(-1, 4)
    edge = np.array([frame[1], frame[0]])
    first = np.clip(values[:, :2], 0, edge)
    last = np.clip(values[:, :2] + values[:, 2:], 0, edge)
    corners = np.concatenate([first * scale, last * scale], axis=1).astype(np.float32)
    return np.minimum(corners, np.array([size[1], size[0]] * 2, np.float32))


def _mask(
    thing: Mapping[str, Any], number: int, frame: Size, scale: NDArray[np.float64], size: Size
) -> bytes:
    """Return the run lengths of an object of the frame in the image."""
    segmentation = thing["segmentation"]
    try:
        if isinstance(segmentation, list):
            scaled = [(np.reshape(one, (-1, 2)) * scale).ravel().tolist() for one in segmentation]
            return counts_of(scaled, size)
        counts = counts_of(segmentation, frame)
        if frame == size:
            return counts
        return run_lengths.encode(run_lengths.resized(run_lengths.decode(counts, frame), size))
    except ValueError as error:
        raise DataError(f"objects[{number}]: {error}") from error
