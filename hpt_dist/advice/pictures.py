"""What a sample of encoded images looks like, and which of them are there more than once."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hpt_dist.advice.facts import Copies, Pictures
from hpt_dist.errors import DamagedImageError
from hpt_dist.images import formats, lookalikes

_PNG, _PNG_DEPTH = b"\x89PNG\r\n\x1a\n", 24  # where a PNG holds its bits per sample
_BYTE = 8
_THUMBNAIL = 64
# Mean difference of an image's channels, of 255, below which it has no colours: JPEG makes a few.
_COLOURLESS = 2.0

Reader = Callable[[int], bytes]


@dataclass(frozen=True)
class _Picture:
    short_side: int
    is_gray: bool
    is_deep: bool
    contrast: float
    greys: npt.NDArray[np.float32]


def looked_at(rows: Iterable[int], read: Reader, name: Callable[[int], str]) -> Pictures:
    """Return how images look.

    Args:
        rows: of the images; it may end early.
        read: row -> its file.
        name: row -> its name, for one that is damaged.

    Raises:
        DamagedImageError: none of them decodes.
    """
    found: list[_Picture] = []
    damaged: list[str] = []
    for row in rows:
        try:
            found.append(_picture(read(row)))
        except DamagedImageError as error:
            damaged.append(name(row))
            last = error
    if not found:
        raise last
    sides = np.quantile([one.short_side for one in found], [0.1, 0.5, 0.9])
    greys = np.quantile(np.stack([one.greys for one in found]), [0.01, 0.99])
    return Pictures(
        seen=len(found) + len(damaged),
        short_sides=(round(sides[0]), round(sides[1]), round(sides[2])),
        gray=_share(one.is_gray for one in found),
        deep=_share(one.is_deep for one in found),
        flat=_share(one.contrast < lookalikes.MIN_CONTRAST for one in found),
        range=(round(greys[0]), round(greys[1])),
        damaged=tuple(damaged),
    )


def _picture(data: bytes) -> _Picture:
    rgb, _ = formats.decode(data)
    greys = lookalikes.greys(data)
    small = np.asarray(rgb.resize((_THUMBNAIL, _THUMBNAIL)), np.float32)
    colours = float((small.max(axis=2) - small.min(axis=2)).mean())
    is_deep = data.startswith(_PNG) and data[_PNG_DEPTH] > _BYTE
    contrast = float(lookalikes.contrasts(greys[None])[0])
    return _Picture(min(rgb.size), colours < _COLOURLESS, is_deep, contrast, greys)


def _share(those: Iterable[bool]) -> float:
    return float(np.mean(list(those)))


def words_of(rows: Iterable[int], read: Reader) -> lookalikes.Words:
    """Return the hashes of images that decode and show enough contrast; see `lookalikes`.

    Args:
        rows: of the images; it may end early.
        read: row -> its file.
    """
    greys = []
    for row in rows:
        try:
            greys.append(lookalikes.greys(read(row)))
        except DamagedImageError:
            continue
    if not greys:
        return np.empty(0, np.uint64)
    stacked = np.stack(greys)
    shown = lookalikes.contrasts(stacked) >= lookalikes.MIN_CONTRAST
    return lookalikes.hashes(stacked[shown])


def copies(
    judged: lookalikes.Words, others: lookalikes.Words, exact: int | None, *, whole: bool
) -> Copies:
    """Return which judged images look like one that is trained on.

    Args:
        judged: hashes of images of val and test.
        others: of images to pretrain on.
        exact: pairs of equal bytes, if they were counted.
        whole: whether these are all images.
    """
    words, number_of = np.unique(np.concatenate([judged, others]), return_inverse=True)
    first, second = lookalikes.near_pairs(words, lookalikes.DISTANCE)
    of_judged, of_others = set(number_of[: len(judged)]), set(number_of[len(judged) :])
    near = of_judged & of_others  # of equal hashes
    for one, other in itertools.chain(
        zip(first.tolist(), second.tolist(), strict=True),
        zip(second.tolist(), first.tolist(), strict=True),
    ):
        if one in of_judged and other in of_others:
            near.add(one)
    count = int(np.isin(number_of[: len(judged)], sorted(near)).sum()) if near else 0
    return Copies(exact, len(judged), len(others), count, whole)


def sampled(images: int, most: int, seed: int = 0) -> Sequence[int]:
    """Return rows in a random order that the seed alone decides, at most so many."""
    generator = np.random.Generator(np.random.PCG64([images, seed]))
    chosen: list[int] = generator.permutation(images)[:most].tolist()
    return chosen
