"""Images that look alike: a 64-bit perceptual hash, and all pairs of close hashes.

The hash is pHash (Zauner 2010), bit for bit that of `imagehash.phash` but for rounding: the signs
of the 8 x 8 lowest frequencies of the picture in 32 x 32 greys, about their median. Resized,
recompressed or brightened copies differ in few bits.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from itertools import combinations, pairwise

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from hpt_dist.images import formats

Words = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]
Greys = npt.NDArray[np.float32]

# Of 1,000 photographs no two are within 10 bits, so that 4 leaves room for millions of them; of
# copies resized, squashed, recompressed, grey or 20 % brighter 96 to 100 % are within 4, of copies
# cropped by 2 % at each side 57 %. Distances are mostly even: the median sets half of the bits.
DISTANCE = 4
MAX_DISTANCE = 12
# Standard deviation of the 32 x 32 greys, of 255: below it signs are noise. Photographs have 13
# and more, line drawings 30 and more.
MIN_CONTRAST = 4.0

_SIDE = 32
_LOW = 8
_DECODED_SIDE = 2 * _SIDE


def greys(data: bytes) -> Greys:
    """Decode an image to 32 x 32 greys, a large JPEG at a fraction of its size.

    Args:
        data: a file of one of `formats.FORMATS`.

    Returns:
        float32 [32, 32], 0 to 255; of the upright picture, squashed to a square.

    Raises:
        DamagedImageError: see `formats.decode`.
    """
    try:
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as jpeg:
            jpeg.draft("L", (_DECODED_SIDE, _DECODED_SIDE))
            image: Image.Image = jpeg.convert("L")
            ImageOps.exif_transpose(image, in_place=True)
    except Exception:  # noqa: BLE001 - no JPEG, or a damaged one, which `decode` reports
        image = formats.decode(data)[0].convert("L")
    return np.asarray(image.resize((_SIDE, _SIDE), Image.Resampling.LANCZOS), np.float32)


def hashes(pictures: Greys) -> Words:
    """Return the hash of each picture.

    Args:
        pictures: float32 [n, 32, 32], as `greys` makes them.

    Returns:
        uint64 [n].
    """
    low = (_COSINES @ pictures @ _COSINES.T).reshape(len(pictures), _LOW * _LOW)
    signs = low > np.median(low, axis=1, keepdims=True)
    return np.packbits(signs, axis=1).view(">u8")[:, 0].astype(np.uint64)


def contrasts(pictures: Greys) -> npt.NDArray[np.float32]:
    """Return the standard deviation of each picture's greys; see `MIN_CONTRAST`."""
    deviations: npt.NDArray[np.float32] = np.std(pictures, axis=(1, 2))
    return deviations


def near_pairs(words: Words, distance: int) -> tuple[Ints, Ints]:
    """Return all pairs of hashes that differ in at most `distance` bits.

    Not all pairs are compared. The 64 bits are cut into blocks; two hashes that differ in few bits
    agree in some whole blocks, and so are neighbours when hashes are sorted by these blocks.

    Args:
        words: uint64 [n], each value once.
        distance: 0 to 63 bits.

    Returns:
        int64 [pairs] each: indices i < j, in ascending order.
    """
    codes = [np.empty(0, np.int64)]
    count = len(words)
    for mask in _masks(distance, count):
        order = np.argsort(words & mask, kind="stable")
        ordered = words[order]
        keys = ordered & mask
        rows, step = np.arange(count), 1
        while len(rows):  # of equal keys, each with the next one, the next but one, ...
            rows = rows[rows + step < count]
            rows = rows[keys[rows] == keys[rows + step]]
            close = rows[_bits(ordered[rows] ^ ordered[rows + step]) <= distance]
            left, right = order[close], order[close + step]
            codes.append(np.minimum(left, right) * count + np.maximum(left, right))
            step += 1
    pairs = np.unique(np.concatenate(codes))
    return pairs // max(1, count), pairs % max(1, count)


def _masks(distance: int, count: int) -> Iterator[np.uint64]:
    """Yield sets of bits such that any two hashes within the distance agree in one of them.

    Of `distance` + a blocks at least `a` agree. More blocks that must agree make more sets, of
    more bits, in which fewer hashes agree by chance; the cheapest sum of both costs is chosen.
    """
    if distance == 0:
        return

    def work(agreeing: int) -> float:
        blocks = distance + agreeing
        by_chance = count**2 / 2 ** (64 * agreeing / blocks + 1)
        return math.comb(blocks, agreeing) * (_SORTING * count + by_chance)

    agreeing = min(range(1, min(5, 65 - distance)), key=work)
    edges = [round(64 * i / (distance + agreeing)) for i in range(distance + agreeing + 1)]
    blocks = [(1 << end) - (1 << start) for start, end in pairwise(edges)]
    for chosen in combinations(blocks, agreeing):
        yield np.uint64(sum(chosen))


_SORTING = 20  # to sort one hash takes as long as comparing this many pairs


def _bits(words: Words) -> npt.NDArray[np.uint8]:
    """Count the bits that are set in each word (Hacker's Delight, figure 5-2)."""
    words = words - ((words >> np.uint64(1)) & np.uint64(0x5555555555555555))
    fours = np.uint64(0x3333333333333333)
    words = (words & fours) + ((words >> np.uint64(2)) & fours)
    words = (words + (words >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return (words * np.uint64(0x0101010101010101) >> np.uint64(56)).astype(np.uint8)


def _cosines() -> Greys:
    """Return the lowest rows of the matrix of the discrete cosine transform, float32 [8, 32]."""
    places = np.arange(_SIDE) + 0.5
    return np.cos(np.pi / _SIDE * np.outer(np.arange(_LOW), places)).astype(np.float32)


_COSINES = _cosines()
