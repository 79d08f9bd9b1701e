"""The end of a launch, whoever sees it: its report on its MLflow run, and every status true."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from hpt_dist.errors import HptError
from hpt_dist.errors.secrets import public_address
from hpt_dist.launch import by_class, description, exhibited, launches, parent_run, results
from hpt_dist.launch.survey import state_of
from hpt_dist.slurm import jobs as slurm_jobs
from hpt_dist.slurm.commands import Queued
from hpt_dist.store import Store, lease
from hpt_dist.store.committed import is_done
from hpt_dist.store.paths import LAUNCHES, LEASE, filled_trial_folder, stage_prefix
from hpt_dist.tracking import tracker
from hpt_dist.trial.records import Launch

log = logging.getLogger(__name__)


def finish_launch(store: Store, launch: Launch, *, done: bool, stopped: bool = False) -> None:
    """Note a launch's end, and show its report on its MLflow run.

    Args:
        store: where its record is.
        launch: the launch.
        done: whether every trial is done.
        stopped: whether somebody has interrupted it; a `cancel` is known from the store.
    """
    status = _status(store, launch, done, stopped)
    store.put(f"{LAUNCHES}/{launch.id}.end", status.encode())
    launch = parent_run.noted(store, launch)
    if not launch.parent_run:
        return
    resolved = (json.dumps(launch.settings, indent=2) + "\n").encode()
    files, lines, text = {"resolved.json": resolved}, [], ""
    if launch.written:
        files["recipe.yaml"] = launch.written.encode()
    try:
        finished = results.finished(store, launch)
        report = by_class.build(store, launch, finished)
        if not stopped:  # somebody waits for the prompt, and pictures take long
            files |= report.files(exhibited.exhibits(store, launch, finished, report.judged))
        text = report.markdown()
        if headline := report.headline():
            # With more trials the means are other ones, and a metric's steps only go forward.
            lines = [tracker.Line(len(finished), time.time(), dict(headline))]
    except HptError as error:
        # A damaged result of an old launch must not keep a new one from starting.
        log.warning("the report of %s is left out: %s", launch.id, error)
    place, others = public_address(store.uri), _run_by_others(store, launch)
    describe = partial(description.of_launch, launch, place, status, text, others)
    try:
        tracker.log_parent(launch.tracking_uri, launch.parent_run, lines, files, describe)
        tracker.set_status(launch.tracking_uri, launch.parent_run, status)
    except HptError as error:
        log.warning("the launch's run in MLflow is not up to date: %s", error)


def _status(store: Store, launch: Launch, done: bool, stopped: bool) -> tracker.FinalStatus:
    """Return how a launch ended: one that somebody stopped has not failed."""
    before = launches.ended_as(store, launch)
    if before == "KILLED":
        return "KILLED"
    if done:
        return "FINISHED"
    return "KILLED" if stopped or launches.is_cancelled(store, launch.id) else "FAILED"


def _run_by_others(store: Store, launch: Launch) -> dict[str, str]:
    """Return where MLflow shows the trials of a launch that ran in other launches, by name."""
    found = {}
    for name, key in launch.trials.items():
        place = tracker.place_of(filled_trial_folder(Path(launch.work), store.uri, key))
        if place.launch not in ("", launch.id) and place.experiment_id:
            found[name] = tracker.page_of(place.experiment_id, place.run_id)
    return found


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
    set_true_statuses(store, launch, queued)
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
    store: Store, launch: Launch, queued: Mapping[str, Queued] | None = None
) -> None:
    """Give the MLflow runs of trials their true status and what else MLflow lacks.

    Their processes died, or gave up waiting for a slow server.

    Args:
        store: where the trials are.
        launch: whose trials are sent.
        queued: jobs in Slurm's queue, by key; None where it was not asked.
    """
    launch = parent_run.noted(store, launch)
    for key in launch.trials.values():
        folder = filled_trial_folder(Path(launch.work), store.uri, key)
        if not tracker.is_behind(folder):
            continue
        state = state_of(store, key, queued)
        if state.name != "running":
            try:
                tracker.sync(
                    folder,
                    parent_run_id=launch.parent_run,
                    experiment=launches.experiment(launch),
                    if_unfinished=status_of_trial(store, launch, done=state.name == "cached"),
                )
            except HptError as error:
                log.warning("MLflow lacks a part: %s", error)
                return


def status_of_trial(store: Store, launch: Launch, *, done: bool) -> tracker.FinalStatus:
    """Return the status of a trial whose process has recorded none: it died, or was lost."""
    if done:
        return "FINISHED"
    stopped = launches.is_cancelled(store, launch.id)
    return "KILLED" if stopped or launches.ended_as(store, launch) == "KILLED" else "FAILED"
