"""Images of more than 8 bits: which of their values become black, and which white.

A camera of 12 bits writes 0 to 4,095 into files of 16 bits. Scaled as if they reached 65,535, all
of its pixels would be nearly black. The range cannot be seen from one file, so every file is
measured, and its user decides for the whole dataset.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hpt_dist.errors import RequestError

log = logging.getLogger(__name__)

Scale = tuple[float, float]
FULL: Scale = (0, 65_535)

# What an image of all 16 bits uses; a camera of 14 bits uses less.
_NARROW = 2**14
_OUTLIERS = 0.0005  # of the pixels at each end: dead ones
_BETWEEN = ".."


@dataclass(frozen=True)
class Depths:
    """What the images of more than 8 bits in a shard use of their range.

    Args:
        images: those that are not blank.
        unfit: those of them that use less than a quarter of 0 to 65,535, or exceed it.
        low: the lowest value in these, without outliers; 0 without any.
        high: the highest.
    """

    images: int
    unfit: int
    low: int
    high: int


NONE = Depths(0, 0, 0, 0)


def measured(values: npt.NDArray[Any]) -> Depths:
    """Return what one image uses of the range.

    Args:
        values: integers of any shape.
    """
    ends = np.quantile(values, [_OUTLIERS, 1 - _OUTLIERS], method="nearest")
    low, high = (int(one) for one in ends)
    if low == high:
        return NONE
    fits = high - low >= _NARROW and FULL[0] <= low and high <= FULL[1]
    return Depths(1, 0, 0, 0) if fits else Depths(1, 1, low, high)


def joined(several: Iterable[Depths]) -> Depths:
    """Return the depths of some images together."""
    listed = list(several)
    unfit = [one for one in listed if one.unfit]
    return Depths(
        sum(one.images for one in listed),
        sum(one.unfit for one in unfit),
        min((one.low for one in unfit), default=0),
        max((one.high for one in unfit), default=0),
    )


def refuse_unfit(found: Depths, where: str) -> None:
    """Refuse images of which most would become nearly black, or white; fewer are a warning.

    Args:
        found: of all images.
        where: the dataset.

    Raises:
        RequestError: half of them or more do not fit the range 0 to 65,535.
    """
    if not found.unfit:
        return
    low, high = _suggested(found)
    what = (
        f"{found.unfit:,} of {found.images:,} images of more than 8 bits use less than a quarter "
        f"of the range 0..{FULL[1]}, or exceed it: their pixels are {found.low} to {found.high}, "
        "and would become nearly black, or white"
    )
    fix = f"--scale {low}{_BETWEEN}{high}, or --scale full for 0{_BETWEEN}{FULL[1]}"
    if 2 * found.unfit < found.images:
        log.warning("%s: %s; if the others fit it too: %s", where, what, fix)
        return
    raise RequestError(
        what,
        where=where,
        allowed=f"--scale LOW{_BETWEEN}HIGH, the values that become black and white, or full",
        fix=fix,
    )


def _suggested(found: Depths) -> tuple[int, int]:
    """Return the range of a camera of so many bits, or where that is too wide the measured one."""
    if found.low < 0 or found.low > found.high // 4:
        return found.low, found.high
    return 0, 2 ** found.high.bit_length() - 1


def scaled(values: npt.NDArray[Any], scale: Scale) -> npt.NDArray[np.uint8]:
    """Return values as 8 bits: the lower end of the scale is 0, the upper 255."""
    if scale == FULL:
        levels = values.clip(0, 65_535) // 257
    else:
        low, high = scale
        shares = (np.nan_to_num(values.astype(np.float64), nan=low) - low) / (high - low)
        levels = np.rint(shares.clip(0, 1) * 255)
    eight: npt.NDArray[np.uint8] = levels.astype(np.uint8)
    return eight


def parse(text: str) -> Scale | None:
    """Return the scale that an option names: None for an empty one, `FULL` for `full`.

    Raises:
        RequestError: it is no range.
    """
    if not text:
        return None
    if text == "full":
        return FULL
    try:
        # 0...4095 would be 0 to .4095.
        low, high = (float(part) for part in re.split(r"(?<!\.)\.\.(?!\.)", text))
    except ValueError:
        low = high = math.nan
    if not (low < high and math.isfinite(low) and math.isfinite(high)):
        raise RequestError(
            f"{text!r} is no range of pixel values",
            where="--scale",
            allowed=f"LOW{_BETWEEN}HIGH, such as 0{_BETWEEN}4095, or full",
        )
    return low, high


def in_words(scale: Scale) -> str:
    """Return a scale in words."""
    return f"pixels of more than 8 bits scaled from {scale[0]:g}{_BETWEEN}{scale[1]:g} to 8 bits"
