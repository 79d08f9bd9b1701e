"""The commands that look at datasets."""

from __future__ import annotations

import typer

from hpt_dist.cli.verbs import Verbs


class _DataVerbs(Verbs):
    package = __name__
    names = ("list", "show", "verify", "preview", "leaks", "subset")


app = typer.Typer(
    cls=_DataVerbs,
    help="""List, show, check and preview sharded datasets, find leaks, and choose subsets.

    \b
    Examples:
      hpt-dist data list
      hpt-dist data show ./hpt-store/datasets/openmoji/line
    """,
    no_args_is_help=True,
)


@app.callback()
def _data() -> None:
    """Take no options: a group without commands of its own needs a callback."""
