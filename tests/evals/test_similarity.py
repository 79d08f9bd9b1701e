"""RV2, linear CKA, IoU and Welch's test: by their definitions, and the identities."""

import numpy as np
import pytest
from scipy import stats

from hpt_dist.evals import similarity


def features(n, d, seed):
    return np.random.default_rng(seed).normal(size=(n, d)) * np.arange(1, d + 1) + 7


def by_definition(x, y):
    """Return RV2 and linear CKA by products of n x n."""
    x, y = x - x.mean(0), y - y.mean(0)
    s, t = x @ x.T, y @ y.T
    cka = (s * t).sum() / np.sqrt((s * s).sum() * (t * t).sum())
    s, t = s - np.diag(np.diag(s)), t - np.diag(np.diag(t))
    return np.trace(s @ t) / np.sqrt(np.trace(s @ s) * np.trace(t @ t)), cka


@pytest.mark.parametrize("tile", [4096, 7])
@pytest.mark.parametrize("shape", [(40, 5, 9), (12, 60, 31), (200, 64, 64)])
def test_they_are_the_definitions(shape, tile):
    n, p, q = shape
    x = features(n, p, 0)
    y = np.hstack([x, x])[:, :q] if q <= p else features(n, q, 1)
    y = y + features(n, q, 2) / 3
    found = similarity.compare(x, y, tile=tile)
    assert found == pytest.approx(by_definition(x, y), abs=1e-8)
    assert similarity.compare(x.astype(np.float32), y, tile=tile) == pytest.approx(found, abs=1e-5)


def test_the_same_space_is_the_same_whatever_its_axes_scale_and_offset():
    x = features(50, 20, 0)
    rotation, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(20, 20)))
    for same in (x, x @ rotation, -3 * x, x + 100, x @ rotation * 1e-6 + 5):
        assert similarity.compare(x, same) == pytest.approx((1, 1), abs=1e-8)
    assert similarity.compare(x, x * np.arange(20)).rv2 < 1


def test_independent_features_are_near_0_by_rv2_and_not_by_cka():
    x, y = (np.random.default_rng(seed).normal(size=(400, 400)) for seed in (1, 2))
    found = similarity.compare(x, y)
    assert abs(found.rv2) < 0.05
    assert found.cka > 0.4  # as many features as images: why the diagonal is left out


def test_features_of_a_single_value_have_no_likeness():
    found = similarity.compare(np.ones((9, 3)), features(9, 4, 0))
    assert np.isnan(found).all()
    with pytest.raises(ValueError, match="same images"):
        similarity.compare(np.ones((9, 3)), np.ones((8, 3)))


def test_errors_are_compared_over_what_either_has_wrong():
    a, b, none = np.array([1, 1, 0, 0], bool), np.array([0, 1, 1, 0], bool), np.zeros(4, bool)
    assert similarity.errors_iou(a, b) == pytest.approx(1 / 3)
    assert (similarity.errors_iou(a, a), similarity.errors_iou(a, none)) == (1, 0)
    assert np.isnan(similarity.errors_iou(none, none))


def test_welch_by_the_formula():
    first, second = [0.78, 0.75, 0.8, 0.79, 0.7], [0.98, 0.97, 0.99, 0.98, 0.975]
    a, b = np.array(first), np.array(second)
    va, vb = a.var(ddof=1) / 5, b.var(ddof=1) / 5
    t, df = (a.mean() - b.mean()) / np.sqrt(va + vb), (va + vb) ** 2 / ((va**2 + vb**2) / 4)
    found = similarity.welch(first, second)
    assert (*found.means, found.t, found.df) == pytest.approx((a.mean(), b.mean(), t, df))
    assert found.p == pytest.approx(2 * stats.t.sf(abs(t), df))
    with pytest.raises(ValueError, match="two numbers"):
        similarity.welch(first, [1])
