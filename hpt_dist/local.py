"""Run the pending trials of a launch on this machine, as many at once as there are cores."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from hpt_dist import lease
from hpt_dist.launch import Launch, Settings, is_cancelled, job_of
from hpt_dist.layout import DONE, LEASE, stage_prefix
from hpt_dist.plan import Trial
from hpt_dist.recipe import Trained
from hpt_dist.recipe_file import Recipe
from hpt_dist.stage import Job
from hpt_dist.store import Store
from hpt_dist.survey import Prepared
from hpt_dist.worker import Outcome, work

POLL_S = 0.5
# submitit ends a local job after its time limit; a trial here has none.
_NO_LIMIT_MIN = 60 * 24 * 365
_KILLED = "its process was killed; launch again to go on from the last saved state"


class Watcher(Protocol):
    """What the person at the terminal gets to see."""

    def started(self, trial: Trial) -> None:
        """A trial has a process now."""

    def moved(self, trial: Trial, facts: Mapping[str, Any]) -> None:
        """A running trial said how far it is."""

    def ended(self, trial: Trial, error: str) -> None:
        """A trial ended; `error` is empty when it is done."""


@dataclass(frozen=True)
class _Running:
    """A trial with a process of ours.

    Args:
        trial: the trial.
        process: submitit's job, or `_Inline`.
        threads: CPU cores it was given.
        gpus: indices of the GPUs it was given, if there are any.
    """

    trial: Trial
    process: Any
    threads: int
    gpus: list[str]


@dataclass
class _Work:
    """What is left to do, what runs, and what is free.

    Args:
        recipe: the recipe that is launched.
        trials: all trials of the plan, done or not, chosen or not.
        store: where results go.
        settings: how this machine is used.
        launch: the record.
        watcher: is told what happens.
        pending: neither done nor running here.
        free_cores: not given to a trial.
        free_gpus: indices of GPUs not given to a trial.
        running: by key.
        errors: by trial name.
        failed: keys of trials that ended without a result.
        stopping: somebody asked to stop: nothing more is started.
    """

    recipe: Recipe
    trials: Sequence[Trial]
    store: Store
    settings: Settings
    launch: Launch
    watcher: Watcher
    pending: list[Trial]
    free_cores: int
    free_gpus: list[str]
    running: dict[str, _Running] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)
    stopping: bool = False

    def is_done(self, key: str) -> bool:
        return self.store.at(stage_prefix(key)).stat(DONE) is not None

    def fail(self, trial: Trial, error: str) -> None:
        self.errors[trial.name] = error
        self.failed.add(trial.key)
        self.watcher.ended(trial, error)


def work_through(
    prepared: Prepared,
    trials: Sequence[Trial],
    settings: Settings,
    launch: Launch,
    watcher: Watcher,
) -> dict[str, str]:
    """Run every trial that is not done, parents first, as many at once as there are cores.

    A trial that another process holds is waited for. What starts from a failed trial is not run.

    Args:
        prepared: the whole plan.
        trials: what to run of it, with its ancestors.
        settings: how this machine is used.
        launch: the record.
        watcher: is told what happens.

    Returns:
        The errors by trial name; empty when all is done.
    """
    gpus = list(settings.gpus)
    recipe, store, every = prepared.recipe, prepared.store, prepared.trials
    left = _Work(recipe, every, store, settings, launch, watcher, [], settings.cores, gpus)
    left.pending = [trial for trial in trials if not left.is_done(trial.key)]
    with _gentle_stop(left):
        while left.running or (left.pending and not left.stopping):
            left.stopping = left.stopping or is_cancelled(store, launch.id)
            _start_what_can(left)
            _collect(left)
            if left.stopping:
                _ask_to_stop(left)
            if left.running or left.pending:
                time.sleep(POLL_S)
    for trial in left.pending:
        left.errors[trial.name] = "not started"
    return left.errors


def threads_of(trial: Trial, trials: Sequence[Trial], cores: int) -> int:
    """Return the CPU threads for a trial.

    A function of the whole plan alone, so that a relaunch that has fewer trials left still gives
    each its own number: sums of floats depend on it.
    """
    beside = sum(other.stage == trial.stage for other in trials)
    return max(1, cores // beside)


def ranks_of(trial: Trial, settings: Settings) -> int:
    """Return how many processes share a trial: those asked for where it trains, else one."""
    return settings.ranks if isinstance(trial.spec, Trained) else 1


def _start_what_can(left: _Work) -> None:
    for trial in list(left.pending):
        if trial.init in left.failed:
            left.pending.remove(trial)
            left.fail(trial, "not run: the trial it starts from failed")
        elif left.is_done(trial.key):
            # Another launch, whose process we waited for, has finished it.
            left.pending.remove(trial)
            left.watcher.ended(trial, "")
        elif not left.stopping and (not trial.init or left.is_done(trial.init)):
            _start(left, trial)


def _start(left: _Work, trial: Trial) -> None:
    """Give a trial a process if there is room for it and nobody else is at it."""
    threads = threads_of(trial, left.trials, left.settings.cores)
    ranks = ranks_of(trial, left.settings)
    if threads > left.free_cores or (left.settings.gpus and ranks > len(left.free_gpus)):
        return
    holder = lease.read(left.store.at(stage_prefix(trial.key)), LEASE)
    if holder and holder.alive:
        left.watcher.moved(trial, holder.facts)
        return
    gpus, left.free_gpus = left.free_gpus[:ranks], left.free_gpus[ranks:]
    left.free_cores -= threads
    left.pending.remove(trial)
    left.watcher.started(trial)
    each = max(1, threads // ranks)
    job = job_of(
        left.recipe, trial, left.store, left.launch, left.settings, threads=each, ranks=ranks
    )
    process = _submit(job, left.settings, gpus)
    left.running[trial.key] = _Running(trial, process, threads, gpus)


def _collect(left: _Work) -> None:
    """Look after the running trials: pass on their progress, and take up those that ended."""
    for key, running in list(left.running.items()):
        if not running.process.done():
            holder = lease.read(left.store.at(stage_prefix(key)), LEASE)
            if holder:
                left.watcher.moved(running.trial, holder.facts)
            continue
        del left.running[key]
        left.free_cores += running.threads
        left.free_gpus += running.gpus
        outcome = Outcome("done") if left.is_done(key) else _outcome_of(running.process)
        if outcome.status == "taken":
            left.pending.append(running.trial)
        elif outcome.status == "done":
            left.watcher.ended(running.trial, "")
        else:
            left.fail(running.trial, outcome.error)
        # Inline, the signal reached the trial, not the handler here.
        left.stopping = left.stopping or outcome.status == "interrupted"


def _outcome_of(process: Any) -> Outcome:
    """Return what a process said before it ended without a result."""
    error = process.exception()
    if error is None:
        outcome: Outcome = process.result()
        return outcome if outcome.error else Outcome("failed", _KILLED)
    text = str(error)
    killed = "has not produced any output" in text
    return Outcome("failed", _KILLED if killed else f"a bug in hpt-dist:\n{text}")


def _submit(job: Job, settings: Settings, gpus: list[str]) -> Any:
    """Give a job to submitit, which starts its process; returns submitit's job."""
    if settings.where == "inline":
        return _Inline(work(job))
    import submitit

    executor = submitit.AutoExecutor(job.folder / "logs", cluster="local")
    executor.update_parameters(timeout_min=_NO_LIMIT_MIN, stderr_to_stdout=True)
    if gpus:
        executor.update_parameters(gpus_per_node=1, local_visible_gpus=gpus)
    # A Ctrl-C reaches the whole process group. submitit's controller would answer it by killing
    # the trial after a second; born with the signal ignored, it lets the trial save instead.
    with _ignored(signal.SIGINT):
        return executor.submit(work, job)


@dataclass(frozen=True)
class _Inline:
    """A trial that ran in this very process, in the shape of a submitit job."""

    outcome: Outcome

    def done(self) -> bool:
        return True

    def exception(self) -> None:
        return None

    def result(self) -> Outcome:
        return self.outcome


@contextlib.contextmanager
def _ignored(number: signal.Signals) -> Iterator[None]:
    before = signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(number, before)


def _ask_to_stop(left: _Work) -> None:
    """Signal every trial; again at each poll, for a process just born does not listen yet."""
    for running in left.running.values():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(running.process.job_id), signal.SIGTERM)


@contextlib.contextmanager
def _gentle_stop(left: _Work) -> Iterator[None]:
    """On Ctrl-C or SIGTERM ask every trial to save and stop."""

    def stop(_number: int, _frame: Any) -> None:
        left.stopping = True

    signals = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, stop) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
