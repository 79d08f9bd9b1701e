"""PNGs whose metadata cannot be read, though their pixels can.

Pillow refuses a whole file for a text of more than 1 MB, a damaged colour profile or a wrong
checksum of metadata. None of these changes a pixel, so the file is kept without them.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import NamedTuple

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_TEXTS = {b"tEXt", b"zTXt", b"iTXt"}
_EXIF = b"eXIf"
# Chunks that are no pixels and that Pillow interprets.
_METADATA = _TEXTS | {b"iCCP", _EXIF}
_TRANSPARENCY = b"tRNS"
# What may say how the picture is turned.
_TURNS = (b"Raw profile type exif\0", b"XML:com.adobe.xmp\0")
_MAX_TURN_BYTES = 2**20


class _Chunk(NamedTuple):
    """A chunk: its type, and all its bytes from its length to its checksum."""

    kind: bytes
    whole: bytes

    @property
    def is_sound(self) -> bool:
        return zlib.crc32(self.whole[4:-4]) == int.from_bytes(self.whole[-4:])

    @property
    def may_turn(self) -> bool:
        if self.kind == _EXIF:
            return True
        content = self.whole[8:-4]
        return self.kind in _TEXTS and content.startswith(_TURNS) and len(content) < _MAX_TURN_BYTES

    @property
    def is_needed(self) -> bool:
        """Whether the pixels may depend on it, by the case of its first letter or as transparency.

        What follows the last whole chunk is needed too: a cut file stays cut.
        """
        return not self.kind or self.kind[:1].isupper() or self.kind == _TRANSPARENCY


def with_less_metadata(data: bytes) -> Iterator[bytes]:
    """Yield a PNG with less and less of its metadata; nothing for another file.

    Args:
        data: a file.
    """
    if not data.startswith(_SIGNATURE):
        return
    chunks = list(_chunks(data))
    sound = [one for one in chunks if one.is_needed or one.is_sound]
    turning = [one for one in sound if one.kind not in _METADATA or one.may_turn]
    bare = [one for one in sound if one.kind not in _METADATA]
    if len(turning) < len(chunks):
        yield _SIGNATURE + b"".join(one.whole for one in turning)
    if len(bare) < len(turning):
        yield _SIGNATURE + b"".join(one.whole for one in bare)


def _chunks(data: bytes) -> Iterator[_Chunk]:
    place = len(_SIGNATURE)
    while place + 12 <= len(data):
        length = int.from_bytes(data[place : place + 4])
        whole = data[place : place + 12 + length]
        if len(whole) < 12 + length:
            break
        yield _Chunk(data[place + 4 : place + 8], whole)
        place += 12 + length
    if place < len(data):
        yield _Chunk(b"", data[place:])
