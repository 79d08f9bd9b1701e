"""hpt-dist pull."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hpt_dist.cli import completion, console
from hpt_dist.cli.options import JsonOption, RecipeStoreOption
from hpt_dist.cli.requested import split_run, store_of
from hpt_dist.errors import RequestError
from hpt_dist.launch import outdated, pulling, runs


def pull(
    name: Annotated[
        str,
        typer.Argument(
            metavar="RUN/STAGE",
            help="What to copy, such as quickstart/hpt, or my_recipe.yaml/hpt.",
            autocompletion=completion.runs,
        ),
    ],
    destination: Annotated[Path, typer.Argument(metavar="DEST", help="The folder to copy to.")],
    format_: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="safetensors, torchvision, timm, detectron2, moco or huggingface. A backbone can "
            "be written in the formats that keep its features the same; see docs/weights.md.",
        ),
    ] = "safetensors",
    store: RecipeStoreOption = "",
    json_: JsonOption = False,
) -> None:
    """Copy the weights and results of finished trials, and check their digests.

    Of a linear evaluation, its classifier is copied together with the backbone that it judged. The
    file loading.md beside them shows the lines of Python that load them, and model_card.md what
    they are, from what, and how good.

    \b
    Examples:
      hpt-dist pull quickstart/hpt ./out
      hpt-dist pull quickstart/hpt ./out --format timm
      hpt-dist pull my_recipe.yaml/target ./out --format detectron2
      hpt-dist pull one_domain/features/init=hpt,seed=0 ./out
    """
    if format_ not in pulling.FORMATS:
        allowed = ", ".join(pulling.FORMATS)
        raise RequestError(f"no format {format_}", where="--format", allowed=allowed)
    run, stage = split_run(name)
    if not stage:
        raise RequestError(f"{name} names no stage", allowed="RUN/STAGE, such as quickstart/hpt")
    opened, recipe = store_of(run, store)
    found = runs.finished_trials(opened, recipe, stage)
    for note in filter(None, (found.note, outdated.since(opened, found.launch, run))):
        console.print_note(f"note: {note}")
    pulled = pulling.pull(opened, found.launch, found.names, destination, format_)
    if json_:
        files = [str(path) for path in pulled.files]
        console.print_json({"launch": found.launch.id, "store": opened.uri, "files": files})
        return
    for path in pulled.files:
        console.print_line(str(path))
    for note in pulled.notes:
        console.print_note(note)
