"""Metrics against definitions written out in float64, one answer or pair of images at a time."""

import math
import warnings

import numpy as np
import pytest

from hpt_dist.errors import DataError
from hpt_dist.evals import metrics
from hpt_dist.recipe.facts import DatasetFacts
from hpt_dist.recipe.metrics import METRICS, metric_fault, metric_of

N, CLASSES = 300, 9


def answers(seed, *, several, classes=CLASSES, ties=False):
    """Log-odds of a model that knows something, and the labels of images."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 3, (N, classes)).astype(np.float32)
    if several:
        labels = generator.random((N, classes)) < 0.3
        logits += 2 * labels
    else:
        labels = generator.integers(0, classes, N)
        logits[np.arange(N), labels] += 3
    if ties:
        logits = logits.round()
    return metrics.log_odds(logits, several=several), labels


def shares(scores):
    return [[1 / (1 + math.exp(-s)) for s in row] for row in scores.tolist()]


def auroc_by_pairs(scores, has):
    won = [(a > b) + 0.5 * (a == b) for a in scores[has].tolist() for b in scores[~has].tolist()]
    return math.fsum(won) / len(won)


def precision_by_thresholds(scores, has):
    """Sum of precision times the recall that each threshold adds."""
    total, last = [], 0.0
    for threshold in sorted(set(scores.tolist()), reverse=True):
        taken = scores >= threshold
        recall = (taken & has).sum() / has.sum()
        total.append((recall - last) * (taken & has).sum() / taken.sum())
        last = recall
    return math.fsum(total)


def ece_by_bins(confidence, right):
    bins = [[] for _ in range(15)]
    for c, r in zip(confidence, right, strict=True):
        at = next(b for b in range(15) if c <= (b + 1) / 15 or b == 14)
        bins[at].append((c, r))
    gaps = [abs(math.fsum(c - r for c, r in one)) for one in bins if one]
    return math.fsum(gaps) / len(confidence)


def reference(name, scores, labels):
    several = labels.ndim == 2
    has = labels if several else labels[:, None] == np.arange(scores.shape[1])
    both = [c for c in range(scores.shape[1]) if 0 < has[:, c].sum() < len(has)]
    there = [c for c in range(scores.shape[1]) if has[:, c].any()]
    best = scores.argmax(axis=1)
    p = shares(scores)
    if name == "top1":
        return np.mean([a == b for a, b in zip(best, labels, strict=True)])
    if name == "top5":
        return np.mean(
            [
                b in sorted(range(len(r)), key=r.__getitem__)[-5:]
                for r, b in zip(scores.tolist(), labels, strict=True)
            ]
        )
    if name == "balanced_accuracy":
        return math.fsum((best[labels == c] == c).mean() for c in there) / len(there)
    if name == "auroc":
        return math.fsum(auroc_by_pairs(scores[:, c], has[:, c]) for c in both) / len(both)
    if name == "map":
        return math.fsum(precision_by_thresholds(scores[:, c], has[:, c]) for c in both) / len(both)
    if several:
        return ece_by_bins([one for row in p for one in row], has.ravel().tolist())
    return ece_by_bins([max(row) for row in p], (best == labels).tolist())


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("several", [False, True])
def test_every_metric_equals_its_definition(several, ties):
    scores, labels = answers(several, several=several, ties=ties)
    names = metrics.computable(labels, CLASSES)
    assert set(names) == {
        n for n, m in METRICS.items() if ("multi" if several else "single") in m.labels
    }
    for name in names:
        if name == "top5" and ties:
            continue  # which of equal scores are among the first five is nobody's to say
        found = metrics.compute(name, scores, labels)
        assert found == pytest.approx(reference(name, scores, labels), abs=1e-10), name
        assert 0 < found < 1


@pytest.mark.parametrize("several", [False, True])
def test_a_class_of_a_single_value_is_left_out_and_named(several):
    """A class that no image has would count as 0, or make scikit-learn warn."""
    scores, labels = answers(3, several=several)
    if several:
        labels[:, 4], labels[:, 7] = False, True
        lacking = {"auroc": [4, 7], "map": [4, 7], "ece": []}
    else:
        labels[labels == 4] = 5
        lacking = {"auroc": [4], "balanced_accuracy": [4], "top1": [], "top5": [], "ece": []}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name, left_out in lacking.items():
            assert metrics.excluded(name, labels, CLASSES) == left_out
            expected = reference(name, scores, labels)
            assert metrics.compute(name, scores, labels) == pytest.approx(expected, abs=1e-10)


def test_without_a_class_that_counts_there_is_no_value():
    scores, labels = answers(0, several=True)
    labels[:] = False
    assert metrics.computable(labels, CLASSES) == ["ece"]
    for name in ("auroc", "map"):
        with pytest.raises(DataError, match="every class has a single value"):
            metrics.compute(name, scores, labels)


def test_scores_are_the_log_odds_of_softmax_and_sigmoid():
    logits = np.random.default_rng(0).normal(0, 4, (50, 6)).astype(np.float32)
    softmax = np.exp(logits.astype(np.float64))
    softmax /= softmax.sum(axis=1, keepdims=True)
    found = metrics.probabilities(metrics.log_odds(logits, several=False))
    np.testing.assert_allclose(found, softmax, rtol=1e-12)
    found = metrics.probabilities(metrics.log_odds(logits, several=True))
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-logits.astype(np.float64))), rtol=1e-12)
    np.testing.assert_allclose(
        metrics.probabilities(metrics.log_odds_of(softmax)), softmax, rtol=1e-12
    )


def test_a_model_that_is_sure_still_ranks():
    """The probabilities of these are all 1 in float64, and AUROC would count ties."""
    logits = np.array([[50, 0, 1], [60, 0, 2], [700, 1, 0], [3e38, 0, 0]], np.float32)
    scores = metrics.log_odds(logits, several=False)
    assert np.isfinite(scores).all()
    assert (np.diff(scores[:, 0]) > 0).all()
    assert (scores.argmax(axis=1) == 0).all()
    assert scores[0, 0] == pytest.approx(50 - math.log(1 + math.e), abs=1e-12)
    assert np.isfinite(metrics.log_odds_of([0.0, 1.0])).all()
    assert np.isfinite(metrics.log_odds(np.zeros((2, 1)), several=False)).all()


def dataset(label, train, val, **more):
    images = {"train": 10, "val": 10}
    counts = {"train": train, "val": val}
    return DatasetFacts("d", "", "x", len(train), images, counts, label=label, **more)


def test_the_manifests_metric_counts_unless_the_recipe_names_one():
    assert metric_of(None, dataset("multi", [3], [4])) == "auroc"
    assert (
        metric_of(None, dataset("single", [3, 7], [4, 6], metric="balanced_accuracy"))
        == "balanced_accuracy"
    )
    assert metric_of("top1", dataset("single", [3, 7], [4, 6], metric="top5")) == "top1"


@pytest.mark.parametrize(
    ("name", "label", "val", "what"),
    [
        ("top1", "multi", [3, 4], "which has several labels an image"),
        ("map", "single", [3, 7], "which has one label an image"),
        ("top5", "single", [3, 7], "top5 of the 2 classes of d is always 1"),
        ("auroc", "multi", [0, 10], "on d/val: each class has all of its images or none"),
        ("auroc", "single", [10, 0], "on d/val: each class has all of its images or none"),
        ("acuracy", "single", [3, 7], "there is no metric acuracy"),
    ],
)
def test_what_cannot_be_computed_is_known_before(name, label, val, what):
    fault = metric_fault(name, dataset(label, [4, 6], val), ("train", "val"))
    assert what in fault.what
    assert fault.setting == "metric"
    assert fault.allowed or fault.fix


def test_what_can_be_computed_is_no_fault():
    for name, metric in METRICS.items():
        for label in metric.labels:
            counts = [2] * 5 + [0]
            assert metric_fault(name, dataset(label, counts, counts), ("train", "val")) is None
