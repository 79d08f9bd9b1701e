from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpt_dist.datasets import fewshot
from hpt_dist.errors import DataError, RequestError

seeds = st.integers(0, 2**63)


@st.composite
def datasets(draw):
    """Labels in which every class has an image and some images have none."""
    num_classes = draw(st.integers(1, 6))
    more = draw(st.lists(st.integers(-1, num_classes - 1), max_size=40))
    labels = draw(st.permutations([*range(num_classes), *more]))
    return np.array(labels, dtype=np.int64), num_classes


def is_sorted_set(indices):
    return indices.dtype == np.int64 and bool((np.diff(indices) > 0).all())


@given(datasets(), st.integers(1, 10), seeds)
def test_k_shot_takes_k_of_each_class_or_all(dataset, k, seed):
    labels, num_classes = dataset
    chosen = fewshot.k_shot(labels, num_classes, k, seed)
    assert is_sorted_set(chosen)
    for label in range(num_classes):
        assert (labels[chosen] == label).sum() == min(k, (labels == label).sum())
    assert (labels[chosen] >= 0).all()


@given(datasets(), seeds, st.data())
def test_n_labels_takes_n_with_every_class(dataset, seed, data):
    labels, num_classes = dataset
    n = data.draw(st.integers(num_classes, int((labels >= 0).sum())))
    chosen = fewshot.n_labels(labels, num_classes, n, seed)
    assert is_sorted_set(chosen)
    assert len(chosen) == n
    assert set(labels[chosen]) == set(range(num_classes))


@given(datasets(), seeds)
def test_smaller_budgets_are_parts_of_larger_ones(dataset, seed):
    labels, num_classes = dataset
    shots = [fewshot.k_shot(labels, num_classes, k, seed) for k in range(1, 8)]
    budgets = range(num_classes, int((labels >= 0).sum()) + 1)
    sets = [fewshot.n_labels(labels, num_classes, n, seed) for n in budgets]
    for chain in (shots, sets):
        for smaller, larger in itertools.pairwise(chain):
            assert np.isin(smaller, larger).all()
    assert np.array_equal(shots[0], sets[0])


def test_seeds_choose_differently_and_evenly():
    labels = np.repeat(np.arange(2), 10)
    counts = np.zeros(20)
    for seed in range(2000):
        counts[fewshot.k_shot(labels, 2, 3, seed)] += 1
    # Binomial(2000, 0.3) has a standard deviation of 20.5.
    assert np.abs(counts - 600).max() < 100


def test_n_labels_keeps_natural_proportions():
    labels = np.repeat(np.arange(2), [900, 100])
    drawn = [(labels[fewshot.n_labels(labels, 2, 102, seed)] == 1).sum() for seed in range(200)]
    assert np.mean(drawn) == pytest.approx(1 + 100 * 99 / 998, abs=1)


def test_the_choice_is_the_same_for_ever():
    labels = np.arange(12) % 3
    assert fewshot.k_shot(labels, 3, 2, seed=7).tolist() == [1, 2, 3, 4, 6, 8]
    assert fewshot.n_labels(labels, 3, 5, seed=7).tolist() == [1, 3, 4, 6, 8]


@pytest.mark.parametrize("choose", [fewshot.k_shot, fewshot.n_labels])
def test_a_class_without_images_is_an_error(choose):
    labels = np.array([0, 0, 2, -1])
    with pytest.raises(
        DataError, match="2 of 4 classes have no labelled image, the first is class 1"
    ):
        choose(labels, 4, 4, 0)
    with pytest.raises(DataError, match="no class has the id 2"):
        choose(labels, 2, 2, 0)


@given(st.integers(1, 60), st.integers(1, 100), st.integers(1, 100), seeds)
def test_shares_are_nested_and_rounded(count, a, b, seed):
    keys = [f"key-{i}" for i in range(count)]
    small, large = (fewshot.percent(keys, share, seed) for share in sorted((a, b)))
    assert is_sorted_set(small)
    assert np.isin(small, large).all()
    assert len(small) == max(1, round(count * min(a, b) / 100))
    assert fewshot.percent(keys, 100, seed).tolist() == list(range(count))


def test_shares_follow_the_keys():
    keys = [f"key-{i}" for i in range(50)]
    chosen = {keys[i] for i in fewshot.percent(keys, 30, 5)}
    assert {keys[::-1][i] for i in fewshot.percent(keys[::-1], 30, 5)} == chosen
    assert sorted(chosen)[:3] == ["key-1", "key-13", "key-15"]


@given(datasets(), st.integers(1, 40), seeds)
def test_a_spread_shows_classes_evenly_and_unlabelled_images_last(dataset, n, seed):
    labels, num_classes = dataset
    chosen = fewshot.spread(labels, num_classes, n, seed)
    assert len(set(chosen.tolist())) == len(chosen) == min(n, len(labels))
    shown = labels[chosen]
    labelled = int((labels >= 0).sum())
    assert (shown[:labelled] >= 0).all()
    counts = np.bincount(shown[shown >= 0], minlength=num_classes)
    totals = np.bincount(labels[labels >= 0], minlength=num_classes)
    exhausted = counts == totals
    assert (counts[~exhausted] >= counts.max() - 1).all()


@st.composite
def multi_labelled(draw):
    """Images of several classes, of none, and without a label; a class may have no image."""
    num_classes = draw(st.integers(1, 5))
    classes = st.sets(st.integers(0, num_classes - 1)).map(lambda ids: tuple(sorted(ids)))
    return draw(st.lists(st.just(-1) | classes, min_size=1, max_size=30)), num_classes


@given(multi_labelled(), st.integers(1, 6), seeds)
def test_k_shot_of_several_classes(dataset, k, seed):
    labels, num_classes = dataset
    small, large = (fewshot.k_shot(labels, num_classes, shots, seed) for shots in (k, k + 1))
    assert is_sorted_set(small)
    assert np.isin(small, large).all()
    for number in range(num_classes):
        having = [i for i, label in enumerate(labels) if label != -1 and number in label]
        assert len(set(having) & set(small.tolist())) >= min(k, len(having))
    assert all(labels[i] not in (-1, ()) for i in small)


@given(multi_labelled(), seeds)
def test_n_labels_of_several_classes(dataset, seed):
    labels, num_classes = dataset
    labelled = [i for i, label in enumerate(labels) if label != -1]
    covering = fewshot.k_shot(labels, num_classes, 1, seed)
    before = covering
    for n in range(max(1, len(covering)), len(labelled) + 1):
        chosen = fewshot.n_labels(labels, num_classes, n, seed)
        assert len(chosen) == n
        assert np.isin(before, chosen).all()
        assert set(chosen.tolist()) <= set(labelled)
        before = chosen
    with pytest.raises(RequestError, match=r"cannot choose \d+ labelled images"):
        fewshot.n_labels(labels, num_classes, len(labelled) + 1, seed)


def test_impossible_budgets_are_refused():
    labels = np.array([0, 0, 1, -1])
    for n in (1, 4):
        with pytest.raises(RequestError, match=r"2 \(one of each class\) to 3 \(all\)"):
            fewshot.n_labels(labels, 2, n, 0)
    with pytest.raises(RequestError, match="1 or more"):
        fewshot.k_shot(labels, 2, 0, 0)
