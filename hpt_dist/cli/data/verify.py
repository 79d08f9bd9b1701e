"""hpt-dist data verify."""

from __future__ import annotations

import typer

from hpt_dist.cli import console
from hpt_dist.cli.data.options import UriArgument, located
from hpt_dist.datasets import verify as dataset


def verify(uri: UriArgument) -> None:
    """Check every digest, count and label of a dataset; exit 1 if one is wrong.

    Reads every byte, and compares the images and labels in the tars with the indexes. Files that
    do not belong to the dataset are listed as notes; they are no errors.

    \b
    Example:
      hpt-dist data verify ./hpt-store/datasets/openmoji/line
    """
    store, name = located(uri)
    with console.counting(f"verify {name}") as progress:
        problems = dataset.verify(store, name, progress)
    for path in dataset.strays(store, name):
        console.print_note(f"note: {path} belongs to no shard or subset of the dataset")
    for problem in problems:
        console.print_error(str(problem))
    if problems:
        console.print_error(f"{len(problems)} problem{'s' if len(problems) > 1 else ''}")
        raise typer.Exit(1)
    console.print_line("all digests, counts and labels are correct")
