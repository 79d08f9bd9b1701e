"""hpt-dist sync."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from hpt_dist.cli import console
from hpt_dist.cli.options import DEFAULT_STORE, RunArgument, StoreOption, TrackingOption
from hpt_dist.launch import closing, launches, parent_run
from hpt_dist.launch.launches import find
from hpt_dist.launch.survey import states_of
from hpt_dist.slurm import jobs as slurm_jobs
from hpt_dist.store import Store, committed, open_store
from hpt_dist.store.paths import filled_trial_folder
from hpt_dist.tracking import tracker
from hpt_dist.tracking.address import given
from hpt_dist.trial.records import Launch


def sync(
    run: RunArgument = "",
    store: StoreOption = DEFAULT_STORE,
    tracking_uri: TrackingOption = "",
    experiment: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="MLflow's experiment for runs that it has not taken yet; by default the launch's.",
        ),
    ] = "",
) -> None:
    """Send the metrics to MLflow that it missed, and correct the statuses of its runs.

    \b
    Examples:
      hpt-dist sync quickstart
      hpt-dist sync quickstart --experiment ada/quickstart
    """
    opened = open_store(store)
    _sync(opened, find(opened, run), tracking_uri, experiment)


def _sync(store: Store, record: Launch, tracking_uri: str, experiment: str) -> None:
    """Send to MLflow the metrics of a launch that it lacks, and correct the statuses of its runs.

    Raises:
        HptError: MLflow still cannot be reached.
    """
    record = replace(
        record,
        tracking_uri=given(tracking_uri) or record.tracking_uri,
        experiment=experiment or launches.experiment(record),
    )
    parent = parent_run.opened(record)
    states = states_of(store, record, slurm_jobs.known_queue(store))
    for name, state in states.items():
        folder = filled_trial_folder(Path(record.work), store.uri, record.trials[name])
        if not folder.exists() or state.name == "running":
            running = "still running"
            console.print_line(f"{name}: {running if folder.exists() else 'no metrics here'}")
            continue
        if state.name == "cached":
            points = committed.read(store, record.trials[name], tracker.METRICS)
            tracker.complete(folder, points)
        result = tracker.sync(
            folder,
            tracking_uri=record.tracking_uri,
            parent_run_id=parent,
            experiment=record.experiment,
            if_unfinished=closing.status_of_trial(store, record, done=state.name == "cached"),
        )
        console.print_line(f"{name}: {result.status}, {result.points} points sent")
    if not any(state.name == "running" for state in states.values()):
        done = all(state.name == "cached" for state in states.values())
        closing.finish_launch(store, replace(record, parent_run=parent), done=done)
