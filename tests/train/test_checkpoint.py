"""Checkpoints: written = read, whatever dies or rots on the way."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import os
import random
import signal
import time
from collections import OrderedDict

import pytest
import torch
from examples import few
from hypothesis import given
from hypothesis import strategies as st

from hpt_dist.errors import StoreError, TrainingError
from hpt_dist.store import open_store
from hpt_dist.store.lease import LeaseTakenError
from hpt_dist.train.checkpoint import Checkpoints


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


def bits(tensor):
    dense = torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor)
    return dense.flatten().view(torch.uint8)


def equal(left, right):
    """Whether two states are the same in every bit, their order and their tensors' strides too."""
    if type(left) is not type(right):
        return False
    if isinstance(left, torch.Tensor):
        same = left.dtype == right.dtype and left.shape == right.shape
        return same and left.stride() == right.stride() and torch.equal(bits(left), bits(right))
    if isinstance(left, dict):
        return equal([*left.items()], [*right.items()])
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(equal, left, right))
    return left == right or left != left  # NaN


FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.complex64)
DTYPES = (*FLOATS, torch.int64, torch.uint8, torch.bool)
VIEWS = (
    lambda t: t,
    lambda t: t.T,
    lambda t: t.sum(),
    lambda t: t[:, 1:],
    lambda t: t[1, ::3],
    lambda t: t[:1].expand(4, -1),
)
leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.text()
    | st.builds(
        lambda count, dtype, view: view(torch.arange(2 * count).to(dtype).reshape(2, count)),
        st.integers(0, 9),
        st.sampled_from(DTYPES),
        st.sampled_from(VIEWS),
    )
)
states = st.dictionaries(
    st.text() | st.integers(0, 99),
    st.recursive(
        leaves,
        lambda inner: (
            st.lists(inner)
            | st.lists(inner).map(tuple)
            | st.dictionaries(st.text() | st.integers() | st.booleans() | st.none(), inner)
            | st.dictionaries(st.tuples(st.text(), st.integers()), inner).map(OrderedDict)
        ),
    ),
    max_size=4,
)


@given(states, st.integers(0, 10**9))
@few(25)
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


def test_tensors_that_share_memory_share_it_again(store):
    base = torch.arange(1000.0)
    rows, tail = base.view(10, 100), base[500:]
    Checkpoints(store).save(1, {"rows": rows, "tail": tail, "bits": base.view(torch.uint8)[3:9]})
    _, state = Checkpoints(store).latest()
    state["rows"][5, 0] = -1
    assert state["tail"][0] == -1
    assert torch.equal(state["bits"], base.view(torch.uint8)[3:9])
    base.fill_(7)
    assert state["rows"][0, 1] == 1


def test_of_a_large_memory_only_what_is_used_is_saved(store):
    Checkpoints(store).save(1, {"part": torch.zeros(10**6)[5000:5010]})
    assert sum(info.bytes for info in store.list("state/")) < 1000


def test_a_parameter_is_loaded_as_a_plain_tensor(store):
    Checkpoints(store).save(1, {"weight": torch.nn.Parameter(torch.ones(3))})
    _, state = Checkpoints(store).latest()
    assert equal(state, {"weight": torch.ones(3)})
    assert not state["weight"].requires_grad


def test_the_versions_of_a_models_modules_are_kept(store):
    saved = torch.nn.Sequential(torch.nn.BatchNorm1d(3)).state_dict()
    Checkpoints(store).save(1, {"model": saved})
    _, state = Checkpoints(store).latest()
    assert equal(state["model"], saved)
    assert state["model"]._metadata == saved._metadata
    assert saved._metadata["0"]["version"] == 2


def put_old_format(store, step, state):
    """Save as the versions before this format did."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    data = buffer.getvalue()
    store.put("state/old.pt", data)
    digest = hashlib.sha256(data).hexdigest()
    record = {"step": step, "object": "state/old.pt", "bytes": len(data), "sha256": digest}
    store.put("state/old.json", json.dumps(record, sort_keys=True).encode())


def test_states_of_the_versions_before_still_load(store):
    put_old_format(store, 4, state_of(4))
    step, state = Checkpoints(store).latest()
    assert step == 4
    assert is_state_of(4, state)
    Checkpoints(store).save(5, state_of(5))
    assert Checkpoints(store).steps() == [5, 4]


class Executed:
    def __reduce__(self):
        return (print, ("executed",))


def test_nothing_in_a_state_is_executed(store, capsys):
    put_old_format(store, 4, {"a": Executed()})
    with pytest.raises(TrainingError, match="cannot load") as refused:
        Checkpoints(store).latest()
    assert "old.pt" in refused.value.problem.where
    assert capsys.readouterr().out == ""


def test_a_state_of_a_later_version_is_refused_not_passed_over(store):
    data = b"hpt-dist state 2\n" + bytes(100)
    digest = hashlib.sha256(data).hexdigest()
    record = {"step": 9, "object": "state/a.state", "bytes": len(data), "sha256": digest}
    store.put("state/a.state", data)
    store.put("state/a.json", json.dumps(record).encode())
    with pytest.raises(TrainingError, match="cannot load"):
        Checkpoints(store).latest()


def channels_last_training():
    """Return a model of convolutions, its optimizer, and a function that trains some steps."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.Conv2d(8, 4, 3)
    ).to(memory_format=torch.channels_last)
    optim = torch.optim.AdamW(model.parameters(), lr=0.01)

    def advance(steps):
        for step in steps:
            images = torch.rand(4, 3, 12, 12, generator=torch.Generator().manual_seed(step))
            optim.zero_grad()
            model(images.to(memory_format=torch.channels_last)).square().mean().backward()
            optim.step()

    return model, optim, advance


def test_an_optimizers_strides_survive_a_resume(store):
    model, optim, advance = channels_last_training()
    advance(range(3))
    saved = {"model": model.state_dict(), "optim": optim.state_dict()}
    Checkpoints(store).save(3, saved)
    assert not saved["optim"]["state"][0]["exp_avg"].is_contiguous()
    _, state = Checkpoints(store).latest()
    resumed_model, resumed_optim, resumed_advance = channels_last_training()
    resumed_model.load_state_dict(state["model"])
    resumed_optim.load_state_dict(state["optim"])
    assert equal(resumed_optim.state_dict(), optim.state_dict())
    advance(range(3, 6))
    resumed_advance(range(3, 6))
    assert equal(resumed_model.state_dict(), model.state_dict())
    assert equal(resumed_optim.state_dict(), optim.state_dict())


def test_nothing_saved_is_nothing_found(store):
    assert Checkpoints(store).latest() is None
    assert Checkpoints(store).steps() == []


@given(st.integers(1, 4), st.lists(st.integers(0, 1000), min_size=1, max_size=8))
@few(30)
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
    caplog.clear()
    assert checkpoints.latest() is None
    kinds = {"record": ".json"}.get(how, ".state")
    named = [message.split(":")[0] for message in caplog.messages]
    assert len(named) == len(set(named)) == 2
    assert all(name.startswith(f"{store.uri}/state/") and name.endswith(kinds) for name in named)


def test_a_record_with_any_flipped_bit_never_loads_another_state(tmp_path_factory):
    store = open_store(str(tmp_path_factory.mktemp("trial")))
    for step in (1, 2):
        Checkpoints(store).save(step, state_of(step))
    [path] = [
        info.path
        for info in store.list("state/")
        if info.path.endswith(".json") and b'"step": 2' in store.get(info.path)
    ]
    whole = store.get(path)
    fallen_back, positions = 0, range(0, 8 * len(whole), 7)
    for position in positions:
        flipped = bytearray(whole)
        flipped[position // 8] ^= 1 << position % 8
        store.put(path, flipped)
        step, state = Checkpoints(store).latest()
        assert is_state_of(step, state)
        fallen_back += step == 1
    assert fallen_back > 0.9 * len(positions)  # a space between fields may become a tab


def test_a_damaged_one_does_not_count_as_kept(store):
    for step in (10, 20):
        Checkpoints(store).save(step, state_of(step))
    damage(store, 20, "flipped")
    resumed = Checkpoints(store)
    assert resumed.latest()[0] == 10
    resumed.save(25, state_of(25))
    assert resumed.steps() == [25, 10]

    damage(store, 25, "cut")
    resumed = Checkpoints(store)
    resumed.save(30, state_of(30))
    assert resumed.steps() == [30, 10]


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


@pytest.mark.parametrize(
    "stranger",
    [
        object(),
        {1, 2},
        torch.float32,
        b"bytes",
        torch.eye(2).to_sparse(),
        torch.ones(1, device="meta"),
        torch.ones(1, dtype=torch.complex64).conj(),
    ],
)
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
    committed = rounds = 0
    while rounds < 12 or committed <= 12:  # on a busy machine a round commits little
        rounds += 1
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


def test_a_holder_whose_draft_was_swept_reports_who_took_the_trial_over(tmp_path, monkeypatch):
    """Whoever takes a trial over deletes what its old holder is writing."""
    store = open_store(str(tmp_path))
    checkpoints = Checkpoints(store)

    def swept(*_):
        raise StoreError("no such file")

    def taken():
        raise LeaseTakenError("another process has taken this trial over")

    monkeypatch.setattr(type(store), "put", swept)
    with pytest.raises(StoreError, match="no such file"):
        checkpoints.save(1, state_of(1))
    with pytest.raises(LeaseTakenError, match="taken this trial over"):
        checkpoints.save(1, state_of(1), taken)
