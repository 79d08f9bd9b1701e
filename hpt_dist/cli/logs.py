"""hpt-dist logs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import IO, Annotated

import typer

from hpt_dist.cli import console
from hpt_dist.cli.options import DEFAULT_STORE, RunArgument, StoreOption
from hpt_dist.errors import RequestError
from hpt_dist.launch import launches, results
from hpt_dist.slurm import jobs as slurm_jobs
from hpt_dist.store import Store, open_store, patience
from hpt_dist.trial.records import Launch

_POLL_S = 0.5
_QUEUE_POLL_S = 3.0  # all users' calls of squeue load one controller


def logs(
    run: RunArgument = "",
    trial: Annotated[str, typer.Option(help="A stage or one of its trials; by default all.")] = "",
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Keep printing new lines until the launch ends.")
    ] = False,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Print the logs of a launch's trials.

    \b
    Example:
      hpt-dist logs quickstart --trial hpt -f
    """
    opened = open_store(store)
    with patience.hurried():
        record = launches.find(opened, run)
    _print_logs(opened, record, trial, follow)


def _print_logs(store: Store, record: Launch, name: str, follow: bool) -> None:
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
        time.sleep(_QUEUE_POLL_S if record.where == "slurm" else _POLL_S)
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
    files = launches.log_files(store, Path(record.work), key)
    files += slurm_jobs.log_files(store, record.id, key)
    if not files:
        for other in reversed(launches.launches(store)):
            if files := slurm_jobs.log_files(store, other.id, key):
                break
    return files


def _copy_from(file: IO[str], positions: dict[Path, int], path: Path, title: str) -> None:
    file.seek(positions.get(path, 0))
    text = file.read()
    if text:
        console.print_line(title)
        console.print_line(text.rstrip("\n"))
    positions[path] = file.tell()
