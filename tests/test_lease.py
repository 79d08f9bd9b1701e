"""One holder at a time, on a folder and on S3, whatever happens to the others."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from services import S3Server

from hpt_dist import lease
from hpt_dist.errors import StoreError
from hpt_dist.lease import LeaseLostError, LeaseTakenError
from hpt_dist.store import FolderStore, Store, open_store

PATH = "stages/key/lease.json"
TTL_S = 0.4

HOLD = """
import sys, time
from hpt_dist import lease
from hpt_dist.store import open_store
with lease.hold(open_store(sys.argv[1]), sys.argv[2], ttl_s=600) as held:
    held.beat(step=3)
    held.check()
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture(params=["folder", pytest.param("seaweedfs", marks=pytest.mark.services)])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    if request.param == "folder":
        return open_store(str(tmp_path))
    server: S3Server = request.getfixturevalue("seaweedfs")
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return open_store(f"s3://{server.make_bucket()}")


@pytest.fixture
def folder(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path)


@contextlib.contextmanager
def holder(store: Store) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lease until it is killed."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, store.uri, PATH], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def rewrite(store: Store, **changes: object) -> None:
    """Make the lease another's."""
    store.put(PATH, json.dumps(json.loads(store.get(PATH)) | changes).encode())


def leave_behind(store: Store, **changes: object) -> None:
    """Leave a lease as a holder that could not release it would."""
    with lease.hold(store, PATH, ttl_s=60):
        content = store.get(PATH)
    store.put(PATH, content)
    rewrite(store, **changes)


def eventually(true: Callable[[], bool], timeout_s: float = 10) -> bool:
    deadline = time.monotonic() + timeout_s
    while not (found := true()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return found


def test_one_process_holds_and_others_are_told_who(store: Store) -> None:
    with holder(store) as process:
        with pytest.raises(LeaseTakenError) as caught, lease.hold(store, PATH):
            pass
        assert str(process.pid) in str(caught.value)
        info = lease.read(store, PATH)
        assert (info.pid, info.alive, info.facts) == (process.pid, True, {"step": 3})


def test_a_killed_holder_is_followed_at_once(store: Store) -> None:
    """Its ttl of 600 s is not waited for, not even while it is a zombie."""
    with holder(store) as process:
        process.send_signal(signal.SIGKILL)
        assert eventually(lambda: not lease.read(store, PATH).alive)
        assert process.returncode is None, "it was to be a zombie still"
        with lease.hold(store, PATH) as held:
            held.check()
            assert lease.read(store, PATH).alive


def test_a_released_lease_is_free(store: Store) -> None:
    for _ in range(3):
        with lease.hold(store, PATH) as held:
            held.check()
        assert lease.read(store, PATH) is None


def test_an_error_in_the_block_releases_too(folder: FolderStore) -> None:
    with pytest.raises(ZeroDivisionError), lease.hold(folder, PATH):
        raise ZeroDivisionError
    assert lease.read(folder, PATH) is None


def test_a_process_does_not_hold_it_twice(folder: FolderStore) -> None:
    with (
        lease.hold(folder, PATH) as first,
        pytest.raises(LeaseTakenError),
        lease.hold(folder, PATH),
    ):
        pass
    with pytest.raises(LeaseLostError):
        first.check()


@pytest.mark.parametrize(("silence_s", "alive"), [(30, True), (61, False)])
def test_another_host_is_judged_by_its_silence(store: Store, silence_s: float, alive: bool) -> None:
    leave_behind(store, host="elsewhere", pids="other", renewed=time.time() - silence_s)
    assert lease.read(store, PATH).alive is alive
    expected = pytest.raises(LeaseTakenError) if alive else contextlib.nullcontext()
    with expected, lease.hold(store, PATH) as held:
        held.check()


@pytest.mark.parametrize("changes", [{"started": "1"}, {"pid": 2**22 + 1}])
def test_a_pid_that_came_again_is_not_the_holder(
    folder: FolderStore, changes: dict[str, object]
) -> None:
    leave_behind(folder)
    assert lease.read(folder, PATH).alive
    rewrite(folder, **changes)
    assert not lease.read(folder, PATH).alive


def test_one_of_many_takers_wins(folder: FolderStore) -> None:
    for _ in range(5):
        leave_behind(folder, host="elsewhere", pids="other", renewed=0)
        start, done = threading.Barrier(6), threading.Barrier(6)

        def take(start: threading.Barrier = start, done: threading.Barrier = done) -> bool:
            start.wait()
            try:
                with lease.hold(folder, PATH):
                    done.wait()
                    return True
            except LeaseTakenError:
                done.wait()
                return False

        with ThreadPoolExecutor(6) as pool:
            assert sorted(pool.map(lambda _, take=take: take(), range(6))) == [False] * 5 + [True]


def test_a_lease_that_was_taken_over_is_lost(store: Store) -> None:
    with lease.hold(store, PATH) as held:
        held.check()
        rewrite(store, owner="another", host="elsewhere", pids="other", renewed=time.time())
        for _ in range(2):
            with pytest.raises(LeaseLostError):
                held.check()
    assert lease.read(store, PATH).owner == "another", "the release took another's lease away"


def test_it_is_renewed_and_shows_facts(folder: FolderStore) -> None:
    with lease.hold(folder, PATH, ttl_s=TTL_S) as held:
        first = lease.read(folder, PATH).renewed
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda i: held.beat(**{f"fact{i}": i}), range(40)))
        facts = {f"fact{i}": i for i in range(40)}
        assert eventually(lambda: lease.read(folder, PATH).facts == facts)
        assert eventually(lambda: lease.read(folder, PATH).renewed > first + 2 * TTL_S)
        held.check()


def test_a_store_that_fails_for_a_while_is_outlived(
    folder: FolderStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise StoreError("unreachable")

    with lease.hold(folder, PATH, ttl_s=TTL_S) as held:
        with monkeypatch.context() as patch:
            patch.setattr(FolderStore, "swap", refuse)
            assert eventually(lambda: "unreachable" in caplog.text)
            with pytest.raises(StoreError):
                held.check()
        held.check()


def test_a_renewal_whose_answer_is_lost_does_not_lose_the_lease(
    folder: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    swap = FolderStore.swap

    def write_and_fail(*arguments: object) -> None:
        swap(*arguments)
        raise StoreError("no answer")

    with lease.hold(folder, PATH, ttl_s=600) as held:
        with monkeypatch.context() as patch:
            patch.setattr(FolderStore, "swap", write_and_fail)
            with pytest.raises(StoreError):
                held.check()
        held.check()
