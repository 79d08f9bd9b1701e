"""hpt-dist data verify."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import typer

from hpt_dist.cli import console
from hpt_dist.cli.data.options import UriArgument, located
from hpt_dist.cli.options import DEFAULT_STORE, JsonOption, StoreOption
from hpt_dist.datasets import verify as dataset


def verify(uri: UriArgument, store: StoreOption = DEFAULT_STORE, json_: JsonOption = False) -> None:
    """Check every digest, count and label of a dataset.

    It exits with 1 if one is wrong. It reads every byte, and compares the images and labels in the
    tars with the indexes. Files that do not belong to the dataset are listed as notes; they are no
    errors.

    \b
    Example:
      hpt-dist data verify ./hpt-store/datasets/openmoji/line
    """
    opened, name = located(uri, store)
    with console.counting(f"verify {name}") as progress:
        problems = dataset.verify(opened, name, progress)
    strays = dataset.strays(opened, name)
    if json_:
        found = [str(problem) for problem in problems]
        console.print_json({"name": name, "problems": found, "strays": list(strays)})
    else:
        _print(problems, strays)
    if problems:
        raise typer.Exit(1)


def _print(problems: Sequence[object], strays: Iterable[str]) -> None:
    for path in strays:
        console.print_note(f"note: {path} belongs to no shard or subset of the dataset")
    for problem in problems:
        console.print_error(str(problem))
    if problems:
        console.print_error(f"{len(problems)} problem{'s' if len(problems) > 1 else ''}")
    else:
        console.print_line("all digests, counts and labels are correct")
