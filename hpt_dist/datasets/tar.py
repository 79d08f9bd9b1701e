"""USTAR archives, written so that equal contents are equal bytes.

`tarfile.TarInfo.tobuf` makes the same headers in Python 3.11, but other bytes in other versions,
and takes as long as a checksum of the image that follows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from hpt_dist.errors import DataError

BLOCK_BYTES = 512
MAX_NAME_BYTES = 100
END = bytes(2 * BLOCK_BYTES)

_MAX_DATA_BYTES = 8**11 - 1
_MODE_OWNER = b"0000644\0" + b"0000000\0" * 2
_TIME = b"00000000000\0"
_CHECKSUM_SPACES = b" " * 8
_SIZE, _KIND = slice(124, 136), 156
_REST = (b"0" + bytes(100) + b"ustar\x0000").ljust(BLOCK_BYTES - 156, b"\0")


def add(tar: BinaryIO, name: str, data: bytes) -> int:
    """Append one file, without time and owner.

    Args:
        tar: an archive without `END`; the caller writes it last.
        name: ASCII, of at most `MAX_NAME_BYTES`.
        data: the whole file.

    Returns:
        The offset of the data.

    Raises:
        DataError: the data are 8 GiB or more, beyond the limit of USTAR.
    """
    if len(data) > _MAX_DATA_BYTES:
        raise DataError(f"{len(data):,} bytes are too many for one file of a tar")
    tar.write(_header(name.encode("ascii"), len(data)))
    offset = tar.tell()
    tar.write(data)
    tar.write(bytes(-len(data) % BLOCK_BYTES))
    return offset


def members(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of each file, as `add` writes them; stop at anything else.

    `tarfile` follows links, sparse maps and sizes below zero, which no shard of ours holds.

    Args:
        data: an archive, or a part of it that begins with a header. Its end may be missing.
    """
    place = 0
    while len(header := data[place : place + BLOCK_BYTES]) == BLOCK_BYTES:
        size = header[_SIZE].rstrip(b"\0 ")
        if header[_KIND] not in b"0\0" or not size or size.strip(b"01234567"):
            return
        start = place + BLOCK_BYTES
        end = start + int(size, 8)
        if end > len(data):
            return
        yield header[:MAX_NAME_BYTES].rstrip(b"\0").decode("ascii", "replace"), data[start:end]
        place = end + -end % BLOCK_BYTES


def _header(name: bytes, size_bytes: int) -> bytes:
    before = name.ljust(MAX_NAME_BYTES, b"\0") + _MODE_OWNER + b"%011o\0" % size_bytes + _TIME
    checksum = sum(before) + sum(_CHECKSUM_SPACES) + sum(_REST)
    return before + b"%06o\0 " % checksum + _REST
