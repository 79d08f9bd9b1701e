"""Arguments and options that several commands take."""

from __future__ import annotations

from typing import Annotated

import typer

RunArgument = Annotated[
    str,
    typer.Argument(
        metavar="[RUN]",
        help="A launch's id, or a recipe's name or file; by default the last launch.",
    ),
]
StoreOption = Annotated[
    str,
    typer.Option("--store", envvar="HPT_STORE", help="The store: a folder or s3://BUCKET/PREFIX."),
]
TrackingOption = Annotated[
    str,
    typer.Option(
        "--tracking-uri",
        envvar="MLFLOW_TRACKING_URI",
        help="MLflow's address; by default a SQLite file in the work folder.",
    ),
]
WorkOption = Annotated[
    str,
    typer.Option(
        "--work",
        envvar="HPT_WORK",
        help="Folder for logs and local metrics; by default `work` in the store's folder, or "
        "./hpt-work if the store is on S3.",
    ),
]
DEFAULT_STORE = "./hpt-store"
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
RanksOption = Annotated[
    int | None,
    typer.Option(
        help="Number of processes (one per GPU) that train each trial together; on a cluster "
        "instead of the recipe's `resources`.",
        min=1,
    ),
]
FreshOption = Annotated[
    bool,
    typer.Option(
        "--fresh",
        help="Start each trial as a new interpreter; by default trials are forked from a process "
        "that has imported torch already, which saves seconds and gives the same results.",
    ),
]
