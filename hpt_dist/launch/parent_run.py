"""The MLflow run of a launch, which the runs of its trials are below."""

from __future__ import annotations

import logging
import re
import time
from dataclasses import replace

from hpt_dist.errors import HptError
from hpt_dist.store import Store, lease
from hpt_dist.store.paths import LAUNCHES
from hpt_dist.tracking import tracker
from hpt_dist.trial.records import Launch

# How long a trial waits for another one that opens the run, which may have died.
_PATIENCE_S = lease.TTL_S + 30.0

# Servers choose the ids of their runs; MLflow's own are 32 hexadecimal digits.
_RUN_ID = re.compile(rb"[A-Za-z0-9][A-Za-z0-9_-]*")
_LONGEST_RUN_ID = 256

log = logging.getLogger(__name__)


def opened(launch: Launch, artifact_location: str = "") -> str:
    """Return the MLflow run of a launch, made if it is not there.

    Raises:
        HptError: MLflow failed or is out of reach.
    """
    identity = tracker.RunIdentity(
        experiment=launch.experiment or launch.recipe,  # records of older versions have none
        name=launch.id,
        key=launch.id,
        tags={"hpt.recipe": launch.file},
        artifact_location=artifact_location or None,
    )
    tracker.initialise(launch.tracking_uri)
    return tracker.open_parent(launch.tracking_uri, identity)


def opened_once(store: Store, launch: Launch, artifact_location: str) -> str:
    """Return the MLflow run of a launch, opened by the first trial that asks.

    Args:
        store: where its record is.
        launch: its record.
        artifact_location: of a new MLflow experiment; empty for MLflow's default.

    Returns:
        Its id; empty without MLflow, or where it is out of reach: `sync` then brings it later.
    """
    path, opening = f"{LAUNCHES}/{launch.id}.parent", f"{LAUNCHES}/{launch.id}.opening"
    watch = lease.LeaseWatch()
    patience = time.monotonic() + _PATIENCE_S
    while launch.tracking_uri and time.monotonic() < patience:
        if run := _noted(store, path):
            return run
        _, silent = watch.look(store, opening)
        try:
            with lease.hold(store, opening, silent=silent):
                if not _noted(store, path):
                    store.put(path, opened(launch, artifact_location).encode())
        except lease.LeaseTakenError:
            time.sleep(0.5)
        except HptError as error:
            log.warning("the launch goes on without MLflow: %s", error)
            return ""
    return ""


def noted(store: Store, launch: Launch) -> Launch:
    """Return a record with the MLflow run that a trial has opened for it."""
    if launch.parent_run:
        return launch
    return replace(launch, parent_run=_noted(store, f"{LAUNCHES}/{launch.id}.parent"))


def _noted(store: Store, path: str) -> str:
    """Return the MLflow run that a trial has noted; empty if there is none, or it is damaged."""
    info = store.stat(path)
    if info is None:
        return ""
    run = store.get(path) if info.bytes <= _LONGEST_RUN_ID else b""
    if _RUN_ID.fullmatch(run):
        return run.decode()
    log.warning("%s/%s is left out: it names no MLflow run", store.uri, path)
    return ""
