"""Pixels: the fast ways agree with Pillow, and refuse what it refuses."""

from __future__ import annotations

import io
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image
from sklearn.datasets import load_sample_images

from hpt_dist.errors import DataError
from hpt_dist.images import formats, pixels

PHOTOS = [Image.fromarray(image) for image in load_sample_images().images]
PHOTO = PHOTOS[0].crop((100, 50, 371, 233))  # odd sides: 271 x 183


def file(image: Image.Image, kind: str = "JPEG", **options) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def with_orientation(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return exif


def xmp(orientation: int) -> bytes:
    return f'<x tiff:Orientation="{orientation}"/>'.encode()


def files() -> dict[str, bytes]:
    rgba = PHOTO.copy()
    rgba.putalpha(PHOTO.convert("L"))
    deep = Image.fromarray(np.asarray(PHOTO.convert("L"), np.uint16) * 257)
    second = PHOTO.rotate(90, expand=True)
    found = {
        "jpeg": file(PHOTO),
        "jpeg 444": file(PHOTO, subsampling=0),
        "jpeg 422": file(PHOTO, subsampling=1),
        "jpeg optimised": file(PHOTO, optimize=True, quality=30),
        "jpeg progressive": file(PHOTO, progressive=True),
        "jpeg gray": file(PHOTO.convert("L")),
        "jpeg rgb": file(PHOTO, keep_rgb=True),
        "jpeg cmyk": file(PHOTO.convert("CMYK")),
        "jpeg restarts": file(PHOTO, restart_marker_blocks=3),
        "jpeg comment": file(PHOTO, comment=b"Exif\0\0 \xff\xe1 \xff\xda"),
        "jpeg xmp": file(PHOTO, xmp=xmp(6)),
        "jpeg bytes behind": file(PHOTO) + b"more",
        "jpeg tiny": file(PHOTO.resize((1, 1))),
        "mpo": file(PHOTO, "MPO", save_all=True, append_images=[second]),
        "png": file(PHOTO, "PNG"),
        "png palette": file(PHOTO.convert("P"), "PNG", transparency=3),
        "png alpha": file(rgba, "PNG"),
        "png 16 bits": file(deep, "PNG"),
        "png 1 bit": file(PHOTO.convert("1"), "PNG"),
        "webp": file(PHOTO, "WEBP"),
        "webp alpha": file(rgba, "WEBP", lossless=True),
        "gif": file(PHOTO, "GIF", save_all=True, append_images=[PHOTO]),
        "bmp": file(PHOTO, "BMP"),
        "tiff": file(PHOTO, "TIFF"),
    }
    for kind in ("JPEG", "PNG", "WEBP", "TIFF"):
        for orientation in range(1, 9):
            found[f"{kind} turned {orientation}"] = file(
                PHOTO, kind, exif=with_orientation(orientation)
            )
    return found


FILES = files()


@pytest.mark.parametrize("name", FILES)
def test_every_file_is_what_pillow_makes_of_it(name):
    data = FILES[name]
    expected = np.asarray(formats.decode(data)[0])
    image = pixels.EncodedImage(data).decode()
    assert image.dtype == torch.uint8
    assert image.is_contiguous()
    assert pixels.EncodedImage(data).size() == (image.shape[1], image.shape[0])
    # Two builds of libjpeg-turbo, whose accurate transform is exact: equal to the last bit.
    np.testing.assert_array_equal(image.numpy(), expected)
    image[0, 0, 0] = 0  # it is the caller's own


@pytest.mark.parametrize("name", [name for name in FILES if name.lower().startswith("jpeg")])
@pytest.mark.parametrize("shrink", [1.0, 1.99, 2.0, 3.0, 4.1, 8.0, 100.0])
def test_a_reduced_jpeg_is_the_same_picture_and_large_enough(name, shrink):
    data = FILES[name]
    whole = pixels.EncodedImage(data).decode()
    small = pixels.EncodedImage(data).decode(shrink)
    assert torch.equal(small, pixels.EncodedImage(data).decode(shrink))
    if shrink < 2:
        assert torch.equal(small, whole)
    for side, reduced in zip(whole.shape[:2], small.shape[:2], strict=True):
        assert side / shrink <= reduced <= side
        if shrink >= 2 and "cmyk" not in name:
            assert reduced <= side / 2 + 1
    size = max(1, min(small.shape[:2]) // 2), max(1, min(small.shape[:2]) // 2)
    views = [
        np.asarray(Image.fromarray(image.numpy()).resize(size, Image.Resampling.BILINEAR), float)
        for image in (whole, small)
    ]
    assert abs(views[0] - views[1]).mean() < 4


@given(name=st.sampled_from(sorted(FILES)), share=st.floats(0, 1))
def test_cut_files_are_refused_as_by_pillow(name, share):
    same_verdict(FILES[name][: int(share * len(FILES[name]))])


# As JPEGs, of which Pillow says so.
@pytest.mark.filterwarnings("ignore:Image appears to be a malformed MPO")
@given(
    name=st.sampled_from(["jpeg", "jpeg progressive", "jpeg gray", "jpeg restarts", "mpo"]),
    place=st.floats(0, 1, exclude_max=True),
    bit=st.integers(0, 7),
)
def test_flipped_bits_are_judged_as_by_pillow(name, place, bit):
    data = bytearray(FILES[name])
    data[int(place * len(data))] ^= 1 << bit
    same_verdict(bytes(data))


def same_verdict(data: bytes) -> None:
    """Check that both ways refuse some bytes, or make the same picture of them."""
    try:
        expected = np.asarray(formats.decode(data)[0])
    except DataError as error:
        for shrink in (1.0, 2.0):
            with pytest.raises(type(error)) as refused:
                pixels.EncodedImage(data).decode(shrink)
            assert str(refused.value) == str(error)
        return
    np.testing.assert_array_equal(pixels.EncodedImage(data).decode().numpy(), expected)


@pytest.mark.parametrize("name", ["jpeg", "jpeg progressive", "jpeg gray"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("shrink", [1.0, 4.0])
def test_half_a_jpeg_is_refused(name, share, shrink):
    data = FILES[name]
    with pytest.raises(DataError, match="does not decode"):
        pixels.EncodedImage(data[: int(share * len(data))]).decode(shrink)


@given(st.binary(max_size=200), st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"]))
def test_other_bytes_are_refused(data, start):
    image = pixels.EncodedImage(start + data)
    for read in (image.size, image.decode):
        with pytest.raises(DataError):
            read()


def test_decompression_bombs_are_refused(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", PHOTO.width * PHOTO.height - 1)
    with pytest.raises(DataError, match="does not decode: Image size"):
        pixels.EncodedImage(FILES["jpeg"]).decode()


sides = st.integers(1, 90)
part = st.floats(0, 1)


@st.composite
def crops(draw: st.DrawFn) -> tuple[np.ndarray, tuple[float, float, float, float], int]:
    """An image, a box with fractional corners inside it, at least a pixel wide, and a size."""
    width, height = draw(sides), draw(sides)
    image = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 256, (height, width, 3))
    w, h = 1 + draw(part) * (width - 1), 1 + draw(part) * (height - 1)
    left, top = draw(part) * (width - w), draw(part) * (height - h)
    box = left, top, min(left + w, width), min(top + h, height)
    return image.astype(np.uint8), box, draw(st.sampled_from([1, 2, 7, 16, 32]))


@given(crops())
def test_a_crop_is_pillows_cut_and_resized(case):
    image, box, size = case
    left, top, right, bottom = map(round, box)  # 1.5 and 2.5 are both rounded to 2
    box = left, top, max(right, left + 1), max(bottom, top + 1)
    out = torch.full((3, size, size, 3), 77, dtype=torch.uint8)
    pixels.crop_resize(torch.from_numpy(image), box, out[1])
    cut = Image.fromarray(image).crop(box)
    expected = np.asarray(cut.resize((size, size), Image.Resampling.BILINEAR), int)
    assert abs(out[1].numpy() - expected).max() <= 1
    assert (out[::2] == 77).all()  # the neighbours in the batch


@given(crops())
def test_a_box_between_pixels_is_resized_as_by_pillow(case):
    image, box, size = case
    out = torch.full((3, size, size, 3), 77, dtype=torch.uint8)
    pixels.resize_box(torch.from_numpy(image), box, out[1])
    whole = Image.fromarray(image)
    expected = np.asarray(whole.resize((size, size), Image.Resampling.BILINEAR, box=box), int)
    assert abs(out[1].numpy() - expected).max() <= 1
    assert (out[::2] == 77).all()


@given(crops())
def test_corners_between_pixels_go_to_the_nearest(case):
    image, box, size = case
    width, height = image.shape[1], image.shape[0]
    found, expected = torch.empty(2, size, size, 3, dtype=torch.uint8)
    pixels.crop_resize(torch.from_numpy(image), box, found)
    left, top = min(round(box[0]), width - 1), min(round(box[1]), height - 1)
    nearest = left, top, max(round(box[2]), left + 1), max(round(box[3]), top + 1)
    pixels.crop_resize(torch.from_numpy(image), nearest, expected)
    assert torch.equal(found, expected)


def test_threads_make_the_same_crops():
    data, boxes = FILES["jpeg"], [(k, k, 271 - k, 183 - k) for k in range(60)]

    def view(box: tuple[int, int, int, int]) -> torch.Tensor:
        out = torch.empty(32, 32, 3, dtype=torch.uint8)
        pixels.crop_resize(pixels.EncodedImage(data).decode(), box, out)
        return out

    with ThreadPoolExecutor(8) as executor:
        assert all(map(torch.equal, executor.map(view, boxes), map(view, boxes)))


def test_no_threads_are_started_whatever_torch_is_allowed():
    """In a process of its own, where torch has started none yet."""
    script = """
import os, sys, torch
from hpt_dist.images import pixels
torch.set_num_threads(4)
image = torch.from_numpy(__import__("numpy").zeros((3000, 3000, 3), "uint8"))
out = torch.empty(1024, 1024, 3, dtype=torch.uint8)
data = sys.stdin.buffer.read()
threads = len(os.listdir("/proc/self/task"))
pixels.crop_resize(image, (1, 1, 2999, 2998), out)
pixels.resize_box(image, (1.5, 1, 2999, 2998), out)
pixels.EncodedImage(data).decode()
assert len(os.listdir("/proc/self/task")) == threads
"""
    large = PHOTO.resize((3000, 2000))
    subprocess.run([sys.executable, "-c", script], input=file(large), check=True, timeout=120)


# One entry: tag, type 2 (text), two characters, "6".
TEXT_ORIENTATION = b"Exif\0\0II*\0\x08\0\0\0\x01\0" + b"\x12\x01\x02\0\x02\0\0\0" + b"6" + bytes(7)


@pytest.mark.parametrize("exif", [with_orientation(n) for n in (0, 9, 300)] + [TEXT_ORIENTATION])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_an_orientation_that_is_none_of_the_eight_turns_nothing(exif, kind):
    data = file(PHOTO, kind, exif=exif)
    width, height = PHOTO.size
    assert pixels.EncodedImage(data).size() == formats.decode(data)[0].size == (width, height)
    assert pixels.EncodedImage(data).decode().shape == (height, width, 3)
    small = formats.encode(data, formats.Encoding(resize=20))[2]
    assert small.size == (round(width * 20 / height), 20)
