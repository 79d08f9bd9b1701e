"""hpt-dist sync."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from hpt_dist.cli import console
from hpt_dist.cli.lacking import lacking_here
from hpt_dist.cli.options import JsonOption, RecipeStoreOption, RunArgument, TrackingOption
from hpt_dist.cli.requested import launch_of
from hpt_dist.launch import closing, launches, parent_run
from hpt_dist.launch.survey import states_of
from hpt_dist.slurm import jobs as slurm_jobs
from hpt_dist.store import Store, committed
from hpt_dist.store.paths import filled_trial_folder
from hpt_dist.tracking import tracker
from hpt_dist.tracking.address import given
from hpt_dist.trial.records import Launch

_RUNNING, _NOT_HERE = "still running", "no metrics here"


def sync(
    run: RunArgument = "",
    store: RecipeStoreOption = "",
    tracking_uri: TrackingOption = "",
    experiment: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="MLflow's experiment for runs that it has not taken yet; by default the launch's.",
        ),
    ] = "",
    json_: JsonOption = False,
) -> None:
    """Send MLflow the metrics that it missed, and correct its runs' statuses.

    \b
    Examples:
      hpt-dist sync quickstart
      hpt-dist sync quickstart --experiment ada/quickstart
    """
    opened, record = launch_of(run, store)
    trials: dict[str, dict[str, str | int]] = {}
    for name, status, points in _sync(opened, record, tracking_uri, experiment):
        trials[name] = {"status": status, "points": points}
        if not json_:
            sent = f", {points} points sent" if status not in (_NOT_HERE, _RUNNING) else ""
            console.print_line(f"{name}: {status}{sent}")
    if elsewhere := sum(one["status"] == _NOT_HERE for one in trials.values()):
        console.print_note(lacking_here(elsewhere, len(trials), Path(record.work)))
    if json_:
        console.print_json({"launch": record.id, "store": opened.uri, "trials": trials})


def _sync(
    store: Store, record: Launch, tracking_uri: str, experiment: str
) -> Iterator[tuple[str, str, int]]:
    """Send to MLflow the metrics of a launch that it lacks, and correct the statuses of its runs.

    Yields:
        The name of each trial, the status of its run, and how many points were sent.

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
            yield name, _RUNNING if folder.exists() else _NOT_HERE, 0
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
        yield name, result.status, result.points
    if not any(state.name == "running" for state in states.values()):
        done = all(state.name == "cached" for state in states.values())
        closing.finish_launch(store, replace(record, parent_run=parent), done=done)
