"""The command line: one file for each command. Nothing here imports torch."""

from __future__ import annotations

import atexit
import gc
import logging
import sys
from typing import Annotated, ClassVar

import typer

from hpt_dist import __version__
from hpt_dist.cli import console, data
from hpt_dist.cli.verbs import HELP, Verbs
from hpt_dist.errors import HptError
from hpt_dist.processes import environment, output
from hpt_dist.store import patience


class _AllVerbs(Verbs):
    package = "hpt_dist.cli"
    names: ClassVar = {
        "continue": "Go from images to a verdict and weights, without a recipe of your own.",
        "shard": "Write images as WebDataset tars with a manifest.",
        "init": "Write a first recipe for your own data.",
        "recommend": "Write a recipe for a dataset after a look at it, with its reasons.",
        "plan": "Show for each trial whether it is cached, resumes or runs, and why.",
        "launch": "Run the pending trials of a recipe, and print the report.",
        "runs": "List the launches of a store, the newest first, and how far each is.",
        "status": "Show the state of each trial of a launch, and how far it is.",
        "logs": "Print the logs of a launch's trials.",
        "cancel": "Ask running trials of a launch to save and stop.",
        "pull": "Copy the weights and results of finished trials, and check their digests.",
        "errors": "Show the most confident mistakes of an evaluation, and what it confuses.",
        "report": "Print a launch's results with verdicts in words.",
        "du": "Show how much space a store takes, by launch and by dataset.",
        "prune": "List what no launch needs, and with --yes delete it.",
        "sync": "Send MLflow the metrics that it missed, and correct its runs' statuses.",
        "ui": "Start MLflow's UI for the runs of a store.",
        "doctor": "Check what a launch needs, and print a fix for each fault.",
        "schema": "Print the JSON Schema of recipes, for editors.",
    }


app = typer.Typer(
    name="hpt-dist",
    cls=_AllVerbs,
    help="""Continue pretraining on your own data, in stages, safely.

    \b
    Examples:
      hpt-dist shard ~/photos ./hpt-store/datasets/photos
      hpt-dist plan one_domain
      hpt-dist launch one_domain
      hpt-dist launch --help
    """,
    no_args_is_help=True,
    context_settings=HELP,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(data.app, name="data")

_CTRL_C = 130  # typer's exit code for it
# Commands that a person waits for, who is to hear soon that a store is away.
_LOOK = ("plan", "status", "cancel", "report", "errors", "runs", "du", "doctor")


@app.callback(invoke_without_command=True)
def _top(
    ctx: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        console.print_line(__version__)
        raise typer.Exit
    if ctx.invoked_subcommand in _LOOK:
        ctx.with_resource(patience.hurried())


def main() -> None:
    """Run the command line; exit 0 when done, 1 when the work failed, 2 for a wrong request."""
    output.encode_any_text()
    output.log_lines(logging.WARNING, sys.stderr, "%(levelname)s %(message)s")
    output.guard_errors()
    environment.provide_home()
    # Whoever waits for the prompt does not wait for a search for garbage in all of MLflow.
    atexit.register(gc.freeze)
    try:
        app()
    except HptError as error:
        console.print_error(str(error))
        sys.exit(error.exit_code)
    except OSError as error:
        console.print_error(f"{error.filename or 'the system'}: {error.strerror or error}")
        sys.exit(1)
    except SystemExit as ended:
        if ended.code == _CTRL_C:
            console.leave_line()
            console.print_error("interrupted")
            sys.exit(1)
        raise
    except Exception:
        output.guard_errors()  # typer has set a hook of its own
        raise
