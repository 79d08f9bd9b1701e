"""Encoded images: the formats that are read, their conversion to RGB, and how they are stored."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from hpt_dist.errors import DamagedImageError, RequestError
from hpt_dist.images.scans import excessive_scans

# Decoders that only decode: for some other formats Pillow would start programs. The JPEG decoder
# calls a JPEG that holds more than one picture MPO.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")

DEFAULT_QUALITY = 90
_MAX_QUALITY = 100
_EXTENSIONS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png"}
_ORIENTATION = 0x0112  # EXIF tag
_ORIENTATIONS = range(1, 9)
_FIRST_TURNED = 5
# A JPEG is decoded at a half, a quarter or an eighth of its size where that leaves twice the
# requested pixels: 2 to 4 times as fast for photographs of 12 megapixels.
_SPARE = 2


@dataclass(frozen=True)
class Encoding:
    """How images are stored; by default JPEG and PNG keep their bytes and others become PNG.

    An image that is encoded anew is upright, 8-bit RGB on white, and has no EXIF or other
    metadata. One that keeps its bytes keeps its EXIF too, and readers turn it upright. Boxes need
    no scaling: an annotation holds the size of the frame that they refer to (`Sample.annotation`).

    Args:
        resize: the short side of larger images becomes this many pixels; smaller images stay as
            they are. JPEG stays JPEG, and PNG stays PNG unless there is a `quality`.
        quality: every image becomes a JPEG of this quality, 1 to 100; without it, resized JPEGs
            have `DEFAULT_QUALITY`.

    Raises:
        RequestError: one of them is out of its range.
    """

    resize: int | None = None
    quality: int | None = None

    def __post_init__(self) -> None:
        if self.resize is not None and self.resize < 1:
            raise RequestError(
                f"images cannot be resized to {self.resize} pixels", allowed="1 or more"
            )
        if self.quality is not None and not 1 <= self.quality <= _MAX_QUALITY:
            raise RequestError(
                f"there is no JPEG quality {self.quality}", allowed=f"1 to {_MAX_QUALITY}"
            )

    def __str__(self) -> str:
        """Return the settings that differ from the default in words; empty for the default."""
        words = []
        if self.resize:
            words.append(f"short sides of more than {self.resize} pixels resized to that")
        if self.quality:
            words.append(f"all images encoded as JPEG of quality {self.quality}")
        elif self.resize:
            words.append(f"resized JPEGs encoded with quality {DEFAULT_QUALITY}")
        return ", ".join(words)


AS_IT_IS = Encoding()


def decode(data: bytes) -> tuple[Image.Image, str]:
    """Decode an image, all of it, or the first frame of several. Threads may call this.

    Args:
        data: a file of one of `FORMATS`.

    Returns:
        The image as RGB, upright by its EXIF orientation, and the name of its format.

    Raises:
        DamagedImageError: the bytes are not such an image, are cut or damaged, hold more pixels
            than Pillow's limit against decompression bombs, or paint them too often.
    """
    image, kind, _ = _decode(data, None)
    return image, kind


def encode(data: bytes, encoding: Encoding = AS_IT_IS) -> tuple[bytes, str, Image.Image]:
    """Check an image, and encode it for a dataset. The same Pillow gives the same bytes.

    Args:
        data: a file of one of `FORMATS`.
        encoding: how it is stored.

    Returns:
        The bytes to store, their extension "jpg" or "png", and the image that they decode to.

    Raises:
        DamagedImageError: see `decode`; or JPEG cannot hold a picture of this size.
    """
    rgb, kind, size = _decode(data, encoding.resize)
    short_side = min(size)
    resized = encoding.resize is not None and encoding.resize < short_side
    if not resized and encoding.quality is None and kind in _EXTENSIONS:
        return data, _EXTENSIONS[kind], rgb
    if encoding.resize is not None and resized:
        width, height = (max(1, round(side * encoding.resize / short_side)) for side in size)
        rgb = rgb.resize((width, height), Image.Resampling.BICUBIC)
    rgb.info = {}  # or Pillow would write some of it
    if encoding.quality is None and _EXTENSIONS.get(kind) != "jpg":
        return to_png(rgb), "png", rgb
    stored = _to_jpeg(rgb, encoding.quality or DEFAULT_QUALITY)
    return stored, "jpg", decode(stored)[0]


def _decode(data: bytes, short_side: int | None) -> tuple[Image.Image, str, tuple[int, int]]:
    """Decode an image, perhaps at a fraction of its size that is well above `short_side`.

    Returns:
        The image as upright RGB, the name of its format, and the upright width and height that
        it has in full.
    """
    if not data:
        raise DamagedImageError("empty file")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _refuse_bomb(image, data)
            kind = str(image.format)
            full = None
            if short_side is not None and kind == "JPEG":
                full = _draft(image, _SPARE * short_side)
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            return to_rgb(image), kind, full or image.size
    except UnidentifiedImageError as error:
        raise DamagedImageError(f"none of the formats {', '.join(FORMATS)}") from error
    except Exception as error:  # decoders raise almost anything on damaged bytes
        reason = str(error) or type(error).__name__
        raise DamagedImageError(f"does not decode: {reason}") from error


def _draft(image: Image.Image, short_side: int) -> tuple[int, int]:
    """Let a JPEG be decoded at a fraction; return its full size, upright."""
    width, height = image.size
    turned = is_turned(orientation_of(image))
    scale = short_side / min(width, height)
    image.draft(None, (round(width * scale), round(height * scale)))
    return (height, width) if turned else (width, height)


def orientation_of(image: Image.Image) -> int:
    """Return the EXIF orientation of an opened image, 1 to 8; 1 for none and for nonsense."""
    value = image.getexif().get(_ORIENTATION, 1)
    return value if isinstance(value, int) and value in _ORIENTATIONS else 1


def is_turned(orientation: int) -> bool:
    """Return whether width and height change places in an image of this orientation."""
    return orientation >= _FIRST_TURNED


def _refuse_bomb(image: Image.Image, data: bytes) -> None:
    """Raise ValueError for an image that would take too long or too much memory to decode.

    Pillow only warns up to twice its limit, and has none for the scans of a JPEG.
    """
    limit = Image.MAX_IMAGE_PIXELS
    if limit and image.width * image.height > limit:
        raise ValueError(f"{image.width} x {image.height} pixels, more than {limit}")
    if scans := excessive_scans(data, image.width, image.height):
        size = f"{image.width} x {image.height}"
        raise ValueError(f"a JPEG of {size} pixels in {scans} scans, which takes too long")


def to_rgb(image: Image.Image) -> Image.Image:
    """Return an image as RGB, itself if it is: transparency on white, 16 bits scaled to 8.

    Pillow's own conversion drops transparency, which uncovers hidden colours, and clips 16 bits.

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
    return image if image.mode == "RGB" else image.convert("RGB")


def to_png(image: Image.Image) -> bytes:
    """Return an image as a PNG file."""
    png = io.BytesIO()
    image.save(png, "PNG")
    return png.getvalue()


def _to_jpeg(image: Image.Image, quality: int) -> bytes:
    jpeg = io.BytesIO()
    try:
        image.save(jpeg, "JPEG", quality=quality)
    except (OSError, ValueError) as error:
        width, height = image.size
        raise DamagedImageError(f"{width} x {height} pixels do not fit a JPEG: {error}") from error
    return jpeg.getvalue()
