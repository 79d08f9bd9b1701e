from __future__ import annotations

import math
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from hpt_dist.order import samples_at, uniforms

digests = st.text(max_size=8)
seeds = st.integers(0, 2**64)
near_powers_of_two = st.builds(
    lambda power, by: 2**power + by, st.integers(1, 12), st.integers(-1, 1)
)
lengths = st.one_of(st.integers(1, 300), near_powers_of_two)


@given(digests, seeds, lengths, st.integers(0, 50))
def test_an_epoch_holds_every_sample_once(digest, seed, n, epoch):
    samples, epochs = samples_at(digest, seed, n, epoch * n, n)
    assert np.array_equal(np.sort(samples), np.arange(n))
    assert (epochs == epoch).all()


@given(digests, seeds, lengths, st.integers(0, 10**12), st.lists(st.integers(0, 99), max_size=6))
def test_slices_concatenate_to_the_whole(digest, seed, n, position, counts):
    whole = samples_at(digest, seed, n, position, sum(counts))
    starts = position + np.cumsum([0, *counts])
    parts = [
        samples_at(digest, seed, n, int(start), count)
        for start, count in zip(starts, counts, strict=False)
    ]
    for column in range(2):
        joined = np.concatenate([np.empty(0, np.int64), *(part[column] for part in parts)])
        assert np.array_equal(whole[column], joined)
    assert np.array_equal(whole[1], np.arange(position, position + sum(counts)) // n)


@given(st.integers(10**8, 10**15), st.integers(0, 10**15), seeds)
def test_large_epochs_need_no_work_before_the_position(n, position, seed):
    samples, _ = samples_at("large", seed, n, position, 64)
    assert samples.min() >= 0
    assert samples.max() < n


def test_order_is_the_same_on_every_machine():
    """The numbers are part of the format: changing them changes every resumed training."""
    samples, epochs = samples_at("digest", 7, 10, 5, 10)
    assert samples.tolist() == [2, 8, 0, 4, 6, 5, 1, 2, 0, 4]
    assert epochs.tolist() == [0] * 5 + [1] * 5
    assert uniforms(7, np.array([1]), np.array([2]), 0, 2, purpose="test").tolist() == [
        [0.8446515289569625, 0.21566047658476006]
    ]


@pytest.mark.parametrize("change", [{"digest": "b"}, {"seed": 1}, {"position": 1000}])
def test_digest_seed_and_epoch_each_change_the_order(change):
    arguments = {"digest": "a", "seed": 0, "n": 1000, "position": 0, "count": 1000}
    first, _ = samples_at(**arguments)
    other, _ = samples_at(**arguments | change)
    assert (first == other).sum() < 10  # 1 is expected of independent permutations
    assert abs(np.corrcoef(first, other)[0, 1]) < 0.15


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6])
def test_every_order_of_a_few_samples_is_equally_likely(n):
    rounds = 200 * math.factorial(n)
    samples, _ = samples_at("few", 0, n, 0, rounds * n)
    codes = samples.reshape(rounds, n) @ n ** np.arange(n)
    counts = np.unique(codes, return_counts=True)[1]
    assert len(counts) == math.factorial(n)
    assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("n", [97, 100, 128])
def test_pairs_of_neighbours_are_spread_evenly(n):
    samples, _ = samples_at("pairs", 0, n, 0, 20_000 * n)
    first, second = samples.reshape(-1, n)[:, :2].T
    assert stats.chisquare(np.bincount(first, minlength=n)).pvalue > 1e-3
    steps = np.bincount((second - first) % n, minlength=n)[1:]
    assert stats.chisquare(steps).pvalue > 1e-3


def test_position_tells_nothing_of_the_sample():
    n = 100_000
    samples, _ = samples_at("correlation", 0, n, 0, n)
    bound = 4 / math.sqrt(n)
    assert abs(np.corrcoef(np.arange(n), samples)[0, 1]) < bound
    for lag in (1, 2, math.isqrt(n), 1024):
        assert abs(np.corrcoef(samples[:-lag], samples[lag:])[0, 1]) < bound


def test_a_million_positions_of_a_billion_samples_take_less_than_two_seconds():
    began = time.process_time()
    samples, _ = samples_at("speed", 0, 10**9, 10**9 - 500_000, 10**6)
    assert time.process_time() - began < 2
    assert len(np.unique(samples[:500_000])) == 500_000


@pytest.mark.parametrize("arguments", [(0, 0, 1), (1, -1, 1), (1, 0, -1)])
def test_impossible_arguments_are_refused(arguments):
    with pytest.raises(ValueError, match="must be"):
        samples_at("x", 0, *arguments)


@given(seeds, st.integers(0, 3), st.permutations(range(20)))
def test_uniforms_do_not_depend_on_the_batch(seed, view, order):
    epochs, samples = np.divmod(np.arange(20), 7)
    together = uniforms(seed, epochs, samples, view, 5)
    assert np.array_equal(uniforms(seed, epochs[order], samples[order], view, 5), together[order])
    assert np.array_equal(uniforms(seed, epochs, samples, view, 3), together[:, :3])


def test_uniforms_are_uniform_and_independent():
    epochs, samples = np.divmod(np.arange(200_000), 50_000)
    u = uniforms(0, epochs, samples, 0, 4)
    assert u.min() >= 0
    assert u.max() < 1
    for column in u.T:
        assert stats.chisquare(np.histogram(column, 100, (0, 1))[0]).pvalue > 1e-3
    others = [
        uniforms(1, epochs, samples, 0, 4),
        uniforms(0, epochs + 1, samples, 0, 4),
        uniforms(0, epochs, samples + 1, 0, 4),
        uniforms(0, epochs, samples, 1, 4),
        uniforms(0, epochs, samples, 0, 4, purpose="other"),
    ]
    columns = np.concatenate([u, *others], axis=1)
    correlations = np.corrcoef(columns, rowvar=False) - np.eye(columns.shape[1])
    assert np.abs(correlations).max() < 5 / math.sqrt(len(u))
