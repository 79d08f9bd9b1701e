"""The commands for existing launches: parse, call, print. Nothing here imports torch."""

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
    """Show the state of each trial of a launch, from the store and Slurm's queue.

    cached: done. running: with host and step. queued: with its job. failed: with the reason.
    resumes: the next launch continues from a saved state. runs: the next launch starts it.

    \b
    Example:
      hpt-dist status quickstart
    """
    from hpt_dist.cli import on_slurm
    from hpt_dist.launch import survey
    from hpt_dist.launch.launches import find
    from hpt_dist.store import open_store

    opened = open_store(store)
    record = find(opened, run)
    states = on_slurm.states(opened, record)
    if json_:
        console.print_json(
            {"launch": record.id, "trials": {n: survey.as_json(s) for n, s in states.items()}}
        )
        return
    console.print_line(f"{record.id}  ({record.file}, {record.created})")
    rows = [(name, state.name, state.why) for name, state in states.items()]
    console.print_table(("trial", "state", "why"), rows)


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
    from hpt_dist.cli import launch
    from hpt_dist.launch.launches import find
    from hpt_dist.store import open_store

    opened = open_store(store)
    launch.print_logs(opened, find(opened, run), trial, follow)


def cancel(run: RunArgument = "", store: StoreOption = DEFAULT_STORE) -> None:
    """Ask running trials of a launch to save and stop, and remove queued ones from Slurm.

    \b
    Example:
      hpt-dist cancel quickstart
    """
    from hpt_dist.cli import on_slurm
    from hpt_dist.launch.launches import find
    from hpt_dist.store import open_store

    opened = open_store(store)
    for line in on_slurm.cancel(opened, find(opened, run)):
        console.print_line(line)


def pull(
    name: Annotated[
        str, typer.Argument(metavar="RUN/STAGE", help="What to copy, such as quickstart/hpt.")
    ],
    destination: Annotated[Path, typer.Argument(metavar="DEST", help="The folder to copy to.")],
    format_: Annotated[
        str,
        typer.Option(
            "--format",
            help="safetensors, torchvision, timm, detectron2, moco or huggingface. A backbone can "
            "be written in the formats that keep its features the same; see docs/weights.md.",
        ),
    ] = "safetensors",
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Copy the weights and results of finished trials, and check their digests.

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
    record = find(opened, run)
    names = results.trials_of(record, stage)
    for path in results.pull(opened, record, names, destination, format_):
        console.print_line(str(path))


def report(
    run: RunArgument = "",
    out: Annotated[
        Path | None,
        typer.Option(help="Write report.md, report.html, report.json and plots to this folder."),
    ] = None,
    store: StoreOption = DEFAULT_STORE,
    json_: JsonOption = False,
) -> None:
    """Print a launch's results with verdicts in words; --out writes them to files, with plots.

    \b
    Examples:
      hpt-dist report quickstart
      hpt-dist report quickstart --out ./report
    """
    from hpt_dist.launch import results
    from hpt_dist.launch.launches import find
    from hpt_dist.report.report import build
    from hpt_dist.store import open_store

    opened = open_store(store)
    record = find(opened, run)
    result = build(record, results.finished(opened, record))
    for path in result.write(out) if out else ():
        console.print_line(f"wrote {path}")
    if json_:
        console.print_json(result.as_json())
        return
    console.print_line(result.markdown())


def sync(
    run: RunArgument = "",
    store: StoreOption = DEFAULT_STORE,
    tracking_uri: TrackingOption = "",
) -> None:
    """Send the metrics to MLflow that it missed, and correct the statuses of its runs.

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
    """Start MLflow's UI for the runs of a store's work folder.

    \b
    Example:
      hpt-dist ui
    """
    from hpt_dist.cli import launch
    from hpt_dist.store import open_store
    from hpt_dist.store.paths import work_folder

    launch.open_ui(work_folder(open_store(store), work), host, port)
