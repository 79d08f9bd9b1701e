"""hpt-dist pull."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hpt_dist.cli import console
from hpt_dist.cli.options import DEFAULT_STORE, StoreOption
from hpt_dist.errors import RequestError
from hpt_dist.launch import pulling, runs
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

    Of a linear evaluation, its classifier is copied together with the backbone that it judged. The
    file loading.md beside them shows the lines of Python that load them.

    \b
    Examples:
      hpt-dist pull quickstart/hpt ./out
      hpt-dist pull quickstart/hpt ./out --format timm
      hpt-dist pull my_recipe/target ./out --format detectron2
      hpt-dist pull one_domain/features/init=hpt,seed=0 ./out
    """
    if format_ not in pulling.FORMATS:
        allowed = ", ".join(pulling.FORMATS)
        raise RequestError(f"no format {format_}", where="--format", allowed=allowed)
    run, _, stage = name.partition("/")
    if not stage:
        raise RequestError(f"{name} names no stage", allowed="RUN/STAGE, such as quickstart/hpt")
    opened = open_store(store)
    found = runs.finished_trials(opened, run, stage)
    if found.note:
        console.print_note(found.note)
    pulled = pulling.pull(opened, found.launch, found.names, destination, format_)
    for path in pulled.files:
        console.print_line(str(path))
    for note in pulled.notes:
        console.print_note(note)
