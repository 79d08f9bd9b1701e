"""Batches of one form: what a loader with two buckets gives, at any step, on any ranks."""

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpt_dist.reading.aspect import AspectOrder
from hpt_dist.reading.order import Order


@st.composite
def settings(draw):
    wide = np.array(draw(st.lists(st.booleans(), min_size=1, max_size=40)))
    together = draw(st.integers(1, 5))
    return wide, together * draw(st.integers(1, 3)), together, draw(st.integers(0, 5))


def orders(wide, batch, together, seed):
    order = Order("data", seed, [len(wide)])
    return order, AspectOrder(order, wide, batch, together=together)


def with_buckets(order, wide, together):
    """Yield cells as a loader does that holds what has not filled one yet."""
    buckets = {True: [], False: []}
    blocks = (order.at(np.arange(first, first + 256)) for first in itertools.count(0, 256))
    places = (zip(*(one.tolist() for one in block), strict=True) for block in blocks)
    for sample, epoch in itertools.chain.from_iterable(places):
        bucket = buckets[bool(wide[sample])]
        bucket.append((sample, epoch))
        if len(bucket) == together:
            yield list(bucket)
            bucket.clear()


@given(settings())
def test_it_is_what_two_buckets_give(chosen):
    wide, batch, together, _ = chosen
    order, aspect = orders(*chosen)
    cells = with_buckets(order, wide, together)
    for step in range(12):
        found = list(zip(*(column.tolist() for column in aspect.at(step)), strict=True))
        assert len(found) == batch
        expected = list(itertools.chain(*itertools.islice(cells, batch // together)))
        assert found == expected


@given(settings(), st.integers(0, 10_000))
def test_any_step_is_reached_without_those_before_it(chosen, step):
    wide, _, together, _ = chosen
    indices, epochs = orders(*chosen)[1].at(step)
    again = orders(*chosen)[1]
    again.at(step + 7)
    np.testing.assert_array_equal(again.at(step)[0], indices)
    np.testing.assert_array_equal(again.at(step)[1], epochs)
    for cell in indices.reshape(-1, together):
        assert len(set(wide[cell].tolist())) == 1


@given(settings())
def test_every_image_comes_once_an_epoch(chosen):
    wide, batch, together, _ = chosen
    aspect = orders(*chosen)[1]
    steps = aspect.steps_of(4) + 1
    columns = [np.concatenate(one) for one in zip(*map(aspect.at, range(steps)), strict=True)]
    came = Counter(zip(*(column.tolist() for column in columns), strict=True))
    assert set(came.values()) == {1}
    # What is not whole yet after four epochs is what the buckets and the last batch hold.
    whole = {(i, epoch) for i in range(len(wide)) for epoch in range(4)}
    assert len(whole - came.keys()) <= 2 * (together - 1) + batch
    for i in range(len(wide)):
        epochs = sorted(epoch for sample, epoch in came if sample == i)
        assert epochs == list(range(len(epochs)))


@given(settings(), st.integers(0, 300))
def test_ranks_share_the_batch_of_one(chosen, step):
    wide, batch, together, seed = chosen
    batch *= 4
    aspect = orders(wide, batch, together, seed)[1]
    whole = aspect.at(step)
    for world in (2, 4):
        shares = [aspect.at(step, rank, world) for rank in range(world)]
        for column, expected in zip(zip(*shares, strict=True), whole, strict=True):
            np.testing.assert_array_equal(np.concatenate(column), expected)


def test_forms_follow_each_other_at_random():
    wide = np.arange(600) % 3 > 0
    aspect = orders(wide, 8, 8, 0)[1]
    forms = [bool(wide[aspect.at(step)[0][0]]) for step in range(300)]
    assert 0.6 < np.mean(forms) < 0.73
    runs = [len(list(group)) for _, group in itertools.groupby(forms)]
    assert len(set(runs)) > 2


def test_another_seed_gives_other_batches():
    wide = np.arange(100) % 2 > 0
    first, second = (orders(wide, 10, 10, seed)[1].at(3)[0].tolist() for seed in (0, 1))
    assert first != second


def test_wrong_arguments_are_refused():
    order = Order("data", 0, [10])
    with pytest.raises(ValueError, match="9 forms for 10 samples"):
        AspectOrder(order, np.ones(9, np.bool_), 4)
    with pytest.raises(ValueError, match="no number of cells of 3"):
        AspectOrder(order, np.ones(10, np.bool_), 4, together=3)
    with pytest.raises(ValueError, match="rank 2 has no share"):
        AspectOrder(order, np.ones(10, np.bool_), 4).at(0, 2, 2)
