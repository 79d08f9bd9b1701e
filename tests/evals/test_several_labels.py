"""Evaluations of several labels an image, and the metric that chooses."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from hpt_dist.evals import knn, linear, logistic, metrics
from hpt_dist.evals.features import Labelled

CLASSES = 4
SETTINGS = {"num_classes": CLASSES, "milestones": (0.5, 7 / 9), "seed": 0}


def split(n, seed, *, views=0):
    """Features in which each class adds a direction of its own, [n, d] or [views, n, d]."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.rand(n, CLASSES, generator=generator) < 0.4
    ways = torch.randn(CLASSES, 16, generator=torch.Generator().manual_seed(99))
    noise = torch.randn((views, n, 16) if views else (n, 16), generator=generator)
    return Labelled(labels.float() @ ways + 1.5 * noise, labels)


def shares_by_hand(train, query, k, temperature):
    """Return the weighted share of a query's neighbours that have each class, in float64."""
    similar = []
    for feature, labels in zip(train.features.double(), train.labels.tolist(), strict=True):
        similar.append((float(feature @ query / (feature.norm() * query.norm())), labels))
    nearest = sorted(similar, reverse=True)[:k]
    weights = [math.exp(cosine / temperature) for cosine, _ in nearest]
    votes = [
        math.fsum(w for w, (_, labels) in zip(weights, nearest, strict=True) if labels[c])
        for c in range(CLASSES)
    ]
    return [vote / math.fsum(weights) for vote in votes]


def test_neighbours_vote_for_each_of_their_classes():
    train, val, test = split(80, 0), split(60, 1), split(50, 2)
    found = knn.evaluate(
        *(train, val, test), num_classes=CLASSES, k=(3, 10), temperature=0.1, metric="auroc"
    )
    shares = {
        name: {
            k: np.array([shares_by_hand(train, q, k, 0.1) for q in one.features.double()])
            for k in (3, 10)
        }
        for name, one in (("val", val), ("test", test))
    }
    by_k = {str(k): roc_auc_score(val.labels, s) for k, s in shares["val"].items()}
    assert found["val/auroc_by_k"] == pytest.approx(by_k, abs=1e-6)
    best = found["selected"]["k"]
    assert found["val/auroc"] == max(found["val/auroc_by_k"].values())
    on_test = shares["test"][best]
    assert found["test/auroc"] == pytest.approx(roc_auc_score(test.labels, on_test), abs=1e-6)
    assert found["test/map"] == pytest.approx(
        average_precision_score(test.labels, on_test), abs=1e-6
    )
    np.testing.assert_allclose(metrics.probabilities(found["scores"]["test"]), on_test, atol=1e-5)
    assert set(found["scores"]) == {"val", "test"}


def test_the_linear_update_is_that_of_the_mean_binary_cross_entropy():
    """SGD with momentum and decay written out in float64, one whole epoch a step."""
    train = split(10, 0, views=3)
    arguments = {**SETTINGS, "steps": 9, "batch": 10}
    start = linear.fit(train, **arguments, learning_rates=(1e-30,), weight_decay=0.0)[1e-30]
    weight, bias = start.weight.double().numpy(), start.bias.double().numpy()
    speeds = [np.zeros_like(weight), np.zeros_like(bias)]
    for step in range(9):
        x = train.features[step % 3].double().numpy()
        error = (1 / (1 + np.exp(-x @ weight.T - bias)) - train.labels.numpy()) / (10 * CLASSES)
        gradients = [error.T @ x + 0.01 * weight, error.sum(axis=0) + 0.01 * bias]
        speeds = [0.9 * speed + gradient for speed, gradient in zip(speeds, gradients, strict=True)]
        rate = 2.0 * 0.1 ** ((step >= 5) + (step >= 7))
        weight, bias = weight - rate * speeds[0], bias - rate * speeds[1]
    found = linear.fit(train, **arguments, learning_rates=(0.1, 2.0), weight_decay=0.01)[2.0]
    np.testing.assert_allclose(found.weight.numpy(), weight, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.bias.numpy(), bias, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("metric", ["auroc", "map", "ece"])
def test_the_metric_chooses_on_val(metric):
    train, val, test = split(60, 0, views=1), split(50, 1), split(50, 2)
    rates = (0.01, 1.0, 100.0)
    found, _ = linear.choose(
        *(train, val, test),
        **SETTINGS,
        learning_rates=rates,
        steps=60,
        batch=20,
        weight_decay=0.0,
        metric=metric,
    )
    by_lr = found[f"val/{metric}_by_lr"]
    best = min(by_lr.values()) if metric == "ece" else max(by_lr.values())
    assert found[f"val/{metric}"] == best == by_lr[f"{found['selected']['lr']:g}"]
    assert found["metric"] == metric
    assert {name for name in found if name.startswith("test/")} == {
        "test/auroc",
        "test/map",
        "test/ece",
    }


def test_a_test_that_leaks_changes_no_choice():
    """Labels of test that only one candidate gets right must not make that one win."""
    train, val, test = split(80, 0), split(60, 1), split(50, 2)
    evaluations = (
        lambda t: knn.evaluate(
            train, val, t, num_classes=CLASSES, k=(1, 40), temperature=0.1, metric="auroc"
        ),
        lambda t: logistic.choose(
            train, val, t, num_classes=CLASSES, l2=(1e-4, 10.0), metric="auroc"
        )[0],
    )
    for evaluate in evaluations:
        chosen = {
            str(evaluate(test._replace(labels=labels))["selected"])
            for labels in (test.labels, ~test.labels)
        }
        assert len(chosen) == 1
