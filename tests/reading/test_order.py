from __future__ import annotations

import itertools
import math
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from hpt_dist.reading.order import Order, streams_for, uniforms

digests = st.text(max_size=8)
seeds = st.integers(0, 2**64)
near_powers_of_two = st.builds(
    lambda power, by: 2**power + by, st.integers(1, 12), st.integers(-1, 1)
)
lengths = st.one_of(st.integers(1, 300), near_powers_of_two)


def samples_at(digest, seed, n, position, count):
    """The order where one window holds everything."""
    order = Order(digest, seed, [n], window=n)
    return order.at(np.arange(position, position + count, dtype=np.int64))


@st.composite
def orders(draw) -> tuple[Order, int, int]:
    """An order with several streams and windows, a batch that fits it, and a number of ranks."""
    streams, world = draw(st.sampled_from([1, 2, 3, 4, 8])), draw(st.sampled_from([1, 2, 4, 8]))
    batch = math.lcm(streams, world) * draw(st.integers(1, 4))
    sizes = draw(st.lists(st.integers(0, 30), min_size=1, max_size=20).filter(any))
    window = draw(st.integers(1, 50))
    order = Order("data", draw(seeds), sizes, streams=streams, window=window)
    return order, batch, world


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


def test_position_shows_nothing_of_the_sample():
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


@given(orders(), st.integers(0, 5))
def test_any_streams_and_windows_give_every_sample_once_an_epoch(drawn, epoch):
    order, _, _ = drawn
    positions = np.arange(epoch * order.samples, (epoch + 1) * order.samples)
    samples, epochs = order.at(positions)
    assert np.array_equal(np.sort(samples), np.arange(order.samples))
    assert (epochs == epoch).all()


@given(orders(), st.integers(0, 1000))
def test_ranks_share_each_global_batch_whatever_their_number(drawn, step):
    order, batch, world = drawn
    whole = order.batch(step, batch)
    shares = [order.batch(step, batch, rank, world) for rank in range(world)]
    assert {len(samples) for samples, _ in shares} == {batch // world}
    for column in range(2):
        assert np.array_equal(whole[column], np.concatenate([share[column] for share in shares]))


@given(orders(), st.data())
def test_a_run_may_change_its_ranks_at_any_step_and_loses_and_repeats_nothing(drawn, data):
    order, batch, _ = drawn
    steps = -(-order.samples // batch)
    drawn_samples = []
    for step in range(steps):
        world = data.draw(st.sampled_from([n for n in (1, 2, 4, 8) if batch % n == 0]))
        for rank in range(world):
            samples, epochs = order.batch(step, batch, rank, world)
            drawn_samples += samples[epochs == 0].tolist()
    assert sorted(drawn_samples) == list(range(order.samples))


def test_what_a_batch_holds_depends_on_its_streams_and_window():
    sizes = [100] * 50
    settings = [{}, {"streams": 2}, {"window": 500}, {"streams": 2, "window": 500}]
    batches = [Order("a", 0, sizes, **setting).batch(3, 64)[0].tolist() for setting in settings]
    assert len({tuple(sorted(batch)) for batch in batches}) == len(settings)


def test_shuffling_reaches_across_shards_and_changes_every_epoch():
    order = Order("a", 0, [100] * 64, streams=4, window=800)
    per_epoch = []
    for epoch in range(2):
        samples, _ = order.at(epoch * order.samples + np.arange(order.samples))
        shards = samples // 100
        of_streams = [shards[stream::4] for stream in range(4)]
        for stream in of_streams:  # neighbours come from 8 or 9 shards of the window
            assert len(set(stream[:800].tolist())) in (8, 9)
            assert (stream[1:] == stream[:-1]).mean() < 0.25
        per_epoch.append([set(stream[:800].tolist()) for stream in of_streams])
    assert all(a != b for a, b in zip(*per_epoch, strict=True))


@pytest.mark.parametrize("world", [1, 8, 64, 256, 1024])
def test_at_scale_a_rank_reads_few_shards_and_its_own(world):
    shards, steps, batch = 20_000, 40, 8192
    order = Order("large", 0, np.full(shards, 10_000), streams=64)
    seen = []
    for rank in {0, world // 2, world - 1}:
        samples = [order.batch(10_000 + step, batch, rank, world)[0] for step in range(steps)]
        seen.append(order.shards_of(np.concatenate(samples)))
    of_stream = 2**16 // 10_000 + 2  # shards that one window can touch
    assert all(len(found) <= of_stream * max(1, 64 // world) for found in seen)
    if world in (8, 64):  # every rank has streams of its own
        for a, b in itertools.combinations(seen, 2):
            # Streams end inside shards, so neighbours may share the one on their border.
            assert len(np.intersect1d(a, b)) <= max(1, 64 // world)


def test_1024_ranks_on_100_000_shards_plan_a_position_in_little_time_and_memory():
    batch, step = 8192, 10**6 // 2  # in the fifth epoch of 10^9 samples
    began = time.process_time()
    tracemalloc.start()
    order = Order("simulated", 0, np.full(100_000, 10_000), streams=64)
    share = order.batch(step, batch, 517, 1024)[0]
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert time.process_time() - began < 2
    assert peak_bytes < 40e6
    whole = order.batch(step, batch)[0]
    assert np.array_equal(whole[517 * 8 : 518 * 8], share)
    every = np.concatenate([order.batch(step, batch, rank, 1024)[0] for rank in range(1024)])
    assert np.array_equal(every, whole)
    assert len(np.unique(whole)) == batch


def test_streams_follow_from_the_data_and_the_batch_alone():
    assert streams_for(1_000, 256) == 1
    assert streams_for(1_281_167, 256) == 2
    assert streams_for(10**9, 4096) == 64
    assert streams_for(10**9, 12) == 4
    assert streams_for(10**9, 7) == 1


@pytest.mark.parametrize(
    "arguments",
    [{"sizes": [0]}, {"sizes": [3, -1]}, {"streams": 0}, {"streams": 4097}, {"window": 0}],
)
def test_impossible_orders_are_refused(arguments):
    with pytest.raises(ValueError, match=r"must be|at least one"):
        Order("x", 0, **{"sizes": [5]} | arguments)


def test_a_batch_that_streams_or_ranks_cannot_share_is_refused():
    order = Order("x", 0, [50], streams=4)
    with pytest.raises(ValueError, match="4 streams"):
        order.batch(0, 6)
    with pytest.raises(ValueError, match="3 ranks"):
        order.batch(0, 8, 0, 3)


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
