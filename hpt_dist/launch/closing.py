"""The end of a launch, whoever sees it: its report on its MLflow run, and every status true."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from hpt_dist.errors import HptError
from hpt_dist.launch import launches, parent_run, results
from hpt_dist.launch.survey import state_of
from hpt_dist.report.report import build
from hpt_dist.slurm import jobs as slurm_jobs
from hpt_dist.slurm.commands import Queued
from hpt_dist.store import Store, lease
from hpt_dist.store.committed import is_done
from hpt_dist.store.paths import LAUNCHES, LEASE, stage_prefix, trial_folder
from hpt_dist.tracking import tracker
from hpt_dist.trial.records import Launch

log = logging.getLogger(__name__)


def finish_launch(store: Store, launch: Launch, *, done: bool) -> None:
    """Note a launch's end, and show its report on its MLflow run.

    Args:
        store: where its record is.
        launch: the launch.
        done: whether every trial is done.
    """
    status: tracker.FinalStatus = "FINISHED" if done else "FAILED"
    store.put(f"{LAUNCHES}/{launch.id}.end", status.encode())
    launch = parent_run.noted(store, launch)
    if not launch.parent_run:
        return
    resolved = (json.dumps(launch.settings, indent=2) + "\n").encode()
    files, lines = {"resolved.json": resolved}, []
    try:
        report = build(launch, results.finished(store, launch))
        files |= report.files()
        if headline := report.headline():
            lines = [tracker.Line(0, time.time(), dict(headline))]
    except HptError as error:
        # A damaged result of an old launch must not keep a new one from starting.
        log.warning("the report of %s is left out: %s", launch.id, error)
    try:
        tracker.log_parent(launch.tracking_uri, launch.parent_run, lines, files)
        tracker.set_status(launch.tracking_uri, launch.parent_run, status)
    except HptError as error:
        log.warning("MLflow is out of reach: %s", error)


def finish_if_last_trial(store: Store, launch_id: str) -> None:
    """Finish a launch whose trials are all done; called by each trial at its end."""
    launch = launches.read(store, launch_id)
    # The last one first: of a thousand trials, each looks at few.
    if all(is_done(store, key) for key in reversed(list(launch.trials.values()))):
        finish_launch(store, launch, done=True)


def finish_if_over(
    store: Store, launch: Launch, queued: Mapping[str, Queued] | None, running: bool
) -> None:
    """Finish a launch on a cluster of which nothing is left to come.

    Args:
        store: where its record is.
        launch: the launch.
        queued: jobs in Slurm's queue, by key; None where it cannot be asked.
        running: whether one of its trials runs.
    """
    if launch.where != "slurm" or queued is None or running or launches.has_ended(store, launch):
        return
    keys = launch.trials.values()
    if any(key in queued for key in keys):
        return
    set_true_statuses(store, keys, Path(launch.work), queued)
    finish_launch(store, launch, done=all(is_done(store, key) for key in keys))


def finish_orphans(store: Store, recipe: str, queued: Mapping[str, Queued] | None) -> None:
    """Finish the launches of a recipe that were killed.

    Args:
        store: where the launches are.
        recipe: its name.
        queued: jobs in Slurm's queue, by the keys of their trials; None if it cannot be asked.
    """
    ended = {info.path for info in store.list(f"{LAUNCHES}/{recipe}-")}
    for launch in launches.launches(store):
        if launch.recipe != recipe or f"{LAUNCHES}/{launch.id}.end" in ended:
            continue
        waits = queued is None or any(key in queued for key in launch.trials.values())
        if launch.where == "slurm" and waits:
            continue
        left = [key for key in launch.trials.values() if not is_done(store, key)]
        if not any(_runs(store, key, queued) for key in left):
            finish_launch(store, launch, done=not left)


def _runs(store: Store, key: str, queued: Mapping[str, Queued] | None) -> bool:
    holder = lease.read(store.at(stage_prefix(key)), LEASE)
    return holder is not None and slurm_jobs.lives(holder, key, queued)


def set_true_statuses(
    store: Store, keys: Iterable[str], work: Path, queued: Mapping[str, Queued] | None = None
) -> None:
    """Give the MLflow runs of trials their true status and what else MLflow lacks.

    Their processes died, or gave up waiting for a slow server.

    Args:
        store: where the trials are.
        keys: of the trials.
        work: the local work folder.
        queued: jobs in Slurm's queue, by key; None where it was not asked.
    """
    for key in keys:
        folder = trial_folder(work, key)
        if not tracker.is_behind(folder):
            continue
        state = state_of(store, key, queued)
        if state.name != "running":
            try:
                status: tracker.FinalStatus = "FINISHED" if state.name == "cached" else "FAILED"
                tracker.sync(folder, if_unfinished=status)
            except HptError as error:
                log.warning("MLflow is out of reach; later: hpt-dist sync: %s", error)
                return
