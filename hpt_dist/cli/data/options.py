"""Arguments that the commands for datasets take."""

from __future__ import annotations

from typing import Annotated

import typer

from hpt_dist.launch.lookup import dataset_store
from hpt_dist.store import Store, open_store
from hpt_dist.store.paths import local_path, usual_store

UriArgument = Annotated[
    str,
    typer.Argument(metavar="URI", help="A dataset: STORE/datasets/NAME, or its NAME in the store."),
]
SplitOption = Annotated[str, typer.Option(metavar="SPLIT", help="The split to use.")]


def located(uri: str, store: str = "") -> tuple[Store, str]:
    """Return the store and the name of a dataset.

    Args:
        uri: STORE/datasets/NAME, or its name alone.
        store: where a name alone is looked for; empty for the usual one.

    Raises:
        RequestError: it is no dataset.
    """
    path = local_path(uri)
    is_path = path.is_absolute() or uri.startswith(("./", "../")) or "datasets" in path.parts
    if "://" in uri or is_path or (path / "manifest.json").is_file():
        place, name = dataset_store(uri if "://" in uri else str(path.absolute()))
        return open_store(place), name
    return open_store(store or usual_store()), uri.strip("/")
