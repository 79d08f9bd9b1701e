"""Arguments and options that several commands take."""

from __future__ import annotations

from typing import Annotated

import typer

RunArgument = Annotated[
    str, typer.Argument(metavar="[RUN]", help="A launch, or a recipe's name or file; else the last")
]
StoreOption = Annotated[
    str, typer.Option("--store", envvar="HPT_STORE", help="URI of the store: a folder or s3://...")
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
    str, typer.Option("--work", envvar="HPT_WORK", help="Folder for logs and local metrics.")
]
DEFAULT_STORE = "./hpt-store"
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
RanksOption = Annotated[
    int | None,
    typer.Option(
        help="Processes, and GPUs, that share each trial's training; on a cluster instead of "
        "the recipe's wishes.",
        min=1,
    ),
]
FreshOption = Annotated[
    bool,
    typer.Option(
        "--fresh",
        help="Start each trial as a new interpreter; otherwise they are forked from one that has "
        "imported torch already, which spares seconds and changes no result.",
    ),
]
