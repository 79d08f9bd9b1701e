"""hpt-dist report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hpt_dist.cli import console
from hpt_dist.cli.options import DEFAULT_STORE, JsonOption, RunArgument, StoreOption
from hpt_dist.launch import results
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
    record = find(opened, run)
    result = build(record, results.finished(opened, record))
    for path in result.write(out) if out else ():
        console.print_line(f"wrote {path}")
    if json_:
        console.print_json(result.as_json())
        return
    console.print_line(result.markdown())
