"""Checkpoints: written = read, whatever dies or rots on the way."""

from __future__ import annotations

import copy
import json
import os
import random
import signal
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hpt_dist.checkpoint import Checkpoints
from hpt_dist.store import open_store


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path))


def state_of(step):
    return {"step": step, "weights": torch.full((64, 64), float(step))}


def is_state_of(step, state):
    return state["step"] == step and torch.equal(state["weights"], state_of(step)["weights"])


def damage(store, step, how):
    for info in list(store.list("state/")):
        if info.path.endswith(".json") and f'"step": {step}' in store.get(info.path).decode():
            path = json.loads(store.get(info.path))["object"]
            data = store.get(path)
            if how == "flipped":
                store.put(path, data[:1000] + bytes([data[1000] ^ 1]) + data[1001:])
            elif how == "cut":
                store.put(path, data[:-1])
            elif how == "gone":
                store.delete(path)
            else:
                store.put(info.path, b'{"step":')


def equal(left, right):
    if isinstance(left, torch.Tensor):
        return left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(equal(left[k], right[k]) for k in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(map(equal, left, right))
    return type(left) is type(right) and left == right


leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.builds(
        lambda count, dtype: torch.arange(count).to(dtype),
        st.integers(0, 9),
        st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8]),
    )
)
states = st.dictionaries(
    st.text() | st.integers(0, 99),
    st.recursive(leaves, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)),
    max_size=4,
)


@given(states, st.integers(0, 10**9))
@settings(deadline=None, max_examples=50)
def test_written_is_read(tmp_path_factory, state, step):
    checkpoints = Checkpoints(open_store(str(tmp_path_factory.mktemp("trial"))))
    checkpoints.save(step, state)
    read_step, read = checkpoints.latest()
    assert read_step == step
    assert equal(read, state)


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD])
def test_training_goes_on_bit_for_bit(store, optimizer):
    def build():
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8))
        return model, optimizer(model.parameters(), lr=0.1, **options)

    def advance(model, optim, steps):
        for _ in range(steps):
            optim.zero_grad()
            model(torch.rand(6, 4)).square().mean().backward()
            optim.step()

    options = {"momentum": 0.9} if optimizer is torch.optim.SGD else {}
    model, optim = build()
    advance(model, optim, 3)
    Checkpoints(store).save(
        3, {"model": model.state_dict(), "optim": optim.state_dict(), "rng": torch.get_rng_state()}
    )
    advance(model, optim, 3)
    undisturbed = copy.deepcopy(model.state_dict())

    model, optim = build()
    _, state = Checkpoints(store).latest()
    model.load_state_dict(state["model"])
    optim.load_state_dict(state["optim"])
    torch.set_rng_state(state["rng"])
    advance(model, optim, 3)
    assert equal(dict(model.state_dict()), dict(undisturbed))


def test_nothing_saved_is_nothing_found(store):
    assert Checkpoints(store).latest() is None
    assert Checkpoints(store).steps() == []


@given(st.integers(1, 4), st.lists(st.integers(0, 1000), min_size=1, max_size=8))
@settings(deadline=None, max_examples=30)
def test_the_newest_stay_and_nothing_else_does(tmp_path_factory, keep, steps):
    store = open_store(str(tmp_path_factory.mktemp("trial")))
    checkpoints = Checkpoints(store, keep)
    expected: list[int] = []
    for step in steps:
        store.put("state/orphan.pt", b"of a save that was killed")
        checkpoints.save(step, state_of(step))
        expected = [step, *(kept for kept in expected if kept < step)][:keep]
        assert checkpoints.steps() == expected
        found, state = checkpoints.latest()
        assert found == step
        assert is_state_of(step, state)
        assert len(list(store.list())) == 2 * len(expected)


def test_a_step_is_read_from_the_record_not_from_a_name(store):
    checkpoints = Checkpoints(store)
    for step in (9, 10, 100):  # as text, 9 is the greatest
        checkpoints.save(step, state_of(step))
    assert checkpoints.steps() == [100, 10]


@pytest.mark.parametrize("how", ["flipped", "cut", "gone", "record"])
def test_a_damaged_newest_falls_back_with_a_warning(store, caplog, how):
    checkpoints = Checkpoints(store)
    for step in (1, 2):
        checkpoints.save(step, state_of(step))
    damage(store, 2, how)
    step, state = checkpoints.latest()
    assert step == 1
    assert is_state_of(1, state)
    assert "falling back" in caplog.text

    damage(store, 1, how)
    assert checkpoints.latest() is None


def test_a_run_that_fell_back_replaces_what_was_damaged(store):
    checkpoints = Checkpoints(store, keep=1)
    checkpoints.save(10, state_of(10))
    damage(store, 10, "cut")
    checkpoints.save(5, state_of(5))
    assert checkpoints.latest()[0] == 5
    assert checkpoints.steps() == [5]


def test_a_finished_trial_leaves_nothing(store):
    store.put("result.json", b"{}")
    Checkpoints(store).save(1, state_of(1))
    store.put("state/orphan.pt", b"of a save that was killed")
    Checkpoints(store).clear()
    assert [info.path for info in store.list()] == ["result.json"]


@pytest.mark.parametrize("stranger", [object(), {1, 2}, torch.float32, b"bytes"])
def test_a_state_that_could_not_be_loaded_is_not_saved(store, stranger):
    checkpoints = Checkpoints(store)
    checkpoints.save(1, state_of(1))
    with pytest.raises(TypeError, match=r"state\['a'\]\[1\]"):
        checkpoints.save(2, {"a": [0, stranger]})
    assert checkpoints.steps() == [1]


def test_who_lost_the_lease_commits_nothing(store):
    checkpoints = Checkpoints(store)
    checkpoints.save(1, state_of(1))

    def guard():
        raise RuntimeError("the lease is lost")

    with pytest.raises(RuntimeError, match="lease"):
        checkpoints.save(2, state_of(2), guard)
    assert checkpoints.steps() == [1]
    checkpoints.save(2, state_of(2))
    assert checkpoints.steps() == [2, 1]


class Dying:
    """A store whose process dies, as by kill -9, just before one of its operations."""

    def __init__(self, store, operations):
        self._store, self._left = store, operations
        self.uri = store.uri

    def __getattr__(self, name):
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self._left -= 1
        return getattr(self._store, name)


def in_child(act):
    """Run a function in a fork of this process and return the fork's exit status."""
    child = os.fork()
    if child == 0:
        try:
            act()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_death_before_any_operation_of_a_save_leaves_a_whole_state(tmp_path):
    for operations in range(100):
        store = open_store(str(tmp_path / str(operations)))
        for step in (1, 2):
            Checkpoints(store).save(step, state_of(step))
        dying = Checkpoints(Dying(store, operations))
        status = in_child(lambda dying=dying: dying.save(3, state_of(3)))
        step, state = Checkpoints(store).latest()
        assert step in (2, 3)
        assert is_state_of(step, state)
        Checkpoints(store).save(4, state_of(4))
        assert len(list(store.list())) == 4, "a killed save left something behind"
        if status == 0:
            assert step == 3
            break
        assert status == -signal.SIGKILL
    assert operations > 5


def save_for_ever(store, pipe):
    checkpoints = Checkpoints(store)
    step = checkpoints.steps()[0] if checkpoints.steps() else 0
    while True:
        step += 1
        checkpoints.save(step, state_of(step))
        os.write(pipe, f"{step} ".encode())


def test_kill_9_at_random_moments_loses_nothing_that_was_committed(store):
    moments = random.Random(0)
    committed = 0
    for _ in range(12):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                save_for_ever(store, writing)
            finally:
                os._exit(1)
        os.close(writing)
        time.sleep(moments.uniform(0.02, 0.1))
        os.kill(child, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        with os.fdopen(reading) as pipe:
            committed = max([committed, *map(int, pipe.read().split())])
        if committed:
            step, state = Checkpoints(store).latest()
            assert step in (committed, committed + 1)  # killed before it could tell
            assert is_state_of(step, state)
            committed = step
    assert committed > 12
