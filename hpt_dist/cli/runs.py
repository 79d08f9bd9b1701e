"""hpt-dist runs."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from hpt_dist.cli import console
from hpt_dist.cli.options import JsonOption, RecipeStoreOption
from hpt_dist.cli.requested import command, note_if_new, store_of
from hpt_dist.launch import runs as of_store
from hpt_dist.launch.launches import launches

_LAST = 20


def runs(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="Only launches of this recipe, a name or file.")
    ] = "",
    all_: Annotated[
        bool, typer.Option("--all", help=f"List every launch, not only the last {_LAST}.")
    ] = False,
    store: RecipeStoreOption = "",
    json_: JsonOption = False,
) -> None:
    """List the launches of a store, the newest first, and how far each is.

    done: all trials are done. running, queued: some trials are. failed: a trial did, or its
    process is gone. cancelled, stopped: by somebody. The same launch command goes on.

    \b
    Examples:
      hpt-dist runs
      hpt-dist runs quickstart --all
      hpt-dist runs --store s3://bucket/hpt --json
    """
    opened, name = store_of(recipe, store)
    note_if_new(opened)
    known = [one for one in launches(opened) if name in ("", one.recipe)][::-1]
    shown = known if all_ else known[:_LAST]
    found = of_store.of(opened, shown)
    if json_:
        console.print_json([run.as_json() for run in found])
        return
    if not known:
        console.print_line(f"no launch{f' of {name}' if name else ''} in {opened.uri}")
        return
    rows = [
        (run.launch.id, run.state, run.done, _time(run.launch.created), run.launch.where,
         run.launch.file)
        for run in found
    ]  # fmt: skip
    console.print_table(("launch", "state", "done", "started (UTC)", "where", "recipe"), rows)
    if len(shown) < len(known):
        every = command("runs", *([name] if name else []), "--all", store=opened)
        console.print_note(f"and {len(known) - len(shown)} earlier ones: {every}")
    if any(run.state == "unknown" for run in found):
        console.print_note("unknown: jobs may wait in a Slurm that does not answer here")


def _time(created: str) -> str:
    return f"{datetime.fromisoformat(created).astimezone(UTC):%Y-%m-%d %H:%M}"
