"""The commands that look at launches: parse, call, print. Nothing here imports torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hpt_dist.cli import console
from hpt_dist.cli.options import (
    DEFAULT_STORE,
    JsonOption,
    RunArgument,
    StoreOption,
    TrackingOption,
    WorkOption,
)
from hpt_dist.errors import RequestError


def status(
    run: RunArgument = "", store: StoreOption = DEFAULT_STORE, json_: JsonOption = False
) -> None:
    """Say where each trial of a launch stands, by what the store and Slurm's queue say.

    cached: done; running, where and how far; queued: as which job; failed, why; resumes: from which
    saved state; runs: from its start. A launch runs whatever is not cached.

    \b
    Example:
      hpt-dist status quickstart
    """
    from hpt_dist.cli import on_slurm
    from hpt_dist.launch import survey
    from hpt_dist.launch.launches import find
    from hpt_dist.store import open_store

    opened = open_store(store)
    found = find(opened, run)
    states = on_slurm.states(opened, found)
    if json_:
        console.print_json(
            {"launch": found.id, "trials": {n: survey.as_json(s) for n, s in states.items()}}
        )
        return
    console.say(f"{found.id}  ({found.file}, {found.created})")
    rows = [(name, state.name, state.why) for name, state in states.items()]
    console.print_table(("trial", "state", "why"), rows)


def logs(
    run: RunArgument = "",
    trial: Annotated[str, typer.Option(help="A stage or one of its trials; else all.")] = "",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as more comes.")] = False,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Print what the processes of a launch's trials said.

    \b
    Example:
      hpt-dist logs quickstart --trial hpt -f
    """
    from hpt_dist.cli import launch
    from hpt_dist.launch.launches import find
    from hpt_dist.store import open_store

    opened = open_store(store)
    launch.print_logs(opened, find(opened, run), trial, follow)


def cancel(run: RunArgument = "", store: StoreOption = DEFAULT_STORE) -> None:
    """Ask the running trials of a launch to save and stop, and drop those that wait in a queue.

    \b
    Example:
      hpt-dist cancel quickstart
    """
    from hpt_dist.cli import on_slurm
    from hpt_dist.launch.launches import find
    from hpt_dist.store import open_store

    opened = open_store(store)
    for line in on_slurm.cancel(opened, find(opened, run)):
        console.say(line)


def pull(
    name: Annotated[str, typer.Argument(metavar="RUN/STAGE", help="Such as quickstart/hpt")],
    destination: Annotated[Path, typer.Argument(metavar="DEST", help="A folder.")],
    format_: Annotated[
        str,
        typer.Option(
            "--format",
            help="safetensors, torchvision, timm, detectron2, moco or huggingface, where the "
            "features stay the same; see docs/weights.md",
        ),
    ] = "safetensors",
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Copy weights and results of finished trials, digests checked.

    \b
    Examples:
      hpt-dist pull quickstart/hpt ./out
      hpt-dist pull quickstart/hpt ./out --format timm
      hpt-dist pull my_recipe/target ./out --format detectron2
    """
    from hpt_dist.launch import results
    from hpt_dist.launch.launches import find
    from hpt_dist.store import open_store

    if format_ not in results.FORMATS:
        allowed = ", ".join(results.FORMATS)
        raise RequestError(f"no format {format_}", where="--format", allowed=allowed)
    run, _, stage = name.partition("/")
    if not stage:
        raise RequestError(f"{name} names no stage", allowed="RUN/STAGE, such as quickstart/hpt")
    opened = open_store(store)
    found = find(opened, run)
    names = results.trials_of(found, stage)
    for path in results.pull(opened, found, names, destination, format_):
        console.say(str(path))


def report(
    run: RunArgument = "",
    out: Annotated[
        Path | None, typer.Option(help="Folder for report.md, report.html and plots.")
    ] = None,
    store: StoreOption = DEFAULT_STORE,
    json_: JsonOption = False,
) -> None:
    """Print the table of a launch with its verdict in words, and write it with plots.

    \b
    Example:
      hpt-dist report quickstart --out ./report
    """
    from hpt_dist.launch import results
    from hpt_dist.launch.launches import find
    from hpt_dist.report.report import build
    from hpt_dist.store import open_store

    opened = open_store(store)
    found = find(opened, run)
    made = build(found, results.finished(opened, found))
    for path in made.write(out) if out else ():
        console.say(f"wrote {path}")
    if json_:
        console.print_json(made.as_json())
        return
    console.say(made.markdown())


def sync(
    run: RunArgument = "",
    store: StoreOption = DEFAULT_STORE,
    tracking_uri: TrackingOption = "",
) -> None:
    """Bring to MLflow what it missed while it was out of reach, and true statuses.

    \b
    Example:
      hpt-dist sync quickstart
    """
    from hpt_dist.cli import launch
    from hpt_dist.launch.launches import find
    from hpt_dist.store import open_store

    opened = open_store(store)
    launch.sync(opened, find(opened, run), tracking_uri)


def ui(
    store: StoreOption = DEFAULT_STORE,
    work: WorkOption = "",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 5000,
) -> None:
    """Open MLflow's UI on the runs of a store's work folder.

    \b
    Example:
      hpt-dist ui
    """
    from hpt_dist.cli import launch
    from hpt_dist.store import open_store
    from hpt_dist.store.paths import work_folder

    launch.open_ui(work_folder(open_store(store), work), host, port)
