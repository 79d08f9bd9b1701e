"""From encoded images to crops: the host's share of every view.

Baseline and progressive JPEGs go the fast way, through libjpeg-turbo and torch's resampling of
bytes. All other files go through `formats.decode`, which alone decides what is no image. No
function here starts threads, and the work runs without Python's lock.
"""

from __future__ import annotations

import io
import math

import numpy as np
import numpy.typing as npt
import simplejpeg
import torch
from PIL import Image
from torch import Tensor

from hpt_dist.images import formats
from hpt_dist.images.scans import excessive_scans

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels
Bytes3 = npt.NDArray[np.uint8]  # [h, w, 3]
JpegHeader = tuple[int, int, int]  # width, height, EXIF orientation

_JPEG = b"\xff\xd8\xff"
_COLOURS = ("YCbCr", "RGB", "Gray")
_REDUCTIONS = (8, 4, 2, 1)  # of the sides, that libjpeg-turbo's fast transforms do
_APP1, _SOS = 0xE1, 0xDA  # JPEG markers: EXIF or XMP; the pixels
# A PNG without one of these holds no orientation.
_PNG_MARKS = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")


class EncodedImage:
    """An image as the bytes of its file. A JPEG's header is parsed once.

    Args:
        data: a file of one of `formats.FORMATS`.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._header = _jpeg_header(data)

    def size(self) -> tuple[int, int]:
        """Return width and height of the upright image, from its header.

        Raises:
            DataError: the bytes are not such an image. Damage behind the header is not detected.
        """
        if self._header:
            width, height, orientation = self._header
            return (height, width) if formats.is_turned(orientation) else (width, height)
        try:
            with Image.open(io.BytesIO(self._data), formats=formats.FORMATS) as image:
                if image.format != "TIFF":  # some versions of Pillow turn its header, others do not
                    width, height = image.size
                    # Pillow would decode a whole PNG in search of an orientation behind its pixels.
                    marked = image.format != "PNG" or any(mark in self._data for mark in _PNG_MARKS)
                    turned = marked and formats.is_turned(formats.orientation_of(image))
                    return (height, width) if turned else (width, height)
        except Exception:  # noqa: BLE001, S110 - decoders raise almost anything on damaged bytes
            pass
        return formats.decode(self._data)[0].size

    def decode(self, shrink: float = 1.0) -> Tensor:
        """Decode the image. Equal to `formats.decode`, but for a reduced JPEG.

        Args:
            shrink: at least 1. The caller will reduce the sides by this factor or more, so the
                image may be decoded smaller: a JPEG then has 1/2, 1/4 or 1/8 of its sides, rounded
                up and never less than 1/shrink.

        Returns:
            uint8 [h, w, 3], RGB, upright by its EXIF orientation, contiguous.

        Raises:
            DataError: as `formats.decode`.
        """
        pixels = _decode_jpeg(self._data, self._header, shrink)
        if pixels is None:
            pixels = np.array(formats.decode(self._data)[0])
        return torch.from_numpy(pixels)


def crop_resize(image: Tensor, box: Box, out: Tensor) -> None:
    """Cut a box out of an image and resize it: torchvision's `resized_crop` with antialias.

    Bilinear; pixels outside of the box have no influence. Corners are moved to the nearest pixels:
    `random_box` returns corners on pixels; in a reduced image, and those of `squashed_box`, they
    lie between two.

    Args:
        image: uint8 [h, w, 3], contiguous.
        box: left, top, right and bottom in pixels, inside the image.
        out: uint8 [size, size, 3], contiguous; the result is written here.
    """
    height, width = image.shape[:2]
    left, top = min(round(box[0]), width - 1), min(round(box[1]), height - 1)
    right, bottom = max(round(box[2]), left + 1), max(round(box[3]), top + 1)
    # NumPy copies on this thread alone, and so does torch; it is fastest where both sides are dense
    # and channels-last. Other layouts are a risk: with a planar input and this output torch 2.15
    # once crashed.
    crop = np.ascontiguousarray(image.numpy()[top:bottom, left:right])
    torch.ops.aten._upsample_bilinear2d_aa.out(
        torch.from_numpy(crop).permute(2, 0, 1)[None],
        list(out.shape[:2]),
        False,
        None,
        None,
        out=out.permute(2, 0, 1)[None],
    )


def resize_box(image: Tensor, box: Box, out: Tensor) -> None:
    """Resize a part of an image: Pillow's `resize(box=box)`.

    Bilinear and antialiased; corners may lie between pixels. Near its edges the result includes
    pixels around the box, as if the whole image had been resized and then cut. A fifth of
    the speed of `crop_resize`.

    Args:
        image: uint8 [h, w, 3].
        box: left, top, right and bottom in pixels, inside the image.
        out: uint8 [size, size, 3]; the result is written here.
    """
    left, top, right, bottom = box
    height, width = out.shape[:2]
    reach_x = math.ceil(max(1.0, (right - left) / width)) + 1  # of the filter, in pixels
    reach_y = math.ceil(max(1.0, (bottom - top) / height)) + 1
    x, y = max(0, math.floor(left) - reach_x), max(0, math.floor(top) - reach_y)
    part = image.numpy()[y : math.ceil(bottom) + reach_y, x : math.ceil(right) + reach_x]
    resized = Image.fromarray(part).resize(
        (width, height), Image.Resampling.BILINEAR, box=(left - x, top - y, right - x, bottom - y)
    )
    np.copyto(out.numpy(), np.asarray(resized))  # torch would start threads to copy


def _decode_jpeg(data: bytes, header: JpegHeader | None, shrink: float) -> Bytes3 | None:
    """Return the pixels of a JPEG, or None if Pillow must decode it or report its damage."""
    if header is None:
        return None
    width, height, orientation = header
    limit = Image.MAX_IMAGE_PIXELS
    if limit and width * height > limit:
        return None
    reduction = next((r for r in _REDUCTIONS if r <= shrink), 1)
    try:
        pixels: Bytes3 = simplejpeg.decode_jpeg(
            data, min_width=-(-width // reduction), min_height=-(-height // reduction), strict=True
        )
    except ValueError:  # cut or damaged: libjpeg's warnings are errors here
        return None
    return _upright(pixels, orientation)


def _jpeg_header(data: bytes) -> JpegHeader | None:
    """Return width, height and EXIF orientation of a JPEG, or None if Pillow must read it."""
    if not data.startswith(_JPEG):
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        if colours not in _COLOURS or excessive_scans(data, width, height):
            return None
        orientation = 1
        if _may_be_turned(data):
            with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
                orientation = formats.orientation_of(image)
    except Exception:  # noqa: BLE001 - decoders raise almost anything on damaged bytes
        return None
    return width, height, orientation


def _may_be_turned(data: bytes) -> bool:
    """Return False if the segments of a JPEG hold no orientation; otherwise ask Pillow."""
    place = 2
    while data[place] == 0xFF and data[place + 1] not in (_APP1, 0xFF):
        if data[place + 1] == _SOS:
            return False
        place += 2 + int.from_bytes(data[place + 2 : place + 4])
    return True


def _upright(pixels: Bytes3, orientation: int) -> Bytes3:
    """Return pixels turned and mirrored as an EXIF orientation (1 to 8) wants them."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)
