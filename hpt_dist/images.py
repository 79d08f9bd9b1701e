"""Encoded images: which formats are read, and how any of them becomes RGB."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from hpt_dist.errors import DataError

# Decoders that only decode: for some other formats Pillow would start programs. The JPEG decoder
# calls a JPEG that holds more than one picture MPO.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")


def decode(data: bytes) -> tuple[Image.Image, str]:
    """Decode an image, all of it, or the first frame of several. Threads may call this.

    Args:
        data: a file of one of `FORMATS`.

    Returns:
        The image as RGB, upright by its EXIF orientation, and the name of its format.

    Raises:
        DataError: the bytes are no such image, are cut or damaged, or hold more pixels than
            Pillow's limit against decompression bombs.
    """
    if not data:
        raise DataError("empty file")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _refuse_bomb(image)
            kind = str(image.format)
            ImageOps.exif_transpose(image, in_place=True)
            return to_rgb(image), kind
    except UnidentifiedImageError as error:
        raise DataError(f"none of the formats {', '.join(FORMATS)}") from error
    except Exception as error:  # decoders raise almost anything on damaged bytes
        raise DataError(f"does not decode: {error}") from error


def _refuse_bomb(image: Image.Image) -> None:
    """Raise ValueError above Pillow's limit, where Pillow only warns up to twice the limit."""
    limit = Image.MAX_IMAGE_PIXELS
    if limit and image.width * image.height > limit:
        raise ValueError(f"{image.width} x {image.height} pixels, more than {limit}")


def to_rgb(image: Image.Image) -> Image.Image:
    """Return an image as RGB: transparency on white, 16 bits scaled to 8.

    Pillow's own conversion drops transparency, which uncovers whatever colour lies below it, and
    clips 16 bits.

    Raises:
        ValueError: the pixels are floats, which have no defined white.
    """
    if image.mode == "F":
        raise ValueError("float pixels have no defined white")
    if image.mode.startswith("I"):
        values = np.asarray(image).clip(0, 65535) // 257
        return Image.fromarray(values.astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def to_png(image: Image.Image) -> bytes:
    """Return an image as a PNG file."""
    png = io.BytesIO()
    image.save(png, "PNG")
    return png.getvalue()
