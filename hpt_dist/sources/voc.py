"""Images with boxes in the layout of Pascal VOC: JPEGImages/, Annotations/*.xml and ImageSets/Main.

The labels of an image are the classes of its objects that are not difficult: VOC's rule for
classification passes over the others. They stay in the annotation with `"difficult": true`. VOC
counts pixels from 1 and its corners belong to the box; here a box is `[left, top, width, height]`
from 0. A box that covers nothing of its image is left out and counted in the source's rule.

A user's folder is split by ImageSets/Main/{train,val,test}.txt, where `trainval` is the train of a
folder without one. Without such files the path of each image decides, and images without an .xml
are in the split `unlabeled`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from hpt_dist.errors import RequestError
from hpt_dist.sources import annotated
from hpt_dist.sources.problems import Problems
from hpt_dist.sources.sample import (
    HASH_SPLIT_RULE,
    SPLITS,
    FileSource,
    Sample,
    file_sample,
    hash_split,
)


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
                listing.add(folder, one, images.get(one), split)
    return listing.source(name, rule, classes, licence, credit)


def is_voc(folder: Path) -> bool:
    """Return whether a folder has the layout of Pascal VOC."""
    return (folder / "Annotations").is_dir() and (folder / "JPEGImages").is_dir()


def open_folder(folder: Path) -> FileSource:
    """List a user's own folder, for which `is_voc` is true.

    Raises:
        RequestError: see `open_voc`; or there are no images.
    """
    name = folder.resolve().name
    names = {one.stem for one in (folder / "ImageSets" / "Main").glob("*.txt")}
    sets: dict[str, list[tuple[Path, str]]] = {}
    for one in sorted(names & SPLITS.keys()):
        sets.setdefault(SPLITS[one], []).append((folder, one))
    if "train" not in sets and "trainval" in names:
        sets["train"] = [(folder, "trainval")]
    if sets:
        return open_voc(sets, name=name, rule="splits by ImageSets/Main", root=folder)
    listing = _VocListing(folder)
    images = _images(folder)
    annotations = _stems(folder / "Annotations")
    for one in sorted(images.keys() | annotations.keys()):
        listing.add(folder, one, images.get(one), None if one in annotations else "unlabeled")
    return listing.source(name, HASH_SPLIT_RULE)


def _members(folder: Path, image_set: str, images: Mapping[str, Path]) -> list[str]:
    """Return the images of a set; in a set of one class each line ends with 1, 0 or -1."""
    path = folder / "ImageSets" / "Main" / f"{image_set}.txt"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        names = sorted(one.stem for one in path.parent.glob("*.txt"))
        raise RequestError(
            f"cannot be read: {error.strerror}", where=str(path), allowed=", ".join(names)
        ) from error
    names = [line.strip() for line in lines if line.strip()]
    return [one if one in images else one.split()[0] for one in names]


def _images(folder: Path) -> dict[str, Path]:
    return _stems(folder / "JPEGImages")


def _stems(folder: Path) -> dict[str, Path]:
    """Return the files below a folder by their paths without the extension."""
    files = {}
    for parent, _, names in os.walk(folder, followlinks=True):
        for name in sorted(names):
            path = Path(parent, name)
            if not name.startswith("."):
                files[path.relative_to(folder).with_suffix("").as_posix()] = path
    return files


@dataclass(frozen=True)
class _VocImage:
    """An image before all classes are known; without annotation `objects` is None."""

    where: str
    path: Path
    split: str
    frame: tuple[int, int]
    objects: list[dict[str, Any]] | None


class _VocListing:
    """The images of any number of folders, and the mistakes in them.

    Args:
        root: a folder above those of the images.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._problems = Problems()
        self._listed: dict[str, _VocImage] = {}
        self._dropped = 0

    def add(self, folder: Path, image: str, path: Path | None, split: str | None) -> None:
        """Add an image.

        Args:
            folder: such as `VOCdevkit/VOC2007`.
            image: its name in the image sets.
            path: its file, if there is one.
            split: its split, or None where its path decides.
        """
        xml = folder / "Annotations" / f"{image}.xml"
        where = str(xml)
        if path is None:
            self._problems.add(where, f"no image {image} in {folder / 'JPEGImages'}")
            return
        relative = os.path.relpath(path, self._root).replace(os.sep, "/")
        if relative in self._listed:
            self._problems.add(where, f"{relative!r} is listed twice")
            return
        frame, objects = (0, 0), None
        if split != "unlabeled" or xml.is_file():
            try:
                frame, objects = self._parsed(xml)
            except (OSError, ValueError, ElementTree.ParseError) as error:
                what = error.strerror if isinstance(error, OSError) else error
                self._problems.add(where, str(what))
                return
        self._listed[relative] = _VocImage(
            where, path, split or hash_split(relative), frame, objects
        )

    def source(
        self,
        name: str,
        rule: str,
        classes: Sequence[str] | None = None,
        licence: str = "not stated",
        credit: str = "not stated",
    ) -> FileSource:
        """Return the source of the added images, or raise the mistakes."""
        boxes = [(one, box) for one in self._listed.values() for box in one.objects or ()]
        names = list(classes or sorted({box["class"] for _, box in boxes}))
        ids = {one: i for i, one in enumerate(names)}
        for listed, box in boxes:
            if box["class"] not in ids:
                what = f"unknown class {box['class']!r}"
                self._problems.add(listed.where, what, box["class"], ids)
        self._problems.refuse(f"the annotations of {name}")
        if not self._listed:
            raise RequestError("no images", where=str(self._root), allowed="JPEGImages/*.jpg")
        return FileSource(
            name=name,
            rule=annotated.rule_in_words(rule, self._dropped),
            classes=names,
            files=[_sample(relative, one, ids) for relative, one in self._listed.items()],
            licence=licence,
            credit=credit,
            multi_label=True,
        )

    def _parsed(self, xml: Path) -> tuple[tuple[int, int], list[dict[str, Any]]]:
        """Return width and height of the frame, and the objects in it by the name of their class.

        Raises:
            OSError: the file cannot be read.
            ValueError: something is missing or no number; the text describes it.
            xml.etree.ElementTree.ParseError: it is no XML.
        """
        parser = ElementTree.XMLParser(target=_NoDoctype())  # noqa: S314 - `_NoDoctype` has no entities
        parser.feed(xml.read_bytes())
        tree = parser.close()
        width, height = (int(_number(tree, f"size/{side}")) for side in ("width", "height"))
        if width < 1 or height < 1:
            raise ValueError(f"the size is {width} x {height}")
        objects = []
        for element in tree.iterfind("object"):
            entry = _object(element)
            if annotated.has_area(entry["box"], width, height):
                objects.append(entry)
            else:
                self._dropped += 1
        return (width, height), objects


def _object(element: ElementTree.Element) -> dict[str, Any]:
    name = (element.findtext("name") or "").strip()
    if not name:
        raise ValueError("an object has no name")
    corners = ("xmin", "ymin", "xmax", "ymax")
    left, top, right, bottom = (_number(element, f"bndbox/{corner}") for corner in corners)
    entry = {
        "class": name,
        "box": [left - 1, top - 1, right - left + 1, bottom - top + 1],
        "crowd": False,
    }
    difficult = (element.findtext("difficult") or "").strip() == "1"
    return entry | {"difficult": True} if difficult else entry


def _number(element: ElementTree.Element, path: str) -> float:
    text = element.findtext(path)
    if text is None:
        raise ValueError(f"{element.tag} has no {path}")
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{path} is {text!r}, no number")
    return number


def _sample(relative: str, listed: _VocImage, ids: Mapping[str, int]) -> Sample:
    if listed.objects is None:
        return file_sample(listed.path, relative, listed.split, None)
    objects = [one | {"class": ids[one["class"]]} for one in listed.objects]
    width, height = listed.frame
    annotation = {"width": width, "height": height, "objects": objects}
    label = annotated.labels_of(objects)
    return file_sample(listed.path, relative, listed.split, label, annotation)
