"""hpt-dist prune."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hpt_dist.cli import console
from hpt_dist.cli.console import size
from hpt_dist.cli.options import DEFAULT_STORE, JsonOption, StoreOption
from hpt_dist.errors import HptError, RequestError
from hpt_dist.launch import pruning
from hpt_dist.launch.pruning import Item, Kept, Needs
from hpt_dist.launch.survey import plan_against_store
from hpt_dist.recipe.numerics import Device
from hpt_dist.store import Store, marker, open_store


def prune(
    yes: Annotated[
        bool, typer.Option("--yes", help="Delete what is listed; without it nothing is deleted.")
    ] = False,
    keep: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="RECIPE", help="Keep the trials and datasets of this recipe; may be repeated."
        ),
    ] = None,
    forget: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LAUNCH",
            help="Delete the record of this launch, and what only it needs; may be repeated.",
        ),
    ] = None,
    datasets: Annotated[
        bool,
        typer.Option(
            "--datasets",
            help="Also delete datasets that no launch of this store used, and unfinished ones, "
            "if they were not written in the last 24 hours.",
        ),
    ] = False,
    store: StoreOption = DEFAULT_STORE,
    json_: JsonOption = False,
) -> None:
    """List what no launch needs, and with --yes delete it.

    Trials that no launch names, saved states of finished trials, and drafts of processes that
    ended. What somebody works on stays, and so does what a launch began to need meanwhile. Logs and
    MLflow's runs are not touched.

    \b
    Examples:
      hpt-dist prune
      hpt-dist prune --forget my_recipe-20261130-101500-1a2b
      hpt-dist prune --keep my_recipe.yaml --datasets --yes
    """
    opened = open_store(store)
    if marker.is_new(opened):
        raise RequestError(f"there is no store at {opened.uri}", where="--store")
    needs = _needs(opened, keep or [])
    items = pruning.find(opened, needs, forget or [], datasets)
    kept = _delete(opened, items, needs) if yes else []
    if json_:
        listed = [item.as_json() for item in items]
        staying = [{"name": one.item.name, "why": one.why} for one in kept]
        console.print_json({"deleted": yes, "items": listed, "kept": staying})
        return
    _print(items, yes, kept)


def _needs(store: Store, recipes: list[Path]) -> Needs:
    """Return what recipes need, on a CPU or a GPU: precision is part of keys."""
    keys: set[str] = set()
    digests: set[str] = set()
    for recipe in recipes:
        refused: list[HptError] = []
        for device in (Device("cpu"), Device("gpu")):
            try:
                planned = plan_against_store(recipe, [], None, device, store.uri)
            except RequestError as error:
                refused.append(error)
                continue
            keys |= {trial.key for trial in planned.trials}
            digests |= {one.digest for one in planned.facts.datasets.values()}
        if len(refused) > 1:
            raise refused[0]
    return Needs(keys, digests)


def _delete(store: Store, items: list[Item], needs: Needs) -> list[Kept]:
    store = marker.existing(store)
    kept, gone = [], set()
    with console.counting("prune") as progress:
        for done, item in enumerate(items):
            stays = pruning.delete(store, item, needs)
            if stays:
                kept.append(stays)
            elif item.kind == "trial":
                gone.add(item.name)
            progress(done + 1, len(items))
    pruning.forget_inputs(store, gone)
    return kept


def _print(items: list[Item], yes: bool, kept: list[Kept]) -> None:
    if not items:
        console.print_line("nothing to delete: launches need all of it")
        return
    rows = [(item.kind, item.name, size(item.bytes), item.why) for item in items]
    console.print_table(("what", "name", "size", "why"), rows)
    staying = {id(one.item) for one in kept}
    count = size(sum(item.bytes for item in items if id(item) not in staying))
    for one in kept:
        console.print_note(f"kept: {one.item.name}: {one.why}")
    if yes:
        console.print_line(f"deleted {len(items) - len(kept)} of {len(items)}, {count}")
    else:
        console.print_line(f"{len(items)} to delete, {count}: the same command with --yes")
