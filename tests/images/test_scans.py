"""JPEGs with too many scans, and other small files that ask for much work, are refused early."""

from __future__ import annotations

import io
import struct
import subprocess
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from hpt_dist.errors import DamagedImageError
from hpt_dist.images.formats import decode
from hpt_dist.images.pixels import EncodedImage
from hpt_dist.images.scans import MAX_SCANS, excessive_scans

FLAT = Image.new("RGB", (1600, 1600), (9, 99, 200))
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (400, 400, 3), np.uint8))


def file(image: Image.Image, kind: str = "JPEG", **options) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def with_scans(image: Image.Image, more: int, **options) -> bytes:
    """Return a JPEG that repeats its last scan."""
    data = file(image, progressive=True, quality=50, **options)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + more * last + data[-2:]


def judged(data: bytes) -> list[str]:
    """Return what is wrong with a file, as sharding and as reading see it; empty if nothing."""
    found = []
    for look in (decode, lambda one: EncodedImage(one).decode()):
        try:
            look(data)
            found.append("")
        except DamagedImageError as error:
            found.append(error.problem.what)
    return found


SLOW = {
    "more than the limit": with_scans(NOISE.resize((32, 32)), MAX_SCANS),
    "fewer, but of many pixels": with_scans(Image.new("RGB", (4000, 4000)), 40),
    "a thousand": with_scans(FLAT, 1000),
}


@pytest.mark.parametrize("name", SLOW)
def test_a_jpeg_of_too_many_scans_is_damaged_before_it_is_decoded(name):
    began_s = time.process_time()
    decode(file(FLAT))
    decoded_s = time.process_time()
    assert all("scans, which takes too long" in what for what in judged(SLOW[name]))
    assert EncodedImage(SLOW[name]).size()[0] > 0  # the header alone is cheap
    assert time.process_time() - decoded_s < 3 * (decoded_s - began_s)


HIDDEN = {
    "padding": lambda data: data[:2] + b"\xff\xff" + data[2:],
    "garbage": lambda data: data[:20] + b"none" + data[20:],
    "a thumbnail": lambda data: data[:2] + segment(0xE1, b"x" + file(FLAT)[:600]) + data[2:],
    "a baseline thumbnail": lambda data: data[:2] + segment(0xED, file(NOISE)[:900]) + data[2:],
}


def segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


@pytest.mark.parametrize("name", HIDDEN)
def test_scans_cannot_hide(name):
    data = HIDDEN[name](SLOW["a thousand"])
    assert excessive_scans(data, 1600, 1600) > 1000
    assert all(judged(data))


def test_usual_files_are_never_refused():
    interleaved = file(NOISE)
    files = {
        "baseline": interleaved,
        "gray": file(NOISE.convert("L")),
        "CMYK": file(NOISE.convert("CMYK")),
        "progressive": file(NOISE, progressive=True),
        "twenty scans": with_scans(NOISE, 10),
        # A phone's film behind its photo, and a hundred pictures in one file.
        "followed by bytes": file(NOISE, progressive=True) + b"\xff\xda\x00" * 5000,
        "a hundred pictures": interleaved * 100,
        "scans in the metadata": interleaved[:2]
        + segment(0xE2, b"\xff\xda" * 3000)
        + interleaved[2:],
    }
    for name, data in files.items():
        assert excessive_scans(data, 400, 400) == 0, name


def test_looking_for_scans_costs_next_to_nothing():
    data = file(NOISE, quality=95)

    def cpu_s(work) -> float:
        began_s = time.process_time()
        for _ in range(50):
            work()
        return time.process_time() - began_s

    looked_s = min(cpu_s(lambda: excessive_scans(data, 400, 400)) for _ in range(3))
    decoded_s = min(cpu_s(lambda: EncodedImage(data).decode()) for _ in range(3))
    assert looked_s < 0.02 * decoded_s  # 0.002 here


def chunk(kind: bytes, content: bytes) -> bytes:
    checksum = struct.pack(">L", zlib.crc32(kind + content))
    return struct.pack(">L", len(content)) + kind + content + checksum


def png_with(*chunks: bytes) -> bytes:
    data = file(NOISE.resize((64, 64)), "PNG")
    return data[:33] + b"".join(chunks) + data[33:]


def ifd(tags: int, size: int) -> bytes:
    """Return a TIFF or EXIF directory in which each tag claims all bytes of the file."""
    entries = b"".join(struct.pack("<HHLL", 1000 + i, 7, size - 8, 8) for i in range(tags))
    return (struct.pack("<4sLH", b"II*\0", 8, tags) + entries).ljust(size, b"\0")


BOMB = zlib.compress(bytes(100_000_000), 9)
FRAMES = [Image.new("P", (200, 200), number % 250) for number in range(1000)]
EXIF = ifd(5000, 64_000)
HOSTILE = {
    "PNG, zTXt": png_with(chunk(b"zTXt", b"a\0\0" + BOMB)),
    "PNG, iTXt": png_with(chunk(b"iTXt", b"a\0\1\0\0\0" + BOMB)),
    "PNG, iCCP": png_with(chunk(b"iCCP", b"a\0\0" + BOMB)),
    "PNG, EXIF": png_with(chunk(b"eXIf", EXIF)),
    "PNG, 5,000 texts": png_with(*[chunk(b"tEXt", b"k%d\0v" % i) for i in range(5000)]),
    "PNG, 60,000 x 60,000": png_with()[:16] + struct.pack(">LL", 60_000, 60_000) + png_with()[24:],
    "JPEG, EXIF": file(NOISE)[:2] + segment(0xE1, b"Exif\0\0" + EXIF) + file(NOISE)[2:],
    "JPEG, a restart after each block": file(FLAT, restart_marker_blocks=1),
    "JPEG, restarts alone": file(FLAT)[:-2] + b"\xff\xd0" * 500_000 + b"\xff\xd9",
    "TIFF": ifd(4000, 200_000),
    "GIF, 1,000 frames": file(FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:]),
    "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n",
    "PDF": b"%PDF-1.4\n",
    "SVG": b"<svg xmlns='http://www.w3.org/2000/svg' width='1' height='1'/>",
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", HOSTILE)
def test_no_small_file_asks_for_much_work_or_starts_a_program(name, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a program was started"))
    began_s = time.process_time()
    EncodedImage(file(FLAT)).decode()
    decoded_s = time.process_time()
    judged(HOSTILE[name])
    assert time.process_time() - decoded_s < 30 * (decoded_s - began_s)
