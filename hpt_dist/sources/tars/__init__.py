"""Existing WebDataset tars as a source: ours, webdataset's own, img2dataset's; here and on S3.

Members are grouped into samples by webdataset's own functions, over a reader that reports every
damage (`members`). Tars are read twice: once for their headers and labels, then an image at a time
at its offset, so that they must be plain: not compressed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hpt_dist.errors import RequestError
from hpt_dist.sources.sample import HASH_SPLIT_RULE, FileSource, hash_split, printable
from hpt_dist.sources.tars import fields, labels, ours, places, samples, splits
from hpt_dist.sources.tars.labels import Labels
from hpt_dist.sources.tars.places import Places, are_named, in_short, listed
from hpt_dist.sources.tars.samples import Image, Listing, Progress, image_sample

__all__ = ["TarOptions", "are_named", "in_short", "listed", "open_tars"]

_SHOWN = 8
_NAMES_SHOWN = 3


@dataclass(frozen=True)
class TarOptions:
    """How tars are read, where that is not plain; an empty text leaves it to the tars.

    Args:
        image: the field that holds the image, such as `jpg` or `left`.
        label: the field that holds the label: `cls`, `txt`, `json:NAME`, or `none`.
        classes: a file with the names of the classes, in the order of their numbers.
        split: the split of all images, or `hash`.
    """

    image: str = ""
    label: str = ""
    classes: str = ""
    split: str = ""

    def __post_init__(self) -> None:
        for name in ("image", "label"):  # fields are in small letters, and written with a dot too
            field, colon, inside = getattr(self, name).partition(":")
            field = ";".join(one.removeprefix(".") for one in field.lower().split(";"))
            object.__setattr__(self, name, field + colon + inside)


def open_tars(
    text: str, options: TarOptions | None = None, progress: Progress = lambda _done, _total: None
) -> FileSource:
    """List the images of tars.

    Args:
        text: a folder, a tar, or a list such as `train-{000000..000146}.tar`; also on S3.
        options: how they are read.
        progress: see `samples.list_samples`.

    Raises:
        RequestError: tars are missing or damaged, labels or splits contradict each other, or
            several readings are plausible.
        StoreError: S3 refused.
    """
    found = places.find(text)
    dataset = ours.dataset_of(found)
    if dataset:
        if options:
            raise RequestError(
                "this is a dataset of hpt-dist, whose manifest says all of it",
                where=printable(text),
                fix="leave out --image, --label, --classes and --split; or name its tars",
            )
        return ours.open_dataset(dataset, found, progress)
    options = options or TarOptions()
    listing = samples.list_samples(
        found, label=options.label, image=options.image, progress=progress
    )
    images = fields.pick_images(listing, found, options.image)
    if not images:
        raise _no_images(listing, found)
    placed, rule = splits.splits_of(listing.samples, found, options.split)
    classes = Path(options.classes) if options.classes else None
    labelled = labels.labels_of(listing, found, placed, options.label, classes)
    if not labelled.classes and rule == HASH_SPLIT_RULE and not options.split:
        placed, rule = [splits.UNLABELLED] * len(placed), splits.UNLABELLED_RULE
    return FileSource(
        name=found.name,
        rule=rule,
        classes=labelled.classes,
        files=[
            image_sample(found.store, one, image, split or hash_split(one.origin(image)), label)
            for one, image, split, label in zip(
                listing.samples, images, placed, labelled.of, strict=True
            )
        ],
        multi_label=labelled.multi_label,
        notes=_notes(found, listing, images, labelled),
    )


def _notes(
    found: Places, listing: Listing, images: Sequence[Image], labelled: Labels
) -> tuple[str, ...]:
    """Return lines about what was understood."""
    counts = ", ".join(
        f"{printable(name)} {count:,}" for name, count in listing.fields.most_common(_SHOWN)
    )
    tars, count = len(found.tars), len(listing.samples)
    used = sorted({image.field for image in images})
    keys = Counter(one.key for one in listing.samples)
    again = [key for key, times in keys.items() if times > 1]
    return (
        f"read as WebDataset: {tars:,} tar{'s' if tars > 1 else ''}, {count:,} samples",
        f"fields of the samples: {counts}; the image is {' or '.join(used[:_SHOWN])}",
        *labelled.notes,
        *_several(again),
        *_links(found),
        *found.notes,
        *listing.aside.notes(),
        *_beside(found),
    )


def _several(keys: Sequence[str]) -> list[str]:
    if not keys:
        return []
    count, first = f"{len(keys):,}", printable(keys[0])
    return [f"keys that are in several tars: {count}, such as {first}; each is a sample of its own"]


def _links(found: Places) -> list[str]:
    if not found.links:
        return []
    pairs = [f"{link} is {tar}" for link, tar in found.links.items()]
    shown = ", ".join(map(printable, pairs[:_NAMES_SHOWN]))
    return [f"set aside: tars that are there already: {len(pairs):,} ({shown})"]


def _beside(found: Places) -> list[str]:
    if not found.beside:
        return []
    shown = ", ".join(map(printable, found.beside[:_NAMES_SHOWN]))
    return [f"set aside: other files beside the tars: {len(found.beside):,} ({shown})"]


def _no_images(listing: Listing, found: Places) -> RequestError:
    """Return the error for tars without images: what is in them instead."""
    held = "; ".join(listing.aside.notes()).replace("set aside: ", "") or "nothing"
    return RequestError(
        f"no images in the tars ({len(found.tars):,}); they hold {held}",
        where=printable(found.store.uri),
        allowed="files of images: .jpg, .png, .webp and others",
        fix="where a field of another name holds the images, say --image FIELD",
    )
