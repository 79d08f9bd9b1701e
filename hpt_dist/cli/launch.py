"""What `launch` (on this machine), `logs`, `sync` and `ui` do, with their output."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO

from hpt_dist.cli import console
from hpt_dist.errors import RequestError
from hpt_dist.launch import closing, here, launches, parent_run, results
from hpt_dist.launch.launches import Settings
from hpt_dist.launch.survey import Planned, states_of
from hpt_dist.processes import environment
from hpt_dist.recipe.plan import Trial
from hpt_dist.report.report import build
from hpt_dist.slurm import jobs as slurm_jobs
from hpt_dist.store import Store
from hpt_dist.store.paths import default_tracking_uri, trial_folder, work_folder
from hpt_dist.tracking import tracker
from hpt_dist.trial.records import Launch, Where

POLL_S = 0.5
QUEUE_POLL_S = 3.0  # all users' calls of squeue load one controller

log = logging.getLogger(__name__)


def run(
    prepared: Planned,
    where: Where,
    only: Sequence[str],
    cores: int | None,
    tracking_uri: str,
    work: str,
    ranks: int = 1,
    fresh: bool = False,
) -> bool:
    """Run the pending trials of a plan and print the report; return whether all are done."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    trials = here.chosen(prepared, only)
    pending = here.pending(prepared, trials, where, ranks)
    if pending:
        console.print_plan(trials, prepared.states, prepared.facts)
        _report_switches()
    settings = here.settings(
        prepared,
        where=where,
        cores=cores,
        tracking_uri=tracking_uri,
        work=work,
        ranks=ranks,
        fresh=fresh,
    )
    if not pending:
        return print_report(cached(prepared, trials, settings), prepared.store)
    record = here.begin(prepared, trials, settings)
    console.print_line(f"launch {record.id}")
    with console.watching(len(pending)) as watcher:
        errors = here.work_through(prepared, trials, settings, record, watcher)
    print_report(record, prepared.store)
    if errors:
        console.print_error(f"{len(errors)} of {len(trials)} trials are not done:")
        for name, error in errors.items():
            console.print_error(f"  {name}: {error.splitlines()[0]}")
        console.print_error(f"their logs: hpt-dist logs {record.id}")
    return not errors


def _report_switches() -> None:
    """Print the variables that trials do not get because they could change results."""
    _, dropped = environment.for_trials(os.environ)
    if dropped:
        names = ", ".join(dropped)
        console.print_line(f"not passed on to trials, because it could change results: {names}")


def cached(prepared: Planned, trials: Sequence[Trial], settings: Settings) -> Launch:
    """Print that nothing is left to run, and return the record of a launch that ran it."""
    console.print_line(f"all {len(trials)} trials are cached; nothing to run")
    return here.cached(prepared, trials, settings)


def print_logs(store: Store, record: Launch, name: str, follow: bool) -> None:
    """Print the logs of a launch's trials, file by file; with `follow`, new lines as they come.

    Raises:
        RequestError: no trial has that name, or this machine has no logs of the trials.
    """
    names = results.trials_of(record, name) if name else list(record.trials)
    positions: dict[Path, int] = {}
    while True:
        for trial in names:
            for path in _log_files(store, record, record.trials[trial]):
                with path.open(encoding="utf-8", errors="replace") as file:
                    _copy_from(file, positions, path, f"== {trial}  ({path.name})")
        if not follow or _is_over(store, record):
            break
        time.sleep(QUEUE_POLL_S if record.where == "slurm" else POLL_S)
    if not positions:
        raise RequestError("no logs on this machine yet", fix=f"hpt-dist status {record.id}")


def _is_over(store: Store, record: Launch) -> bool:
    """Return whether a launch has ended: no more log lines will come."""
    if launches.has_ended(store, record) or record.where != "slurm":
        return launches.has_ended(store, record)
    queued = slurm_jobs.known_queue(store)
    return queued is not None and not any(key in queued for key in record.trials.values())


def _log_files(store: Store, record: Launch, key: str) -> list[Path]:
    """Return the log files of a trial: of processes here, and of the jobs of any launch."""
    files = launches.log_files(Path(record.work), key)
    files += slurm_jobs.log_files(store, record.id, key)
    if not files:
        for other in reversed(launches.launches(store)):
            if files := slurm_jobs.log_files(store, other.id, key):
                break
    return files


def sync(store: Store, record: Launch, tracking_uri: str) -> None:
    """Send to MLflow the metrics of a launch that it lacks, and correct the statuses of its runs.

    Raises:
        HptError: MLflow still cannot be reached.
    """
    record = replace(record, tracking_uri=tracking_uri or record.tracking_uri)
    parent = parent_run.opened(record)
    states = states_of(store, record, slurm_jobs.known_queue(store))
    for name, state in states.items():
        folder = trial_folder(Path(record.work), record.trials[name])
        if not folder.exists() or state.name == "running":
            running = "still running"
            console.print_line(f"{name}: {running if folder.exists() else 'no metrics here'}")
            continue
        result = tracker.sync(
            folder,
            tracking_uri=record.tracking_uri,
            parent_run_id=parent,
            if_unfinished="FINISHED" if state.name == "cached" else "KILLED",
        )
        console.print_line(f"{name}: {result.status}, {result.points} points sent")
    if not any(state.name == "running" for state in states.values()):
        done = all(state.name == "cached" for state in states.values())
        closing.finish_launch(store, replace(record, parent_run=parent), done=done)


def open_ui(work: Path, host: str, port: int) -> None:
    """Replace this process by MLflow's UI server on a work folder's database."""
    if not (work / "mlflow.db").exists():
        raise RequestError(f"there is no {work}/mlflow.db", fix="hpt-dist launch RECIPE")
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    uri = default_tracking_uri(work)
    # Without this setting MLflow opens its pages for language models.
    page = f"http://{host}:{port}/#/experiments?workflowType=machine_learning"
    console.print_line(f"MLflow's UI: {page}   (Ctrl-C ends it)")
    command = ["-m", "mlflow", "ui", "--backend-store-uri", uri, "--host", host]
    os.execv(sys.executable, [sys.executable, *command, "--port", str(port), "--workers", "1"])


def print_report(record: Launch, store: Store) -> bool:
    """Print a launch's report, the path of its file, and where to see its runs."""
    report = build(record, results.finished(store, record))
    folder = Path(record.work) / "reports" / record.recipe
    written = report.write(folder)
    console.print_line("")
    console.print_line(report.markdown())
    page = next((path for path in written if path.suffix == ".html"), folder)
    console.print_line(f"report: {page}")
    work = Path(record.work)
    option = "" if store.uri == str(Path("hpt-store").absolute()) else f" --store {store.uri}"
    option += "" if work == work_folder(store) else f" --work {work}"
    if record.tracking_uri == default_tracking_uri(work):
        console.print_line(f"to see the runs in MLflow's UI: {_own_name()} ui{option}")
    elif record.tracking_uri:
        console.print_line(f"the runs are in MLflow at {record.tracking_uri}")
    return True


def _copy_from(file: IO[str], positions: dict[Path, int], path: Path, title: str) -> None:
    file.seek(positions.get(path, 0))
    text = file.read()
    if text:
        console.print_line(title)
        console.print_line(text.rstrip("\n"))
    positions[path] = file.tell()


def _own_name() -> str:
    """Return how this program was called, so that users can copy printed commands."""
    if shutil.which("hpt-dist"):
        return "hpt-dist"
    path = Path(sys.argv[0])
    return str(path) if path.name == "hpt-dist" else f"{sys.executable} -m hpt_dist"
