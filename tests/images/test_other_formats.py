"""What phones, cameras and editors write: read where the pixels are whole, and named where not."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from hpt_dist.errors import DataError, RequestError
from hpt_dist.images import file_kinds
from hpt_dist.images.formats import Encoding, decode, encode
from hpt_dist.images.pixels import EncodedImage

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)
SMOOTH = Image.fromarray(PIXELS[:3, :4]).resize((80, 60), Image.Resampling.BICUBIC)
ORIENTATION = 0x0112  # EXIF tag
TURNED = 6


def file(kind: str, **options) -> bytes:
    data = io.BytesIO()
    Image.fromarray(PIXELS).save(data, kind, **options)
    return data.getvalue()


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = TURNED
    return exif


@pytest.fixture
def heif():
    import pillow_heif

    data = io.BytesIO()
    pillow_heif.from_pillow(SMOOTH).save(data, quality=90)
    return data.getvalue()


def assert_training_sees_what_was_sharded(data: bytes) -> None:
    """The stored file decodes, on the way of training, to what the original decodes to."""
    stored = encode(data)
    assert stored.extension == "png"
    seen = EncodedImage(stored.data).decode().numpy()
    np.testing.assert_array_equal(seen, np.asarray(decode(data)[0]))
    np.testing.assert_array_equal(seen, np.asarray(stored.rgb))


@pytest.mark.parametrize("kind", ["AVIF", "JPEG2000"])
@pytest.mark.parametrize("options", [{}, {"exif": True}])
def test_avif_and_jpeg_2000_are_stored_with_exactly_their_pixels(kind, options):
    if options and kind == "JPEG2000":
        options = {"quality_mode": "dB", "quality_layers": [30]}
    data = file(kind, **({"exif": turned()} if "exif" in options else options))
    assert decode(data)[1] == kind
    assert decode(data)[0].size == ((24, 40) if "exif" in options else (40, 24))
    assert_training_sees_what_was_sharded(data)


def test_heic_is_stored_with_exactly_its_pixels_where_pillow_heif_is_installed(heif):
    assert file_kinds.is_heif(heif)
    assert not file_kinds.is_heif(file("AVIF"))
    difference = np.asarray(decode(heif)[0], float) - np.asarray(SMOOTH, float)
    assert np.abs(difference).mean() < 5
    assert_training_sees_what_was_sharded(heif)


def test_without_pillow_heif_a_heic_image_names_the_extra(heif, monkeypatch):
    monkeypatch.setattr(file_kinds, "reads_heif", lambda: False)
    with pytest.raises(RequestError, match=r"pip install 'hpt-dist\[heic\]'"):
        encode(heif)


# PNGs


def with_chunk(
    png: bytes, kind: bytes, content: bytes, *, crc: int | None = None, times: int = 1
) -> bytes:
    """Return a PNG with a chunk behind its header."""
    crc = zlib.crc32(kind + content) if crc is None else crc
    chunk = struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)
    return png[:33] + chunk * times + png[33:]


LONG = b"x" * (PngImagePlugin.MAX_TEXT_CHUNK + 1)
ODD = {
    "a long compressed text": (b"zTXt", b"note\0\0" + zlib.compress(LONG)),
    "a large profile": (b"iCCP", b"icc\0\0" + zlib.compress(LONG)),
    "a long international text": (b"iTXt", b"note\0\1\0\0\0" + zlib.compress(LONG)),
    "no EXIF": (b"eXIf", b"garbage"),
    "EXIF that is no hexadecimal": (b"tEXt", b"Raw profile type exif\0\nexif\n 12\nzz zz\n"),
}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("turn", [False, True])
def test_a_png_whose_pixels_are_whole_is_kept_whatever_its_metadata(name, turn):
    sound = file("PNG", **({"exif": turned()} if turn and name != "no EXIF" else {}))
    data = with_chunk(sound, *ODD[name])
    expected = np.asarray(decode(sound)[0])
    if "hexadecimal" in name and turn:  # Pillow asks the text first
        expected = np.asarray(decode(data)[0])
    stored = encode(data)
    np.testing.assert_array_equal(np.asarray(stored.rgb), expected)
    np.testing.assert_array_equal(EncodedImage(stored.data).decode().numpy(), expected)
    with Image.open(io.BytesIO(stored.data)) as plain:  # as any other program reads it
        np.testing.assert_array_equal(np.asarray(plain.convert("RGB")), PIXELS)


def test_a_png_with_many_texts_or_a_wrong_checksum_of_one_is_kept():
    png = file("PNG")
    many = with_chunk(png, b"tEXt", b"note\0" + LONG[:1_000_000], times=68)
    for data in (many, with_chunk(png, b"tEXt", b"note\0text", crc=1)):
        assert encode(data).data == png


def test_a_png_with_damaged_pixels_is_left_out_and_a_sound_one_keeps_its_bytes():
    png = with_chunk(file("PNG"), b"tEXt", b"note\0text")
    assert encode(png).data == png
    damaged = bytearray(with_chunk(png, *ODD["a large profile"]))
    damaged[-40] ^= 0xFF
    for data in (bytes(damaged), png[:-30]):
        with pytest.raises(DataError):
            encode(data)


# What is not read


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"\xff\x0a" + bytes(50), "a JPEG XL image"),
        (b"\x00\x00\x00\x0cJXL \r\n\x87\n" + bytes(50), "a JPEG XL image"),
        (b"8BPS" + bytes(50), "a Photoshop file"),
        (b"  <!DOCTYPE html><html>not found</html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (bytes(128) + b"DICM" + bytes(50), "a DICOM file"),
        (b"\x00\x00\x00\x18ftypcrx " + bytes(50), "a camera's raw file"),
        (b"\x00\x00\x00\x18ftypisom\x00\x00\x00\x00mp42avc1" + bytes(50), "a video"),
        (b"%PDF-1.7", "a PDF"),
        (b"no image at all", "none of the formats JPEG, PNG"),
    ],
)
def test_what_is_not_read_is_named_with_what_is(data, name):
    with pytest.raises(DataError, match=r"none of the formats JPEG, PNG.*AVIF, JPEG2000") as caught:
        decode(data)
    assert name in str(caught.value)


def test_of_a_cameras_raw_file_the_preview_is_not_taken_for_the_picture():
    preview = file("TIFF", tiffinfo={0x00FE: 1})
    with pytest.raises(DataError, match="only a preview can be read"):
        encode(preview, Encoding(quality=80))
    assert decode(file("TIFF", tiffinfo={0x00FE: 0}))[1] == "TIFF"
