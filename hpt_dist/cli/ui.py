"""hpt-dist ui."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from hpt_dist.cli import console
from hpt_dist.cli.options import RecipeStoreOption, RunArgument, WorkOption
from hpt_dist.cli.requested import store_of
from hpt_dist.errors import HptError, RequestError
from hpt_dist.store.paths import default_tracking_uri, work_folder
from hpt_dist.tracking import tracker
from hpt_dist.tracking.address import reached

_SHOWN = 5  # experiments


def ui(
    run: RunArgument = "",
    store: RecipeStoreOption = "",
    work: WorkOption = "",
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Address to listen on.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 5000,
) -> None:
    """Start MLflow's UI for the runs of a store.

    \b
    Examples:
      hpt-dist ui
      hpt-dist ui my_recipe.yaml
    """
    opened, _ = store_of(run, store)
    _open_ui(work_folder(opened, work), host, port)


def _open_ui(work: Path, host: str, port: int) -> None:
    """Replace this process by MLflow's UI server on a work folder's database."""
    if not (work / "mlflow.db").exists():
        raise RequestError(f"there is no {work}/mlflow.db", fix="hpt-dist launch RECIPE")
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    uri = reached(default_tracking_uri(work))
    address = f"http://{host}:{port}"
    console.print_line(f"MLflow's UI: {address}   (Ctrl-C ends it)")
    # From its own list MLflow opens an experiment among its pages for language models.
    with contextlib.suppress(HptError):  # the UI itself says what is wrong with its database
        for name, page in tracker.experiment_pages(default_tracking_uri(work), _SHOWN).items():
            console.print_line(f"  {name}: {address}/{page}")
    command = ["-m", "mlflow", "ui", "--backend-store-uri", uri, "--host", host]
    os.execv(sys.executable, [sys.executable, *command, "--port", str(port), "--workers", "1"])
