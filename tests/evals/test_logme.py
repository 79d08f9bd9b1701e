"""LogME is the largest evidence that a linear model gives the labels, however it is found."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import multivariate_normal

from hpt_dist.evals.logme import logme


def largest_evidence(features, target):
    """Maximise the density of the target under its own normal distribution, weights integrated."""
    gram = features @ features.T

    def loss(logs):
        alpha, beta = np.exp(logs)
        covariance = np.eye(len(target)) / beta + gram / alpha
        return -multivariate_normal(np.zeros(len(target)), covariance).logpdf(target)

    found = minimize(
        loss, [0.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-11}
    )
    return -found.fun / len(target)


@pytest.mark.parametrize(("n", "d"), [(40, 6), (30, 50)], ids=["tall", "wide"])
def test_it_is_the_largest_evidence(n, d):
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, n)
    features = generator.normal(size=(n, d)) * 2
    features[:, :3] += np.eye(3)[labels]
    expected = np.mean([largest_evidence(features, (labels == one) * 1.0) for one in range(3)])
    assert logme(features, labels, 4) == pytest.approx(expected, abs=1e-6)


def test_features_that_tell_the_classes_apart_are_better_and_rotation_changes_nothing():
    generator = np.random.default_rng(1)
    labels = generator.integers(0, 3, 90)
    noise = generator.normal(size=(90, 8))
    useful = noise.copy()
    useful[:, :3] += 3 * np.eye(3)[labels]
    assert logme(useful, labels, 3) > logme(noise, labels, 3) + 0.1
    rotation = np.linalg.qr(generator.normal(size=(8, 8)))[0]
    assert logme(useful @ rotation, labels, 3) == pytest.approx(logme(useful, labels, 3), abs=1e-9)
    doubled = np.concatenate([useful, useful], axis=1)  # of half the rank
    assert np.isfinite(logme(doubled, labels, 3))


def test_of_several_labels_each_class_is_a_target_of_its_own():
    generator = np.random.default_rng(2)
    features, has = generator.normal(size=(40, 6)), generator.random((40, 4)) < 0.4
    has[:, 3] = False  # a class without an image
    expected = np.mean([largest_evidence(features, has[:, one] * 1.0) for one in range(3)])
    assert logme(features, has, 4) == pytest.approx(expected, abs=1e-6)
