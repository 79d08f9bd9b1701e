"""How alike two networks see the same images: RV2, linear CKA, and the IoU of their errors.

Features X [n, p] and Y [n, q] are of the same n images, and each column is centred here. The
definitions are sums over pairs of images, n x n; these are sums over pairs of features, p x q, in
tiles where the features are those of flattened convolutions: tr(XX' YY') is |X'Y|^2.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations_with_replacement
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Features = npt.NDArray[np.floating]
Bools = npt.NDArray[np.bool_]
Doubles = npt.NDArray[np.float64]

TILE = 4096  # features whose products are held at once


class Alike(NamedTuple):
    """How alike two sets of features are.

    Args:
        rv2: the modified RV coefficient (Smilde et al. 2009), -1 to 1; NaN where one set has a
            single value throughout. That of independent features is about p / (p + n^2).
        cka: linear CKA (arXiv 1905.00414), 0 to 1; NaN as above.
    """

    rv2: float
    cka: float


class Welch(NamedTuple):
    """Welch's t-test between two groups: whether their means differ, with unequal variances.

    Args:
        means: of both groups.
        t: the statistic; NaN where it cannot be computed.
        df: its degrees of freedom, by Satterthwaite.
        p: of both sides.
    """

    means: tuple[float, float]
    t: float
    df: float
    p: float


def compare(x: Features, y: Features, *, tile: int = TILE) -> Alike:
    """Return how alike the features of the same images are, in float64.

    Args:
        x: [n, p].
        y: [n, q].
        tile: features of each that are multiplied at once; memory is tile * (2 n + tile).
    """
    return _alike(x, y, _own(x, tile), _own(y, tile), tile)


def matrices(features: Sequence[Features], *, tile: int = TILE) -> tuple[Doubles, Doubles]:
    """Return RV2 and linear CKA of every pair of sets, float64 [sets, sets] each.

    Args:
        features: each [n, d] with its own d.
        tile: see `compare`.
    """
    own = [_own(one, tile) for one in features]
    found = np.empty((2, len(features), len(features)))
    for i, j in combinations_with_replacement(range(len(features)), 2):
        alike = _alike(features[i], features[j], own[i], own[j], tile)
        found[:, i, j] = found[:, j, i] = alike
    return found[0], found[1]


def errors_iou(wrong: Bools, others_wrong: Bools) -> float:
    """Return how many of the images that either has wrong both have wrong; NaN where none is.

    Args:
        wrong: bool [n], whether an image was misclassified.
        others_wrong: bool [n], of the same images.
    """
    either = np.count_nonzero(wrong | others_wrong)
    return float(np.count_nonzero(wrong & others_wrong) / either) if either else float("nan")


def welch(first: Sequence[float], second: Sequence[float]) -> Welch:
    """Return Welch's t-test between two groups of at least two numbers each."""
    from scipy import stats

    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if min(len(a), len(b)) < 2:
        raise ValueError("each group needs at least two numbers")
    found = stats.ttest_ind(a, b, equal_var=False)
    means = (float(a.mean()), float(b.mean()))
    return Welch(means, float(found.statistic), float(found.df), float(found.pvalue))


class _Own(NamedTuple):
    """What a set brings to each comparison: |X'X|^2, and the squared length of each row."""

    within: float
    lengths: Doubles


def _own(x: Features, tile: int) -> _Own:
    return _Own(_squared(x, x, tile), _lengths(x, tile))


def _alike(x: Features, y: Features, of_x: _Own, of_y: _Own, tile: int) -> Alike:
    if len(x) != len(y):
        raise ValueError(f"{len(x)} and {len(y)} rows are not those of the same images")
    between = of_x.within if x is y else _squared(x, y, tile)
    # What XX' and YY' have on their diagonals, which RV2 leaves out.
    rv2 = _ratio(
        between - float(of_x.lengths @ of_y.lengths),
        of_x.within - float(of_x.lengths @ of_x.lengths),
        of_y.within - float(of_y.lengths @ of_y.lengths),
    )
    return Alike(rv2, _ratio(between, of_x.within, of_y.within))


def _ratio(between: float, within_x: float, within_y: float) -> float:
    product = within_x * within_y
    return float(between / np.sqrt(product)) if product > 0 else float("nan")


def _squared(x: Features, y: Features, tile: int) -> float:
    """Return |X'Y|^2, the sum of the squares of all products of a feature with another."""
    if x is y:  # the tiles below the diagonal are those above
        parts = list(range(0, x.shape[1], tile))
        total = 0.0
        for number, first in enumerate(parts):
            left = _centred(x[:, first : first + tile])
            total += float(np.square(left.T @ left).sum())
            for second in parts[number + 1 :]:
                right = _centred(x[:, second : second + tile])
                total += 2 * float(np.square(left.T @ right).sum())
        return total
    return sum(
        float(np.square(left.T @ right).sum())
        for left in _tiles(x, tile)
        for right in _tiles(y, tile)
    )


def _lengths(x: Features, tile: int) -> Doubles:
    """Return the squared length of each centred row, float64 [n]."""
    total = np.zeros(len(x))
    for part in _tiles(x, tile):
        total += np.einsum("nd,nd->n", part, part)
    return total


def _tiles(x: Features, tile: int) -> Iterator[Doubles]:
    for first in range(0, x.shape[1], tile):
        yield _centred(x[:, first : first + tile])


def _centred(x: Features) -> Doubles:
    wide = x.astype(np.float64)
    centred: Doubles = wide - wide.mean(axis=0)
    return centred
