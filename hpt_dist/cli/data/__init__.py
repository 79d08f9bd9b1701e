"""The commands that look at datasets."""

from __future__ import annotations

from typing import ClassVar

import typer

from hpt_dist.cli.verbs import HELP, Verbs


class _DataVerbs(Verbs):
    package = __name__
    names: ClassVar = {
        "list": "List the datasets of a store: splits, classes, size, age and source.",
        "show": "Print a dataset's splits, classes, pixel statistics, licence and left-out images.",
        "verify": "Check every digest, count and label of a dataset.",
        "preview": "Write a sheet of thumbnails from all classes, with class names and boxes.",
        "leaks": "Find images of val or test that training also sees.",
        "subset": "Choose images of a split, and save the list in the dataset's folder.",
    }


app = typer.Typer(
    cls=_DataVerbs,
    help="""List, show, check and preview sharded datasets, find leaks, and choose subsets.

    \b
    Examples:
      hpt-dist data list
      hpt-dist data show ./hpt-store/datasets/openmoji/line
    """,
    no_args_is_help=True,
    context_settings=HELP,
)


@app.callback()
def _data() -> None:
    """Take no options: a group without commands of its own needs a callback."""
