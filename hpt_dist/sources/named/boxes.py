"""Datasets of boxes, as table 1 and table 2 of the paper detect in them: VOC, BDD100K, COCO 2017.

What is official stays as it is: all that trains is train, and what others report on is test.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter
from pydantic.dataclasses import dataclass as checked

from hpt_dist.errors import RequestError
from hpt_dist.sources import annotated, coco, voc
from hpt_dist.sources.annotated import ImageBoxes
from hpt_dist.sources.detection import with_boxes
from hpt_dist.sources.named import unpacked
from hpt_dist.sources.named.natural import VOC_CLASSES
from hpt_dist.sources.problems import Problems
from hpt_dist.sources.sample import FileSource, Sample, file_sample

# The names of 2018, which the paper used; those that the labels of 2020 call otherwise.
BDD_CLASSES = (
    *("person", "rider", "car", "bus", "truck"),
    *("bike", "motor", "traffic light", "traffic sign", "train"),
)
_BDD_OTHERWISE = {"pedestrian": "person", "bicycle": "bike", "motorcycle": "motor"}
# Lanes and areas of 2018 have no box; the benchmark of 2020 does not score these.
_BDD_NOT_SCORED = {"other person", "other vehicle", "trailer"}
_BDD_FRAME = (1280, 720)
_BDD_LABELS = ("labels/bdd100k_labels_images_{}.json", "labels/det_20/det_{}.json")
_BDD_RULE = "train is the official train, and test the official val"
_IGNORING = ConfigDict(extra="ignore", allow_inf_nan=False)


def open_voc(root: Path) -> FileSource:
    """List VOC 07+12: `VOCdevkit/VOC2007` with its test set, and `VOCdevkit/VOC2012`.

    Raises:
        RequestError: the layout is another one; see also `voc.open_voc`.
    """
    sets = [("VOC2007", "trainval"), ("VOC2012", "trainval"), ("VOC2007", "test")]
    required = [f"{year}/ImageSets/Main/{one}.txt" for year, one in sets]
    folder = unpacked.find(root, required, ["VOCdevkit"])
    first, second, test = ((folder / year, one) for year, one in sets)
    source = voc.open_voc(
        {"train": [first, second], "test": [test]},
        name="voc/boxes",
        rule="train is trainval of 2007 and 2012, and test the test of 2007",
        classes=VOC_CLASSES,
        root=folder,
    )
    return with_boxes(source)


def open_coco2017(root: Path) -> FileSource:
    """List COCO 2017: `train2017/`, `val2017/`, `annotations/instances_{train,val}2017.json`.

    Raises:
        RequestError: the layout is another one; see also `coco.open_coco`.
    """
    official = {"train": "train2017", "test": "val2017"}
    files = {split: f"annotations/instances_{one}.json" for split, one in official.items()}
    folder = unpacked.find(root, [*official.values(), *files.values()], ["coco"])
    source = coco.open_coco(
        {split: (folder / files[split], folder / one) for split, one in official.items()},
        name="coco2017",
        rule="train is train2017, and test is val2017",
        root=folder,
    )
    return with_boxes(source)


@checked(frozen=True, slots=True, config=_IGNORING)
class _Corners:
    x1: float
    y1: float
    x2: float
    y2: float


@checked(frozen=True, slots=True, config=_IGNORING)
class _Label:
    category: str
    box2d: _Corners | None = None


@checked(frozen=True, slots=True, config=_IGNORING)
class _Frame:
    name: str
    labels: list[_Label] | None = None


_FRAMES: TypeAdapter[list[_Frame]] = TypeAdapter(list[_Frame])


def open_bdd(root: Path) -> FileSource:
    """List BDD100K: `bdd100k/images/100k/{train,val}/*.jpg` and their labels of 2018 or 2020.

    Raises:
        RequestError: the layout is another one, or all mistakes in the labels.
    """
    images = ["images/100k/train", "images/100k/val"]
    folder = unpacked.find(root, [*images, "labels"], ["bdd100k"])
    listing = _BddListing(folder)
    listing.add("train", "train")
    listing.add("val", "test")
    return with_boxes(listing.source())


@dataclass
class _BddImage:
    relative: str
    split: str
    boxes: ImageBoxes | None


class _BddListing:
    """The images of BDD100K's splits, and the mistakes in their labels.

    Args:
        folder: `bdd100k`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._problems = Problems()
        self._images: list[_BddImage] = []
        self._not_scored: Counter[str] = Counter()
        self._files: list[str] = []

    def add(self, official: str, split: str) -> None:
        """Add the images of an official split."""
        file = self._labels_of(official)
        self._files.append(file.name)
        names = unpacked.visible(self._folder / "images/100k" / official)
        known, there = dict[str, ImageBoxes](), set(names)
        for frame in unpacked.read_json(file, _FRAMES):
            where = f"{file}: {frame.name}"
            if frame.name not in there:
                what = f"no such image: 'images/100k/{official}/{frame.name}'"
                self._problems.add(str(file), what)
            elif frame.name in known:
                self._problems.add(where, "is listed twice")
            else:
                known[frame.name] = self._boxes(frame, where)
        for name in names:
            relative = f"images/100k/{official}/{name}"
            self._images.append(_BddImage(relative, split, known.get(name)))

    def source(self) -> FileSource:
        """Return the source of the added images, or raise the mistakes."""
        self._problems.refuse("the labels of BDD100K", unpacked.MORE_TO_UNPACK)
        boxes = [one.boxes for one in self._images if one.boxes]
        annotated.refuse_none_left(boxes, "the labels of BDD100K")
        notes = [f"read as BDD100K: {' and '.join(self._files)}"]
        notes += annotated.left_out_in_words(boxes)
        if self._not_scored:
            pairs = sorted(self._not_scored.items())
            listed = ", ".join(f"{name} {count:,}" for name, count in pairs)
            notes.append(f"left out, as the benchmark does not score them: {listed}")
        return FileSource(
            name="bdd100k/boxes",
            rule=annotated.rule_in_words(_BDD_RULE, boxes),
            classes=list(BDD_CLASSES),
            files=[self._sample(one) for one in self._images],
            multi_label=True,
            notes=tuple(notes),
        )

    def _labels_of(self, official: str) -> Path:
        files = [self._folder / one.format(official) for one in _BDD_LABELS]
        file = next((one for one in files if one.is_file()), None)
        if file is None:
            raise RequestError(
                f"no labels of {official}",
                where=str(self._folder),
                allowed=" or ".join(one.format(official) for one in _BDD_LABELS),
                fix="unpack the labels of 2018, or the detection labels of 2020, too",
            )
        return file

    def _boxes(self, frame: _Frame, where: str) -> ImageBoxes:
        boxes = ImageBoxes([])
        for number, label in enumerate(frame.labels or ()):
            box = label.box2d
            if box is None:  # a lane, or an area to drive on
                continue
            if label.category in _BDD_NOT_SCORED:
                self._not_scored[label.category] += 1
                continue
            name = _BDD_OTHERWISE.get(label.category, label.category)
            if name not in BDD_CLASSES:
                what = f"unknown class {label.category!r}"
                self._problems.add(f"{where}: labels[{number}]", what, label.category, BDD_CLASSES)
                continue
            sides = [box.x1, box.y1, box.x2 - box.x1, box.y2 - box.y1]
            if annotated.has_area(sides, *_BDD_FRAME):
                entry = {"class": BDD_CLASSES.index(name), "box": sides, "crowd": False}
                boxes.objects.append(entry)
            else:
                boxes.left_out.append(f"{frame.name}: labels[{number}] {name}")
        return boxes

    def _sample(self, one: _BddImage) -> Sample:
        facts: dict[str, Any] = {"width": _BDD_FRAME[0], "height": _BDD_FRAME[1]}
        label: Sequence[int] | None = None
        if one.boxes:
            facts["objects"] = one.boxes.objects
            label = one.boxes.label()
        path = self._folder / one.relative
        sample = file_sample(path, one.relative, one.split, None, facts)
        return replace(sample, label=None if label is None else tuple(label))
