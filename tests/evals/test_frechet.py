"""Fréchet distance: by scipy's square root of a matrix, in closed form, and singular."""

import numpy as np
import pytest
from scipy import linalg

from hpt_dist.evals import frechet


def features(n, d, seed, shift=0.0):
    generator = np.random.default_rng(seed)
    return generator.normal(size=(n, d)) @ generator.normal(size=(d, d)) + shift


def between(x, y):
    return frechet.distance(frechet.moments(x), frechet.moments(y))


def by_scipy(x, y):
    apart = x.mean(0) - y.mean(0)
    s, t = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    return apart @ apart + np.trace(s + t - 2 * linalg.sqrtm(s @ t).real)


@pytest.mark.parametrize("rows", [4096, 7])
@pytest.mark.parametrize("d", [2, 20, 64])
def test_it_is_that_of_scipy(d, rows, monkeypatch):
    monkeypatch.setattr(frechet, "_ROWS", rows)
    x, y = features(300, d, 0), features(200, d, 1, shift=0.3)
    assert between(x, y) == pytest.approx(by_scipy(x, y), rel=1e-8)


def test_of_the_same_features_it_is_0_and_of_moved_ones_their_distance():
    x = features(100, 12, 0)
    size = float(np.trace(np.cov(x, rowvar=False)))
    assert between(x, x) == pytest.approx(0, abs=1e-8 * size)
    assert between(x, x + 2) == pytest.approx(12 * 4, abs=1e-8 * size)
    assert between(x, 3 * x) == pytest.approx(  # of commuting covariances: |m - 3m|^2 + 4 tr S
        4 * float(x.mean(0) @ x.mean(0)) + 4 * size, rel=1e-8
    )


def test_fewer_images_than_features_will_do():
    x, y = features(10, 40, 0), features(15, 40, 1)
    # Where x and y lie in a space of 25 dimensions, it is the distance there.
    basis = linalg.orth(np.vstack([x - x.mean(0), y - y.mean(0), [x.mean(0) - y.mean(0)]]).T)
    s, t = (np.cov(one @ basis, rowvar=False) for one in (x, y))
    values = np.linalg.eigvals(s @ t).real.clip(0)
    apart = x.mean(0) - y.mean(0)
    expected = apart @ apart + np.trace(s) + np.trace(t) - 2 * np.sqrt(values).sum()
    assert between(x, y) == pytest.approx(expected, rel=1e-6)
    with pytest.raises(ValueError, match="1 images have no covariance"):
        frechet.moments(x[:1])
