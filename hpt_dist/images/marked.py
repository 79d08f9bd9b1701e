"""An image with boxes drawn on it, for people. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from hpt_dist.images.sheet import PAPER, Pixels
from hpt_dist.page import one_line

_TEXT_PX = 11
_LETTERS = 24
_LINE_PX = 2


@dataclass(frozen=True)
class Mark:
    """A box.

    Args:
        corners: x1, y1, x2, y2 in pixels of the image.
        text: that stands at it; other people may have written it.
        colour: such as #1B7FC4.
    """

    corners: Sequence[float]
    text: str
    colour: str


def marked(pixels: Pixels, marks: Sequence[Mark], px: int) -> Pixels:
    """Return an image in the middle of a square with boxes on it, the first of them below.

    Args:
        pixels: uint8 [h, w, 3].
        marks: the boxes.
        px: side of the square; the image's longer side fills it.

    Returns:
        uint8 [px, px, 3].
    """
    height, width = pixels.shape[:2]
    scale = px / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    picture = Image.new("RGB", (px, px), (PAPER,) * 3)
    left, top = (px - size[0]) // 2, (px - size[1]) // 2
    image = Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR)
    picture.paste(image, (left, top))
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(_TEXT_PX)
    for mark in marks:
        x1, y1, x2, y2 = (float(one) * scale for one in mark.corners)
        inside = [
            round(min(max(one, 0), px - 1))
            for one in (x1 + left, y1 + top, x2 + left - 1, y2 + top - 1)
        ]
        x1, y1, x2, y2 = inside
        frame = (x1, y1, max(x1, x2), max(y1, y2))
        draw.rectangle(frame, outline=mark.colour, width=_LINE_PX)
        if mark.text:
            text = one_line(mark.text, _LETTERS)
            place = (x1 + _LINE_PX + 1, max(0, y1 - _TEXT_PX - 2))
            draw.rectangle(draw.textbbox(place, text, font), fill=mark.colour)
            draw.text(place, text, "#ffffff", font)
    return np.asarray(picture)
