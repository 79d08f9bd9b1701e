"""IDX files of bytes, as MNIST and its successors have them (yann.lecun.com/exdb/mnist).

Two zero bytes, the type (0x08: unsigned bytes), the number of dimensions, each dimension as four
bytes, the highest first, and then nothing but the elements in row-major order.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import numpy.typing as npt

from hpt_dist.errors import DataError

Bytes = npt.NDArray[np.uint8]

_GZIP = b"\x1f\x8b"
_UNSIGNED_BYTES = 8
# A header that claims more is damaged, and its gzip stream is not unpacked.
_MAX_BYTES = 2**30


def read(file: Path, dimensions: int) -> Bytes:
    """Read an IDX file, packed by gzip or not.

    Args:
        file: its path.
        dimensions: 1 for labels, 3 for images.

    Returns:
        uint8, read-only; labels [n], images [n, rows, columns].

    Raises:
        DataError: it cannot be read, is no IDX file of bytes with so many dimensions, or is shorter
            or longer than its header says.
    """
    try:
        with file.open("rb") as plain:
            packed = plain.read(len(_GZIP)) == _GZIP
            plain.seek(0)
            if not packed:
                return _parse(plain, dimensions)
            with gzip.open(plain) as unpacked:
                return _parse(cast("BinaryIO", unpacked), dimensions)
    except EOFError as error:
        raise DataError("truncated: its gzip stream has no end", where=str(file)) from error
    except (OSError, zlib.error) as error:
        raise DataError(f"cannot be read: {error}", where=str(file)) from error
    except ValueError as error:
        raise DataError(str(error), where=str(file)) from error


def _parse(stream: BinaryIO, dimensions: int) -> Bytes:
    """Return the array.

    Raises:
        ValueError: what is wrong with it.
    """
    magic = bytes((0, 0, _UNSIGNED_BYTES, dimensions))
    if (found := stream.read(len(magic))) != magic:
        raise ValueError(
            f"it begins with {found.hex() or 'nothing'}; an IDX file of bytes with {dimensions} "
            f"dimension{'s' if dimensions > 1 else ''} begins with {magic.hex()}"
        )
    sizes = stream.read(4 * dimensions)
    if len(sizes) < 4 * dimensions:
        raise ValueError("truncated: its header has no end")
    shape = struct.unpack(f">{dimensions}I", sizes)
    count = math.prod(shape)
    words = " x ".join(f"{size:,}" for size in shape)
    if count > _MAX_BYTES:
        raise ValueError(f"its header says {words} bytes; at most {_MAX_BYTES:,} are read")
    # One byte more than needed: reading on to the end also checks gzip's own CRC.
    content = stream.read(count + 1)
    if len(content) < count:
        raise ValueError(f"truncated: {len(content):,} of the {words} bytes of its header")
    if len(content) > count:
        raise ValueError(f"oversized: bytes follow after the {words} of its header")
    return np.frombuffer(content, np.uint8).reshape(shape)
