"""The class of each patch of an image, from the masks of its objects. Numpy only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hpt_dist.images import run_lengths
from hpt_dist.images.crops import center_box
from hpt_dist.reading.boxes import Boxes

Ints = NDArray[np.int64]

BACKGROUND = "background"
IGNORED = -1  # of patches whose class nobody knows; 0 is background, and class c is c + 1


def class_map(boxes: Boxes) -> Ints:
    """Return the class of each pixel of an image, int64 [height, width].

    Where objects overlap, the smaller one lies above. Of pixels of crowds and of difficult objects
    that no other object covers the class is not known.

    Raises:
        ValueError: the objects have no masks, or a mask is damaged.
    """
    if boxes.masks is None:
        raise ValueError("its objects have no masks")
    classes = np.zeros(boxes.size, np.int64)
    masks = [run_lengths.decode(one, boxes.size) for one in boxes.masks]
    unknown = boxes.crowd | boxes.difficult
    below_first = sorted(range(len(masks)), key=lambda i: (not unknown[i], -int(masks[i].sum()), i))
    for i in below_first:
        classes[masks[i]] = IGNORED if unknown[i] else boxes.labels[i] + 1
    return classes


def patch_classes(boxes: Boxes, size: int, grid: tuple[int, int], num_classes: int) -> Ints:
    """Return the class of each patch of the square that evaluations cut out of an image.

    It is the class of most of its pixels: of equally many background, then the first class. A patch
    of which most pixels are not known is not, either.

    Args:
        boxes: of the image; see `class_map`.
        size: side of the network's images, pixels.
        grid: rows and columns of patches.
        num_classes: without background.

    Returns:
        int64 [rows, columns]: `IGNORED`, 0 for background, or a class id + 1.

    Raises:
        ValueError: see `class_map`.
    """
    classes = class_map(boxes)
    height, width = boxes.size
    left, top, right, bottom = center_box(0, width, height)
    across = _under(round(left), max(round(right), round(left) + 1), size)
    down = _under(round(top), max(round(bottom), round(top) + 1), size)
    pixels = classes[down[:, None], across]  # of the network's image
    rows, columns = (np.arange(size) * many // size for many in grid)
    patches = rows[:, None] * grid[1] + columns
    kinds = num_classes + 2  # with background, and last what is not known
    places = patches * kinds + np.where(pixels == IGNORED, kinds - 1, pixels)
    counts = np.bincount(places.ravel(), minlength=grid[0] * grid[1] * kinds)
    found = counts.reshape(*grid, kinds).argmax(axis=2)
    return np.where(found == kinds - 1, IGNORED, found)


def _under(start: int, end: int, size: int) -> Ints:
    """Return the pixels of the image that lie under the centres of `size` pixels of a crop."""
    places = start + (np.arange(size) + 0.5) * (end - start) / size
    return np.minimum(places.astype(np.int64), end - 1)
