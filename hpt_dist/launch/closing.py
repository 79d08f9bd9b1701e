"""The end of a launch, whoever sees it: its report on its MLflow run, and every status true."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from hpt_dist.errors import HptError
from hpt_dist.launch import launches, results
from hpt_dist.launch.survey import state_of
from hpt_dist.report.report import build
from hpt_dist.slurm.commands import Queued
from hpt_dist.store import Store, lease
from hpt_dist.store.committed import is_done
from hpt_dist.store.paths import LAUNCHES, trial_folder
from hpt_dist.tracking import tracker
from hpt_dist.trial.records import Launch

# How long a trial waits for another one that opens the launch's MLflow run, which may have died.
_PATIENCE_S = lease.TTL_S + 30.0

log = logging.getLogger(__name__)


def close(record: Launch, store: Store, *, done: bool) -> None:
    """Note a launch's end, with its report on its MLflow run."""
    report = build(record, results.finished(store, record))
    launches.close(record, store, done=done, headline=report.headline(), files=report.files())


def settle(
    store: Store, keys: Iterable[str], work: Path, queued: Mapping[str, Queued] | None = None
) -> None:
    """Give the runs of trials whose processes died their true status in MLflow.

    Args:
        store: where the trials are.
        keys: of the trials.
        work: the local work folder.
        queued: jobs in Slurm's queue, by key; None where it was not asked.
    """
    for key in keys:
        folder = trial_folder(work, key)
        if not tracker.is_unfinished(folder):
            continue
        state = state_of(store, key, queued)
        if state.name != "running":
            try:
                status: tracker.FinalStatus = "FINISHED" if state.name == "cached" else "FAILED"
                tracker.sync(folder, if_unfinished=status)
            except HptError as error:
                log.warning("MLflow is out of reach; later: hpt-dist sync: %s", error)


def parent_run(store: Store, launch_id: str, artifact_location: str) -> str:
    """Return the MLflow run of a launch, opened by the first trial that asks.

    Args:
        store: where its record is.
        launch_id: of the launch.
        artifact_location: of a new MLflow experiment; empty for MLflow's default.

    Returns:
        Its id; empty without MLflow, or where it is out of reach: `sync` then brings it later.
    """
    path, opening = f"{LAUNCHES}/{launch_id}.parent", f"{LAUNCHES}/{launch_id}.opening"
    record, watch = launches.read(store, launch_id), lease.Watch()
    patience = time.monotonic() + _PATIENCE_S
    while record.tracking_uri and time.monotonic() < patience:
        if store.stat(path):
            return store.get(path).decode()
        _, silent = watch.look(store, opening)
        try:
            with lease.hold(store, opening, silent=silent):
                if store.stat(path) is None:
                    store.put(path, launches.open_parent(record, artifact_location).encode())
        except lease.LeaseTakenError:
            time.sleep(0.5)
        except HptError as error:
            log.warning("MLflow is out of reach; `hpt-dist sync` brings the rest: %s", error)
            return ""
    return ""


def close_if_last(store: Store, launch_id: str) -> None:
    """Close a launch whose trials are all done; called by each trial at its end."""
    record = launches.read(store, launch_id)
    # The last one first: of a thousand trials, each looks at few.
    keys = reversed(list(record.trials.values()))
    if all(is_done(store, key) for key in keys):
        close(_with_parent(store, record), store, done=True)


def close_if_over(
    store: Store, record: Launch, queued: Mapping[str, Queued] | None, running: bool
) -> None:
    """Close a launch on a cluster of which nothing is left to come.

    Args:
        store: where its record is.
        record: of the launch.
        queued: jobs in Slurm's queue, by key; None where it cannot be asked.
        running: whether one of its trials runs.
    """
    if record.where != "slurm" or queued is None or running or launches.has_ended(store, record):
        return
    if any(key in queued for key in record.trials.values()):
        return
    settle(store, record.trials.values(), Path(record.work), queued)
    done = all(is_done(store, key) for key in record.trials.values())
    close(_with_parent(store, record), store, done=done)


def _with_parent(store: Store, record: Launch) -> Launch:
    """Return a record with the MLflow run that a trial has opened for it."""
    path = f"{LAUNCHES}/{record.id}.parent"
    if record.parent_run or store.stat(path) is None:
        return record
    return replace(record, parent_run=store.get(path).decode())
