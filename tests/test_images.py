"""Images: every readable file becomes upright RGB, and nothing else becomes an image."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from hpt_dist.errors import DataError
from hpt_dist.images import decode, to_png, to_rgb

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
ORIENTATION = 0x0112  # EXIF tag


def file(image: Image.Image, kind: str, **options) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_png_is_lossless(height, width, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    image, kind = decode(to_png(Image.fromarray(pixels)))
    assert kind == "PNG"
    np.testing.assert_array_equal(np.asarray(image), pixels)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("turns", [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_images_are_turned_upright_in_every_format(kind, turns):
    orientation, quarters = turns
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    image, _ = decode(file(Image.fromarray(PIXELS), kind, exif=exif, **options))
    np.testing.assert_array_equal(np.asarray(image), np.rot90(PIXELS, quarters))


@given(st.integers(0, 255))
def test_transparency_is_white_below(alpha):
    rgba = np.dstack([PIXELS, np.full(PIXELS.shape[:2], alpha, np.uint8)])
    blended = (PIXELS * (alpha / 255)) + 255 - alpha
    found = np.asarray(to_rgb(Image.fromarray(rgba)), np.float64)
    assert abs(found - blended).max() <= 1


def test_a_transparent_palette_entry_is_white():
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    rgb, _ = decode(file(image, "PNG", transparency=b"\x00\xff"))
    assert (rgb.getpixel((0, 0)), rgb.getpixel((1, 0))) == ((255, 255, 255), (0, 0, 255))


def test_16_bits_are_scaled_not_clipped():
    values = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
    image, _ = decode(file(Image.fromarray(values), "PNG"))
    np.testing.assert_array_equal(np.asarray(image)[..., 0], values // 257)


def test_float_pixels_are_refused():
    with pytest.raises(DataError, match="no defined white"):
        decode(file(Image.fromarray(np.zeros((2, 2), np.float32)), "TIFF"))


@given(st.binary(max_size=200))
def test_other_bytes_are_refused(data):
    with pytest.raises(DataError):
        decode(data)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP"])
@given(share=st.floats(0, 0.9))
def test_cut_files_are_refused(kind, share):
    data = file(Image.fromarray(np.tile(PIXELS, (8, 8, 1))), kind)
    with pytest.raises(DataError):
        decode(data[: int(len(data) * share)])
