"""hpt-dist data preview."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hpt_dist.cli import console
from hpt_dist.cli.data.options import SplitOption, UriArgument, located
from hpt_dist.cli.options import DEFAULT_STORE, JsonOption, StoreOption
from hpt_dist.datasets import preview as sheet
from hpt_dist.datasets.manifest import read_manifest
from hpt_dist.errors import RequestError
from hpt_dist.store import files


def preview(
    uri: UriArgument,
    split: SplitOption = "train",
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A .png or .html file; by default NAME-SPLIT.png here."),
    ] = None,
    images: Annotated[int, typer.Option(help="Number of thumbnails.", min=1, max=2500)] = 64,
    seed: Annotated[int, typer.Option(help="Another seed shows other images.", min=0)] = 0,
    class_: Annotated[
        str, typer.Option("--class", metavar="CLASS", help="Show only this class.")
    ] = "",
    store: StoreOption = DEFAULT_STORE,
    json_: JsonOption = False,
) -> None:
    """Write a sheet of thumbnails from all classes, with class names and boxes.

    \b
    Examples:
      hpt-dist data preview ./hpt-store/datasets/openmoji/line
      hpt-dist data preview ./hpt-store/datasets/photos --split test --out test.html
      hpt-dist data preview ./hpt-store/datasets/photos --class cat --images 16 --seed 1
    """
    if out and out.suffix not in (".png", ".html"):
        raise RequestError(
            f"{out} has the wrong ending for a preview", where="--out", allowed=".png, .html"
        )
    opened, name = located(uri, store)
    manifest = read_manifest(opened, name)
    shown = sheet.preview(opened, manifest, split, images, seed, class_)
    path = out or Path(sheet.default_name(manifest, split))
    files.replace(path, shown.html() if path.suffix == ".html" else shown.png())
    if json_:
        console.print_json({"title": shown.title, "subtitle": shown.subtitle, "file": str(path)})
        return
    console.print_line(f"{shown.title}: {shown.subtitle}, in {path}")
