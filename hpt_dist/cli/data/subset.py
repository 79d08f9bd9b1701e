"""hpt-dist data subset."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hpt_dist.cli import console
from hpt_dist.cli.data.options import SplitOption, UriArgument, located
from hpt_dist.cli.options import DEFAULT_STORE, JsonOption, StoreOption
from hpt_dist.datasets.manifest import Manifest, read_manifest
from hpt_dist.datasets.subset import (
    Chooser,
    Kind,
    SubsetRule,
    describe,
    paper_rules,
    write_subset,
)
from hpt_dist.errors import RequestError
from hpt_dist.store import files, marker


def subset(
    uri: UriArgument,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the subset.")] = "",
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
        Path | None,
        typer.Option(metavar="FILE", help="Also write the keys to this file, one per line."),
    ] = None,
    store: StoreOption = DEFAULT_STORE,
    json_: JsonOption = False,
) -> None:
    """Choose images of a split, and save the list in the dataset's folder.

    With the same seed a smaller subset is part of each larger one. --labels and --percent keep the
    proportions of the classes. To learn from a subset, write data: [DATASET/SPLIT@NAME] in the
    recipe; stages that need labels choose the same images by shots or labels and seed.

    \b
    Examples:
      hpt-dist data subset ./hpt-store/datasets/photos thousand --labels 1000
      hpt-dist data subset ./hpt-store/datasets/photos tenth --percent 10 --seed 1
      hpt-dist data subset ./hpt-store/datasets/photos five --shots 5 --out five.txt
      hpt-dist data subset s3://b/hpt/datasets/domainnet/real --paper
    """
    rules = _rules(name, {"labels": labels, "percent": percent, "shots": shots}, paper)
    if out and paper:
        raise RequestError("--out takes one subset", fix="name it instead of --paper")
    opened, dataset_name = located(uri, store)
    manifest = read_manifest(opened, dataset_name)
    prefix = "" if split == "train" else f"{split}-"
    rules = rules or {f"{prefix}{key}": rule for key, rule in paper_rules(manifest).items()}
    chooser = Chooser(opened, manifest, split, seed)
    written = []
    for subset_name, rule in rules.items():
        try:
            chosen = chooser.choose(subset_name, rule)
        except RequestError as error:
            if not paper:
                raise
            console.print_note(f"note: no {subset_name}: {error}")
            continue
        path = write_subset(marker.begin(opened), dataset_name, chosen)
        if out:
            files.replace(out, "".join(f"{key}\n" for key in chosen.keys).encode())
        written.append({"name": subset_name, "images": len(chosen.keys), "digest": chosen.digest})
        if few := _short(rule, manifest, split):
            console.print_note(f"note: {few}")
        if not json_:
            console.print_line(
                f"{subset_name}: {describe(chosen)}, digest {chosen.digest[:12]}, in {path}"
            )
    if json_:
        console.print_json(written)


def _short(rule: SubsetRule, manifest: Manifest, split: str) -> str:
    """Return how many classes have fewer images than a rule asks for, in words; empty if none."""
    counts = manifest.splits[split].class_counts if rule.kind == "shots" else ()
    few = {manifest.classes[c]: count for c, count in enumerate(counts) if count < rule.amount}
    if not few:
        return ""
    least = min(few, key=lambda name: few[name])
    classes = f"{len(few)} of {len(counts)} classes of {split}"
    return f"{classes} have fewer than {rule.amount} images and give all; {least} has {few[least]}"


def _rules(name: str, amounts: dict[Kind, float | None], paper: bool) -> dict[str, SubsetRule]:
    """Return the one subset that the options ask for; nothing for the paper's."""
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
