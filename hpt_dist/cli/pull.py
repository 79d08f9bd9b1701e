"""hpt-dist pull."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hpt_dist.cli import console
from hpt_dist.cli.options import DEFAULT_STORE, StoreOption
from hpt_dist.errors import RequestError
from hpt_dist.launch import results, runs
from hpt_dist.store import open_store


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
    if format_ not in results.FORMATS:
        allowed = ", ".join(results.FORMATS)
        raise RequestError(f"no format {format_}", where="--format", allowed=allowed)
    run, _, stage = name.partition("/")
    if not stage:
        raise RequestError(f"{name} names no stage", allowed="RUN/STAGE, such as quickstart/hpt")
    opened = open_store(store)
    found = runs.finished_trials(opened, run, stage)
    if found.note:
        console.print_note(found.note)
    for path in results.pull(opened, found.launch, found.names, destination, format_):
        console.print_line(str(path))
