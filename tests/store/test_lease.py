"""One holder at a time, on a folder and on S3, whatever happens to the others and to clocks."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from clock import ELSEWHERE, Clock
from services import S3Server

from hpt_dist.errors import StoreError
from hpt_dist.store import FolderStore, Store, lease, open_store
from hpt_dist.store.lease import RENEW_S, TTL_S, LeaseLostError, LeaseTakenError, LeaseWatch

PATH = "stages/key/lease.json"
HOUR_S = 3600.0

HOLD = """
import sys, time
from hpt_dist.store import lease
from hpt_dist.store import open_store
with lease.hold(open_store(sys.argv[1]), sys.argv[2]) as held:
    held.beat(step=3)
    held.check()
    print("held", flush=True)
    time.sleep(60)
"""


class Hour(Clock):
    """An hour, in the shape of the event that a lease's thread waits for."""

    def wait(self, timeout_s: float) -> bool:
        self.now += timeout_s
        return self.now > 1000.0 + HOUR_S


class CountingStore(FolderStore):
    """A folder that counts the requests that it gets."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        object.__setattr__(self, "asked", Counter())

    def stat(self, path: str) -> object:
        self.asked["stat"] += 1
        return super().stat(path)

    def get(self, path: str, *arguments: object) -> bytes:
        self.asked["get"] += 1
        return super().get(path, *arguments)

    def swap(self, path: str, data: bytes, expected: str | None) -> str | None:
        self.asked["swap"] += 1
        found = super().swap(path, data, expected)
        self.asked["stat"] -= 1  # the folder's own, inside a swap
        return found


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
    with lease.hold(store, PATH):
        content = store.get(PATH)
    store.put(PATH, content)
    rewrite(store, **changes)


def watched(watch: LeaseWatch, clock: Clock, store: Store, seconds: float) -> tuple[object, str]:
    """Return what a watch says that looks every 5 s."""
    printed = watch.look(store, PATH)
    for _ in range(int(seconds / 5)):
        clock.now += 5
        printed = watch.look(store, PATH)
    return printed


def test_one_process_holds_and_others_learn_who(store: Store) -> None:
    with holder(store) as process:
        with pytest.raises(LeaseTakenError) as caught, lease.hold(store, PATH):
            pass
        assert f"process {process.pid} on " in str(caught.value)
        info = lease.read(store, PATH)
        assert (info.pid, info.died, info.facts) == (process.pid, False, {"step": 3})


def test_a_killed_holder_is_followed_at_once(store: Store) -> None:
    """Nothing is waited for, not even while it is a zombie."""
    clock = Clock()
    watch = LeaseWatch(clock)
    with holder(store) as process:
        assert watch.look(store, PATH)[0].pid == process.pid
        clock.now += 100 * TTL_S
        assert watch.look(store, PATH)[0], "a process that can be seen needs to renew nothing"
        process.send_signal(signal.SIGKILL)
        end = time.monotonic() + 10
        while not lease.read(store, PATH).died and time.monotonic() < end:
            time.sleep(0.02)
        assert process.returncode is None, "it was to be a zombie still"
        living, silent = watch.look(store, PATH)
        assert (living, bool(silent)) == (None, True)
        with lease.hold(store, PATH) as held:
            held.check()
            assert watch.look(store, PATH)[0]


def test_a_released_lease_is_free(store: Store) -> None:
    for _ in range(3):
        with lease.hold(store, PATH) as held:
            held.check()
        assert lease.read(store, PATH) is None
        assert LeaseWatch().look(store, PATH) == (None, "")


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


def test_another_host_is_judged_by_its_silence(store: Store) -> None:
    leave_behind(store, **ELSEWHERE)
    clock = Clock()
    watch = LeaseWatch(clock)
    living, silent = watched(watch, clock, store, TTL_S - 5)
    assert (living.host, silent) == ("elsewhere", "")
    with pytest.raises(LeaseTakenError, match="on elsewhere"), lease.hold(store, PATH):
        pass
    living, silent = watched(watch, clock, store, 5)
    assert living is None
    with lease.hold(store, PATH, silent=silent) as held:
        held.check()
        assert lease.read(store, PATH).on_this_host


def test_who_renews_elsewhere_lives(store: Store) -> None:
    leave_behind(store, **ELSEWHERE)
    clock = Clock()
    watch = LeaseWatch(clock)
    for renewals in range(30):
        rewrite(store, renewals=renewals)
        living, _ = watched(watch, clock, store, RENEW_S)
        assert living.host == "elsewhere"
    assert watched(watch, clock, store, TTL_S - RENEW_S)[0] is None, "the last one was the last"


@pytest.mark.parametrize("ahead_s", [HOUR_S, -HOUR_S])
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"ttl_s": float("inf")},
        {"ttl_s": -1, "renewals": float("nan")},
        {"renewed": 1e300},
        {"renewed": -2204081777},
        {"renewals": "often"},
    ],
)
def test_no_clock_of_another_machine_and_no_number_in_the_lease_matters(
    folder: FolderStore, monkeypatch: pytest.MonkeyPatch, ahead_s: float, more: dict[str, object]
) -> None:
    """As where a clock is wrong, a hand edited the lease, or an older version of this wrote it."""
    leave_behind(folder, **ELSEWHERE, **{"renewed": time.time() + ahead_s} | more)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() - ahead_s)
    clock = Clock()
    watch = LeaseWatch(clock)
    assert watched(watch, clock, folder, TTL_S - 5)[0], "a living holder was given up"
    living, silent = watched(watch, clock, folder, 5)
    assert living is None
    with lease.hold(folder, PATH, silent=silent):
        assert lease.read(folder, PATH).on_this_host


def test_a_watcher_that_slept_or_was_cut_off_has_seen_no_silence(
    folder: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_behind(folder, **ELSEWHERE)
    clock = Clock()
    watch = LeaseWatch(clock)
    assert watch.look(folder, PATH)[0]
    clock.now += HOUR_S
    assert watch.look(folder, PATH)[0]

    def refuse(*_: object) -> None:
        raise StoreError("unreachable")

    monkeypatch.setattr(FolderStore, "get", refuse)
    assert LeaseWatch(clock).look(folder, PATH) == (None, ""), (
        "it could not be read, nor was it free"
    )
    with pytest.raises(LeaseTakenError), lease.hold(folder, PATH):
        pass


def test_one_that_renews_after_all_keeps_it(folder: FolderStore) -> None:
    """The silence of one version says nothing of the next."""
    leave_behind(folder, **ELSEWHERE)
    clock = Clock()
    _, silent = watched(LeaseWatch(clock), clock, folder, TTL_S)
    rewrite(folder, renewals=7)
    with pytest.raises(LeaseTakenError), lease.hold(folder, PATH, silent=silent):
        pass
    assert lease.read(folder, PATH).host == "elsewhere"


def test_a_later_start_of_its_job_takes_over_at_once(folder: FolderStore) -> None:
    leave_behind(folder, **ELSEWHERE, job="12_3", term=1)
    for job, term in (("12_3", 1), ("12_3", 0), ("12_4", 2), ("", 2)):
        with pytest.raises(LeaseTakenError), lease.hold(folder, PATH, job=job, restarts=term):
            pass
    with lease.hold(folder, PATH, job="12_3", restarts=2) as held:
        held.check()


@pytest.mark.parametrize("changes", [{"started": "1"}, {"pid": 2**22 + 1}])
def test_a_pid_that_came_again_is_not_the_holder(
    folder: FolderStore, changes: dict[str, object]
) -> None:
    leave_behind(folder)
    assert not lease.read(folder, PATH).died
    rewrite(folder, **changes)
    assert lease.read(folder, PATH).died


@pytest.mark.parametrize("name", ["pid", "term"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1, 1e300, 10**400, 1.5, "1", None])
def test_a_damaged_lease_blocks_nobody(folder: FolderStore, name: str, value: object) -> None:
    leave_behind(folder, **ELSEWHERE, **{name: value})
    assert lease.read(folder, PATH) is None
    living, silent = LeaseWatch().look(folder, PATH)
    assert (living, bool(silent)) == (None, True)
    with lease.hold(folder, PATH) as held:
        held.check()


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"7", b"{}", b"\xff", b"[" * 10**5, b'{"facts": 3}'], ids=repr
)
def test_neither_does_one_that_is_no_lease(folder: FolderStore, data: bytes) -> None:
    folder.put(PATH, data)
    assert lease.read(folder, PATH) is None
    with lease.hold(folder, PATH) as held:
        held.check()


@pytest.mark.parametrize("name", ["owner", "host", "started", "pids", "job"])
@pytest.mark.parametrize("value", ["\x1b[2J", "a\nb", "\ud800", 5, None, ["n1"], True])
def test_nor_one_whose_names_are_none(folder: FolderStore, name: str, value: object) -> None:
    leave_behind(folder, **ELSEWHERE | {name: value})
    assert lease.read(folder, PATH) is None


def test_nor_one_that_is_huge(folder: FolderStore) -> None:
    leave_behind(folder, **ELSEWHERE, more="x" * (2 << 20))
    assert lease.read(folder, PATH) is None


@pytest.mark.parametrize("facts", [[], "fast", None, 3])
def test_nor_one_whose_facts_are_none(folder: FolderStore, facts: object) -> None:
    leave_behind(folder, **ELSEWHERE, facts=facts)
    assert lease.read(folder, PATH) is None


def test_damaged_facts_are_not_shown(folder: FolderStore) -> None:
    damaged = [float("nan"), float("inf"), -float("inf"), -3, 1e300, 10**400, "3", None, [3]]
    facts = {f"fact{i}": value for i, value in enumerate(damaged)}
    leave_behind(folder, **ELSEWHERE, facts=facts | {"step": 3, "images_per_second": 0.5})
    assert lease.read(folder, PATH).facts == {"step": 3, "images_per_second": 0.5}


def test_one_of_many_takers_wins(folder: FolderStore) -> None:
    for _ in range(5):
        leave_behind(folder, **ELSEWHERE)
        start, done = threading.Barrier(6), threading.Barrier(6)

        def take(start: threading.Barrier = start, done: threading.Barrier = done) -> bool:
            clock = Clock()
            _, silent = watched(LeaseWatch(clock), clock, folder, TTL_S)
            start.wait()
            try:
                with lease.hold(folder, PATH, silent=silent):
                    done.wait()
                    return True
            except LeaseTakenError:
                done.wait()
                return False

        with ThreadPoolExecutor(6) as pool:
            assert sorted(pool.map(lambda _, take=take: take(), range(6))) == [False] * 5 + [True]


def test_a_lease_that_was_taken_over_is_lost(store: Store) -> None:
    lost = threading.Event()
    with lease.hold(store, PATH, on_loss=lost.set) as held:
        held.check()
        assert not lost.is_set()
        rewrite(store, owner="another", **ELSEWHERE)
        for _ in range(2):
            with pytest.raises(LeaseLostError):
                held.check()
    assert lost.is_set()
    assert lease.read(store, PATH).owner == "another", "the release took another's lease away"


def test_each_renewal_is_another_version_and_shows_facts(store: Store) -> None:
    with lease.hold(store, PATH) as held:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda i: held.beat(**{f"fact{i}": i}), range(40)))
        assert lease.read(store, PATH).facts == {}, "a beat waits for the next renewal"
        versions = []
        for _ in range(3):
            held.check()
            versions.append(store.stat(PATH).etag)
        assert lease.read(store, PATH).facts == {f"fact{i}": i for i in range(40)}
        assert len(set(versions)) == 3


def test_a_beat_waits_for_no_store(folder: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    swap, asked, answer = FolderStore.swap, threading.Event(), threading.Event()

    def swap_slowly(*arguments: object) -> object:
        asked.set()
        assert answer.wait(60)
        return swap(*arguments)

    with lease.hold(folder, PATH) as held, monkeypatch.context() as patch:
        patch.setattr(FolderStore, "swap", swap_slowly)
        renewal = threading.Thread(target=held.check)
        renewal.start()
        assert asked.wait(60)
        held.beat(step=3)
        assert renewal.is_alive()
        answer.set()
        renewal.join()


def test_requests_of_a_trial_in_an_hour(tmp_path: Path) -> None:
    """Progress travels with the renewals; at one every 2 s there would be 1,800."""
    store = CountingStore(tmp_path)
    with lease.hold(store, PATH) as held:
        store.asked.clear()
        held.keep(Hour())
        assert +store.asked == {"swap": 240}


def test_requests_of_a_watcher_in_an_hour(tmp_path: Path) -> None:
    """A look at what has not changed is one request; each renewal is read once."""
    leave_behind(FolderStore(tmp_path), **ELSEWHERE)
    store, clock = CountingStore(tmp_path), Clock()
    watch = LeaseWatch(clock)
    for renewals in range(int(HOUR_S / RENEW_S)):
        rewrite(FolderStore(tmp_path), renewals=renewals)
        for _ in range(3):
            assert watch.look(store, PATH)[0]
            clock.now += 5
    assert store.asked == {"stat": 720, "get": 240}


def test_a_store_that_fails_for_a_while_is_outlived(
    folder: FolderStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise StoreError("unreachable")

    with lease.hold(folder, PATH) as held:
        before = folder.stat(PATH).etag
        with monkeypatch.context() as patch:
            patch.setattr(FolderStore, "swap", refuse)
            held.keep(Hour())
            assert caplog.text.count("unreachable") == 240
            with pytest.raises(StoreError):
                held.check()
        assert folder.stat(PATH).etag == before
        held.check()


def test_a_renewal_whose_answer_is_lost_does_not_lose_the_lease(
    folder: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    swap = FolderStore.swap

    def write_and_fail(*arguments: object) -> None:
        swap(*arguments)
        raise StoreError("no answer")

    with lease.hold(folder, PATH) as held:
        with monkeypatch.context() as patch:
            patch.setattr(FolderStore, "swap", write_and_fail)
            with pytest.raises(StoreError):
                held.check()
        held.check()
