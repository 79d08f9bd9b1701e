"""States saved while training goes on: what is committed is what was there when save returned."""

from __future__ import annotations

import copy
import os
import random
import resource
import signal
import threading
import time

import numpy as np
import pytest
import torch
from test_checkpoint import channels_last_training, damage, equal

from hpt_dist.errors import StoreError
from hpt_dist.store import open_store
from hpt_dist.train.checkpoint import Checkpoints, Saver

MB = 1 << 20


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "trial"))


@pytest.fixture(
    params=[
        "folder",
        pytest.param("ceph", marks=pytest.mark.services),
        pytest.param("seaweedfs", marks=pytest.mark.services),
    ]
)
def any_store(request, store, monkeypatch):
    """An empty store of each kind."""
    if request.param == "folder":
        return store
    server = request.getfixturevalue(request.param)
    server = server.http if request.param == "ceph" else server
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return open_store(f"s3://{server.make_bucket()}/trial")


def state_of(step, size=MB // 4):
    """Return a state of 1 MB whose every number follows from the step."""
    numbers = torch.arange(size, dtype=torch.float32) * step
    return {"step": step, "weights": numbers, "half": [numbers[::2].bfloat16(), {0: None}]}


def is_state_of(step, state):
    return equal(state, state_of(step))


class Gated:
    """A store that notes its puts of states and holds them back until it is opened."""

    def __init__(self, store):
        self._store = store
        self.opened = threading.Event()
        self.addresses = []
        self.under_way = self.most_under_way = 0

    def put(self, path, data):
        if path.endswith(".state"):
            self.addresses.append(np.frombuffer(data, np.uint8).ctypes.data)
            self.under_way += 1
            self.most_under_way = max(self.most_under_way, self.under_way)
            assert self.opened.wait(60)
            self.under_way -= 1
        return self._store.put(path, data)

    def __getattr__(self, name):
        return getattr(self._store, name)


@pytest.fixture
def gated(store):
    return Gated(store)


def objects(store):
    return [info.path for info in store.list("state/")]


# ------------------------------------------------------------------ what is saved


def test_async_saves_the_very_bytes_of_sync(tmp_path):
    model, optim, advance = channels_last_training()
    advance(range(2))
    state = {"model": model.state_dict(), "optim": optim.state_dict(), "rng": torch.get_rng_state()}
    sync, meanwhile = open_store(str(tmp_path / "sync")), open_store(str(tmp_path / "async"))
    Checkpoints(sync).save(2, state)
    with Saver(Checkpoints(meanwhile)) as saver:
        saver.save(1, {"other": torch.ones(5000)})  # what is in the memory that is used again
        saver.save(2, state)
    [left] = [sync.get(path) for path in objects(sync) if path.endswith(".state")]
    assert left in [meanwhile.get(path) for path in objects(meanwhile)]
    assert Checkpoints(meanwhile).latest()[0] == 2
    assert equal(Checkpoints(meanwhile).latest()[1], state)


def test_what_training_does_after_save_returned_is_not_saved(store, gated):
    model, optim, advance = channels_last_training()
    advance(range(2))
    history = [(2, {"top1": 0.5})]
    state = {"model": model.state_dict(), "optim": optim.state_dict(), "history": history}
    expected = copy.deepcopy(state)
    with Saver(Checkpoints(gated)) as saver:
        saver.save(2, state)
        advance(range(2, 5))
        history.append((5, {"top1": 0.6}))
        history[0][1]["top1"] = 0.0
        state["late"] = 1
        assert not equal(state["optim"], expected["optim"])
        assert Checkpoints(store).latest() is None
        gated.opened.set()
    step, saved = Checkpoints(store).latest()
    assert step == 2
    assert equal(saved, expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_what_a_gpu_does_after_save_returned_is_not_saved(store):
    weights = torch.zeros(64 * MB // 4, device="cuda")
    with Saver(Checkpoints(store)) as saver:
        for step in range(1, 21):
            weights.add_(1)
            saver.save(step, {"weights": weights, "on_cpu": torch.full((3,), step)})
            for _ in range(100):
                weights.mul_(1.5).div_(1.5)
            weights.fill_(step)
            if step % 5 == 0:
                saver.wait()
                assert Checkpoints(store).latest()[0] == step
                saved = Checkpoints(store).latest()[1]["weights"]
                assert torch.equal(saved, torch.full_like(saved, step))


def test_the_last_k_are_kept(any_store):
    with Saver(Checkpoints(any_store, keep=3)) as saver:
        for step in range(1, 6):
            saver.save(step, state_of(step))
            saver.wait()
            assert Checkpoints(any_store).steps() == [step, step - 1, step - 2][: min(3, step)]
    step, state = Checkpoints(any_store).latest()
    assert step == 5
    assert is_state_of(5, state)
    assert len(objects(any_store)) == 6


@pytest.mark.parametrize("how", ["flipped", "cut", "gone", "record"])
def test_a_damaged_newest_falls_back(any_store, caplog, how):
    with Saver(Checkpoints(any_store)) as saver:
        for step in (1, 2):
            saver.save(step, state_of(step))
    damage(any_store, 2, how)
    resumed = Checkpoints(any_store)
    step, state = resumed.latest()
    assert step == 1
    assert is_state_of(1, state)
    assert caplog.text.count("falling back") == 1

    with Saver(resumed) as saver:
        saver.save(3, state_of(3))
    assert Checkpoints(any_store).steps() == [3, 1]
    for step in (3, 1):
        damage(any_store, step, how)
    assert Checkpoints(any_store).latest() is None


# ------------------------------------------------------------------ one write at a time


def test_a_save_waits_for_the_write_before_and_says_how_long(store, gated):
    with Saver(Checkpoints(gated)) as saver:
        saver.save(1, state_of(1))
        opener = threading.Timer(0.5, gated.opened.set)
        began = time.perf_counter()
        opener.start()
        stalled_s = saver.save(2, state_of(2))
        assert 0.4 < stalled_s <= time.perf_counter() - began
    opener.join()
    assert gated.most_under_way == 1
    assert Checkpoints(store).steps() == [2, 1]


def test_the_same_memory_is_used_from_save_to_save(gated):
    gated.opened.set()
    with Saver(Checkpoints(gated)) as saver:
        for step in range(5):
            # Its description grows, as a list of evaluations does.
            saver.save(step, {**state_of(step), "history": list(range(100 * step))})
            held = np.zeros(2 * MB, np.uint8)  # would get the memory, were it free
            saver.wait()
        assert held.sum() == 0
    assert len(gated.addresses) == 5
    assert len(set(gated.addresses)) == 1


# ------------------------------------------------------------------ errors


@pytest.fixture
def full(store):
    """Let the system refuse files above 2 MB, as a full disk refuses any."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * MB, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


TOO_LARGE = {"weights": torch.ones(MB)}


def test_an_error_surfaces_at_the_next_save_and_once(store, full):
    with Saver(Checkpoints(store)) as saver:
        saver.save(1, state_of(1))
        saver.save(2, TOO_LARGE)
        with pytest.raises(StoreError, match="too large"):
            saver.save(3, state_of(3))
        saver.wait()
        assert Checkpoints(store).steps() == [1]
        assert is_state_of(1, Checkpoints(store).latest()[1])
        saver.save(4, state_of(4))
    assert Checkpoints(store).steps() == [4, 1]
    assert len(objects(store)) == 4


def test_an_error_surfaces_when_waited_for(store, full):
    with Saver(Checkpoints(store)) as saver:
        saver.save(2, TOO_LARGE)
        with pytest.raises(StoreError, match="too large"):
            saver.wait()
        saver.wait()
    assert objects(store) == []


def test_an_error_surfaces_at_the_end_of_the_block(store, full):
    def run():
        with Saver(Checkpoints(store)) as saver:
            saver.save(2, TOO_LARGE)

    with pytest.raises(StoreError, match="too large"):
        run()


@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt])
def test_an_exception_lets_the_write_in_flight_end(store, gated, kind):
    def run():
        with Saver(Checkpoints(gated)) as saver:
            saver.save(1, state_of(1))
            threading.Timer(0.2, gated.opened.set).start()
            raise kind("of training")

    with pytest.raises(kind, match="of training"):
        run()
    assert is_state_of(1, Checkpoints(store).latest()[1])
    assert len(objects(store)) == 2


def test_an_exception_is_not_masked_by_that_of_the_write_which_is_logged(store, full, caplog):
    def run():
        with Saver(Checkpoints(store)) as saver:
            saver.save(1, TOO_LARGE)
            raise RuntimeError("of training")

    with pytest.raises(RuntimeError, match="of training"):
        run()
    assert "could not be saved" in caplog.text
    assert "too large" in caplog.text


def test_ctrl_c_while_a_save_waits_lets_the_write_end(store, gated):
    def run():
        with Saver(Checkpoints(gated)) as saver:
            saver.save(1, state_of(1))
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
            threading.Timer(0.6, gated.opened.set).start()
            saver.save(2, state_of(2))

    with pytest.raises(KeyboardInterrupt):
        run()
    assert Checkpoints(store).steps() == [1]


def test_a_state_that_could_not_be_loaded_is_refused_at_once(store, gated):
    with Saver(Checkpoints(gated)) as saver:
        saver.save(1, state_of(1))
        gated.opened.set()
        with pytest.raises(TypeError, match=r"state\['a'\]"):
            saver.save(2, {"a": object()})
    assert is_state_of(1, Checkpoints(store).latest()[1])


@pytest.mark.parametrize("lost_at", [1, 2])
def test_who_lost_the_lease_commits_or_deletes_nothing(store, lost_at):
    for step in (1, 2):
        Checkpoints(store).save(step, state_of(step))
    before = {path: store.get(path) for path in objects(store)}
    calls = []

    def guard():
        calls.append(threading.current_thread())
        if len(calls) == lost_at:
            raise RuntimeError("the lease is lost")

    with Saver(Checkpoints(store)) as saver:
        saver.save(3, state_of(3), guard)
        with pytest.raises(RuntimeError, match="lease"):
            saver.wait()
    assert threading.main_thread() not in calls
    assert Checkpoints(store).steps() == ([2, 1] if lost_at == 1 else [3, 2, 1])
    assert before.items() <= {path: store.get(path) for path in objects(store)}.items()


# ------------------------------------------------------------------ in company


def test_a_reader_finds_whole_states_while_many_are_saved(store):
    done, found, most = threading.Event(), [], []

    def read():
        while not done.is_set():
            latest = Checkpoints(store).latest()
            most.append(len(objects(store)))
            if latest is not None:
                assert is_state_of(*latest)
                found.append(latest[0])
            Checkpoints(store).steps()

    failed = []
    reader = threading.Thread(target=lambda: failed.extend(errors_of(read)))
    with Saver(Checkpoints(store)) as saver:
        saver.save(1, state_of(1))
        saver.wait()
        reader.start()
        for step in range(2, 61):
            saver.save(step, state_of(step))
    done.set()
    reader.join()
    assert failed == []
    assert found == sorted(found)
    assert len(set(found)) > 3
    assert max(most) <= 2 * (2 + 1)
    assert len(objects(store)) == 4


def errors_of(act):
    try:
        act()
    except Exception as error:  # noqa: BLE001 - the test tells
        return [error]
    return []


def save_for_ever(store, pipe):
    torch.set_num_threads(1)  # OpenMP's threads do not survive a fork
    checkpoints = Checkpoints(store)
    latest = checkpoints.latest()
    step = latest[0] if latest else 0
    with Saver(checkpoints) as saver:
        while True:
            step += 1
            saver.save(step, state_of(step))
            # Whoever was waited for is committed.
            os.write(pipe, f"{step - 1} ".encode())


@pytest.mark.parametrize("times", [8, pytest.param(20, marks=pytest.mark.deep)])
def test_kill_9_at_random_moments_leaves_a_whole_state(store, times):
    moments = random.Random(0)
    committed = saved = kills = 0
    # A busy machine saves less in the same time, so more kills go with as many saved states.
    while kills < times or committed <= times:
        kills += 1
        assert kills < 20 * times
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                save_for_ever(store, writing)
            finally:
                os._exit(1)
        os.close(writing)
        time.sleep(moments.uniform(0.02, 0.2))
        os.kill(child, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        with os.fdopen(reading) as pipe:
            committed = max([committed, *map(int, pipe.read().split())])
        steps = Checkpoints(store).steps()
        saved = max([saved, *steps])
        assert len(steps) >= min(2, saved)  # more, if it was killed before it could delete
        if committed:
            step, state = Checkpoints(store).latest()
            assert step in range(committed, committed + 3)  # killed before it could tell
            assert is_state_of(step, state)
            committed = step
    with Saver(Checkpoints(store)) as saver:
        saver.save(committed + 1, state_of(committed + 1))
    assert len(objects(store)) == 4
    assert list(store.root.rglob("*.pt")) == []
