"""The tars of a dataset that `hpt-dist shard` wrote: its manifest says what their labels mean."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from hpt_dist.sources.problems import Problems
from hpt_dist.sources.sample import BoxKind, FileSource, Label, LabelKind, Sample
from hpt_dist.sources.tars.places import MANIFEST, Places
from hpt_dist.sources.tars.samples import Progress, TarSample, image_sample, list_samples

_LABELS = "json:labels"
_FIX = "check it: hpt-dist data verify FOLDER"


@dataclass(frozen=True)
class _Shard:
    path: str


@dataclass(frozen=True)
class _Split:
    shards: tuple[_Shard, ...]


@dataclass(frozen=True)
class _Origin:
    name: str
    licence: str
    credit: str
    rule: str


@dataclass(frozen=True)
class Dataset:
    """What is read of a manifest; `datasets.manifest` describes all of it."""

    name: str
    label: LabelKind
    classes: tuple[str, ...]
    source: _Origin
    splits: dict[str, _Split]
    folder: str = ""


_DATASET: TypeAdapter[Dataset] = TypeAdapter(Dataset)


def dataset_of(places: Places) -> Dataset | None:
    """Return the dataset whose folder was named, or None where the tars are no dataset of ours."""
    if MANIFEST not in places.beside:
        return None
    try:
        return _DATASET.validate_json(places.store.get(MANIFEST))
    except ValidationError:
        return None  # other programs use this name too


def open_dataset(dataset: Dataset, places: Places, progress: Progress) -> FileSource:
    """List the images of a dataset with their keys, splits, labels and annotations.

    Raises:
        RequestError: shards are missing or damaged.
    """
    problems = Problems()
    splits = {path: split for split, path in _paths(dataset)}
    there = {info.path: info for info in places.tars}
    for path in splits:
        if path not in there:
            problems.add(places.where(path), "this shard is missing")
    problems.refuse(f"the dataset {dataset.name}", _FIX)
    shards = replace(places, tars=tuple(there[path] for path in splits))
    listing = list_samples(shards, label=_LABELS, annotations=True, progress=progress)
    files = []
    is_boxes = dataset.label == "boxes"
    for one in listing.samples:
        label = _label(one, dataset)
        if label == () and dataset.label == "single":
            problems.add(places.where(one.tar.path), f"the label of {one.key} is no class")
            continue
        files.append(_sample(places, one, splits[one.tar.path], label, is_boxes=is_boxes))
    problems.refuse(f"the dataset {dataset.name}", _FIX)
    return FileSource(
        name=dataset.source.name,
        rule=dataset.source.rule,
        classes=list(dataset.classes),
        files=files,
        licence=dataset.source.licence,
        credit=dataset.source.credit,
        multi_label=dataset.label == "multi",
        boxes=is_boxes,
        notes=(
            f"read as a dataset of hpt-dist: {len(splits):,} tars, {len(files):,} samples; labels, "
            "classes, splits and keys are those of its manifest",
            *listing.aside.notes(),
        ),
    )


def _paths(dataset: Dataset) -> Iterator[tuple[str, str]]:
    below = f"{dataset.folder}/" if dataset.folder else ""
    for split, held in dataset.splits.items():
        for shard in held.shards:
            yield split, f"{below}{shard.path}"


def _label(one: TarSample, dataset: Dataset) -> Label:
    """Return the label of an image; an empty one is no class of a dataset of single labels."""
    several = dataset.label in ("multi", "boxes")
    value = one.values.get(_LABELS if several else "cls")
    if dataset.label == "none" or value is None:
        return None
    texts = value if isinstance(value, tuple) else (str(value),)
    ids = tuple(int(text) for text in texts if text.isdecimal())
    ids = tuple(number for number in ids if number < len(dataset.classes))
    if several:
        return ids
    return ids[0] if ids else ()


def _sample(places: Places, one: TarSample, split: str, label: Label, *, is_boxes: bool) -> Sample:
    facts = {name: value for name, value in (one.annotation or {}).items() if name != "labels"}
    kind: BoxKind = "masks" if facts.pop("masks", False) else "boxes"
    return replace(
        image_sample(places.store, one, one.images[0], split, label),
        key=one.key,
        annotation=facts or None,
        boxes=kind if is_boxes and label is not None else "",
    )
