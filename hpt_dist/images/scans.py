"""How often a JPEG paints its pixels: a small file can ask for hours of decoding.

A progressive JPEG paints all its pixels once a scan, and a scan can be ten bytes long. Encoders
write up to 20 scans; libjpeg-turbo advises decoders to have a limit.
"""

from __future__ import annotations

import re

USUAL_SCANS = 20
MAX_SCANS = 100
MAX_PAINTED = 2**29  # pixels times scans; about a second of decoding

_JPEG = b"\xff\xd8\xff"
_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # SOF0 to SOF15
_IN_ONE_SCAN = {0xC0, 0xC1}  # baseline and extended, where all components share the scan
_WITHOUT_LENGTH = {*range(0xC0), *range(0xD0, 0xDA), 0xFF}
_SCAN = b"\xff\xda"
# Not FF 00 (a byte FF of the pixels), not a restart, not padding.
_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd7\xff])")


def excessive_scans(data: bytes, width: int, height: int) -> int:
    """Return how many scans a JPEG has if they are too many to decode, otherwise 0.

    Args:
        data: a file; only a JPEG has scans.
        width: in pixels.
        height: in pixels.
    """
    if not data.startswith(_JPEG) or _is_one_scan(data):
        return 0
    # A quick look first: metadata and what follows the picture count too.
    if data.count(_SCAN) <= USUAL_SCANS:
        return 0
    scans = _count(data)
    too_many = scans > MAX_SCANS or scans * width * height > MAX_PAINTED
    return scans if scans > USUAL_SCANS and too_many else 0


def _is_one_scan(data: bytes) -> bool:
    """Return whether decoders stop after the first scan: so it is for almost all files.

    Counting takes a twentieth of the time of decoding, and this much less. Whatever is unusual
    before the scan is left to the count.
    """
    place, components, end = 2, 0, len(data) - 10
    while place < end and data[place] == 0xFF:
        marker, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4])
        if marker in _WITHOUT_LENGTH or length < 2:
            return False
        if marker in _FRAMES:
            if marker not in _IN_ONE_SCAN:
                return False
            components = data[place + 9]
        elif marker == _SOS:
            return data[place + 4] == components
        place += 2 + length
    return False


def _count(data: bytes) -> int:
    """Return the number of scans of the first picture in a file."""
    scans, place = 0, 0
    while (found := _MARKER.search(data, place)) and (marker := found[1][0]) != _EOI:
        scans += marker == _SOS
        place = found.end()
        if marker != _SOI:
            place += int.from_bytes(data[place : place + 2])
    return scans
