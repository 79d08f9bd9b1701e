"""hpt-dist report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hpt_dist.cli import console, written
from hpt_dist.cli.lacking import print_lacking
from hpt_dist.cli.options import JsonOption, RecipeStoreOption, RunArgument
from hpt_dist.cli.requested import launch_of
from hpt_dist.launch import (
    arrivals,
    by_class,
    exhibited,
    launches,
    outdated,
    report_settings,
    results,
)
from hpt_dist.launch.description import ENDED


def report(
    run: RunArgument = "",
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Write report.html, report.md, report.json and drawings to this folder.",
        ),
    ] = None,
    store: RecipeStoreOption = "",
    json_: JsonOption = False,
) -> None:
    """Print a launch's results with verdicts in words.

    It also prints where the page of a recipe's last launch is. With --out it writes the files of
    any launch, with drawings, to another folder.

    \b
    Examples:
      hpt-dist report quickstart
      hpt-dist report my_recipe.yaml
      hpt-dist report quickstart --out ./report
    """
    opened, record = launch_of(run, store)
    record, changes = report_settings.followed(record, run)
    for note in filter(None, (changes, outdated.since(opened, record, run))):
        console.print_note(f"note: {note}")
    done = results.finished(opened, record)
    result = by_class.build(opened, record, done)
    for path in (
        result.write(out, exhibited.exhibits(opened, record, done, result.judged)) if out else ()
    ):
        console.print_note(f"wrote {path}")
    # By a name it is the recipe's last launch.
    if not out and (run != record.id or launches.find(opened, record.recipe).id == record.id):
        written.bring_up_to_date(result, record, done, opened)
    if json_:
        console.print_json({"launch": record.id, "store": opened.uri} | result.as_json())
        return
    console.print_line(result.markdown())
    if (ended := launches.ended_as(opened, record)) in ("FAILED", "KILLED"):
        console.print_note(f"the launch {ENDED[ended]}")
    print_lacking(opened, record, arrivals.lacking(opened, record, (one.name for one in done)))
