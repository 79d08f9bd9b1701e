"""Images of more than 8 bits: measured at sharding, refused where they would be black, scaled."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from pictures import sample, write
from PIL import Image
from small import hpt

from hpt_dist.datasets.manifest import read_manifest
from hpt_dist.errors import DamagedImageError, RequestError
from hpt_dist.images import depth
from hpt_dist.images.depth import FULL, Depths
from hpt_dist.images.formats import Encoding, decode, encode
from hpt_dist.store import open_store


def values(low: int, high: int, kind=np.uint16) -> np.ndarray:
    ramp = np.linspace(low, high, 40 * 30).reshape(30, 40)
    return ramp.round().astype(kind)


def file(array: np.ndarray, kind: str = "PNG") -> bytes:
    data = io.BytesIO()
    Image.fromarray(array).save(data, kind)
    return data.getvalue()


def colour_png(array: np.ndarray) -> bytes:
    """Return a PNG of 16-bit colours, which Pillow reads and does not write."""
    height, width = array.shape
    rows = np.repeat(array.astype(">u2")[..., None], 3, axis=2).reshape(height, -1)
    body = b"".join(b"\0" + row.tobytes() for row in rows)

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">L", zlib.crc32(kind + content))
        return struct.pack(">L", len(content)) + kind + content + checksum

    header = struct.pack(">LLBBBBB", width, height, 16, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(body)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*one) for one in chunks)


def dataset(folder, files: list[bytes], **options):
    samples = [
        replace(sample(f"x{i}", one, "train", 0), read=partial(bytes, one))
        for i, one in enumerate(files)
    ]
    store = open_store(str(folder))
    return store, partial(write, store, "deep", samples, **options)


UNFIT = {
    "10 bits": (values(0, 1023), "0..1023"),
    "12 bits": (values(3, 4000), "0..4095"),
    "14 bits": (values(0, 16_383), "0..16383"),
    "a thermal camera": (values(20_000, 25_000), "20002..24998"),
    "32 bits": (values(0, 1_000_000, np.int32), "0..1048575"),
}


@pytest.mark.parametrize("name", UNFIT)
def test_images_that_would_be_black_or_white_are_refused_with_a_scale_that_fits(tmp_path, name):
    array, suggested = UNFIT[name]
    kind = "TIFF" if array.dtype == np.int32 else "PNG"
    store, sharded = dataset(tmp_path, [file(array, kind)] * 3 + [file(values(0, 255, np.uint8))])
    with pytest.raises(RequestError, match="3 of 3 images of more than 8 bits") as caught:
        sharded()
    assert store.stat("datasets/deep/manifest.json") is None
    fix = caught.value.problem.fix
    scale = depth.parse(fix.partition("--scale ")[2].partition(",")[0])
    assert scale is not None
    assert scale[0] <= array.min() + 5
    assert scale[1] >= array.max() - 600
    if suggested.startswith("0"):
        assert f"--scale {suggested}," in fix
    manifest = sharded(encoding=Encoding(scale=scale))
    assert manifest.std[0] > 0.2
    assert "scaled from" in manifest.source.rule


def test_the_workers_and_the_parts_do_not_change_what_is_refused(tmp_path):
    files = [file(values(0, 4095)), file(values(0, 65_535))] * 4
    for workers in (1, 3):
        _, sharded = dataset(tmp_path / str(workers), files, shard_bytes=4000, workers=workers)
        with pytest.raises(RequestError, match=r"4 of 8 images .* are 3 to 4092"):
            sharded()


FIT = {
    "all 16 bits": [file(values(0, 65_535))] * 3,
    "few dark ones": [file(values(0, 65_535))] * 3 + [file(values(0, 4095))],
    "blank": [file(np.full((9, 9), 77, np.uint16))] * 3,
    "8 bits": [file(values(0, 3, np.uint8))] * 3,
    "colours of all 16 bits": [colour_png(values(0, 65_535))] * 3,
}


@pytest.mark.parametrize("name", FIT)
def test_other_images_are_taken_as_before(tmp_path, name):
    store, sharded = dataset(tmp_path, FIT[name])
    manifest = sharded()
    assert manifest.source.rule == "made"
    full = sharded(encoding=Encoding(scale=FULL))
    assert (full, full.digest) == (manifest, read_manifest(store, "deep").digest)


def test_the_full_range_on_request_is_what_was_always_written(tmp_path):
    store, sharded = dataset(tmp_path, [file(values(0, 4095))] * 3)
    manifest = sharded(encoding=Encoding(scale=FULL))
    assert manifest.source.rule == "made"
    assert manifest.mean[0] < 0.05
    [shard] = manifest.splits["train"].shards
    assert file(values(0, 4095)) in store.get(f"datasets/deep/{shard.path}")


def test_dead_pixels_hide_nothing():
    array = values(0, 4095)
    array[3, 3] = 65_535
    large = np.tile(array, (2, 2))
    large[:, :] = np.where(large == 65_535, 9, large)
    large[0, 0] = 65_535
    assert depth.measured(large).unfit == 1


def test_scaling_keeps_the_ends_and_clips():
    scaled = depth.scaled(np.array([-5, 0, 2047.5, 4095, 9999]), (0, 4095)).tolist()
    assert scaled == [0, 0, 128, 255, 255]
    assert depth.scaled(np.array([-1000, 1000, 3000]), (-1000, 3000)).tolist() == [0, 128, 255]
    everything = np.arange(0, 65_536, dtype=np.uint16)
    assert (depth.scaled(everything, FULL) == everything // 257).all()


def test_scaled_images_are_stored_with_8_bits_and_others_keep_their_bytes():
    deep, flat = file(values(0, 4095)), file(values(0, 200, np.uint8))
    encoding = Encoding(scale=(0, 4095))
    stored, extension, rgb, _ = encode(deep, encoding)
    assert extension == "png"
    assert decode(stored)[0].tobytes() == rgb.tobytes()
    assert rgb.getextrema() == ((0, 255),) * 3
    assert encode(flat, encoding).data == flat
    jpeg = encode(deep, Encoding(resize=10, quality=95, scale=(0, 4095)))
    assert jpeg.extension == "jpg"
    assert jpeg.rgb.getextrema()[0][1] > 230


def test_floats_need_a_scale():
    data = file(np.linspace(0, 1, 1200, dtype=np.float32).reshape(30, 40), "TIFF")
    for encoding in (Encoding(), Encoding(scale=FULL)):
        with pytest.raises(DamagedImageError, match="float pixels have no defined white"):
            encode(data, encoding)
    assert encode(data, Encoding(scale=(0, 1))).rgb.getextrema()[0] == (0, 255)
    gaps = np.full((9, 9), np.nan, np.float32)
    gaps[0, 0] = np.inf
    assert encode(file(gaps, "TIFF"), Encoding(scale=(0, 1))).rgb.getextrema()[0] == (0, 255)


def test_colours_of_12_bits_are_refused_and_cannot_be_scaled(tmp_path):
    dark = colour_png(values(0, 4095))
    _, sharded = dataset(tmp_path, [dark] * 3)
    with pytest.raises(RequestError, match="3 of 3 images of more than 8 bits"):
        sharded()
    with pytest.raises(DamagedImageError, match="convert them to 8 bits"):
        encode(dark, Encoding(scale=(0, 4095)))


@pytest.mark.parametrize("text", ["4095", "0..", "..9", "9..3", "0..0", "a..b", "0..inf", "nan..1"])
def test_what_is_no_scale_is_refused(text):
    with pytest.raises(RequestError, match="is no range of pixel values"):
        depth.parse(text)


def test_a_scale_is_read():
    assert (depth.parse(""), depth.parse("full")) == (None, FULL)
    assert depth.parse("-1000..3000.5") == (-1000, 3000.5)


def test_depths_add_up():
    several = [Depths(1, 0, 0, 0), Depths(2, 1, 5, 90), depth.NONE, Depths(1, 1, -3, 70)]
    assert depth.joined(several) == Depths(4, 2, -3, 90)
    assert depth.joined([]) == depth.NONE


def test_the_command_takes_a_scale(tmp_path):
    for i in range(4):
        path = tmp_path / "photos" / "train" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file(values(0, 4095 - i)))
    arguments = ["shard", str(tmp_path / "photos"), str(tmp_path / "store/datasets/deep")]
    text = hpt(*arguments, store="", code=2)
    assert "--scale 0..4095, or --scale full" in text
    hpt(*arguments, "--scale", "0..4095", store="")
    printed = hpt("data", "show", arguments[2], store="")
    assert "pixels of more than 8 bits scaled from 0..4095 to 8 bits" in printed


def test_a_few_images_that_become_dark_are_reported(caplog):
    depth.refuse_unfit(Depths(12, 4, 0, 4090), "scans")
    assert "scans: 4 of 12 images" in caplog.text
    assert "--scale 0..4095" in caplog.text


def test_three_dots_are_no_range():
    with pytest.raises(RequestError, match="is no range of pixel values"):
        depth.parse("0...4095")
