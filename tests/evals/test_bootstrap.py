"""Metrics of resampled images against scikit-learn's, and intervals against the truth."""

import hashlib
import itertools
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    recall_score,
    roc_auc_score,
    top_k_accuracy_score,
)

from hpt_dist.evals import bootstrap, metrics

CLASSES = 7


def answers(generator, n, classes, *, several, ties=False):
    """Log-odds of a model that knows something, and the labels of images."""
    logits = generator.normal(0, 3, (n, classes))
    if several:
        labels = generator.random((n, classes)) < 0.3
        logits += 2 * labels
    else:
        labels = generator.integers(0, classes, n)
        logits[np.arange(n), labels] += 3
    if ties:
        logits = logits.round()
    return metrics.log_odds(logits, several=several), labels


def by_class(score, has, scores, weights):
    """Return the mean of a score of scikit-learn over the classes that weights leave both ways."""
    drawn = weights > 0
    values = [
        score(has[:, c], scores[:, c], sample_weight=weights)
        for c in range(has.shape[1])
        if 0 < has[drawn, c].sum() < drawn.sum()
    ]
    return np.mean(values) if values else np.nan


def ece(scores, labels, weights):
    several = labels.ndim == 2
    confidence = metrics.probabilities(scores)
    right = labels if several else scores.argmax(axis=1) == labels
    if not several:
        confidence = confidence.max(axis=1)
    weight = np.broadcast_to(weights[:, None] if several else weights, confidence.shape)
    edges = np.linspace(0, 1, 16)
    total = 0.0
    for low, high in itertools.pairwise(edges):
        inside = (confidence > low) & (confidence <= high)
        total += abs((weight * (confidence - right))[inside].sum())
    return total / weight.sum()


def by_scikit(name, scores, labels, weights):
    has, drawn = metrics.members(labels, scores.shape[1]), weights > 0
    best = scores.argmax(axis=1)
    if name == "top1":
        return accuracy_score(labels, best, sample_weight=weights)
    if name == "top5":
        classes = range(scores.shape[1])
        return top_k_accuracy_score(labels, scores, k=5, labels=classes, sample_weight=weights)
    if name == "balanced_accuracy":
        there = np.unique(labels[drawn])
        return recall_score(labels, best, labels=there, average="macro", sample_weight=weights)
    if name == "auroc":
        return by_class(roc_auc_score, has, scores, weights)
    if name == "map":
        return by_class(average_precision_score, has, scores, weights)
    return ece(scores, labels, weights)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1), st.integers(6, 60), st.booleans(), st.booleans(), st.integers(0, 40)
)
def test_each_draw_is_what_scikit_computes_with_its_weights(seed, n, several, ties, drawn):
    """Few draws of few images leave classes without a positive, which its means leave out."""
    generator = np.random.default_rng(seed)
    scores, labels = answers(generator, n, CLASSES, several=several, ties=ties)
    weights = generator.multinomial(n, np.full(n, 1 / n), size=2).T.astype(float)
    weights[0, 1] += drawn  # one image may outweigh all others
    for name in metrics.computable(labels, CLASSES):
        found = bootstrap.prepared(name, scores, labels)(weights)
        expected = [by_scikit(name, scores, labels, one) for one in weights.T]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10, err_msg=name)


@pytest.mark.parametrize("several", [False, True])
def test_weights_of_one_are_the_metric_itself(several):
    scores, labels = answers(np.random.default_rng(0), 200, CLASSES, several=several)
    for name in metrics.computable(labels, CLASSES):
        (found,) = bootstrap.prepared(name, scores, labels)(np.ones((200, 1)))
        assert found == pytest.approx(metrics.compute(name, scores, labels), abs=1e-12)


def drawn(images, draws):
    return np.concatenate(list(bootstrap.counts(images, draws)), axis=1)


def test_draws_follow_from_their_numbers_alone(monkeypatch):
    whole = drawn(300, 500)
    assert whole.shape == (300, 500)
    assert (whole.sum(axis=0) == 300).all()
    monkeypatch.setattr(bootstrap, "_AT_ONCE", 700)  # the memory at hand changes nothing
    assert (drawn(300, 500) == whole).all()
    # Another NumPy, another processor: two trials that were computed years apart still pair.
    digest = hashlib.sha256(whole.astype(np.uint8).tobytes()).hexdigest()
    assert digest.startswith(DIGEST)
    # Each image is drawn as Poisson(1) would be, nearly: a mean and a variance of 1.
    assert whole.mean(axis=1) == pytest.approx(np.ones(300), abs=0.2)
    assert whole.var() == pytest.approx(1, abs=0.02)


DIGEST = "e751130161007fcb"


def test_very_large_splits_are_drawn_less_often():
    assert bootstrap.draws_for(36, 5) == bootstrap.draws_for(2000, 345) == 1000
    assert bootstrap.draws_for(50_000, 100) == 400
    assert bootstrap.draws_for(50_000, 1000) == 200


def test_an_interval_covers_the_truth_as_often_as_it_says():
    """Of one label by the share of right answers, and of a class by scores of two normals."""
    generator, n, times = np.random.default_rng(4), 100, 400
    truth = {"top1": 0.75, "auroc": norm.cdf(1 / np.sqrt(2))}
    covered = dict.fromkeys(truth, 0)
    for _ in range(times):
        right = generator.random(n) < truth["top1"]
        labels = generator.integers(0, 2, n)
        scores = np.stack([right == (labels == 0), right == (labels == 1)], axis=1).astype(float)
        has = np.stack([generator.random(n) < 0.3], axis=1)
        ranks = generator.normal(has, 1.0)
        for name, given_scores, given_labels in (("top1", scores, labels), ("auroc", ranks, has)):
            value = metrics.compute(name, given_scores, given_labels)
            values = bootstrap.replicates([name], given_scores, given_labels)[name]
            low, high = bootstrap.interval(value, values, n)
            covered[name] += low <= truth[name] <= high
    for name, count in covered.items():
        assert 0.93 <= count / times <= 0.97, (name, count)


def test_an_interval_holds_its_value_where_replicates_are_biased():
    """Errors of calibration of few images are larger than that of all."""
    scores, labels = answers(np.random.default_rng(1), 120, CLASSES, several=False)
    value = metrics.compute("ece", scores, labels)
    values = bootstrap.replicates(["ece"], scores, labels)["ece"]
    low, high = bootstrap.interval(value, values, 120)
    assert low < value < high
    assert values.mean() > value + 0.005


def test_without_variation_there_is_no_interval():
    scores, labels = np.eye(5)[[0, 1, 2, 3, 4, 0]] * 9, np.array([0, 1, 2, 3, 4, 0])
    values = bootstrap.replicates(["top1"], scores, labels)["top1"]
    assert (values == 1).all()
    assert bootstrap.interval(1.0, values, 6) is None
    assert bootstrap.interval(0.5, [0.1, 0.9], 1) is None


def test_a_draw_in_which_no_class_counts_has_no_value():
    scores, labels = np.array([[1.0], [0.0]]), np.array([[True], [False]])
    values = bootstrap.replicates(["auroc"], scores, labels)["auroc"]
    assert 0.4 < np.isnan(values).mean() < 0.6
    assert set(values[~np.isnan(values)]) == {1.0}


def test_all_draws_of_a_usual_split_take_seconds():
    """1,000 draws of 2,000 images and 20 classes, several a label."""
    scores, labels = answers(np.random.default_rng(0), 2000, 20, several=True)
    began = time.process_time()
    found = bootstrap.replicates(metrics.computable(labels, 20), scores, labels)
    assert time.process_time() - began < 10
    assert {len(one) for one in found.values()} == {1000}
