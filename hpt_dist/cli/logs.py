"""hpt-dist logs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Annotated

import typer

from hpt_dist.cli import console
from hpt_dist.cli.options import JsonOption, RecipeStoreOption, RunArgument
from hpt_dist.cli.requested import command, launch_of
from hpt_dist.errors import RequestError
from hpt_dist.launch import launches, results
from hpt_dist.slurm import jobs as slurm_jobs
from hpt_dist.store import Store, patience
from hpt_dist.trial.records import Launch

_POLL_S = 0.5
_QUEUE_POLL_S = 3.0  # all users' calls of squeue load one controller


def logs(
    run: RunArgument = "",
    trial: Annotated[
        str, typer.Option(metavar="TRIAL", help="A stage or one of its trials; by default all.")
    ] = "",
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Keep printing new lines until the launch ends.")
    ] = False,
    store: RecipeStoreOption = "",
    json_: JsonOption = False,
) -> None:
    """Print the logs of a launch's trials.

    A trial that trains prints every ten steps how far it is: loss, last look at validation,
    images/s and time left.

    \b
    Examples:
      hpt-dist logs quickstart --trial hpt/seed=0 -f
      hpt-dist logs my_recipe.yaml
    """
    if json_ and follow:
        raise RequestError("--json prints one document, and --follow has no end", fix="give one")
    with patience.hurried():
        opened, record = launch_of(run, store)
    names = results.trials_of(record, trial) if trial else list(record.trials)
    if json_:
        found = [(name, path) for name in names for path in _files(opened, record, name)]
        logs = [
            {"trial": name, "file": str(path), "lines": _text(path).splitlines()}
            for name, path in found
        ]
        console.print_json({"launch": record.id, "store": opened.uri, "logs": logs})
        return
    try:
        _print_logs(opened, record, names, follow)
    except KeyboardInterrupt:
        if not follow:
            raise
        stop = command("cancel", record.id, store=opened)
        console.leave_line()
        console.print_note(f"the launch goes on; to stop it: {stop}")
        raise typer.Exit(1) from None


def _print_logs(store: Store, record: Launch, names: Sequence[str], follow: bool) -> None:
    """Print the logs of trials, file by file; with `follow`, new lines as they come.

    Raises:
        RequestError: this machine has no logs of the trials.
    """
    positions: dict[Path, int] = {}
    while True:
        for trial in names:
            for path in _files(store, record, trial):
                with path.open(encoding="utf-8", errors="replace") as file:
                    _copy_from(file, positions, path, f"== {trial}  ({path.name})")
        if not follow or _is_over(store, record):
            break
        time.sleep(_QUEUE_POLL_S if record.where == "slurm" else _POLL_S)
    if not positions:
        look = command("status", record.id, store=store)
        raise RequestError("no logs on this machine yet", fix=look)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _is_over(store: Store, record: Launch) -> bool:
    """Return whether a launch has ended: no more log lines will come."""
    if launches.has_ended(store, record) or record.where != "slurm":
        return launches.has_ended(store, record)
    queued = slurm_jobs.known_queue(store)
    return queued is not None and not any(key in queued for key in record.trials.values())


def _files(store: Store, record: Launch, trial: str) -> list[Path]:
    """Return the log files of a trial: of processes here, and of the jobs of any launch."""
    key = record.trials[trial]
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
