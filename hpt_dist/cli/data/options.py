"""Arguments that the commands for datasets take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hpt_dist.launch.lookup import dataset_store
from hpt_dist.store import Store, open_store

UriArgument = Annotated[str, typer.Argument(help="A dataset: STORE/datasets/NAME")]
SplitOption = Annotated[str, typer.Option(help="The split to use.")]


def located(uri: str) -> tuple[Store, str]:
    """Return the store and the name of a dataset."""
    store, name = dataset_store(uri if "://" in uri else str(Path(uri).absolute()))
    return open_store(store), name
