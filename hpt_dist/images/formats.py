"""Encoded images: the formats that are read, their conversion to RGB, and how they are stored."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from hpt_dist.errors import DamagedImageError, RequestError
from hpt_dist.images import depth, file_kinds, png_chunks
from hpt_dist.images.scans import excessive_scans

# Decoders that only decode: for some other formats Pillow would start programs. The JPEG decoder
# calls a JPEG that holds more than one picture MPO. HEIC is read where pillow-heif is installed.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000")
_HEIF = "HEIF"

DEFAULT_QUALITY = 90
_MAX_QUALITY = 100
_EXTENSIONS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png"}
_ORIENTATION = 0x0112  # EXIF tag
_BITS_PER_SAMPLE = 0x0102  # TIFF tag
_SUBFILE, _REDUCED = 0x00FE, 1  # TIFF tag, and its bit of a smaller copy of another picture
_PNG_DEPTH, _BYTE = 24, 8  # where a PNG holds its bits per sample
_ORIENTATIONS = range(1, 9)
_FIRST_TURNED = 5
# A JPEG is decoded at a half, a quarter or an eighth of its size where that leaves twice the
# requested pixels: 2 to 4 times as fast for photographs of 12 megapixels.
_SPARE = 2


@dataclass(frozen=True)
class Encoding:
    """How images are stored; by default JPEG and PNG keep their bytes and others become PNG.

    PNG holds exactly the pixels that the decoder gave, so that training needs no other decoder and
    reads the same on every machine. Of a PNG, metadata that cannot be read is left out.

    An image that is encoded anew is upright, 8-bit RGB on white, and has no EXIF or other
    metadata. One that keeps its bytes keeps its EXIF too, and readers turn it upright. Boxes need
    no scaling: an annotation holds the size of the frame that they refer to (`Sample.annotation`).

    Args:
        resize: the short side of larger images becomes this many pixels; smaller images stay as
            they are. JPEG stays JPEG, and PNG stays PNG unless there is a `quality`.
        quality: every image becomes a JPEG of this quality, 1 to 100; without it, resized JPEGs
            have `DEFAULT_QUALITY`.
        scale: the values of pixels of more than 8 bits that become black and white. None is
            `depth.FULL`, unless the images turn out not to fit it. With another one such images
            are stored with 8 bits.

    Raises:
        RequestError: one of them is out of its range.
    """

    resize: int | None = None
    quality: int | None = None
    scale: depth.Scale | None = None

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
        if self.is_scaled:
            words.append(depth.in_words(self.scale or depth.FULL))
        return ", ".join(words)

    @property
    def is_scaled(self) -> bool:
        """Whether pixels of more than 8 bits are scaled from another range than all 16 bits."""
        return self.scale not in (None, depth.FULL)

    def as_json(self) -> dict[str, Any]:
        """Return what decides the bytes of an image, as JSON."""
        value: dict[str, Any] = {"resize": self.resize, "quality": self.quality}
        return value | ({"scale": list(self.scale or ())} if self.is_scaled else {})


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
        RequestError: it is HEIC, and pillow-heif is not installed.
    """
    decoded = _decode(data)
    return decoded.rgb, decoded.kind


class Encoded(NamedTuple):
    """An image for a dataset: its file, "jpg" or "png", what it decodes to, and its depth."""

    data: bytes
    extension: str
    rgb: Image.Image
    depths: depth.Depths


def encode(data: bytes, encoding: Encoding = AS_IT_IS) -> Encoded:
    """Check an image, and encode it for a dataset. The same Pillow gives the same bytes.

    Args:
        data: a file of one of `FORMATS`.
        encoding: how it is stored.

    Raises:
        DamagedImageError: see `decode`; or JPEG cannot hold a picture of this size.
        RequestError: see `decode`.
    """
    rgb, kind, size, is_deep, depths, data = _decode(
        data, encoding.resize, encoding.scale, measure=encoding.scale is None
    )
    short_side = min(size)
    resized = encoding.resize is not None and encoding.resize < short_side
    scaled = is_deep and encoding.is_scaled
    if not resized and not scaled and encoding.quality is None and kind in _EXTENSIONS:
        return Encoded(data, _EXTENSIONS[kind], rgb, depths)
    if encoding.resize is not None and resized:
        width, height = (max(1, round(side * encoding.resize / short_side)) for side in size)
        rgb = rgb.resize((width, height), Image.Resampling.BICUBIC)
    rgb.info = {}  # or Pillow would write some of it
    if encoding.quality is None and _EXTENSIONS.get(kind) != "jpg":
        return Encoded(to_png(rgb), "png", rgb, depths)
    stored = _to_jpeg(rgb, encoding.quality or DEFAULT_QUALITY)
    return Encoded(stored, "jpg", decode(stored)[0], depths)


class _Decoded(NamedTuple):
    """A decoded image.

    Args:
        rgb: upright.
        kind: the name of its format.
        size: the upright width and height that it has in full.
        is_deep: whether its pixels have more than 8 bits.
        depths: what it uses of them.
        data: its file, without metadata that cannot be read.
    """

    rgb: Image.Image
    kind: str
    size: tuple[int, int]
    is_deep: bool
    depths: depth.Depths
    data: bytes


def _decode(
    data: bytes,
    short_side: int | None = None,
    scale: depth.Scale | None = None,
    measure: bool = False,
) -> _Decoded:
    """Decode an image, perhaps at a fraction of its size that is well above `short_side`."""
    if not data:
        raise DamagedImageError("empty file")
    try:
        return _decode_file(data, short_side, scale, measure)
    except DamagedImageError:
        for smaller in png_chunks.with_less_metadata(data):
            with contextlib.suppress(DamagedImageError):
                return _decode_file(smaller, short_side, scale, measure)
        raise


def _decode_file(
    data: bytes, short_side: int | None, scale: depth.Scale | None, measure: bool
) -> _Decoded:
    try:
        with Image.open(io.BytesIO(data), formats=_formats(data)) as image:
            _refuse_bomb(image, data)
            _refuse_raw(image, data)
            kind = str(image.format)
            full = None
            if short_side is not None and kind == "JPEG":
                full = _draft(image, _SPARE * short_side)
            is_cut = _loses_bits(image, data, scale)
            image.load()
            _turn_upright(image)
            is_deep = is_cut or image.mode.startswith(("I", "F"))
            depths = _depths(image, is_cut) if is_deep and measure else depth.NONE
            return _Decoded(to_rgb(image, scale), kind, full or image.size, is_deep, depths, data)
    except UnidentifiedImageError as error:
        name = file_kinds.name_of(data)
        what = f"{name}, " if name else ""
        raise DamagedImageError(f"{what}none of the formats {', '.join(FORMATS)}") from error
    except RequestError:
        raise
    except Exception as error:  # decoders raise almost anything on damaged bytes
        reason = str(error) or type(error).__name__
        raise DamagedImageError(f"does not decode: {reason}") from error


def _formats(data: bytes) -> tuple[str, ...]:
    """Return the formats that a file may have.

    Raises:
        RequestError: it is HEIC, and what reads that is not installed.
    """
    if not file_kinds.is_heif(data):
        return FORMATS
    if not file_kinds.reads_heif():
        raise RequestError(file_kinds.HEIF_MISSING, fix=file_kinds.HEIF_FIX)
    _register_heif()
    return (_HEIF,)


@cache
def _register_heif() -> None:
    import pillow_heif  # an optional package

    pillow_heif.register_heif_opener()


def _turn_upright(image: Image.Image) -> None:
    """Turn a loaded image by its orientation; one that cannot be read says nothing."""
    with contextlib.suppress(Exception):
        ImageOps.exif_transpose(image, in_place=True)


def _refuse_raw(image: Image.Image, data: bytes) -> None:
    """Raise ValueError for a camera's raw file, of which Pillow reads a small preview."""
    if not isinstance(image, TiffImageFile):
        return
    if file_kinds.is_raw(data) or image.tag_v2.get(_SUBFILE) == _REDUCED:
        raise ValueError(
            "a camera's raw file, of which only a preview can be read: convert it to TIFF or PNG"
        )


def _loses_bits(image: Image.Image, data: bytes, scale: depth.Scale | None) -> bool:
    """Return whether Pillow reads only the upper 8 bits of an opened image of 16 bits.

    Raises:
        ValueError: so it is, and the lower ones are needed to scale it.
    """
    bits = _BYTE
    if image.format == "PNG" and not image.mode.startswith("I"):
        bits = data[_PNG_DEPTH]
    elif isinstance(image, TiffImageFile) and not image.mode.startswith(("I", "F")):
        bits = max(image.tag_v2.get(_BITS_PER_SAMPLE) or (_BYTE,))
    if bits > _BYTE and scale not in (None, depth.FULL):
        raise ValueError("colours of 16 bits cannot be scaled: convert them to 8 bits")
    return bits > _BYTE


def _depths(image: Image.Image, is_cut: bool) -> depth.Depths:
    """Return what an image of integers of more than 8 bits uses of them."""
    if image.mode == "F":
        return depth.NONE
    values = np.asarray(image)
    if is_cut:  # the upper 8 bits, without alpha
        values = np.asarray(image.convert("RGB")).astype(np.int64) * 256 + 128
    return depth.measured(values)


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


def to_rgb(image: Image.Image, scale: depth.Scale | None = None) -> Image.Image:
    """Return an image as RGB, itself if it is: transparency on white, 16 bits scaled to 8.

    Pillow's own conversion drops transparency, which uncovers hidden colours, and clips 16 bits.

    Args:
        image: an image in any mode.
        scale: see `Encoding`.

    Raises:
        ValueError: the pixels are floats, which have no defined white, and there is no scale.
    """
    if image.mode == "F" and scale in (None, depth.FULL):
        raise ValueError("float pixels have no defined white")
    if image.mode.startswith(("I", "F")):
        values = depth.scaled(np.asarray(image), scale or depth.FULL)
        return Image.fromarray(values).convert("RGB")
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
