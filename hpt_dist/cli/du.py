"""hpt-dist du."""

from __future__ import annotations

from hpt_dist.cli import console
from hpt_dist.cli.console import size
from hpt_dist.cli.options import DEFAULT_STORE, JsonOption, StoreOption, WorkOption
from hpt_dist.cli.requested import note_if_new
from hpt_dist.launch import usage
from hpt_dist.launch.usage import Usage
from hpt_dist.store import open_store
from hpt_dist.store.paths import work_folder


def du(
    store: StoreOption = DEFAULT_STORE, work: WorkOption = "", json_: JsonOption = False
) -> None:
    """Show how much space a store takes, by launch and by dataset.

    Launches share trials of the same settings: each launch's size counts them, the total once.

    \b
    Examples:
      hpt-dist du
      hpt-dist du --store s3://bucket/hpt --json
    """
    opened = open_store(store)
    note_if_new(opened)
    found = usage.of(opened, work_folder(opened, work))
    if json_:
        console.print_json({"store": opened.uri, **found.as_json()})
        return
    if found.launches:
        launches = [
            (one.id, str(one.trials), size(one.bytes), size(one.shared_bytes))
            for one in found.launches
        ]
        console.print_table(("launch", "trials", "size", "shared with other launches"), launches)
    if found.datasets:
        datasets = [(one.name, size(one.bytes), one.fault) for one in found.datasets]
        console.print_table(("dataset", "size", ""), datasets)
    _print_totals(found, opened.uri)


def _print_totals(found: Usage, uri: str) -> None:
    datasets = sum(one.bytes for one in found.datasets)
    lines = [
        ("trials, each counted once", found.trials, ""),
        ("  saved states of trials that are not done", found.states, ""),
        ("  of no launch", found.unnamed, "hpt-dist prune"),
        ("datasets", datasets, ""),
        ("features of backbones", found.features, "hpt-dist prune, those older than 24 hours"),
        ("records", found.records, ""),
        ("other files", found.other, ""),
        (f"{uri} in all", found.total, ""),
        ("unfinished uploads and drafts", found.unfinished, ""),
        *((f"work folder: {what}", count, "") for what, count in sorted(found.work.items())),
        ("this node's cache of shards", found.cache, ""),
    ]
    rows = [(what, size(count), hint) for what, count, hint in lines if count]
    if rows:
        console.print_table(("what", "size", ""), rows)
