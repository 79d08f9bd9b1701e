"""Images with boxes and masks in COCO's JSON: `instances_*.json` and what exports call COCO.

The classes are the categories by ascending id, numbered from 0, since COCO's own ids have gaps. A
category without a box that is only the super-category of others (Roboflow writes one) is no class.
The labels of an image are the classes of its boxes that are no crowd, which may be none; a file
without `annotations` (COCO's test sets) makes unlabelled images. Masks stay as COCO writes them,
polygons or run lengths. Areas come along as `Sample.areas`: the labels of images do not need them.
A box that covers nothing of its image is left out, see `annotated`.

What a user has:

- one .json file, with the images beside it, in `images/` beside it (Label Studio) or in
  `../images` (CVAT), else below `--root`; the path of each image decides its split;
- a folder with `train/_annotations.coco.json`, `valid/...` and so on, images beside (Roboflow).
"""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hpt_dist.errors import RequestError
from hpt_dist.sources import annotated, class_names, coco_file
from hpt_dist.sources.annotated import ImageBoxes
from hpt_dist.sources.coco_file import CocoBox, CocoCategory, CocoFile, CocoImage
from hpt_dist.sources.problems import Problems
from hpt_dist.sources.sample import (
    HASH_SPLIT_RULE,
    SPLITS,
    FileSource,
    Label,
    Sample,
    file_sample,
    hash_split,
    is_file,
    printable,
)

_ROBOFLOW = "_annotations.coco.json"
_LOOKED_AT = 1000  # images, to find their folder


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Keep the garbage collector from looking at millions of new objects again and again."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@_no_collection()
def open_coco(
    splits: Mapping[str, tuple[Path, Path]],
    *,
    name: str,
    rule: str,
    licence: str = "not stated",
    credit: str = "not stated",
    root: Path,
) -> FileSource:
    """List the images of COCO files.

    Args:
        splits: for each split, its annotation file and the folder that its `file_name`s start from.
        name: of the source.
        rule: how the images were chosen and split, in words.
        licence: of the images.
        credit: whom to credit.
        root: a folder above those of the images; keys come from the paths below it.

    Raises:
        RequestError: a file cannot be read, is no COCO file, or all mistakes in it; or none of
            its boxes has an area.
    """
    listing = _CocoListing(root)
    for split, (file, folder) in splits.items():
        listing.add(file, coco_file.read(file, listing.problems), folder, split)
    return listing.source(name, rule, licence, credit)


@_no_collection()
def open_file(file: Path, root: Path | None = None) -> FileSource:
    """List the images of a user's own COCO file, each in the split that its path decides.

    Args:
        file: the .json file.
        root: the folder that its `file_name`s start from, unless it is one of the usual ones.

    Raises:
        RequestError: see `open_coco`; or the images are in none of the folders.
    """
    problems = Problems()
    contents = coco_file.read(file, problems)
    folder = root or _folder_of(file, contents, problems)
    listing = _CocoListing(folder, problems)
    listing.add(file, contents, folder, None)
    return listing.source(file.name, HASH_SPLIT_RULE)


def has_splits(folder: Path) -> bool:
    """Return whether a folder holds splits as Roboflow exports them."""
    return bool(_split_folders(folder))


def open_splits(folder: Path) -> FileSource:
    """List the images of a folder for which `has_splits` is true.

    Raises:
        RequestError: see `open_coco`.
    """
    folders = _split_folders(folder)
    splits = {SPLITS[one.name]: (one / _ROBOFLOW, one) for one in folders}
    if len(splits) < len(folders):
        names = ", ".join(one.name for one in folders)
        raise RequestError(f"two of {names} name the same split", where=str(folder))
    name = folder.resolve().name
    return open_coco(splits, name=name, rule="splits by the top folders", root=folder)


def _split_folders(folder: Path) -> list[Path]:
    return [folder / name for name in SPLITS if (folder / name / _ROBOFLOW).is_file()]


def _folder_of(file: Path, contents: CocoFile, problems: Problems) -> Path:
    """Return the first of the usual folders in which one of the first images is."""
    beside = file.parent
    usual = [beside, beside / "images", beside.parent / "images"]
    for folder in usual:
        if any(is_file(folder / one.file_name) for one in contents.images[:_LOOKED_AT]):
            return folder
    first = contents.images[0].file_name if contents.images else ""
    what = f"no such image: {first!r}" if first else "the file names no image"
    fix = "name their folder with --root" if first else ""
    if problems:
        if first:
            problems.add(str(file), what)
        problems.refuse(str(file), fix)
    allowed = f"images below {', '.join(map(str, usual))}"
    raise RequestError(what, where=str(file), allowed=allowed, fix=fix)


@dataclass(frozen=True, slots=True)
class _ListedImage:
    """An image before all classes are known; without annotations `boxes` is None."""

    path: Path
    split: str
    image: CocoImage
    boxes: ImageBoxes | None


class _CocoListing:
    """The samples of annotation files with the same categories, and the mistakes in them.

    Args:
        root: a folder above those of the images.
        problems: what is known to be wrong already.
    """

    def __init__(self, root: Path, problems: Problems | None = None) -> None:
        self._root = root
        self.problems = Problems() if problems is None else problems
        self._files: list[Path] = []
        self._names: dict[int, str] = {}
        self._parents: dict[int, Any] = {}
        self._listed: dict[str, _ListedImage] = {}
        self._with_box: set[int] = set()

    def add(self, file: Path, contents: CocoFile, folder: Path, split: str | None) -> None:
        """Add the images of a file.

        Args:
            file: how messages name it.
            contents: of the file.
            folder: where its `file_name`s start from.
            split: of all its images, or None where the path of each decides.
        """
        self._take_categories(file, contents.categories)
        objects = self._objects(file, contents)
        for image, place in zip(contents.images, contents.image_places, strict=True):
            path = folder / image.file_name
            where = f"{file}: images[{place}]: image {image.id}"
            relative = os.path.relpath(path, self._root).replace(os.sep, "/")
            if image.file_name.startswith("/") and relative.startswith("../"):
                what = f"{image.file_name!r} is an absolute path outside of {self._root}, so that "
                what += "its name would depend on this machine; name a folder above it with --root"
                self.problems.add(where, what)
                continue
            if relative in self._listed:
                self.problems.add(where, f"{relative!r} is listed twice")
                continue
            if not is_file(path):
                self.problems.add(where, f"no such file: {str(path)!r}")
                continue
            boxes = None if objects is None else objects[image.id]
            self._listed[relative] = _ListedImage(path, split or hash_split(relative), image, boxes)

    def source(
        self, name: str, rule: str, licence: str = "not stated", credit: str = "not stated"
    ) -> FileSource:
        """Return the source of the added images, or raise the mistakes."""
        files = ", ".join(map(str, self._files))
        no_class = set(self._super_categories())
        ids = [category for category in self._names if category not in no_class]
        class_names.note_alike([self._names[one] for one in ids], files, self.problems)
        self.problems.refuse(files)
        boxes = [one.boxes for one in self._listed.values() if one.boxes]
        annotated.refuse_none_left(boxes, files)
        numbers = {category: number for number, category in enumerate(ids)}
        words = [
            f"{self._names[one]} is a super-category without a box, no class"
            for one in sorted(no_class)
        ]
        return FileSource(
            name=name,
            rule="; ".join([annotated.rule_in_words(rule, boxes), *words]),
            classes=[self._names[category] for category in ids],
            files=[_sample(relative, one, numbers) for relative, one in self._listed.items()],
            licence=licence,
            credit=credit,
            multi_label=True,
            notes=(
                f"read as COCO: images below {printable(str(self._root))}",
                *annotated.left_out_in_words(boxes),
            ),
        )

    def _take_categories(self, file: Path, categories: list[CocoCategory]) -> None:
        ordered = sorted(categories, key=lambda one: one.id)
        names = {one.id: one.name for one in ordered}
        if len(set(names.values())) < len(categories):
            listed = ", ".join(f"{one.id} {one.name}" for one in categories)
            self.problems.add(str(file), f"two categories have the same id or name: {listed}")
        if self._files and names != self._names:
            different = sorted(names.items() ^ self._names.items())
            listed = ", ".join(f"{number} {name}" for number, name in different)
            raise RequestError(
                f"its categories differ from those of {self._files[0]}: {listed}", where=str(file)
            )
        self._files.append(file)
        self._names = names
        self._parents = {one.id: one.supercategory for one in ordered}

    def _super_categories(self) -> list[int]:
        """Return the ids of the categories that are only the super-category of others."""
        parents = {
            parent
            for category, parent in self._parents.items()
            if isinstance(parent, str) and parent != self._names[category]
        }
        without_box = self._names.keys() - self._with_box
        return [one for one in self._names if one in without_box and self._names[one] in parents]

    def _objects(self, file: Path, contents: CocoFile) -> dict[int | str, ImageBoxes] | None:
        """Return the boxes of each image by its id, or None if the file has no annotations."""
        frames: dict[int | str, tuple[int, int]] = {}
        for image, place in zip(contents.images, contents.image_places, strict=True):
            if image.id in frames:
                where = f"{file}: images[{place}]"
                self.problems.add(where, f"two images have the same id, {image.id}")
            frames.setdefault(image.id, (image.width, image.height))
        if contents.annotations is None:
            return None
        objects = {image: ImageBoxes([]) for image in frames}
        for box, place in zip(contents.annotations, contents.box_places, strict=True):
            if box.image_id not in frames or box.category_id not in self._names:
                if what := self._unknown(box, frames, contents):
                    where = f"{file}: annotations[{place}]: annotation {box.id}"
                    self.problems.add(where, what)
                continue
            self._with_box.add(box.category_id)
            if annotated.has_area(box.bbox, *frames[box.image_id]):
                objects[box.image_id].objects.append(_object(box))
            else:
                where = f"{file.name}: annotations[{place}]: annotation {box.id}"
                objects[box.image_id].left_out.append(printable(where))
        return objects

    def _unknown(self, box: CocoBox, images: Container[int | str], contents: CocoFile) -> str:
        """Return which id of a box is that of nothing, or an empty text."""
        lost_images, lost_categories = contents.lost
        if box.image_id not in images and box.image_id not in lost_images:
            return f"no image has the id {box.image_id}"
        if box.category_id not in self._names and box.category_id not in lost_categories:
            return f"no category has the id {box.category_id}"
        return ""


def _sample(relative: str, listed: _ListedImage, numbers: Mapping[int, int]) -> Sample:
    annotation: dict[str, Any] = {"width": listed.image.width, "height": listed.image.height}
    label: Label = None
    areas: tuple[float | None, ...] = ()
    if listed.boxes is not None:
        for one in listed.boxes.objects:
            one["class"] = numbers[one["class"]]
        areas = tuple(one.pop("area", None) for one in listed.boxes.objects)
        label = listed.boxes.label()
        annotation["objects"] = listed.boxes.objects
    sample = file_sample(listed.path, relative, listed.split, label, annotation)
    return replace(sample, areas=areas)


def _object(box: CocoBox) -> dict[str, Any]:
    """Return a box as an annotation holds it, its class still the id of the category."""
    entry = {"class": box.category_id, "box": box.bbox, "crowd": bool(box.iscrowd)}
    if box.segmentation:
        entry["segmentation"] = box.segmentation
    return entry if box.area is None else entry | {"area": box.area}
