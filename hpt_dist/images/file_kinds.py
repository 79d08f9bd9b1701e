"""What a file is by its first bytes, where it is none of the images that are read."""

from __future__ import annotations

import importlib.util

HEIF_MISSING = "a HEIC image, and pillow-heif is not installed"
HEIF_FIX = "pip install 'hpt-dist[heic]' on every machine that shards, or convert it to JPEG"

_BRANDS_AT, _BRAND_BYTES = 8, 4  # in a file of boxes (ISO 14496-12), behind its size and `ftyp`
_MAX_BRANDS_BYTES = 256
_HEIF = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}
_HEIF |= {b"mif1", b"msf1"}  # of other codecs too, so AVIF is looked for first
_AVIF = {b"avif", b"avis"}
_BEGINNINGS = {
    b"\xff\x0a": "a JPEG XL image",
    b"\x00\x00\x00\x0cJXL ": "a JPEG XL image",
    b"8BPS": "a Photoshop file",
    b"\x76\x2f\x31\x01": "an OpenEXR image",
    b"DDS ": "a DDS texture",
    b"\x00\x00\x01\x00": "an icon",
    b"FUJIFILMCCD-RAW": "a camera's raw file",
    b"IIU\x00": "a camera's raw file",
    b"IIRO": "a camera's raw file",
    b"IIRS": "a camera's raw file",
    b"version https://git-lfs": "a pointer of Git LFS: run git lfs pull",
    b"%PDF": "a PDF",
    b"PK\x03\x04": "a zip archive",
    b"\x1f\x8b": "a gzip archive",
    b"\x89HDF": "an HDF5 file",
    b"\x93NUMPY": "a NumPy array",
    b"SIMPLE  =": "a FITS file",
    b"<?xml": "XML or SVG",
    b"<svg": "an SVG drawing",
    b"<!doctype html": "a web page",
    b"<html": "a web page",
}
_LONGEST = max(map(len, _BEGINNINGS))
_DICOM, _DICOM_AT = b"DICM", 128
# A TIFF that a camera wrote: its first picture is a preview.
_CANON_RAW, _CANON_RAW_AT = b"CR", 8
_TIFF = (b"II*\x00", b"MM\x00*")


def is_heif(data: bytes) -> bool:
    """Return whether a file is HEIF with pictures of HEVC, which its users call HEIC."""
    brands = _brands(data)
    return bool(brands & _HEIF) and not brands & _AVIF


def reads_heif() -> bool:
    """Return whether the package that reads HEIC is installed."""
    return importlib.util.find_spec("pillow_heif") is not None


def is_raw(data: bytes) -> bool:
    """Return whether a TIFF is a camera's raw file by its first bytes."""
    return data.startswith(_TIFF) and data[_CANON_RAW_AT:].startswith(_CANON_RAW)


def name_of(data: bytes) -> str:
    """Return what a file is in words, or an empty text where that is not known."""
    start = data[:_LONGEST].lstrip().lower()
    for beginning, name in _BEGINNINGS.items():
        if data.startswith(beginning) or (beginning[:1] == b"<" and start.startswith(beginning)):
            return name
    if data[_DICOM_AT:].startswith(_DICOM):
        return "a DICOM file"
    if (brands := _brands(data)) & _AVIF:
        return "an AVIF image, which this build of Pillow does not read"
    if brands:
        return "a camera's raw file" if b"crx " in brands else "a video"
    return ""


def _brands(data: bytes) -> set[bytes]:
    """Return the brands of a file of boxes; empty for another file."""
    if data[4:8] != b"ftyp":
        return set()
    end = min(int.from_bytes(data[:4]), _MAX_BRANDS_BYTES, len(data))
    starts = [_BRANDS_AT, *range(_BRANDS_AT + 2 * _BRAND_BYTES, end, _BRAND_BYTES)]
    return {data[start : start + _BRAND_BYTES] for start in starts}
