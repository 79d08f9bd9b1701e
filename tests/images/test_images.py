"""Images: every readable file becomes upright RGB, and nothing else becomes an image."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from hpt_dist.errors import DataError, RequestError
from hpt_dist.images.formats import Encoding, decode, encode, to_png, to_rgb

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


# Encoding


def photo(width: int, height: int) -> Image.Image:
    """A smooth picture, as JPEG likes them, whose corners differ."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.dstack([x, y, 255 - x]).astype(np.uint8))


def close(one: Image.Image, other: Image.Image) -> bool:
    return np.abs(np.asarray(one, float) - np.asarray(other, float)).mean() < 4


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("resize", [None, 60, 99])
def test_small_jpeg_and_png_keep_their_bytes_without_a_quality(kind, resize):
    data = file(photo(80, 60), kind)
    stored, extension, image, _ = encode(data, Encoding(resize))
    assert (stored, extension) == (data, {"JPEG": "jpg", "PNG": "png"}[kind])
    assert image.tobytes() == decode(data)[0].tobytes()


@pytest.mark.parametrize("size", [(400, 300), (301, 401), (33, 32), (3000, 40)])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_resizing_makes_the_short_side_and_keeps_the_picture(size, orientation, kind):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    data = file(photo(*size), kind, exif=exif)
    stored, extension, image, _ = encode(data, Encoding(resize=32))
    upright = decode(data)[0]
    if min(size) > 32 or kind == "WEBP":
        with Image.open(io.BytesIO(stored)) as read:
            assert not read.getexif()
            assert read.size == image.size
        scale = 32 / min(size)
        assert image.size == tuple(round(side * scale) for side in upright.size)
    assert extension == ("jpg" if kind == "JPEG" else "png")
    assert image.tobytes() == decode(stored)[0].tobytes()
    assert close(image, upright.resize(image.size, Image.Resampling.BOX))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "GIF"])
@pytest.mark.parametrize("resize", [None, 24])
def test_with_a_quality_everything_becomes_a_jpeg(kind, resize):
    data = file(photo(64, 48), kind)
    low, high = (encode(data, Encoding(resize, quality)) for quality in (20, 95))
    assert {low[1], high[1]} == {"jpg"}
    assert len(low[0]) < len(high[0])
    assert low[2].size == ((64, 48) if resize is None else (32, 24))
    assert decode(high[0])[0].tobytes() == high[2].tobytes()
    assert encode(data, Encoding(resize, 95))[0] == high[0]


def test_what_is_encoded_anew_holds_no_metadata():
    exif = Image.Exif()
    exif[0x010E] = "a private description"
    data = file(
        photo(64, 48),
        "JPEG",
        exif=exif,
        icc_profile=b"a private profile",
        comment=b"a private word",
    )
    for encoding in (Encoding(resize=20), Encoding(quality=80)):
        assert b"private" not in encode(data, encoding)[0]
    assert b"private" not in encode(file(photo(64, 48), "TIFF", description="a private word"))[0]
    assert b"private" in encode(data)[0]


def test_a_cut_jpeg_is_refused_though_only_a_part_of_it_is_decoded():
    data = file(photo(800, 600), "JPEG")
    with pytest.raises(DataError, match="truncated"):
        encode(data[:-200], Encoding(resize=20))


def test_a_picture_that_no_jpeg_can_hold_is_refused():
    data = file(Image.new("RGB", (66_000, 2)), "PNG")
    assert encode(data)[1] == "png"
    with pytest.raises(DataError, match="66000 x 2 pixels do not fit a JPEG"):
        encode(data, Encoding(quality=90))


@pytest.mark.parametrize(("resize", "quality"), [(0, None), (-3, None), (None, 0), (None, 101)])
def test_an_encoding_out_of_range_is_refused(resize, quality):
    with pytest.raises(RequestError, match="allowed: 1"):
        Encoding(resize, quality)


def test_an_encoding_says_what_it_does():
    assert str(Encoding()) == ""
    assert "quality 90" in str(Encoding(resize=8))
    assert "JPEG of quality 70" in str(Encoding(quality=70))
