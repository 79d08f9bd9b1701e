"""hpt-dist data show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from hpt_dist.cli import console
from hpt_dist.cli.data.options import UriArgument, located
from hpt_dist.cli.options import DEFAULT_STORE, JsonOption, StoreOption
from hpt_dist.datasets import origins
from hpt_dist.datasets.manifest import Manifest, Split, read_manifest
from hpt_dist.datasets.origins import Image

_CLASSES_SHOWN = 5
_QUARANTINED_SHOWN = 10


def show(
    uri: UriArgument,
    images: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY...",
            help="Print these images alone, each named by its key or by its file in the source.",
        ),
    ] = None,
    store: StoreOption = DEFAULT_STORE,
    json_: JsonOption = False,
) -> None:
    """Print a dataset's splits, classes, pixel statistics, licence and left-out images.

    With keys of images: the split, the classes, the file in the source and the shard of each.

    \b
    Examples:
      hpt-dist data show ./hpt-store/datasets/openmoji/line
      hpt-dist data show openmoji/line
      hpt-dist data show s3://bucket/hpt/datasets/photos --json
      hpt-dist data show ./hpt-store/datasets/photos cat_1-0a1b2c3d4e5f
    """
    opened, name = located(uri, store)
    manifest = read_manifest(opened, name)
    if images:
        folder = manifest.shards_in(opened.at(f"datasets/{name}"))
        _print_images(origins.trace(folder, manifest, images), json_)
        return
    if json_:
        console.print_json(manifest.as_json() | {"digest": manifest.digest})
        return
    kinds = {
        "single": "one class per image",
        "multi": "any number of classes per image",
        "boxes": f"objects in boxes{', each with a mask' if manifest.masks else ''}",
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


def _print_images(images: Sequence[Image], json_: bool) -> None:
    if json_:
        console.print_json([vars(one) for one in images])
        return
    rows = [
        (one.key, one.split, ", ".join(one.classes) or "-", one.file or "-", one.shard)
        for one in images
    ]
    console.print_table(("key", "split", "class", "file", "shard"), rows)
    if not all(one.file for one in images):
        console.print_note(
            "files were not noted when this dataset was sharded: run the same hpt-dist shard "
            "again, which notes them and writes no image"
        )


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
