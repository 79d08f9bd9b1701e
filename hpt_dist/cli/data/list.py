"""hpt-dist data list."""

from __future__ import annotations

from hpt_dist.cli import console
from hpt_dist.cli.options import DEFAULT_STORE, JsonOption, StoreOption
from hpt_dist.cli.requested import note_if_new
from hpt_dist.datasets import overview
from hpt_dist.datasets.overview import Listed
from hpt_dist.store import open_store


def list_(store: StoreOption = DEFAULT_STORE, json_: JsonOption = False) -> None:
    """List the datasets of a store: splits, classes, size, age and source.

    \b
    Examples:
      hpt-dist data list
      hpt-dist data list --store s3://bucket/hpt --json
    """
    opened = open_store(store)
    note_if_new(opened)
    found = overview.datasets(opened)
    if json_:
        console.print_json([one.as_json() for one in found])
        return
    if not found:
        console.print_line(f"no dataset in {opened.uri}")
        return
    columns = ("dataset", "splits", "classes", "size", "written (UTC)", "source")
    console.print_table(columns, [_row(one) for one in found])


def _row(one: Listed) -> tuple[str, ...]:
    size, time = console.size(one.bytes), one.written[:16].replace("T", " ") or "-"
    if one.manifest is None:
        return (one.name, one.fault, "", size, time, "")
    splits = ", ".join(f"{name} {split.images:,}" for name, split in one.manifest.splits.items())
    classes = f"{len(one.manifest.classes):,}" if one.manifest.label != "none" else "no labels"
    return (one.name, splits, classes, size, time, one.manifest.source.name)
