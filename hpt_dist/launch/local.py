"""Run the pending trials of a launch on this machine, as many at once as there are cores."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from hpt_dist.launch.launches import Settings, is_cancelled, job_of
from hpt_dist.launch.process import Outcome, follow, run, work
from hpt_dist.launch.survey import Planned
from hpt_dist.processes import children, environment, output
from hpt_dist.processes.children import Child
from hpt_dist.recipe.plan import Trial
from hpt_dist.store import files, lease
from hpt_dist.store.committed import is_done
from hpt_dist.store.paths import LEASE, stage_prefix
from hpt_dist.train.interrupt import handled
from hpt_dist.trial import ranks
from hpt_dist.trial.records import Launch
from hpt_dist.trial.run import TrialOrder

POLL_S = 0.2
# How often the store is asked about what no process of ours reports: a cancel; trials of others.
_LOOK_S = 2.0
_GRACE_S = 60.0  # in which ranks notice by themselves that another one has died
_TWICE_S = 0.5  # within which two programs pass the same Ctrl-C on
_LEAVE_S = 10.0  # in which a rank ends after rank 0
_KILLED = "its process was killed; launch again to go on from the last saved state"


class Watcher(Protocol):
    """What the person at the terminal gets to see."""

    def started(self, trial: Trial) -> None:
        """A trial has a process now."""

    def moved(self, trial: Trial, facts: Mapping[str, Any]) -> None:
        """A running trial reported its progress."""

    def noted(self, trial: Trial, lines: Sequence[str]) -> None:
        """A running trial reported what it understood."""

    def ended(self, trial: Trial, error: str) -> None:
        """A trial ended; `error` is empty when it is done."""

    def stopping(self) -> None:
        """Somebody asked to stop: running trials save and end, and no other one starts."""

    def stopped(self, trial: Trial, why: str) -> None:
        """A trial was asked to stop, and ended."""


@dataclass(frozen=True)
class NotDone:
    """Why a trial is not done.

    Args:
        why: in words.
        stopped: it did not fail: somebody asked to stop, while it ran or before.
    """

    why: str
    stopped: bool = False


@dataclass
class _Running:
    """A trial with processes of ours.

    Args:
        trial: the trial.
        processes: of its ranks, rank 0 first; none where it ran inline.
        threads: CPU cores it was given.
        gpus: the GPUs it was given, if there are any.
        outcome: what rank 0 answered; None until then.
        lost_s: since when a rank is missing, by the monotonic clock.
    """

    trial: Trial
    processes: list[Child]
    threads: int
    gpus: list[str]
    outcome: Outcome | None = None
    lost_s: float | None = None


@dataclass
class _Work:
    """What is left to do, what runs, and what is free.

    Args:
        prepared: the whole plan.
        settings: how this machine is used.
        launch: the record.
        watcher: receives the progress.
        pending: neither done nor running here.
        free_cores: not given to a trial.
        free_gpus: GPUs not given to a trial.
        running: by key.
        errors: why trials are not done, by their names.
        failed: keys of trials that ended without a result.
        done: keys of trials that are known to be done.
        stopping: somebody asked to stop: nothing more is started.
        asked_s: when that was, by the monotonic clock; 0 until running trials were asked.
        at_once: somebody does not want to wait for trials that save.
        look_s: when the store is to be asked next, by the monotonic clock.
        leases: those of trials that wait, watched.
    """

    prepared: Planned
    settings: Settings
    launch: Launch
    watcher: Watcher
    pending: list[Trial]
    free_cores: int
    free_gpus: list[str]
    running: dict[str, _Running] = field(default_factory=dict)
    errors: dict[str, NotDone] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)
    done: set[str] = field(default_factory=set)
    stopping: bool = False
    asked_s: float = 0.0
    at_once: bool = False
    look_s: float = 0.0
    leases: lease.LeaseWatch = field(default_factory=lease.LeaseWatch)

    def is_done(self, key: str) -> bool:
        if key not in self.done and is_done(self.prepared.store, key):
            self.done.add(key)
        return key in self.done

    def fail(self, trial: Trial, error: str) -> None:
        self.errors[trial.name] = NotDone(error)
        self.failed.add(trial.key)
        self.watcher.ended(trial, error)

    def stop(self, trial: Trial, why: str) -> None:
        self.errors[trial.name] = NotDone(why, stopped=True)
        self.watcher.stopped(trial, why)


def work_through(
    prepared: Planned,
    trials: Sequence[Trial],
    settings: Settings,
    launch: Launch,
    watcher: Watcher,
) -> tuple[dict[str, NotDone], bool]:
    """Run every trial that is not done, parents first, as many at once as there are cores.

    A trial that another process holds is waited for. What starts from a failed trial is not run.

    Args:
        prepared: the whole plan.
        trials: what to run of it, with its ancestors.
        settings: how this machine is used.
        launch: the record.
        watcher: receives the progress.

    Returns:
        Why trials are not done, by their names; and whether somebody stopped it.

    Raises:
        KeyboardInterrupt: at a second Ctrl-C, when no process of a trial is left.
    """
    gpus = list(settings.gpus)
    left = _Work(prepared, settings, launch, watcher, [], settings.cores, gpus)
    left.pending = [trial for trial in trials if not left.is_done(trial.key)]
    ready = children.warm_up(_variables(1)) if left.pending and settings.is_warm else None
    with _gentle_stop(left):
        # Starting a trial would wait as long, deaf to whoever asks to stop.
        while ready and not (left.stopping or ready.wait(POLL_S)):
            pass
        while left.running or (left.pending and not left.stopping):
            if time.monotonic() >= left.look_s:
                left.look_s = time.monotonic() + _LOOK_S
                left.stopping = left.stopping or is_cancelled(prepared.store, launch.id)
                _start_what_can(left)
            if left.stopping:  # said before those that have ended by the same Ctrl-C are
                _ask_to_stop(left)
            _collect(left)
            if left.running or left.pending:
                time.sleep(POLL_S)
    if left.at_once:
        raise KeyboardInterrupt
    for trial in left.pending:
        left.errors[trial.name] = NotDone("not started", stopped=True)
    return left.errors, left.stopping


def threads_of(trial: Trial, trials: Sequence[Trial], cores: int) -> int:
    """Return the CPU threads for a trial.

    A function of the whole plan alone, so that a relaunch that has fewer trials left still gives
    each its own number: sums of floats depend on it.
    """
    beside = sum(other.stage == trial.stage for other in trials)
    return max(1, cores // beside)


def ranks_of(trial: Trial, settings: Settings) -> int:
    """Return how many processes share a trial: those asked for where it trains, else one."""
    return settings.ranks if trial.spec.TRAINS else 1


def _start_what_can(left: _Work) -> None:
    for trial in list(left.pending):
        if left.failed.intersection(trial.needs):
            left.pending.remove(trial)
            what = "starts from" if trial.init in left.failed else "reads"
            left.fail(trial, f"not run: the trial it {what} failed")
        elif left.is_done(trial.key):
            # Another launch, whose process we waited for, has finished it.
            left.pending.remove(trial)
            left.watcher.ended(trial, "")
        elif not left.stopping and all(left.is_done(key) for key in trial.needs):
            _start(left, trial)


def _start(left: _Work, trial: Trial) -> None:
    """Give a trial a process if there is room for it and nobody else is at it."""
    threads = threads_of(trial, left.prepared.trials, left.settings.cores)
    count, store = ranks_of(trial, left.settings), left.prepared.store
    if threads > left.free_cores or (left.settings.gpus and count > len(left.free_gpus)):
        return
    holder, silent = left.leases.look(store.at(stage_prefix(trial.key)), LEASE)
    if holder:
        left.watcher.moved(trial, holder.facts)
        return
    gpus, left.free_gpus = left.free_gpus[:count], left.free_gpus[count:]
    left.free_cores -= threads
    left.pending.remove(trial)
    left.watcher.started(trial)
    each = max(1, threads // count)
    where = left.launch, left.settings
    job = job_of(left.prepared.recipe, trial, store, *where, threads=each, ranks=count)
    job = replace(job, silent=silent)
    running = _Running(trial, [], threads, gpus)
    left.running[trial.key] = running
    if left.settings.where == "inline":
        with environment.replaced(_variables(each)):
            running.outcome = run(
                job, lambda facts: _pass_on(left.watcher, trial, facts), left.watcher.stopping
            )
        return
    try:
        with files.in_work_folder(left.settings.work):
            running.processes = _processes(job, left.settings, gpus)
    except files.WorkFolderError as error:
        running.outcome = Outcome("failed", str(error))


def _variables(threads: int) -> dict[str, str]:
    """Return the environment of a trial."""
    kept, _ = environment.for_trials(os.environ)
    return kept | environment.threads(threads)


def _processes(order: TrialOrder, settings: Settings, gpus: list[str]) -> list[Child]:
    """Start the processes of a trial, one for each rank."""
    logs = order.folder / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    log = logs / f"{time.time_ns()}-{secrets.token_hex(2)}_log.out"
    log.touch()  # here, where a full disk is noticed and explained
    variables, port = _variables(order.threads), ranks.free_port()
    if gpus:
        variables["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    return [
        children.start(
            follow if rank else work,
            order,
            variables=variables | ranks.world(rank, order.ranks, port),
            log=log,
            warm=settings.is_warm,
            mortal=False,
        )
        for rank in range(order.ranks)
    ]


def _collect(left: _Work) -> None:
    """Look after the running trials: pass on their progress, and take up those that ended."""
    for key, running in list(left.running.items()):
        _listen(running, left.watcher)
        if running.processes and not _is_over(running):
            continue
        del left.running[key]
        left.look_s = 0.0
        left.free_cores += running.threads
        left.free_gpus += running.gpus
        outcome = Outcome("done") if left.is_done(key) else _outcome_of(running)
        if outcome.status in ("taken", "again"):
            left.pending.append(running.trial)
        elif outcome.status == "done":
            left.watcher.ended(running.trial, "")
        elif outcome.status == "interrupted":
            # Inline, or of `cancel`, the signal reached the trial, not the handler here.
            left.stopping = True
            left.stop(running.trial, outcome.error)
        elif not left.at_once:
            left.fail(running.trial, outcome.error)


def _listen(running: _Running, watcher: Watcher) -> None:
    """Take what rank 0 has sent."""
    for process in running.processes[:1]:
        facts: Mapping[str, Any] = {}
        for message in process.received():
            if isinstance(message, Outcome):
                running.outcome = message
            elif "notes" in message:
                _pass_on(watcher, running.trial, message)
            else:
                facts = message
        if facts:
            _pass_on(watcher, running.trial, facts)


def _pass_on(watcher: Watcher, trial: Trial, facts: Mapping[str, Any]) -> None:
    """Give what a trial reported to who watches: notes, or how far it is."""
    if "notes" in facts:
        watcher.noted(trial, facts["notes"])
    else:
        watcher.moved(trial, facts)


def _is_over(running: _Running) -> bool:
    """Return whether no process of a trial is left; ranks that hang without another are killed."""
    alive = [process for process in running.processes if not process.has_ended]
    if not alive:
        return True
    lost = any(process.exit_code for process in running.processes if process.has_ended)
    if running.processes[0].has_ended or lost:
        running.lost_s = running.lost_s or time.monotonic()
        grace = _LEAVE_S if running.processes[0].has_ended else _GRACE_S
        if time.monotonic() - running.lost_s > grace:
            for process in alive:
                process.signal(signal.SIGKILL)
    return False


def _outcome_of(running: _Running) -> Outcome:
    """Return what a trial answered; where nobody could answer for it, how its processes ended."""
    if running.outcome is None:
        return Outcome("failed", _KILLED)
    if running.outcome.status != "lost":
        return running.outcome
    died = sum(bool(process.exit_code) for process in running.processes)
    return Outcome(
        "failed",
        f"{died} of this trial's {len(running.processes)} processes died; look into the log for "
        "why, and launch again to go on from the last saved state",
    )


def _ask_to_stop(left: _Work) -> None:
    """Signal every trial; again at each poll, for a process just born does not listen yet."""
    if left.running and not left.asked_s:
        left.asked_s = time.monotonic()
        left.watcher.stopping()
    for running in left.running.values():
        for process in running.processes if left.at_once else running.processes[:1]:
            process.signal(signal.SIGKILL if left.at_once else signal.SIGTERM)


@contextlib.contextmanager
def _gentle_stop(left: _Work) -> Iterator[None]:
    """On Ctrl-C, SIGTERM or SIGHUP, which the main thread gets, ask every trial to save and stop.

    A Ctrl-C after that ends them at once; one that comes twice is one.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _frame: Any) -> None:
        if left.at_once and number == signal.SIGINT:
            raise KeyboardInterrupt  # a killed process does not end: its disk is away
        if number == signal.SIGHUP:
            output.leave_terminal()
        patient = not left.asked_s or time.monotonic() - left.asked_s < _TWICE_S
        left.at_once = left.at_once or (number == signal.SIGINT and not patient)
        left.stopping = True

    with handled(stop, signal.SIGINT, signal.SIGTERM):
        yield
