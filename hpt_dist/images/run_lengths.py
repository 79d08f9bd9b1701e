"""Masks as COCO's run-length encoding, https://cocodataset.org/#format-data (Lin et al., 2014).

A mask is read column by column; its runs count pixels that are off, on, off and so on, so that the
first run may be 0. The compressed form writes each run, from the fourth on as its difference from
the run two before it, in groups of five bits, lowest first, as characters from "0" on: a sixth bit
says that another group follows, and the highest bit of the last group is the sign.

Runs come from files. What does not add up to the pixels of its image is refused here, before any
other library sees it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpt_dist.errors import RequestError

Mask = NDArray[np.bool_]  # [h, w]
Runs = NDArray[np.int64]  # [r]
Size = tuple[int, int]  # height, width

_FIRST = 48  # the character "0"
_BITS, _SIGN, _MORE = 5, 1 << 4, 1 << 5
_MOST_GROUPS = 8  # of a run: 40 bits
_FAR = 3  # sides of an image
_CORNERS = 3  # a polygon has at least so many


def encode(mask: Mask) -> bytes:
    """Return the compressed runs of a mask [h, w]."""
    return compressed(_runs_of(mask))


def decode(counts: bytes, size: Size) -> Mask:
    """Return the mask [h, w] of compressed runs.

    Args:
        counts: compressed runs.
        size: height and width, pixels.

    Raises:
        ValueError: they are no runs, or those of another number of pixels.
    """
    runs = runs_in(counts, size)
    on = np.arange(len(runs)) % 2 == 1
    return np.repeat(on, runs).reshape(size[1], size[0]).T


def corners_of(mask: Mask) -> tuple[int, int, int, int] | None:
    """Return left, top, right and bottom of the pixels that are on; None where none is."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if not len(columns):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def resized(mask: Mask, size: Size) -> Mask:
    """Return a mask of another size: each pixel takes the one under its centre."""
    rows, columns = (
        np.minimum((np.arange(new) + 0.5) * old / new, old - 1).astype(np.int64)
        for new, old in zip(size, mask.shape, strict=True)
    )
    found: Mask = mask[rows[:, None], columns]
    return found


def checked(runs: Sequence[int], size: Size) -> bytes:
    """Return runs, as COCO's files hold those of crowds, compressed.

    Raises:
        ValueError: one is negative, or they are those of another number of pixels.
    """
    try:
        counted = np.array(runs, np.int64)
    except OverflowError as error:
        raise ValueError("a run is longer than any image") from error
    _refuse_other(counted, size)
    return compressed(counted)


def from_polygons(polygons: Sequence[Sequence[float]], size: Size) -> bytes:
    """Return the compressed runs of the pixels inside of any of some polygons, as COCO fills them.

    Args:
        polygons: x and y of each corner in turn, pixels.
        size: height and width, pixels.

    Raises:
        ValueError: a polygon has an odd number of values, or less than three corners.
        RequestError: pycocotools, which fills them, is not installed.
    """
    for number, one in enumerate(polygons):
        if len(one) % 2 or len(one) < 2 * _CORNERS:
            raise ValueError(f"polygon {number} has {len(one)} values, not x and y of 3 corners")
    masks = _masks_of_coco()
    height, width = size
    # Filling takes time and memory that grow with the extent: corners far outside come nearer.
    far = _FAR * max(size)
    near = [np.clip(one, -far, far).tolist() for one in polygons]
    counts: bytes = masks.merge(masks.frPyObjects(near, height, width))["counts"]
    return counts


def compressed(runs: Runs) -> bytes:
    """Return runs in the compressed form."""
    values = runs.copy()
    values[3:] -= runs[1:-2]
    text = bytearray()
    for value in values.tolist():
        rest = value
        while True:
            group = rest & (_MORE - 1)
            rest >>= _BITS
            more = rest != (-1 if group & _SIGN else 0)
            text.append(_FIRST + group + (_MORE if more else 0))
            if not more:
                break
    return bytes(text)


def runs_in(counts: bytes, size: Size) -> Runs:
    """Return the runs of the compressed form.

    Raises:
        ValueError: it is not of that form, or of another number of pixels.
    """
    groups = np.frombuffer(counts, np.uint8).astype(np.int64) - _FIRST
    if not len(groups) or (groups < 0).any() or (groups >= 2 * _MORE).any():
        raise ValueError("the counts of a mask are no run lengths of COCO")
    last = np.flatnonzero(groups & _MORE == 0)
    if not len(last) or last[-1] != len(groups) - 1:
        raise ValueError("the counts of a mask end in the middle of a run")
    first = np.concatenate([[0], last[:-1] + 1])
    lengths = last - first + 1
    if lengths.max() > _MOST_GROUPS:
        raise ValueError("a run of a mask is longer than any image")
    place = np.arange(len(groups)) - np.repeat(first, lengths)
    runs = np.add.reduceat((groups & (_MORE - 1)) << (_BITS * place), first)
    runs -= np.where(groups[last] & _SIGN, 1 << (_BITS * lengths), 0)
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    _refuse_other(runs, size)
    return runs


def _runs_of(mask: Mask) -> Runs:
    pixels = mask.T.reshape(-1)
    changes = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    starts = [0, 0] if len(pixels) and pixels[0] else [0]
    return np.diff(np.concatenate([starts, changes, [len(pixels)]]))


def _refuse_other(runs: Runs, size: Size) -> None:
    height, width = size
    if (runs < 0).any() or (runs > height * width).any() or runs.sum() != height * width:
        raise ValueError(f"the runs of a mask are not those of {width} x {height} pixels")


def _masks_of_coco() -> Any:
    try:
        import pycocotools.mask  # an optional package
    except ImportError as error:
        raise RequestError(
            "masks are polygons, and pycocotools, which fills them, is not installed",
            fix="pip install 'hpt-dist[detect]', in a checkout '.[detect]'",
        ) from error
    return pycocotools.mask
