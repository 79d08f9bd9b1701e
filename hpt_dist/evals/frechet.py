"""Fréchet distance of two sets of features: that of Gaussians with their means and covariances.

Dowson and Landau, Journal of Multivariate Analysis 12 (1982), equation 4; on features of a network
as in Heusel et al., arXiv 1706.08500. scipy's `sqrtm` of the product of both covariances would do,
but not where fewer images than features make it singular.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]

_ROWS = 4096


class Moments(NamedTuple):
    """Of a set of features.

    Args:
        mean: float64 [d].
        covariance: float64 [d, d], unbiased.
    """

    mean: Doubles
    covariance: Doubles


def moments(features: NDArray[np.floating]) -> Moments:
    """Return the moments of features [n, d], of at least two images; all are never float64."""
    n, dim = features.shape
    if n < 2:
        raise ValueError(f"{n} images have no covariance")
    parts = range(0, n, _ROWS)
    mean: Doubles = sum(
        (features[at : at + _ROWS].sum(axis=0, dtype=np.float64) for at in parts), np.zeros(dim)
    )
    mean = mean / n
    products = np.zeros((dim, dim))
    for at in parts:
        centred = features[at : at + _ROWS].astype(np.float64) - mean
        products += centred.T @ centred
    return Moments(mean, products / (n - 1))


def distance(one: Moments, other: Moments) -> float:
    """Return the squared Fréchet distance, |m - n|^2 + tr(S + T - 2 (S T)^(1/2)); at least 0."""
    # tr((S T)^(1/2)) is the sum of the singular values of S^(1/2) T^(1/2).
    shared = np.linalg.svd(_root(one.covariance) @ _root(other.covariance), compute_uv=False)
    apart = one.mean - other.mean
    traces = np.trace(one.covariance) + np.trace(other.covariance)
    return max(float(apart @ apart + traces - 2 * shared.sum()), 0.0)


def _root(covariance: Doubles) -> Doubles:
    """Return the symmetric square root; what is 0 up to rounding is 0."""
    values, vectors = np.linalg.eigh(covariance)
    least = len(values) * np.finfo(np.float64).eps * values.max(initial=0)
    roots: Doubles = (vectors * np.sqrt(np.where(values > least, values, 0))) @ vectors.T
    return roots
