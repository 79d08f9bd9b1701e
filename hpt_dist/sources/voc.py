"""Images with boxes in the layout of Pascal VOC: JPEGImages/, Annotations/*.xml and ImageSets/Main.

The labels of an image are the classes of its objects that are not difficult: VOC's rule for
classification passes over the others. They stay in the annotation with `"difficult": true`. VOC
counts pixels from 1 and its corners belong to the box; here a box is `[left, top, width, height]`
from 0. A box that covers nothing of its image is left out, see `annotated`.

A user's folder is split by ImageSets/Main/{train,val,test}.txt, where `trainval` is the train of a
folder without one; val and test may hold no class that train lacks. Without such files the path of
each image decides, and images without an .xml are in the split `unlabeled`. Files that are no
images, such as Thumbs.db, are left out and named in the source's rule.
"""

from __future__ import annotations

import math
import os
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from hpt_dist.errors import RequestError
from hpt_dist.sources import annotated, class_names, folder_tree
from hpt_dist.sources.annotated import ImageBoxes
from hpt_dist.sources.class_names import plain
from hpt_dist.sources.problems import Problems
from hpt_dist.sources.sample import (
    HASH_SPLIT_RULE,
    SPLITS,
    FileSource,
    Sample,
    file_sample,
    hash_split,
    printable,
    read_file,
)
from hpt_dist.sources.split_names import split_of

# What a file without an annotation is called if it is an image; one without a suffix may be one.
_IMAGE_SUFFIXES = {"", ".avif", ".bmp", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".jpe"}
_IMAGE_SUFFIXES |= {".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff"}
_IMAGE_SUFFIXES |= {".webp"}
_SHOWN = 3


class _NoDoctype(ElementTree.TreeBuilder):
    """Refuses declarations: the entities that they declare can expand to gigabytes."""

    def doctype(self, *_: object) -> None:
        """Called at `<!DOCTYPE`, before any entity is declared."""
        raise ValueError("<!DOCTYPE is not allowed in an annotation")


def open_voc(
    splits: Mapping[str, Sequence[tuple[Path, str]]],
    *,
    name: str,
    rule: str,
    licence: str = "not stated",
    credit: str = "not stated",
    classes: Sequence[str] | None = None,
    root: Path,
) -> FileSource:
    """List the images of Pascal VOC folders.

    Args:
        splits: for each split, folders such as `VOCdevkit/VOC2007`, each with the name of one of
            its image sets, such as `trainval`.
        name: of the source.
        rule: how the images were chosen and split, in words.
        licence: of the images.
        credit: whom to credit.
        classes: all classes in the order of their ids; by default those that occur, sorted.
        root: a folder above those of the images; keys come from the paths below it.

    Raises:
        RequestError: an image set does not exist, or all mistakes in the annotations.
    """
    listing = _VocListing(root)
    for split, sets in splits.items():
        for folder, image_set in sets:
            images = _images(folder)
            for one in _members(folder, image_set, images):
                listing.add(folder, one, images.get(one, []), split)
    return listing.source(name, rule, classes, licence, credit)


def is_voc(folder: Path) -> bool:
    """Return whether a folder has the layout of Pascal VOC."""
    return (folder / "Annotations").is_dir() and (folder / "JPEGImages").is_dir()


def open_folder(folder: Path) -> FileSource:
    """List a user's own folder, for which `is_voc` is true.

    Raises:
        RequestError: see `open_voc`; or there are no images.
    """
    names = sorted(one.stem for one in (folder / "ImageSets" / "Main").glob("*.txt"))
    both = [one for one in names if one.casefold().startswith("trainval")]
    sets: dict[str, list[str]] = {}
    for one in names:
        if one in SPLITS:
            sets.setdefault(SPLITS[one], []).append(one)
    exact = set(sets)
    for one in names:  # such as Train.txt or test2007.txt
        if one not in both and (split := split_of(one)) and split not in exact:
            sets.setdefault(split, []).append(one)
    if "train" not in sets and both:
        sets["train"] = both
    return _by_image_sets(folder, sets) if sets else _by_path(folder)


def _by_image_sets(folder: Path, sets: Mapping[str, Sequence[str]]) -> FileSource:
    images = _images(folder)
    listing = _VocListing(folder)
    for split, image_sets in sets.items():
        for image_set in image_sets:
            for one in _members(folder, image_set, images):
                listing.add(folder, one, images.get(one, []), split)
    listing.note_classes_that_train_lacks()
    source = listing.source(folder.resolve().name, "splits by ImageSets/Main")
    if missing := sum(map(len, images.values())) - len(source.files):
        note = f"set aside: files of JPEGImages in none of the image sets: {missing:,}"
        return replace(source, notes=(*source.notes, note))
    return source


def _by_path(folder: Path) -> FileSource:
    images, annotations = _images(folder), _stems(folder / "Annotations")
    listing = _VocListing(folder)
    no_images = []
    for one in sorted(images.keys() | annotations.keys()):
        if one in annotations:
            listing.add(folder, one, images.get(one, []), None)
            continue
        for path in images[one]:
            if path.suffix.lower() in _IMAGE_SUFFIXES:
                listing.add(folder, one, [path], "unlabeled")
            else:
                no_images.append(path.name)
    rule = "; ".join([HASH_SPLIT_RULE, *_in_words(no_images)])
    return listing.source(folder.resolve().name, rule)


def _in_words(no_images: Sequence[str]) -> list[str]:
    """Return the files that are no images in words, if there are any."""
    if not no_images:
        return []
    more = f" and {len(no_images) - _SHOWN} more" if len(no_images) > _SHOWN else ""
    return [f"left out as no images: {', '.join(no_images[:_SHOWN])}{more}"]


def _members(folder: Path, image_set: str, images: Container[str]) -> list[str]:
    """Return the images of a set; in a set of one class each line ends with 1, 0 or -1."""
    path = folder / "ImageSets" / "Main" / f"{image_set}.txt"
    try:
        lines = read_file(path).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise RequestError("is no UTF-8 text", where=str(path), fix="save it as UTF-8") from error
    except OSError as error:
        names = sorted(one.stem for one in path.parent.glob("*.txt"))
        raise RequestError(
            f"cannot be read: {error.strerror}", where=str(path), allowed=", ".join(names)
        ) from error
    names = [line.strip() for line in lines if line.strip()]
    return [one if one in images else one.split()[0] for one in names]


def _images(folder: Path) -> dict[str, list[Path]]:
    return _stems(folder / "JPEGImages")


def _stems(folder: Path) -> dict[str, list[Path]]:
    """Return the files below a folder by their paths without the extension."""
    files: dict[str, list[Path]] = {}
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [one for one in folders if not _is_litter(one)]
        for name in sorted(names):
            path = Path(parent, name)
            if not folder_tree.is_hidden(name):
                stem = path.relative_to(folder).with_suffix("").as_posix()
                files.setdefault(stem, []).append(path)
    return files


def _is_litter(folder: str) -> bool:
    return folder.startswith("@") or folder_tree.is_hidden(folder)


@dataclass(frozen=True)
class _VocImage:
    """An image before all classes are known; without annotation `boxes` is None."""

    where: str
    path: Path
    split: str
    frame: tuple[int, int]
    boxes: ImageBoxes | None


class _VocListing:
    """The images of any number of folders, and the mistakes in them.

    Args:
        root: a folder above those of the images.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._problems = Problems()
        self._listed: dict[str, _VocImage] = {}

    def add(self, folder: Path, image: str, paths: Sequence[Path], split: str | None) -> None:
        """Add an image.

        Args:
            folder: such as `VOCdevkit/VOC2007`.
            image: its name in the image sets.
            paths: its file; none or several are a mistake.
            split: its split, or None where its path decides.
        """
        xml = folder / "Annotations" / f"{image}.xml"
        where = str(xml)
        if not paths:
            self._problems.add(where, f"no image {image} in {folder / 'JPEGImages'}")
            return
        if len(paths) > 1:
            names = " and ".join(one.name for one in paths)
            self._problems.add(where, f"{names} have the same name: whose annotation is it?")
            return
        [path] = paths
        relative = os.path.relpath(path, self._root).replace(os.sep, "/")
        if relative in self._listed:
            self._problems.add(where, f"{relative!r} is listed twice")
            return
        frame, boxes = (0, 0), None
        if split != "unlabeled" or xml.is_file():
            try:
                frame, boxes, faults = _parsed(xml)
            except (OSError, ValueError, LookupError, ElementTree.ParseError) as error:
                faults = [str(error.strerror if isinstance(error, OSError) else error)]
            for fault in faults:
                self._problems.add(where, fault)
            if faults:
                return
        self._listed[relative] = _VocImage(where, path, split or hash_split(relative), frame, boxes)

    def note_classes_that_train_lacks(self) -> None:
        """Note each class that val or test has and train has not: it is often a misspelt one."""
        known = {
            box["class"]
            for one in self._listed.values()
            if one.split == "train" and one.boxes
            for box in one.boxes.objects
        }
        for one in self._listed.values() if known else ():
            for name in sorted({box["class"] for box in one.boxes.objects} if one.boxes else ()):
                if name not in known:
                    what = f"unknown class {name!r}: train has none"
                    self._problems.add(one.where, what, name, known)

    def source(
        self,
        name: str,
        rule: str,
        classes: Sequence[str] | None = None,
        licence: str = "not stated",
        credit: str = "not stated",
    ) -> FileSource:
        """Return the source of the added images, or raise the mistakes."""
        images = [one for one in self._listed.values() if one.boxes]
        boxes = [one.boxes for one in images if one.boxes]
        names = list(classes or sorted({box["class"] for one in boxes for box in one.objects}))
        ids = {one: i for i, one in enumerate(names)}
        for listed in images:
            for box in listed.boxes.objects if listed.boxes else ():
                if box["class"] not in ids:
                    what = f"unknown class {box['class']!r}"
                    self._problems.add(listed.where, what, box["class"], ids)
        if classes is None:
            class_names.note_alike(names, f"the annotations of {name}", self._problems)
        self._problems.refuse(f"the annotations of {name}")
        annotated.refuse_none_left(boxes, f"the annotations of {name}")
        if not self._listed:
            raise RequestError("no images", where=str(self._root), allowed="JPEGImages/*.jpg")
        return FileSource(
            name=name,
            rule=annotated.rule_in_words(rule, boxes),
            classes=names,
            files=[_sample(relative, one, ids) for relative, one in self._listed.items()],
            licence=licence,
            credit=credit,
            multi_label=True,
            notes=("read as Pascal VOC", *annotated.left_out_in_words(boxes)),
        )


def _parsed(xml: Path) -> tuple[tuple[int, int], ImageBoxes, list[str]]:
    """Read an annotation.

    Returns:
        Width and height of the frame, the objects in it by the name of their class, and in words
        everything that is missing or no number.

    Raises:
        OSError: the file cannot be read.
        ValueError: it declares entities.
        LookupError: its encoding is unknown.
        xml.etree.ElementTree.ParseError: it is no XML.
    """
    parser = ElementTree.XMLParser(target=_NoDoctype())  # noqa: S314 - `_NoDoctype` has no entities
    parser.feed(read_file(xml))
    tree = parser.close()
    faults: list[str] = []
    sides = [_number(tree, f"size/{side}", "annotation", faults) for side in ("width", "height")]
    width, height = (int(side) for side in sides) if not faults else (1, 1)
    if width < 1 or height < 1:
        faults.append(f"the size is {width} x {height}")
    boxes = ImageBoxes([])
    for number, element in enumerate(tree.iterfind("object"), start=1):
        entry = _object(element, f"object[{number}]", faults)
        if annotated.has_area(entry["box"], width, height):
            boxes.objects.append(entry)
        else:
            boxes.left_out.append(printable(f"{xml.name}: object[{number}] {entry['class']}"))
    return (width, height), boxes, faults


def _object(element: ElementTree.Element, place: str, faults: list[str]) -> dict[str, Any]:
    name = plain(element.findtext("name") or "")
    if not name:
        faults.append(f"{place}: an object has no name")
    corners = ("xmin", "ymin", "xmax", "ymax")
    left, top, right, bottom = (
        _number(element, f"bndbox/{corner}", place, faults) for corner in corners
    )
    entry = {
        "class": name,
        "box": [left - 1, top - 1, right - left + 1, bottom - top + 1],
        "crowd": False,
    }
    difficult = (element.findtext("difficult") or "").strip() == "1"
    return entry | {"difficult": True} if difficult else entry


def _number(element: ElementTree.Element, path: str, place: str, faults: list[str]) -> float:
    """Return a number, or 1 where there is none, which is noted."""
    text = element.findtext(path)
    if text is None:
        faults.append(f"{place} has no {path}")
        return 1
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if math.isfinite(number):
        return number
    faults.append(f"{place}: {path} is {text!r}, no number")
    return 1


def _sample(relative: str, listed: _VocImage, ids: Mapping[str, int]) -> Sample:
    if listed.boxes is None:
        return file_sample(listed.path, relative, listed.split, None)
    objects = [one | {"class": ids[one["class"]]} for one in listed.boxes.objects]
    width, height = listed.frame
    annotation = {"width": width, "height": height, "objects": objects}
    label = ImageBoxes(objects, listed.boxes.left_out).label()
    return file_sample(listed.path, relative, listed.split, label, annotation)
