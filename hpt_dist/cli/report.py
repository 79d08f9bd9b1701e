"""hpt-dist report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hpt_dist.cli import console
from hpt_dist.cli.lacking import print_lacking
from hpt_dist.cli.options import DEFAULT_STORE, JsonOption, RunArgument, StoreOption
from hpt_dist.launch import arrivals, launches, report_settings, results
from hpt_dist.launch.description import ENDED
from hpt_dist.launch.launches import find
from hpt_dist.report.report import build
from hpt_dist.store import open_store


def report(
    run: RunArgument = "",
    out: Annotated[
        Path | None,
        typer.Option(help="Write report.md, report.html, report.json and plots to this folder."),
    ] = None,
    store: StoreOption = DEFAULT_STORE,
    json_: JsonOption = False,
) -> None:
    """Print a launch's results with verdicts in words; --out writes them to files, with plots.

    \b
    Examples:
      hpt-dist report quickstart
      hpt-dist report quickstart --out ./report
    """
    opened = open_store(store)
    record, changes = report_settings.followed(find(opened, run), run)
    if changes:
        console.print_note(changes)
    done = results.finished(opened, record)
    result = build(record, done)
    for path in result.write(out) if out else ():
        console.print_line(f"wrote {path}")
    if json_:
        console.print_json(result.as_json())
        return
    console.print_line(result.markdown())
    if (ended := launches.ended_as(opened, record)) in ("FAILED", "KILLED"):
        console.print_note(f"the launch {ENDED[ended]}")
    print_lacking(opened, record, arrivals.lacking(opened, record, (one.name for one in done)))
