"""Who waits for a trial that another process holds, and what is printed of its holder."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest
from clock import ELSEWHERE, Clock

from hpt_dist.errors import HptError
from hpt_dist.launch import (
    closing,
    launches,
    local,
    on_slurm,
    parent_run,
    slurm_process,
    survey,
)
from hpt_dist.launch.launches import Settings
from hpt_dist.recipe import Knn
from hpt_dist.recipe.trial import Trial
from hpt_dist.slurm import jobs as slurm_jobs
from hpt_dist.slurm.commands import Queued
from hpt_dist.store import FolderStore, Store, lease
from hpt_dist.store.lease import TTL_S, LeaseTakenError, LeaseWatch
from hpt_dist.store.paths import DONE, LAUNCHES, LEASE, stage_prefix
from hpt_dist.train.interrupt import Interrupt
from hpt_dist.trial import run as stage
from hpt_dist.trial.context import TrialOrder
from hpt_dist.trial.records import Launch

KEY = "5" * 64
CREATED = "2026-01-01T12:00:00+00:00"
TRIAL = Trial(
    "probe", "probe", {}, frozenset(), Knn(kind="knn", init="base", data="line"),
    "", {}, "resnet50", {}, KEY,
)  # fmt: skip
JOB = {"job": "12_3", "facts": {"step": 3, "steps": 24}}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return FolderStore(tmp_path)


def leave_behind(store: Store, path: str, **changes: object) -> None:
    """Leave a lease as a holder that could not release it would."""
    with lease.hold(store, "another"):
        content = json.loads(store.get("another"))
    store.put(path, json.dumps(content | changes).encode())


def leave_trial(store: Store, **changes: object) -> None:
    leave_behind(store, f"{stage_prefix(KEY)}/{LEASE}", **changes)


def job_in(store: Store, **more: object) -> TrialOrder:
    return TrialOrder(
        recipe="small", trial=TRIAL, store=store.uri, work=Path(store.uri), tracking_uri="",
        parent_run="", artifact_location="", image_size=32, normalize="imagenet", threads=1, **more,
    )  # fmt: skip


def record(store: Store, where: str) -> Launch:
    made = Launch("small-1", "small", "small.yaml", CREATED, {"probe": KEY}, {}, store.uri, "")
    made = Launch(**asdict(made) | {"where": where})
    store.put(f"{LAUNCHES}/small-1.json", json.dumps(asdict(made)).encode())
    return made


def queued(state: str, job: str = "12_3") -> dict[str, Queued]:
    return {KEY: Queued(job, "small-1.0", state, "None")}


# What a single look says.


def test_a_holder_elsewhere_is_reported_with_where_it_runs_and_that_it_was_not_seen(store):
    leave_trial(store, **ELSEWHERE, facts={"step": 3, "steps": 24}, pid=77)
    state = survey.state_of(store, KEY)
    assert (state.name, state.step) == ("running", 3)
    assert state.why == (
        "on elsewhere, process 77, step 3 of 24; if it died there, launch takes over"
    )


def test_a_holder_here_is_seen(store):
    leave_trial(store, facts={"step": 3, "steps": 24})
    assert survey.state_of(store, KEY).why.endswith(f"process {os.getpid()}, step 3 of 24")
    leave_trial(store, pid=2**22 + 1)
    assert survey.state_of(store, KEY).name == "runs"


@pytest.mark.parametrize(
    ("queue", "name", "why"),
    [
        (None, "running", "on elsewhere, job 12_3, step 3 of 24; if it died there, "),
        (queued("RUNNING"), "running", "on elsewhere, job 12_3, step 3 of 24"),
        (queued("SUSPENDED"), "running", "on elsewhere, job 12_3, step 3 of 24"),
        (queued("PENDING"), "queued", "job 12_3 is pending"),
        (queued("PENDING", "15"), "queued", "job 15 is pending"),
        (queued("RUNNING", "15"), "running", "job 15 is running"),
        ({}, "runs", "it began, but no state was saved"),
    ],
)
def test_of_a_job_slurm_says_whether_it_runs(store, queue, name, why):
    store.put(f"{stage_prefix(KEY)}/spec.json", b"{}")
    leave_trial(store, **ELSEWHERE, **JOB)
    state = survey.state_of(store, KEY, queue)
    assert state.name == name
    assert state.why.startswith(why)
    assert ("died" in state.why) == (queue is None)


def test_a_trial_that_never_began_has_lost_no_state(store):
    assert survey.state_of(store, KEY) == survey.State("runs", "it has not begun")


def test_slurm_says_nothing_of_a_process_that_is_no_job(store):
    leave_trial(store, **ELSEWHERE)
    assert survey.state_of(store, KEY, {}).name == "running"


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -3, 1e300, 10**400, "3", None])
def test_no_damaged_number_is_printed(store, number):
    leave_trial(store, **ELSEWHERE, facts={"step": number, "steps": number}, pid=77)
    assert survey.state_of(store, KEY).why.startswith("on elsewhere, process 77; ")
    leave_trial(store, **ELSEWHERE, facts={"step": 3, "steps": number}, pid=77)
    assert survey.state_of(store, KEY).why.startswith("on elsewhere, process 77, step 3; ")


@pytest.mark.parametrize(
    ("where", "queue", "changes", "closed"),
    [
        ("local", None, {}, False),
        ("local", None, {"pid": 2**22 + 1}, True),
        ("local", None, ELSEWHERE, False),
        ("slurm", None, ELSEWHERE | JOB, False),
        ("slurm", queued("PENDING"), ELSEWHERE | JOB, False),
        ("slurm", {}, ELSEWHERE | JOB, True),
    ],
)
def test_a_launch_is_closed_once_nothing_of_it_can_run(store, where, queue, changes, closed):
    made = record(store, where)
    leave_trial(store, **changes)
    closing.finish_orphans(store, "small", queue)
    assert launches.has_ended(store, made) is closed


def test_a_trial_that_is_done_holds_no_launch_open(store):
    """Its process was killed before it could release the lease."""
    made = record(store, "local")
    leave_trial(store, **ELSEWHERE)
    objects = {"result.json": {"bytes": 2, "sha256": hashlib.sha256(b"{}").hexdigest()}}
    done = json.dumps({"key": KEY, "objects": objects}).encode()
    store.at(stage_prefix(KEY)).put(DONE, done)
    closing.finish_orphans(store, "small", None)
    assert store.get(f"{LAUNCHES}/{made.id}.end") == b"FINISHED"


def test_only_processes_of_this_host_are_signalled(store, monkeypatch):
    made = record(store, "local")
    killed = []
    monkeypatch.setattr(os, "kill", lambda pid, _: killed.append(pid))
    leave_trial(store, **ELSEWHERE)
    assert launches.cancel(store, made) == []
    leave_trial(store, pid=2**22 + 1)
    assert launches.cancel(store, made) == []
    leave_trial(store)
    assert launches.cancel(store, made) == ["probe"]
    assert killed == [os.getpid()]


# Who waits.


@pytest.fixture
def clock(monkeypatch):
    """Let whoever waits sleep by a clock that only these naps move, and be the watch's clock."""
    made = Clock()

    def sleep(seconds: float) -> None:
        made.now += seconds

    for module in (slurm_process, lease, closing):
        monkeypatch.setattr(module.time, "sleep", sleep)
        monkeypatch.setattr(module.time, "monotonic", made)
    monkeypatch.setattr(lease, "LeaseWatch", lambda: LeaseWatch(made))
    return made


def test_a_job_waits_until_a_holder_elsewhere_is_silent(store, clock, monkeypatch):
    leave_trial(store, **ELSEWHERE)
    tries = []

    def hold(order: TrialOrder, *_: object) -> None:
        tries.append(clock.now)
        with lease.hold(store.at(stage_prefix(KEY)), LEASE, silent=order.silent) as held:
            held.check()

    monkeypatch.setattr(stage, "run", hold)
    before = clock.now
    slurm_process._run(job_in(store), Interrupt(), None)
    assert tries == [before, before + TTL_S]


def test_a_launcher_starts_no_trial_until_its_holder_elsewhere_is_silent(store, monkeypatch):
    leave_trial(store, **ELSEWHERE, facts={"step": 3})
    clock, reported, jobs = Clock(), [], []

    class Watcher:
        def started(self, trial: Trial) -> None:
            reported.append("started")

        def moved(self, trial: Trial, facts: object) -> None:
            reported.append(facts)

    monkeypatch.setattr(local, "_processes", lambda job, *_: jobs.append(job) or [])
    monkeypatch.setattr(local, "job_of", lambda *_, **__: job_in(store))
    settings = Settings("local", 1, (), Path(store.uri), "")
    prepared = SimpleNamespace(recipe=None, trials=[TRIAL], store=store)
    left = local._Work(
        prepared, settings, None, Watcher(), [TRIAL], 1, [], leases=LeaseWatch(clock)
    )
    for _ in range(int(TTL_S / 5)):
        local._start(left, TRIAL)
        clock.now += 5
    assert reported == [{"step": 3}] * int(TTL_S / 5)
    local._start(left, TRIAL)
    assert reported[-1] == "started"
    [job] = jobs
    with lease.hold(store.at(stage_prefix(KEY)), LEASE, silent=job.silent) as held:
        held.check()


def test_a_launch_submits_once_another_has_fallen_silent(store, clock):
    leave_behind(store, f"{LAUNCHES}/submitting", **ELSEWHERE)
    before = clock.now
    with (
        on_slurm.alone(store),
        pytest.raises(LeaseTakenError),
        lease.hold(store, f"{LAUNCHES}/submitting"),
    ):
        pass
    assert TTL_S <= clock.now - before <= TTL_S + 1


def test_a_launch_that_submits_for_ever_is_named(store, clock):
    with (
        lease.hold(store, f"{LAUNCHES}/submitting"),  # by a process that is seen to live
        pytest.raises(HptError, match="another launch has been submitting"),
        on_slurm.alone(store),
    ):
        pass


def test_a_trial_opens_its_launch_once_the_one_that_was_at_it_is_silent(store, clock, monkeypatch):
    made = Launch(**asdict(record(store, "slurm")) | {"tracking_uri": "http://tracker"})
    store.put(f"{LAUNCHES}/small-1.json", json.dumps(asdict(made)).encode())
    monkeypatch.setattr(parent_run, "opened", lambda *_: "run-7")
    leave_behind(store, f"{LAUNCHES}/small-1.opening", **ELSEWHERE)
    assert parent_run.opened_once(store, made, "") == "run-7"


def test_a_queue_that_cannot_be_asked_is_not_an_empty_one(store):
    leave_trial(store, **ELSEWHERE, **JOB)
    holder = lease.read(store.at(stage_prefix(KEY)), LEASE)
    assert slurm_jobs.lives(holder, KEY, None)
    assert not slurm_jobs.lives(holder, KEY, {})
