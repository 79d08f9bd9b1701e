"""The boxes of crops: pure functions of the image's size and of uniform numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

CROP_TRIES = 10
CROP_DRAWS = 2 * CROP_TRIES + 2  # uniform numbers that each crop consumes
_LOG_RATIO = math.log(4 / 3)  # the largest ratio of a crop's sides, 4/3
_CENTER = 224 / 256  # side of the centre crop as a share of the image's short side

Floats = npt.NDArray[np.float64]
Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels


@dataclass(frozen=True)
class View:
    """A random crop of each image, resized to a square.

    Args:
        size: side after resizing, pixels.
        area: smallest and largest area of the crop as a share of the image.
        squash: cut a part of one size out of the squashed image instead; see `squashed_box`.
    """

    size: int
    area: tuple[float, float]
    squash: bool = False


def random_box(
    width: int, height: int, draws: Floats, area: tuple[float, float]
) -> tuple[int, int, int, int]:
    """Return the crop of torchvision's RandomResizedCrop as left, top, right, bottom.

    A share of the area and a ratio of the sides (3/4 to 4/3, its logarithm uniform) are tried up
    to ten times until the crop fits; a very long image gets its middle.

    Args:
        width: of the image, pixels.
        height: of the image, pixels.
        draws: uniform numbers [CROP_DRAWS] in [0, 1): place, then share and ratio of each try.
        area: smallest and largest share of the area.
    """
    across, down, *tries = draws.tolist()
    for share, ratio in zip(tries[::2], tries[1::2], strict=True):
        pixels = width * height * (area[0] + (area[1] - area[0]) * share)
        stretch = math.exp(_LOG_RATIO * (ratio - 0.5))  # square root of the ratio of the sides
        w, h = round(math.sqrt(pixels) * stretch), round(math.sqrt(pixels) / stretch)
        if 0 < w <= width and 0 < h <= height:
            left, top = int(across * (width - w + 1)), int(down * (height - h + 1))
            return left, top, left + w, top + h
    w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def squashed_box(width: int, height: int, size: int, across: float, down: float) -> Box:
    """Return the part that is cut out of the image after it was squashed to a larger square.

    The square's side is size + size / 7, rounded: 256 for 224, as in the code of MME (Saito et al.,
    arXiv 1904.06487). The part starts at a whole pixel of that square.

    Args:
        width: of the image, pixels.
        height: of the image, pixels.
        size: side of the part, pixels of the square.
        across: how far right the part is, 0 to 1; 1/2 is the middle.
        down: the same of its place from top to bottom.
    """
    margin = round(size / 7)
    left, top = (min(int(share * (margin + 1)), margin) for share in (across, down))
    x, y = width / (size + margin), height / (size + margin)
    return left * x, top * y, (left + size) * x, (top + size) * y


def center_box(_: int, width: int, height: int) -> Box:
    """Return the central square; its side is 224/256 of the image's short side."""
    side = _CENTER * min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side
