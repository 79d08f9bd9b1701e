"""Loaders: batches as a torch DataLoader gives them, exactly resumed, on any number of ranks."""

from __future__ import annotations

import hashlib
import itertools
import json
import subprocess
import sys

import pytest
import torch
from birds import COUNT, SIZE, encoded, write

from hpt_dist.datasets.facts import open_dataset
from hpt_dist.errors import RequestError
from hpt_dist.images.photometric import Normalize
from hpt_dist.reading.loader import eval_loader, train_loader
from hpt_dist.reading.stream import Pool, center_batches, open_split
from hpt_dist.recipe import Augment
from hpt_dist.store import open_store

BATCH = 8
STEPS = COUNT // BATCH


@pytest.fixture(scope="module")
def birds(tmp_path_factory):
    store = open_store(str(tmp_path_factory.mktemp("store")))
    images = [encoded(number, "JPEG" if number % 2 else "PNG") for number in range(COUNT)]
    write(store, "birds", images, shard_bytes=20_000)
    return open_dataset(store.uri, "birds")


def training(birds, **settings):
    return train_loader(birds, **{"batch": BATCH, "size": SIZE, "seed": 3, **settings})


def evaluation(birds, **settings):
    return eval_loader(birds, "train", **{"batch": BATCH, "size": SIZE, **settings})


def same(a, b):
    return (
        a.keys == b.keys
        and torch.equal(a.labels, b.labels)
        and len(a.views) == len(b.views)
        and all(map(torch.equal, a.views, b.views))
    )


def test_an_epoch_is_a_for_loop(birds):
    with training(birds) as loader:
        epochs = [list(loader) for _ in range(3)]
    assert [len(epoch) for epoch in epochs] == [len(loader)] * 3 == [STEPS] * 3
    for epoch in epochs:
        keys = [key for batch in epoch for key in batch.keys]
        assert len(set(keys)) == len(keys) == STEPS * BATCH
    assert len({tuple(epoch[0].keys) for epoch in epochs}) == 3
    # Others are left out each time.
    assert {key for epoch in epochs for batch in epoch for key in batch.keys} == {
        f"bird-{number}" for number in range(COUNT)
    }


def test_a_batch_holds_views_labels_and_keys(birds):
    with training(birds, views=2) as loader:
        batch = next(iter(loader))
    assert batch.images is batch.views[0]
    assert len(batch.views) == 2
    for view in batch.views:
        assert view.dtype == torch.float32
        assert view.shape == (BATCH, 3, SIZE, SIZE)
        assert view.is_contiguous(memory_format=torch.channels_last)
    assert not torch.equal(*batch.views)
    assert batch.labels.tolist() == [int(key.removeprefix("bird-")) % 3 for key in batch.keys]


def test_raw_views_normalised_are_those_without_colours(birds):
    calm = Augment(flip=0, jitter=0, gray=0, blur=0)
    with (
        training(birds, raw=True) as raw,
        training(birds, augment=calm, normalize="dataset") as floats,
    ):
        a, b = next(iter(raw)), next(iter(floats))
    assert a.images.dtype == torch.uint8
    assert a.keys == b.keys
    torch.testing.assert_close(Normalize(birds.mean, birds.std)(a.images), b.images)


def test_evaluation_yields_each_image_once_in_order(birds):
    pool = Pool([open_split(open_store(birds.store), "birds", "train")])
    expected = list(center_batches(pool, batch=BATCH, size=SIZE))
    with evaluation(birds, raw=True) as raw, evaluation(birds, normalize="half") as floats:
        for loader in (raw, floats):
            assert len(loader) == len(list(loader)) == STEPS + 1
            assert [key for batch in loader for key in batch.keys] == pool.keys
        for want, a, b in zip(expected, raw, floats, strict=True):
            assert torch.equal(want.images[0], a.images)
            assert torch.equal(want.labels, a.labels)
            assert torch.equal(Normalize((0.5,) * 3, (0.5,) * 3)(a.images), b.images)


@pytest.mark.parametrize("make", [training, evaluation])
@pytest.mark.parametrize("taken", range(STEPS + 3))
def test_a_loaded_state_goes_on_as_if_undisturbed(birds, make, taken):
    with make(birds) as loader:
        whole = [*loader, *loader, *loader]
    with make(birds) as loader:
        left = taken
        while left:
            for _ in itertools.islice(loader, left):
                left -= 1
        state = json.loads(json.dumps(loader.state_dict()))
    assert state["step"] == taken
    with make(birds) as loader:
        next(iter(loader))
        loader.load_state_dict(state)
        assert loader.state_dict() == state
        rest = list(loader)
        assert len(rest) == len(loader) - taken % len(loader)
        rest += list(loader)
    assert len(rest) <= len(whole) - taken
    assert all(map(same, rest, whole[taken:]))


RESUME = """
import hashlib, json, sys
import hpt_dist

store, state = sys.argv[1], json.loads(sys.argv[2])
loader = hpt_dist.train_loader(hpt_dist.open_dataset(store, "birds"), batch=8, size=16, seed=3)
loader.load_state_dict(state)
for batch in loader:
    print(*batch.keys, hashlib.sha256(batch.images.numpy().tobytes()).hexdigest())
"""


def test_another_process_goes_on_with_the_same_bytes(birds):
    with training(birds) as loader:
        batches = iter(loader)
        next(batches)
        state = loader.state_dict()
        here = list(batches)
    words = [sys.executable, "-c", RESUME, birds.store, json.dumps(state)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[:-1] for line in lines] == [batch.keys for batch in here]
    digests = [hashlib.sha256(batch.images.numpy().tobytes()).hexdigest() for batch in here]
    assert [line[-1] for line in lines] == digests


@pytest.mark.parametrize("make", [training, evaluation])
@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_share_what_one_would_have_and_may_change(birds, make, world_size):
    with make(birds) as loader:
        whole = list(loader)
        next(iter(loader))
        state = loader.state_dict()
        rest = list(loader)
    shares = []
    for rank in range(world_size):
        with make(birds, rank=rank, world_size=world_size) as loader:
            shares.append(list(loader))
            loader.load_state_dict({**state, "step": 1})
            assert same(next(iter(loader)), shares[-1][1])
    for number, batch in enumerate(whole):
        parts = [share[number] for share in shares if number < len(share)]
        assert [key for part in parts for key in part.keys] == batch.keys
        assert torch.equal(torch.cat([part.images for part in parts]), batch.images)
        assert torch.equal(torch.cat([part.labels for part in parts]), batch.labels)
    assert len(rest) == len(whole)


def test_a_loop_that_is_left_leaves_its_epoch(birds):
    with training(birds) as loader:
        first, second = list(loader), list(loader)
    with training(birds) as loader:
        for batch in loader:
            assert same(batch, first[0])
            break
        old = iter(loader)
        assert same(next(old), second[0])
        assert loader.state_dict()["step"] == STEPS + 1
        next(iter(loader))
        assert list(old) == []


def test_a_state_of_other_batches_is_refused(birds):
    with training(birds) as loader:
        state = loader.state_dict()
        for other in ({**state, "seed": 4}, {**state, "data": "x"}, {"step": 1}, {}):
            with pytest.raises(RequestError, match="not a state of this loader"):
                loader.load_state_dict(other)
        with pytest.raises(RequestError, match="step: None"):
            loader.load_state_dict({**state, "step": None})


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"batch": 64}, "37 images do not fill a batch of 64"),
        ({"world_size": 3}, "cannot be shared out evenly over 3 ranks"),
        ({"rank": 2, "world_size": 2}, "rank 2 is not one of 2 ranks"),
        ({"normalize": "imagnet"}, "did you mean imagenet"),
        ({"split": "trian"}, "did you mean train"),
    ],
)
def test_wrong_arguments_are_refused(birds, settings, what):
    with pytest.raises(RequestError, match=what):
        training(birds, **settings)
