"""The launches of a store: where each stands, and whose trial a name stands for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hpt_dist.errors import RequestError
from hpt_dist.launch import launches, results, survey
from hpt_dist.launch.survey import State, StateName, looked_up
from hpt_dist.recipe.differences import difference
from hpt_dist.slurm import jobs as slurm_jobs
from hpt_dist.slurm.commands import Queued
from hpt_dist.store import Store, committed
from hpt_dist.store.committed import is_done
from hpt_dist.store.paths import LAUNCHES
from hpt_dist.trial.records import Launch

RunState = Literal["done", "running", "queued", "failed", "cancelled", "stopped", "unknown"]
_SHOWN = 3


@dataclass(frozen=True)
class Run:
    """A launch, and where it stands.

    Args:
        launch: its record.
        state: done (all trials are), running, queued, failed (a trial did, or its processes are
            gone), cancelled, stopped (somebody interrupted it), or unknown (its jobs may wait in a
            Slurm that cannot be asked from here).
        trials: the number of its trials in each state.
    """

    launch: Launch
    state: RunState
    trials: Mapping[StateName, int]

    @property
    def done(self) -> str:
        """How many of its trials are done, in words."""
        return f"{self.trials.get('cached', 0)} of {len(self.launch.trials)}"

    def as_json(self) -> dict[str, Any]:
        """Return it for `--json`."""
        launch = self.launch
        return {
            "launch": launch.id,
            "recipe": launch.recipe,
            "file": launch.file,
            "created": launch.created,
            "where": launch.where,
            "work": launch.work,
            "state": self.state,
            "trials": len(launch.trials),
            "states": dict(self.trials),
        }


def of(store: Store, known: Sequence[Launch]) -> list[Run]:
    """Return where launches stand, in the same order.

    Args:
        store: where they ran.
        known: their records.
    """
    on_slurm = any(launch.where == "slurm" for launch in known)
    queued = slurm_jobs.known_queue(store) if on_slurm else None
    keys = list(dict.fromkeys(key for launch in known for key in launch.trials.values()))
    found = looked_up(lambda key: survey.state_of(store, key, queued), keys)
    states = dict(zip(keys, found, strict=True))
    notes = {info.path for info in store.list(f"{LAUNCHES}/")}
    return [_run(store, launch, states, notes, queued) for launch in known]


def _run(
    store: Store,
    launch: Launch,
    states: Mapping[str, State],
    notes: set[str],
    queued: Mapping[str, Queued] | None,
) -> Run:
    counts = Counter(states[key].name for key in launch.trials.values())
    has_ended = f"{LAUNCHES}/{launch.id}.end" in notes
    all_done = set(counts) <= {"cached"}
    is_stopped = has_ended and not all_done and launches.ended_as(store, launch) == "KILLED"
    is_cancelled = f"{LAUNCHES}/{launch.id}.cancel" in notes
    asked = launch.where != "slurm" or queued is not None
    state: RunState
    if all_done:
        state = "done"
    # What runs after its end was started by another launch of the same trials.
    elif not has_ended and (counts["running"] or counts["queued"]):
        state = "running" if counts["running"] else "queued"
    elif is_cancelled or is_stopped:
        state = "cancelled" if is_cancelled else "stopped"
    else:
        state = "failed" if counts["failed"] or has_ended or asked else "unknown"
    return Run(launch, state, counts)


@dataclass(frozen=True)
class Named:
    """The trials that a name stands for.

    Args:
        launch: whose they are.
        names: of the trials.
        note: why they are not those of the last launch; empty if they are.
    """

    launch: Launch
    names: list[str]
    note: str = ""


def finished_trials(store: Store, run: str, stage: str) -> Named:
    """Return the finished trials that a launch's and a stage's, or trial's, name stand for.

    A recipe's name is its last launch. If that has no such stage, such as one of other stages only,
    an earlier launch is taken where all of them finished the same trials.

    Args:
        store: where they ran.
        run: a launch's id, or a recipe's name or file; empty is the last launch.
        stage: a stage's or a trial's name.

    Raises:
        RequestError: there are none, some are not done, or several launches finished other ones.
        StoreError: the `DONE` of one is damaged.
    """
    last = launches.find(store, run)
    if results.has(last, stage) and not _not_done(store, last, stage):
        return Named(last, results.trials_of(last, stage))
    earlier = [] if run == last.id else launches.earlier_than(store, last)
    have = [one for one in (last, *earlier) if results.has(one, stage)]
    if not have:
        results.trials_of(last, stage)  # says what there is
    newest = have[0]
    left = _not_done(store, newest, stage)
    finished = _distinct([one for one in have if _has_finished(store, one, stage)], stage)
    if not left and len(finished) == 1:
        note = f"{last.id} has no {stage}: this is that of {finished[0].id}"
        return Named(finished[0], results.trials_of(finished[0], stage), note)
    raise _undecided(newest, stage, left, finished)


def _not_done(store: Store, launch: Launch, stage: str) -> list[str]:
    """Return the trials that a name stands for which are not done."""
    keys = {name: launch.trials[name] for name in results.trials_of(launch, stage)}
    return [name for name, key in keys.items() if committed.done(store, key) is None]


def _has_finished(store: Store, launch: Launch, stage: str) -> bool:
    keys = [launch.trials[name] for name in results.trials_of(launch, stage)]
    return all(is_done(store, key) for key in keys)


def _distinct(known: Sequence[Launch], stage: str) -> list[Launch]:
    """Return the newest launch of each different set of trials of a stage."""
    found: dict[tuple[str, ...], Launch] = {}
    for launch in known:
        keys = tuple(launch.trials[name] for name in results.trials_of(launch, stage))
        found.setdefault(keys, launch)
    return list(found.values())


def _undecided(
    newest: Launch, stage: str, left: Sequence[str], finished: Sequence[Launch]
) -> RequestError:
    if not finished:
        total = len(results.trials_of(newest, stage))
        count = f"{len(left)} of {total} trials of {stage} are" if total > 1 else f"{stage} is"
        more = f": {', '.join(left[:_SHOWN])}" if total > 1 else ""
        return RequestError(
            f"{count} not done{more}", where=newest.id, fix=f"hpt-dist status {newest.id}"
        )
    what = (
        f"{stage} is not done in the last launch, and finished in others with other settings"
        if left
        else f"launches finished {stage} with different settings"
    )
    lines = [f"\n  {one.id}: {_changed(newest, one, stage)}" for one in finished]
    return RequestError(
        what + "".join(lines),
        where=newest.id,
        fix=f"name the launch, as in {finished[0].id}/{stage}; or launch again",
    )


def _changed(newest: Launch, other: Launch, stage: str) -> str:
    """Return how the settings of a stage differ, of the first trial that both have."""
    for name in results.trials_of(other, stage):
        if name in newest.settings and name in other.settings:
            changes = difference(newest.settings[name], other.settings[name])
            return "; ".join(changes[:_SHOWN]) or "the same settings"
    return other.created
