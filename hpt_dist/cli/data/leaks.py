"""hpt-dist data leaks."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from hpt_dist.cli import console
from hpt_dist.cli.data.options import located
from hpt_dist.cli.options import JsonOption
from hpt_dist.datasets.inventory import StoredDataset
from hpt_dist.datasets.leaks import Findings, Pair, find
from hpt_dist.datasets.manifest import read_manifest
from hpt_dist.datasets.shard_workers import cores
from hpt_dist.store import files

_EXAMPLES = 3


def leaks(
    uris: Annotated[list[str], typer.Argument(metavar="URI...", help="STORE/datasets/NAME")],
    against: Annotated[
        list[str] | None,
        typer.Option(metavar="URI", help="Compare only with this dataset; may be repeated."),
    ] = None,
    distance: Annotated[
        int,
        typer.Option(
            help="Look-alikes differ in at most this many of the 64 bits of their hashes.",
            min=0,
            max=12,
        ),
    ] = 4,
    exact: Annotated[
        bool, typer.Option("--exact", help="Find exact copies only; reads almost no image.")
    ] = False,
    write_list: Annotated[
        Path | None,
        typer.Option(help="Write the images to leave out to this CSV file: dataset,split,key."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Number of processes; by default one for each core.", min=1)
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Find images of val or test that training also sees; exit 1 if there are any.

    Copies are found by their bytes, look-alikes (resized, recompressed, brightened) by a
    perceptual hash. A pair of train and val, train and test, or val and test is a leak; other
    pairs are only listed.

    \b
    Examples:
      hpt-dist data leaks ./hpt-store/datasets/photos
      hpt-dist data leaks s3://b/hpt/datasets/pool --against s3://b/hpt/datasets/target
      hpt-dist data leaks ./hpt-store/datasets/photos --write-list leave-out.csv
    """
    with _stages() as progress:
        findings = find(
            [_opened(uri) for uri in uris],
            [_opened(uri) for uri in against or []],
            distance=None if exact else distance,
            workers=workers or cores(),
            progress=progress,
        )
    if write_list:
        text = io.StringIO()
        rows = [(place.dataset, place.split, key) for place, key in findings.leave_out()]
        csv.writer(text, lineterminator="\n").writerows([("dataset", "split", "key"), *rows])
        files.replace(write_list, text.getvalue().encode())
    if json_:
        console.print_json(_findings_json(findings))
    else:
        _print_findings(findings)
    if findings.leaks:
        raise typer.Exit(1)


@contextmanager
def _stages() -> Iterator[Callable[[str, int, int], None]]:
    """Yield a function of (stage, done, total) that shows one stage after the other."""
    with ExitStack() as stack:
        counters: dict[str, Callable[[int, int], None]] = {}

        def update(stage: str, done: int, total: int) -> None:
            if stage not in counters:
                stack.close()
                counters[stage] = stack.enter_context(console.counting(stage))
            counters[stage](done, total)

        yield update


def _findings_json(findings: Findings) -> dict[str, Any]:
    def described(pair: Pair) -> dict[str, Any]:
        return {
            "kind": pair.kind,
            "distance": pair.distance,
            "leak": pair.leak,
            "a": {"split": str(pair.a), "key": pair.a_key},
            "b": {"split": str(pair.b), "key": pair.b_key},
        }

    return {
        "images": findings.images,
        "flat": findings.flat,
        "leaks": len(findings.leaks),
        "pairs": [described(pair) for pair in findings.pairs],
    }


def _print_findings(findings: Findings) -> None:
    groups = findings.groups()
    rows = [
        (
            str(a),
            str(b),
            kind,
            f"{len(pairs):,}",
            f"{len({pair.a_key for pair in pairs}):,}",
            f"{len({pair.b_key for pair in pairs}):,}",
            "LEAK" if pairs[0].leak else "",
        )
        for (a, b, kind), pairs in groups.items()
    ]
    if rows:
        console.print_table(("a", "b", "kind", "pairs", "images of a", "images of b", ""), rows)
    for (a, b, kind), pairs in groups.items():
        if pairs[0].leak:
            console.print_line(f"{kind}, {a} and {b}:")
            for pair in pairs[:_EXAMPLES]:
                bits = f"  ({pair.distance} of 64 bits)" if kind == "near" else ""
                console.print_line(f"  {pair.a_key}  {pair.b_key}{bits}")
    flat = findings.flat
    blank = f"; {flat:,} are nearly blank and were compared by their bytes only" if flat else ""
    console.print_line(f"{findings.images:,} images compared{blank}")
    out = len(findings.leave_out())
    console.print_line(f"{out:,} images to leave out (--write-list)" if out else "no leaks")


def _opened(uri: str) -> StoredDataset:

    store, name = located(uri)
    return StoredDataset(store, read_manifest(store, name))
