"""Small images in rows as one picture. Pure."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]

_GAP = 3
PAPER = 236  # a gray that is legible on a light page and on a dark one
_QUALITY = 82


def encoded(
    rows: Sequence[Sequence[Pixels]], px: int, *, wide_gap_after: Sequence[int] = ()
) -> bytes:
    """Return rows of images as one WebP.

    Args:
        rows: of equal length; each image uint8 [h, w, 3].
        px: side of the square that each image is drawn in.
        wide_gap_after: the columns after which the next group begins.
    """
    columns = len(rows[0])
    lefts, x = [], _GAP
    for column in range(columns):
        lefts.append(x)
        x += px + _GAP * (4 if column in wide_gap_after else 1)
    sheet = Image.new("RGB", (x, len(rows) * (px + _GAP) + _GAP), (PAPER,) * 3)
    for down, row in enumerate(rows):
        for left, pixels in zip(lefts, row, strict=True):
            image = Image.fromarray(pixels).resize((px, px), Image.Resampling.BICUBIC)
            sheet.paste(image, (left, _GAP + down * (px + _GAP)))
    data = io.BytesIO()
    sheet.save(data, "WEBP", quality=_QUALITY, method=4)
    return data.getvalue()
