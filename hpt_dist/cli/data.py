"""The commands that look at datasets: parse, call, print. Nothing here imports torch."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hpt_dist.cli import console
from hpt_dist.cli.options import JsonOption
from hpt_dist.errors import RequestError
from hpt_dist.store import files

if TYPE_CHECKING:
    from hpt_dist.datasets.inventory import StoredDataset
    from hpt_dist.datasets.leaks import Findings, Pair
    from hpt_dist.datasets.manifest import Manifest, Split
    from hpt_dist.datasets.subset import Kind, SubsetRule

data_app = typer.Typer(
    help="""Show, check and preview sharded datasets, find leaks, and choose subsets.

    \b
    Example:
      hpt-dist data show ./hpt-store/datasets/openmoji/line
    """,
    no_args_is_help=True,
)

UriArgument = Annotated[str, typer.Argument(help="A dataset: STORE/datasets/NAME")]
SplitOption = Annotated[str, typer.Option(help="The split to use.")]

_CLASSES_SHOWN = 5
_QUARANTINED_SHOWN = 10
_EXAMPLES = 3


@data_app.command("show")
def data_show(uri: UriArgument, json_: JsonOption = False) -> None:
    """Print a dataset's splits, classes, pixel statistics, licence and left-out images.

    \b
    Examples:
      hpt-dist data show ./hpt-store/datasets/openmoji/line
      hpt-dist data show s3://bucket/hpt/datasets/photos --json
    """
    from hpt_dist.datasets.manifest import read_manifest

    manifest = read_manifest(*_located(uri))
    if json_:
        console.print_json(manifest.as_json() | {"digest": manifest.digest})
        return
    kinds = {
        "single": "one class per image",
        "multi": "any number of classes per image",
        "none": "no labels",
    }
    metric = f"; metric {manifest.metric}" if manifest.metric else ""
    console.print_line(f"{manifest.name}  digest {manifest.digest[:12]}")
    console.print_line(
        f"labels   {kinds[manifest.label]}, {len(manifest.classes):,} classes{metric}"
    )
    mean, std = (" ".join(f"{v:.4f}" for v in values) for values in (manifest.mean, manifest.std))
    console.print_line(f"pixels   mean {mean}  std {std}")
    source = manifest.source
    console.print_line(
        f"source   {source.name}; licence: {source.licence}; credit: {source.credit}"
    )
    console.print_line(f"rule     {source.rule}")
    rows = [
        (
            name,
            f"{split.images:,}",
            f"{len(split.shards):,}",
            f"{sum(s.bytes for s in split.shards) / 1e6:,.1f}",
        )
        for name, split in manifest.splits.items()
    ]
    console.print_table(("split", "images", "shards", "MB"), rows)
    for name, split in manifest.splits.items():
        if sum(split.class_counts):
            console.print_line(f"classes of {name}: {_counts_in_words(manifest, split)}")
    _print_quarantined(manifest)


def _counts_in_words(manifest: Manifest, split: Split) -> str:
    """Return the largest and the smallest classes of a split, or all of them if they are few."""
    pairs = zip(manifest.classes, split.class_counts, strict=True)
    ranked = sorted(pairs, key=lambda pair: -pair[1])
    names = [f"{name} {count:,}" for name, count in ranked]
    if len(names) <= 2 * _CLASSES_SHOWN:
        return ", ".join(names)
    most, fewest = names[:_CLASSES_SHOWN], names[-_CLASSES_SHOWN:]
    return f"most {', '.join(most)}; fewest {', '.join(fewest)}"


def _print_quarantined(manifest: Manifest) -> None:
    if not manifest.quarantined:
        return
    images = sum(split.images for split in manifest.splits.values()) + len(manifest.quarantined)
    console.print_line(f"left out: {len(manifest.quarantined):,} of {images:,} images")
    for one in manifest.quarantined[:_QUARANTINED_SHOWN]:
        console.print_line(f"  {one.origin}: {one.reason}")
    if len(manifest.quarantined) > _QUARANTINED_SHOWN:
        console.print_line("  --json lists all of them, under quarantined")


@data_app.command("verify")
def data_verify(uri: UriArgument) -> None:
    """Check every digest, count and label of a dataset; exit 1 if one is wrong.

    Reads every byte, and compares the images and labels in the tars with the indexes. Files that
    do not belong to the dataset are listed as notes; they are no errors.

    \b
    Example:
      hpt-dist data verify ./hpt-store/datasets/openmoji/line
    """
    from hpt_dist.datasets.verify import strays, verify

    store, name = _located(uri)
    with console.counting(f"verify {name}") as progress:
        problems = verify(store, name, progress)
    for path in strays(store, name):
        console.print_note(f"note: {path} belongs to no shard or subset of the dataset")
    for problem in problems:
        console.print_error(str(problem))
    if problems:
        console.print_error(f"{len(problems)} problem{'s' if len(problems) > 1 else ''}")
        raise typer.Exit(1)
    console.print_line("all digests, counts and labels are correct")


@data_app.command("preview")
def data_preview(
    uri: UriArgument,
    split: SplitOption = "train",
    out: Annotated[
        Path | None, typer.Option(help="A .png or .html file; by default NAME-SPLIT.png here.")
    ] = None,
    images: Annotated[int, typer.Option(help="Number of thumbnails.", min=1, max=2500)] = 64,
    seed: Annotated[int, typer.Option(help="Another seed shows other images.", min=0)] = 0,
    class_: Annotated[str, typer.Option("--class", help="Show only this class.")] = "",
) -> None:
    """Write a sheet of thumbnails from all classes, with class names and boxes.

    \b
    Examples:
      hpt-dist data preview ./hpt-store/datasets/openmoji/line
      hpt-dist data preview ./hpt-store/datasets/photos --split test --out test.html
      hpt-dist data preview ./hpt-store/datasets/photos --class cat --images 16 --seed 1
    """
    from hpt_dist.datasets.manifest import read_manifest
    from hpt_dist.datasets.preview import default_name, preview

    if out and out.suffix not in (".png", ".html"):
        raise RequestError(
            f"{out} has the wrong ending for a preview", where="--out", allowed=".png, .html"
        )
    store, name = _located(uri)
    manifest = read_manifest(store, name)
    shown = preview(store, manifest, split, images, seed, class_)
    path = out or Path(default_name(manifest, split))
    files.replace(path, shown.html() if path.suffix == ".html" else shown.png())
    console.print_line(f"{shown.title}: {shown.subtitle}, in {path}")


@data_app.command("leaks")
def data_leaks(
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
    from hpt_dist.datasets.leaks import find
    from hpt_dist.datasets.shard_workers import cores

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


@data_app.command("subset")
def data_subset(
    uri: UriArgument,
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="Name of the subset.")] = "",
    labels: Annotated[
        int | None,
        typer.Option(help="Choose this many labelled images, with at least one per class.", min=1),
    ] = None,
    percent: Annotated[
        float | None, typer.Option(help="Choose this share of all images, labelled or not.")
    ] = None,
    shots: Annotated[
        int | None, typer.Option(help="Choose this many images of each class.", min=1)
    ] = None,
    paper: Annotated[
        bool, typer.Option("--paper", help="Write all subsets of the HPT paper.")
    ] = False,
    split: SplitOption = "train",
    seed: Annotated[int, typer.Option(help="Another seed chooses other images.", min=0)] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Also write the keys to this file, one per line.")
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Choose images of a split, and save the list under a name in the dataset's folder.

    With the same seed a smaller subset is part of each larger one. --labels and --percent keep the
    proportions of the classes. To pretrain on a subset, write data: [DATASET/SPLIT@NAME] in the
    recipe; stages that need labels choose the same images by shots or labels and seed.

    \b
    Examples:
      hpt-dist data subset ./hpt-store/datasets/photos thousand --labels 1000
      hpt-dist data subset ./hpt-store/datasets/photos tenth --percent 10 --seed 1
      hpt-dist data subset ./hpt-store/datasets/photos five --shots 5 --out five.txt
      hpt-dist data subset s3://b/hpt/datasets/domainnet/real --paper
    """
    from hpt_dist.datasets.manifest import read_manifest
    from hpt_dist.datasets.subset import Chooser, describe, paper_rules, write_subset

    rules = _rules(name, {"labels": labels, "percent": percent, "shots": shots}, paper)
    if out and paper:
        raise RequestError("--out takes one subset", fix="name it instead of --paper")
    store, dataset_name = _located(uri)
    manifest = read_manifest(store, dataset_name)
    prefix = "" if split == "train" else f"{split}-"
    rules = rules or {f"{prefix}{key}": rule for key, rule in paper_rules(manifest).items()}
    chooser = Chooser(store, manifest, split, seed)
    written = []
    for subset_name, rule in rules.items():
        try:
            subset = chooser.choose(subset_name, rule)
        except RequestError as error:
            if not paper:
                raise
            console.print_note(f"note: no {subset_name}: {error}")
            continue
        path = write_subset(store, dataset_name, subset)
        if out:
            files.replace(out, "".join(f"{key}\n" for key in subset.keys).encode())
        written.append({"name": subset_name, "images": len(subset.keys), "digest": subset.digest})
        if not json_:
            console.print_line(
                f"{subset_name}: {describe(subset)}, digest {subset.digest[:12]}, in {path}"
            )
    if json_:
        console.print_json(written)


def _rules(name: str, amounts: dict[Kind, float | None], paper: bool) -> dict[str, SubsetRule]:
    """Return the one subset that the options ask for; nothing for the paper's."""
    from hpt_dist.datasets.subset import SubsetRule

    given = [(kind, amount) for kind, amount in amounts.items() if amount is not None]
    if len(given) + paper != 1:
        raise RequestError(
            f"{len(given) + paper} rules are given, and a subset needs exactly one",
            allowed="--labels, --percent, --shots or --paper",
        )
    if bool(name) == paper:
        raise RequestError(
            "the paper's subsets have their own names" if paper else "the subset has no name",
            fix="leave NAME out" if paper else "hpt-dist data subset URI NAME ...",
        )
    return {name: SubsetRule.from_number(*given[0])} if given else {}


def _located(uri: str) -> tuple[Any, str]:
    """Return the store and the name of a dataset."""
    from hpt_dist.launch.survey import dataset_store
    from hpt_dist.store import open_store

    store, name = dataset_store(uri if "://" in uri else str(Path(uri).absolute()))
    return open_store(store), name


def _opened(uri: str) -> StoredDataset:
    from hpt_dist.datasets.inventory import StoredDataset
    from hpt_dist.datasets.manifest import read_manifest

    store, name = _located(uri)
    return StoredDataset(store, read_manifest(store, name))
