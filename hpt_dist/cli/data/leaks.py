"""hpt-dist data leaks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from hpt_dist.cli import console
from hpt_dist.cli.data.options import located
from hpt_dist.cli.options import DEFAULT_STORE, JsonOption, StoreOption
from hpt_dist.datasets import leave_out, origins
from hpt_dist.datasets.inventory import SplitName, StoredDataset
from hpt_dist.datasets.leaks import Findings, Pair, find
from hpt_dist.datasets.manifest import read_manifest
from hpt_dist.datasets.shard_workers import cores
from hpt_dist.store import files

_EXAMPLES = 3
_Files = Callable[[SplitName, str], str]


def leaks(
    uris: Annotated[
        list[str],
        typer.Argument(metavar="URI...", help="STORE/datasets/NAME, or names in the store."),
    ],
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
        typer.Option(metavar="FILE", help="CSV file to write for shard --leave-out."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Number of processes; by default one for each core.", min=1)
    ] = None,
    store: StoreOption = DEFAULT_STORE,
    json_: JsonOption = False,
) -> None:
    """Find images of val or test that training also sees.

    It exits with 1 if there are any. Copies are found by their bytes, look-alikes (resized,
    recompressed, brightened) by a perceptual hash. A pair of train and val, train and test, or val
    and test is a leak; other pairs are only listed. Each image is named by its key and by its file
    in the source.

    \b
    Examples:
      hpt-dist data leaks ./hpt-store/datasets/photos
      hpt-dist data leaks s3://b/hpt/datasets/pool --against s3://b/hpt/datasets/target
      hpt-dist data leaks ./hpt-store/datasets/photos --write-list leaks.csv
    """
    datasets, others = (
        [_opened(uri, store) for uri in uris],
        [_opened(uri, store) for uri in against or []],
    )
    with _stages() as progress:
        findings = find(
            datasets,
            others,
            distance=None if exact else distance,
            workers=workers or cores(),
            progress=progress,
        )
    traced = _traced([*datasets, *others], findings)
    if write_list:
        rows = [
            (place.dataset, place.split, key, traced(place, key))
            for place, key in findings.leave_out()
        ]
        files.replace(write_list, leave_out.text_of(rows).encode())
    if json_:
        console.print_json(_findings_json(findings, traced))
    else:
        _print_findings(findings, traced)
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


def _traced(datasets: Sequence[StoredDataset], findings: Findings) -> _Files:
    """Return a function of a split and a key, which gives the file; empty if it was not noted."""
    keys = {key for pair in findings.pairs for key in (pair.a_key, pair.b_key)}
    noted: dict[str, Mapping[str, str]] = {}
    for one in datasets:
        found = origins.files_of(one.folder, one.manifest, keys)
        # A dataset is called by its URI where two have the same name.
        for name in (one.manifest.name, f"{one.store.uri}/datasets/{one.manifest.name}"):
            noted[name] = found
    return lambda place, key: noted[place.dataset].get(key, "")


def _findings_json(findings: Findings, traced: _Files) -> dict[str, Any]:
    def side(place: SplitName, key: str) -> dict[str, str]:
        return {"split": str(place), "key": key, "file": traced(place, key)}

    def described(pair: Pair) -> dict[str, Any]:
        return {
            "kind": pair.kind,
            "distance": pair.distance,
            "leak": pair.leak,
            "a": side(pair.a, pair.a_key),
            "b": side(pair.b, pair.b_key),
        }

    return {
        "images": findings.images,
        "flat": findings.flat,
        "leaks": len(findings.leaks),
        "pairs": [described(pair) for pair in findings.pairs],
    }


def _print_findings(findings: Findings, traced: _Files) -> None:
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
                left, right = traced(pair.a, pair.a_key), traced(pair.b, pair.b_key)
                console.print_line(f"  {pair.a_key}  {pair.b_key}{bits}")
                if left and right:
                    console.print_line(f"    {left}  {right}")
    flat = findings.flat
    blank = f"; {flat:,} are nearly blank and were compared by their bytes only" if flat else ""
    console.print_line(f"{findings.images:,} images compared{blank}")
    out = len(findings.leave_out())
    how = "--write-list FILE, then shard SOURCE DEST --replace --leave-out FILE"
    console.print_line(f"{out:,} images to leave out: {how}" if out else "no leaks")


def _opened(uri: str, store: str) -> StoredDataset:
    opened, name = located(uri, store)
    return StoredDataset(opened, read_manifest(opened, name))
