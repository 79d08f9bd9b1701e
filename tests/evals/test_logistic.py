"""Logistic regression over L2 weights against scikit-learn's, and against its own optimum."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from hpt_dist.evals import logistic
from hpt_dist.evals.features import Labelled

CLASSES, DIM = 5, 24
GRID = (1e-3, 0.03, 1.0)


def split(n, seed, *, several=False):
    """Correlated features whose scales differ by a factor of a thousand."""
    generator = torch.Generator().manual_seed(seed)
    fixed = torch.Generator().manual_seed(99)
    ways, mix = torch.randn(CLASSES, DIM, generator=fixed), torch.randn(DIM, DIM, generator=fixed)
    labels = torch.randint(0, CLASSES, (n,), generator=generator)
    has = torch.nn.functional.one_hot(labels, CLASSES).bool()
    if several:
        has |= torch.rand(n, CLASSES, generator=generator) < 0.3
    features = (has.float() @ ways + torch.randn(n, DIM, generator=generator)) @ mix
    features = features * torch.logspace(-1, 2, DIM) + 3
    return Labelled(features, has if several else labels)


def theirs(train, l2, column=None):
    """Return scikit-learn's converged weights and biases of standardised features, in float64."""
    features = StandardScaler().fit_transform(train.features.double())
    labels = train.labels if column is None else train.labels[:, column]
    model = LogisticRegression(C=1 / (l2 * len(features)), tol=1e-10, max_iter=10_000)
    model.fit(features, labels.numpy())
    return model.coef_.T, model.intercept_


@pytest.mark.parametrize("n", [20, 400])  # fewer than the features, and more
@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("several", [False, True])
def test_the_solution_is_scikit_learns(several, large, n, monkeypatch):
    monkeypatch.setattr(logistic, "_LARGE", 0 if large else 2**40)  # float32, or float64
    if not large:
        monkeypatch.setattr(logistic, "_TOLERANCE", 1e-8)
    # Where the least l2 curves the loss by 1e-3, a gradient of 1e-8 is a distance of some 1e-5.
    near = 0.05 if large else 1e-4
    train = split(n, 0, several=several)
    scaling = logistic.scaling_of(train.features)
    found = logistic.fit(scaling(train.features), train.labels, num_classes=CLASSES, l2=GRID)
    assert list(found) == sorted(GRID, reverse=True)
    for l2, model in found.items():
        assert model.converged
        if several:
            each = [theirs(train, l2, c) for c in range(CLASSES)]
            weights, biases = (np.concatenate(parts, axis=-1) for parts in zip(*each, strict=True))
        else:
            weights, biases = theirs(train, l2)
            biases = biases - biases.mean()  # a softmax does not see what all have in common
        ours = model.biases if several else model.biases - model.biases.mean()
        np.testing.assert_allclose(model.weights.numpy(), weights, atol=near)
        np.testing.assert_allclose(ours.numpy(), biases, atol=near)


def test_val_chooses_and_of_equals_the_strongest():
    train, val, test = split(400, 0), split(200, 1), split(200, 2)
    found, head = logistic.choose(train, val, test, num_classes=CLASSES, l2=(10.0, *GRID))
    assert set(found["val/top1_by_l2"]) == {"10", "0.001", "0.03", "1"}
    assert found["val/top1"] == max(found["val/top1_by_l2"].values()) > 0.8
    assert found["not_converged"] == []
    answers = head(test.features).argmax(dim=1)  # the classifier takes features as they are
    assert found["test/top1"] == pytest.approx((answers == test.labels).double().mean())
    again, _ = logistic.choose(train, val, test, num_classes=CLASSES, l2=(*GRID, 10.0))
    assert np.array_equal(again["scores"]["test"], found["scores"]["test"])
    easy = Labelled(val.features[:1], val.labels[:1])
    equal, _ = logistic.choose(train, easy, test, num_classes=CLASSES, l2=GRID)
    assert equal["selected"] == {"l2": 1.0}


def test_features_that_never_change_and_classes_that_nobody_has():
    train, val, test = (
        split(60, 0, several=True),
        split(50, 1, several=True),
        split(50, 2, several=True),
    )
    for one in (train, val, test):
        one.features[:, 3] = 7.7
    train.labels[:, 2] = False
    test.features[:, 3] = 1e3  # whatever it is there, nothing was learned of it
    found, _ = logistic.choose(train, val, test, num_classes=CLASSES, l2=(0.1,), metric="map")
    assert np.isfinite(found["scores"]["test"]).all()
    again = test._replace(features=test.features.index_fill(1, torch.tensor([3]), -5.0))
    other, _ = logistic.choose(train, val, again, num_classes=CLASSES, l2=(0.1,), metric="map")
    assert other["test/map"] == found["test/map"]
