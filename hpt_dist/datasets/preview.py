"""A preview of a dataset: a sheet of thumbnails with class names, as PNG or as one HTML page."""

from __future__ import annotations

import io
import json
import math
from bisect import bisect
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

from hpt_dist.datasets import fewshot, tar
from hpt_dist.datasets.manifest import NO_LABEL, Manifest, Shard, read_index
from hpt_dist.errors import DataError, RequestError, nearest
from hpt_dist.images.formats import decode
from hpt_dist.page import Heading, Paragraph, Picture, Sheet, as_html, printable
from hpt_dist.store import Store

THUMBNAIL_PX = 144

_MARGIN_PX = 16
_GAP_PX = 12
_CAPTION_PX = 20
_TITLE_PX = 32
_TEXT_PX, _TITLE_TEXT_PX = 12, 18
_INK, _FAINT, _PAPER, _FRAME = "#1a1a1a", "#767676", "#ffffff", "#e4e4e4"
_NO_LABEL = "no label"
_GOLDEN_DEGREES = 137.508  # neighbouring class ids get colours far apart
_READERS = 8
_CAPTION_LETTERS = 1000
_MAX_PIXELS = 2**31
_BOX_NUMBERS = 4  # left, top, width and height
_ANNOTATION_BYTES = 2**20  # read behind the last image of a shard: the index does not hold its end


@dataclass(frozen=True)
class _ImagePlace:
    """Where one image lies; its label and annotation end at `end`."""

    shard: Shard
    key: str
    offset: int
    length: int
    end: int


@dataclass(frozen=True)
class Thumbnail:
    """One image of a preview.

    Args:
        key: of the image.
        caption: the names of its classes; empty without a label.
        picture: RGB, at most `THUMBNAIL_PX` wide and high, its boxes drawn.
    """

    key: str
    caption: str
    picture: Image.Image

    def png(self) -> bytes:
        """Return the picture alone."""
        return _png(self.picture)


@dataclass(frozen=True)
class Preview:
    """Some images of one split, sorted by class."""

    title: str
    subtitle: str
    thumbnails: tuple[Thumbnail, ...]

    def png(self) -> bytes:
        """Return a contact sheet, about as wide as high."""
        return _png(_sheet(self))

    def html(self) -> bytes:
        """Return a page that needs no other file."""
        pictures = [
            Picture(one.png(), one.caption or _NO_LABEL, one.key) for one in self.thumbnails
        ]
        sheet = Sheet(pictures, THUMBNAIL_PX)
        return as_html(
            self.title, [Heading(1, self.title), Paragraph(self.subtitle), sheet]
        ).encode()


def preview(
    store: Store, manifest: Manifest, split: str, count: int, seed: int = 0, class_name: str = ""
) -> Preview:
    """Choose images, spread over the classes, and read them.

    Args:
        store: the root of the store.
        manifest: of the dataset.
        split: its name, such as `train`.
        count: images to show, or all if there are fewer.
        seed: the same seed shows the same images.
        class_name: show this class alone.

    Raises:
        RequestError: there is no such split or class.
        DataError: an index or an image is damaged.
    """
    images = manifest.images(split)
    dataset = manifest.shards_in(store.at(f"datasets/{manifest.name}"))
    class_id = _class_id(manifest, class_name) if class_name else None
    places, labels = _places_and_labels(dataset, manifest, split, class_id)
    if not places:
        raise RequestError(
            f"{split} of {manifest.name} has no image of class {class_name}",
            allowed=", ".join(_classes_of(manifest, split)),
        )
    rows = fewshot.spread(labels, len(manifest.classes), count, seed).tolist()
    rows.sort(key=lambda row: (_sortable(labels[row]), places[row].key))
    shown = _thumbnails(dataset, manifest, [(places[row], labels[row]) for row in rows])
    of_class = f" of class {class_name}" if class_name else ""
    subtitle = f"{len(shown):,} of {len(labels) if class_name else images:,} images{of_class}"
    return Preview(f"{manifest.name} / {split}", f"{subtitle}, seed {seed}", shown)


def thumbnails_of(
    store: Store, manifest: Manifest, split: str, keys: Collection[str]
) -> dict[str, Thumbnail]:
    """Return some images of a split by their keys.

    Args:
        store: the root of the store.
        manifest: of the dataset.
        split: its name, such as `train`.
        keys: of the images; those that the split does not hold are left out.

    Raises:
        RequestError: there is no such split.
        DataError: an index or an image is damaged.
        StoreError: a shard or an index is not there.
    """
    manifest.images(split)
    dataset = manifest.shards_in(store.at(f"datasets/{manifest.name}"))
    places = zip(*_places_and_labels(dataset, manifest, split, None), strict=True)
    wanted = [(place, label) for place, label in places if place.key in keys]
    return {one.key: one for one in _thumbnails(dataset, manifest, wanted)}


def _class_id(manifest: Manifest, name: str) -> int:
    if name not in manifest.classes:
        raise RequestError(
            f"dataset {manifest.name} has no class {name}",
            allowed=f"one of {len(manifest.classes)}, such as {', '.join(manifest.classes[:5])}"
            if manifest.classes
            else "none: it has no labels",
            fix=nearest(name, manifest.classes),
        )
    return manifest.classes.index(name)


def _classes_of(manifest: Manifest, split: str) -> list[str]:
    counts = manifest.splits[split].class_counts
    return [name for name, count in zip(manifest.classes, counts, strict=True) if count]


Label = int | tuple[int, ...]


def _places_and_labels(
    dataset: Store, manifest: Manifest, split: str, class_id: int | None
) -> tuple[list[_ImagePlace], list[Label]]:
    """Return the images of a split, or those of one class, and their labels."""
    shards, classes = manifest.splits[split].shards, len(manifest.classes)
    places: list[_ImagePlace] = []
    labels: list[Label] = []
    with ThreadPoolExecutor(_READERS) as threads:
        indexes = threads.map(lambda shard: read_index(dataset, shard, classes), shards)
        for shard, index in zip(shards, indexes, strict=True):
            if not index.keys:  # every image of the shard was left out
                continue
            ends = [offset - tar.BLOCK_BYTES for offset in index.offsets[1:]]
            ends.append(min(shard.bytes, index.offsets[-1] + index.lengths[-1] + _ANNOTATION_BYTES))
            for key, offset, length, end, label in zip(
                index.keys, index.offsets, index.lengths, ends, index.labels, strict=True
            ):
                if class_id is None or class_id in _ids(label):
                    places.append(_ImagePlace(shard, key, offset, length, end))
                    labels.append(label)
    return places, labels


def _ids(label: Label) -> tuple[int, ...]:
    several = label if isinstance(label, tuple) else (label,)
    return tuple(one for one in several if one != NO_LABEL)


def _sortable(label: Label) -> tuple[bool, tuple[int, ...]]:
    ids = _ids(label)
    return not ids, ids


def _thumbnails(
    dataset: Store, manifest: Manifest, wanted: Sequence[tuple[_ImagePlace, Label]]
) -> tuple[Thumbnail, ...]:
    with ThreadPoolExecutor(_READERS) as threads:
        return tuple(threads.map(lambda one: _thumbnail(dataset, manifest, *one), wanted))


def _thumbnail(dataset: Store, manifest: Manifest, place: _ImagePlace, label: Label) -> Thumbnail:
    data = dataset.get(place.shard.path, place.offset, place.end - place.offset)
    try:
        image = decode(data[: place.length])[0]
    except DataError as error:
        raise DataError(
            f"the image {place.key} is damaged: {error.problem.what}",
            where=f"{dataset.uri}/{place.shard.path}",
            fix="hpt-dist data verify reports everything that is damaged",
        ) from error
    names = ", ".join(manifest.classes[one] for one in _ids(label))
    facts = _annotation(data[place.length + -place.length % tar.BLOCK_BYTES :], place.key)
    scale = THUMBNAIL_PX / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    picture = image.resize(size, Image.Resampling.LANCZOS)
    _draw_boxes(picture, facts, len(manifest.classes))
    return Thumbnail(place.key, names, picture)


def _annotation(members: bytes, key: str) -> dict[str, Any]:
    """Return the content of KEY.json, from the part of a tar that follows the image."""
    for name, content in tar.members(members):
        if not name.startswith(f"{key}."):
            break
        if name == f"{key}.json":
            try:
                facts = json.loads(content)
            except (ValueError, RecursionError):  # no JSON: the preview shows no boxes
                break
            return facts if isinstance(facts, dict) else {}
    return {}


def _draw_boxes(picture: Image.Image, facts: dict[str, Any], classes: int) -> None:
    """Draw an annotation's boxes; they are in pixels of the annotation's own frame.

    An annotation may come from anywhere: a box that makes no sense is not drawn.
    """
    frame, objects = _numbers([facts.get("width"), facts.get("height")]), facts.get("objects")
    if not frame or min(frame) <= 0 or not isinstance(objects, list):
        return
    draw = ImageDraw.Draw(picture)
    across, down = picture.width / frame[0], picture.height / frame[1]
    for thing in objects:
        found = _class_and_box(thing)
        if found is None or not 0 <= found[0] < classes:
            continue
        class_id, (left, top, width, height) = found
        corners = (left * across, top * down, (left + width) * across, (top + height) * down)
        # Pillow cannot draw at any number; this is outside of the picture.
        inside = [round(min(max(one, -THUMBNAIL_PX), 2 * THUMBNAIL_PX)) for one in corners]
        draw.rectangle(inside, outline=_colour(class_id), width=2)


def _class_and_box(thing: Any) -> tuple[int, list[float]] | None:
    """Return the class and the box of an object, or None if they make no sense."""
    values = thing if isinstance(thing, dict) else {}
    class_id, box = values.get("class"), values.get("box")
    if type(class_id) is not int or not isinstance(box, list) or len(box) != _BOX_NUMBERS:
        return None
    numbers = _numbers(box)
    return (class_id, numbers) if numbers and min(numbers[2:]) > 0 else None


def _numbers(values: Sequence[Any]) -> list[float]:
    """Return values as numbers; none of them if one is no number or beyond any image."""
    sound = all(type(one) in (int, float) and abs(one) < _MAX_PIXELS for one in values)
    return list(values) if sound else []


def _colour(class_id: int) -> tuple[int, ...]:
    return ImageColor.getrgb(f"hsl({class_id * _GOLDEN_DEGREES % 360:.0f}, 90%, 50%)")


def _sheet(shown: Preview) -> Image.Image:
    cell, row = THUMBNAIL_PX + _GAP_PX, THUMBNAIL_PX + _CAPTION_PX + _GAP_PX
    columns = math.ceil(math.sqrt(len(shown.thumbnails)))
    rows = math.ceil(len(shown.thumbnails) / columns)
    width = 2 * _MARGIN_PX + columns * cell - _GAP_PX
    height = 2 * _MARGIN_PX + _TITLE_PX + rows * row - _GAP_PX
    sheet = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    _write_title(draw, shown, width - 2 * _MARGIN_PX)
    font = ImageFont.load_default(_TEXT_PX)
    for number, thumbnail in enumerate(shown.thumbnails):
        down, across = divmod(number, columns)
        left, top = _MARGIN_PX + across * cell, _MARGIN_PX + _TITLE_PX + down * row
        frame = (left, top, left + THUMBNAIL_PX - 1, top + THUMBNAIL_PX - 1)
        draw.rectangle(frame, outline=_FRAME)
        spare = np.subtract(THUMBNAIL_PX, thumbnail.picture.size) // 2
        sheet.paste(thumbnail.picture, (left + int(spare[0]), top + int(spare[1])))
        caption = truncated(thumbnail.caption or _NO_LABEL, font, THUMBNAIL_PX)
        middle = (left + THUMBNAIL_PX / 2, top + THUMBNAIL_PX + _CAPTION_PX / 2 + 1)
        draw.text(middle, caption, _INK if thumbnail.caption else _FAINT, font, "mm")
    return sheet


def _png(picture: Image.Image) -> bytes:
    data = io.BytesIO()
    picture.save(data, "PNG", optimize=True)
    return data.getvalue()


def _write_title(draw: ImageDraw.ImageDraw, shown: Preview, width: int) -> None:
    font, small = ImageFont.load_default(_TITLE_TEXT_PX), ImageFont.load_default(_TEXT_PX)
    baseline = _MARGIN_PX + _TITLE_TEXT_PX - 4
    title = truncated(shown.title, font, width)
    draw.text((_MARGIN_PX, baseline), title, _INK, font, "ls")
    left = font.getlength(title) + _GAP_PX
    subtitle = truncated(shown.subtitle, small, width - left)
    draw.text((_MARGIN_PX + left, baseline), subtitle, _FAINT, small, "ls")


def truncated(
    text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width_px: float
) -> str:
    """Return a text in one line, cut with an ellipsis if it is too wide; empty if nothing fits."""
    # Measuring takes as long as its text, and a class name may be of any length.
    text = printable(" ".join(text[: _CAPTION_LETTERS + 1].splitlines()))
    if len(text) <= _CAPTION_LETTERS and font.getlength(text) <= width_px:
        return text

    def shorter(end: int) -> str:
        return f"{text[:end].rstrip()}…"

    end = bisect(range(1, len(text)), width_px, key=lambda end: font.getlength(shorter(end)))
    return shorter(end) if end else ""


def default_name(manifest: Manifest, split: str) -> str:
    """Return the default file name of a preview."""
    return f"{PurePosixPath(manifest.name).name}-{split}.png"
