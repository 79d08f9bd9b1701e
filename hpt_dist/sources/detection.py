"""A source whose objects are what is learned, from one whose annotations have boxes.

Each labelled image then takes its objects along in pixels of the image as it is stored, and those
are the label: an image without objects is labelled, too. The classes of its objects that are no
crowd are what indexes and counts of classes hold of it. An image whose objects are not known, or
of which all boxes were left out, is no background: it goes to the split `unlabeled`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import Any

from hpt_dist.errors import RequestError
from hpt_dist.sources.sample import BoxKind, FileSource, Sample

OPTION = "--boxes"
_UNLABELLED = "unlabeled"
_SHOWN = 3
_A_PIXEL = 1.0  # exports round: who reaches out by no more is not counted


def with_boxes(source: FileSource) -> FileSource:
    """Return a source with its objects as labels.

    Args:
        source: its annotations have `objects`; one that has boxes already is returned as it is.

    Raises:
        RequestError: no image has an object.
    """
    if source.boxes:
        return source
    count = _counted(source.files)
    if not count.objects:
        raise RequestError(
            "no image has a box",
            where=OPTION,
            allowed="a COCO file, folders as Roboflow exports COCO, or a Pascal VOC folder",
            fix="leave it out where images have labels or nothing at all",
        )
    kind: BoxKind = "masks" if count.masks == count.objects else "boxes"
    files = [_with_objects(one, kind) for one in source.files]
    return replace(
        source,
        files=files,
        boxes=True,
        multi_label=False,
        notes=(*source.notes, *count.in_words()),
    )


@dataclass
class _Count:
    """What the annotations of a source hold."""

    objects: int = 0
    masks: int = 0
    areas: int = 0
    crowds: int = 0
    difficult: int = 0
    reaching: list[str] = field(default_factory=list)
    empty: Counter[str] = field(default_factory=Counter)
    unknown: list[str] = field(default_factory=list)

    def in_words(self) -> list[str]:
        """Return lines for the terminal."""
        flags = [
            f"{count:,} {name}"
            for count, name in ((self.crowds, "crowds"), (self.difficult, "difficult"))
            if count
        ]
        of_them = f", of them {' and '.join(flags)}" if flags else ""
        lines = [f"boxes: {self.objects:,} objects{of_them}"]
        if self.masks == self.objects:
            lines.append("masks: every object has one")
        elif self.masks:
            without = self.objects - self.masks
            lines.append(f"masks left out: {without:,} of {self.objects:,} objects have none")
        if 0 < self.areas < self.objects:
            without = self.objects - self.areas
            lines.append(f"areas measured: {without:,} of {self.objects:,} objects have none")
        if self.reaching:
            lines.append(f"cut at the edge of their image: {_named(self.reaching, 'boxes')}")
        if self.empty:
            splits = ", ".join(f"{split} {count:,}" for split, count in sorted(self.empty.items()))
            lines.append(f"images without an object are kept: {splits}")
        if self.unknown:
            lines.append(f"unlabeled, as their objects are not known: {_named(self.unknown)}")
        return lines


def _counted(files: Sequence[Sample]) -> _Count:
    count = _Count()
    for one in files:
        facts = one.annotation or {}
        objects = facts.get("objects")
        if not _is_known(one):
            count.unknown.append(one.origin)
            continue
        count.empty.update([] if objects else [one.split])
        count.areas += sum(area is not None for area in one.areas)
        for number, thing in enumerate(objects or ()):
            count.objects += 1
            count.masks += bool(thing.get("segmentation"))
            count.crowds += bool(thing["crowd"])
            count.difficult += bool(thing.get("difficult"))
            if _reaches_out(thing["box"], facts):
                count.reaching.append(f"{one.origin}: objects[{number}]")
    return count


def _is_known(sample: Sample) -> bool:
    """Return whether all that is in an image is known."""
    objects = (sample.annotation or {}).get("objects")
    return bool(objects) or (objects is not None and sample.label is not None)


def _reaches_out(box: Sequence[float], facts: Mapping[str, Any]) -> bool:
    left, top, width, height = box
    right, bottom = left + width - facts["width"], top + height - facts["height"]
    return bool(max(-left, -top, right, bottom) > _A_PIXEL)


def _with_objects(sample: Sample, kind: BoxKind) -> Sample:
    if not _is_known(sample):
        return replace(sample, split=_UNLABELLED, label=None, annotation=None)
    facts = dict(sample.annotation or {})
    left_out = {"segmentation"} if kind == "boxes" else set()
    facts["objects"] = [
        {name: value for name, value in thing.items() if name not in left_out}
        | ({} if area is None else {"area": area})
        for thing, area in zip_longest(facts["objects"], sample.areas)
    ]
    present = {thing["class"] for thing in facts["objects"] if not thing["crowd"]}
    return replace(sample, label=tuple(sorted(present)), annotation=facts, boxes=kind)


def _named(places: Sequence[str], what: str = "images") -> str:
    """Return how many there are, and the first of them."""
    more = ", ..." if len(places) > _SHOWN else ""
    return f"{len(places):,} {what} ({', '.join(places[:_SHOWN])}{more})"
