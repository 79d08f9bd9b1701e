"""Driving scenes: the weather in BDD100K, and the objects in VIPER."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image
from pydantic import ConfigDict, TypeAdapter
from pydantic.dataclasses import dataclass

from hpt_dist.errors import RequestError
from hpt_dist.sources.named import holdout, unpacked
from hpt_dist.sources.problems import Problems
from hpt_dist.sources.sample import FileSource, Sample, file_sample

WEATHER = ("clear", "foggy", "overcast", "partly cloudy", "rainy", "snowy")
BDD_RULE = (
    "test is the official val; val is a seventh of the official train, 10,000 images, whole rides "
    "as far as file names tell them, by SHA-256 of the ride; images of unknown weather: those of "
    "train are unlabeled, those of val left out"
)
_UNDEFINED = "undefined"
_BDD_VAL_SHARE = 7
# The labels of 2020, then those of 2018, which are ten times as large and say the same.
_BDD_LABELS = ("labels/det_20/det_{}.json", "labels/bdd100k_labels_images_{}.json")

# The classes that VIPER evaluates, by the number in its label maps.
VIPER_CLASSES = {
    2: "sky",
    3: "road",
    4: "sidewalk",
    6: "terrain",
    7: "tree",
    8: "vegetation",
    9: "building",
    10: "infrastructure",
    11: "fence",
    12: "billboard",
    13: "trafficlight",
    14: "trafficsign",
    15: "mobilebarrier",
    16: "firehydrant",
    17: "chair",
    18: "trash",
    19: "trashcan",
    20: "person",
    23: "motorcycle",
    24: "car",
    25: "van",
    26: "bus",
    27: "truck",
}
VIPER_RULE = (
    "every tenth frame (numbers that end in 0); test is the official val; val is 21 % of the "
    "official train, whole sequences, by SHA-256 of the sequence; labels: the classes with a pixel"
)
_VIPER_VAL_PERCENT = 21
_MAPS_AT_ONCE = 16


@dataclass(frozen=True, slots=True, config=ConfigDict(extra="ignore"))
class _Attributes:
    weather: str = _UNDEFINED


@dataclass(frozen=True, slots=True, config=ConfigDict(extra="ignore"))
class _Frame:
    name: str
    attributes: _Attributes = _Attributes()


_FRAMES: TypeAdapter[list[_Frame]] = TypeAdapter(list[_Frame])


def open_bdd_weather(root: Path) -> FileSource:
    """List BDD100K: `bdd100k/images/100k/{train,val}/*.jpg` and their labels.

    Raises:
        RequestError: the layout is another one, or all mistakes in the labels.
    """
    images = ["images/100k/train", "images/100k/val"]
    folder = unpacked.find(root, [*images, "labels"], ["bdd100k"])
    problems = Problems()
    samples: list[Sample] = []
    for official, split, unknown in (("train", "train", "unlabeled"), ("val", "test", "")):
        labels = _weather_labels(folder, official, problems)
        for name in unpacked.visible(folder / "images/100k" / official):
            label = labels.get(name)
            to = unknown if label is None else split
            if to:
                relative = f"images/100k/{official}/{name}"
                samples.append(file_sample(folder / relative, relative, to, label))
    problems.refuse("the labels of BDD100K", unpacked.MORE_TO_UNPACK)
    of_train = sum(one.split in {"train", "unlabeled"} for one in samples)
    samples = holdout.hold_out(samples, "val", of_train // _BDD_VAL_SHARE, group=_ride)
    return FileSource("bdd100k/weather", BDD_RULE, list(WEATHER), samples)


def _weather_labels(folder: Path, split: str, problems: Problems) -> dict[str, int]:
    """Return the known weather of the images, by file name."""
    files = [folder / one.format(split) for one in _BDD_LABELS]
    file = next((one for one in files if one.is_file()), None)
    if file is None:
        raise RequestError(
            f"no labels of {split}",
            where=str(folder),
            allowed=" or ".join(one.format(split) for one in _BDD_LABELS),
            fix="unpack the detection labels of 2020, or the labels of 2018, too",
        )
    images = set(unpacked.visible(folder / "images/100k" / split))
    known = {}
    for frame in unpacked.read_json(file, _FRAMES):
        weather = frame.attributes.weather
        if frame.name not in images:
            problems.add(str(file), f"no such image: 'images/100k/{split}/{frame.name}'")
        elif weather in WEATHER:
            known[frame.name] = WEATHER.index(weather)
        elif weather != _UNDEFINED:
            problems.add(f"{file}: {frame.name}", f"unknown weather {weather!r}", weather, WEATHER)
    return known


def _ride(sample: Sample) -> str:
    """Return `0000f77c` of `.../0000f77c-6257be58.jpg`: what the clips of a ride share."""
    return Path(sample.origin).stem.partition("-")[0]


def open_viper(root: Path) -> FileSource:
    """List VIPER: `{train,val}/img/001/001_00010.jpg`, `{train,val}/cls/001/001_00010.png`.

    Every label map is read, which takes minutes for all of them.

    Raises:
        RequestError: the layout is another one, or label maps that are missing or damaged.
    """
    required = [f"{split}/{kind}" for split in ("train", "val") for kind in ("img", "cls")]
    folder = unpacked.find(root, required, ["viper", "VIPER"])
    frames = [
        (f"{official}/img/{frame}", f"{official}/cls/{Path(frame).with_suffix('.png')}", split)
        for official, split in (("train", "train"), ("val", "test"))
        for frame in _tenth_frames(folder / official / "img")
    ]
    problems = Problems()
    samples: list[Sample] = []
    with ThreadPoolExecutor(_MAPS_AT_ONCE) as threads:
        labels = threads.map(_classes_in, (folder / label_map for _, label_map, _ in frames))
        for (relative, label_map, split), label in zip(frames, labels, strict=True):
            if isinstance(label, str):
                problems.add(str(folder / label_map), label)
            else:
                samples.append(file_sample(folder / relative, relative, split, label))
    problems.refuse("the label maps of VIPER", unpacked.MORE_TO_UNPACK)
    train = sum(one.split == "train" for one in samples)
    part = holdout.percent(_VIPER_VAL_PERCENT, train)
    samples = holdout.hold_out(samples, "val", part, group=_sequence)
    classes = list(VIPER_CLASSES.values())
    return FileSource("viper", VIPER_RULE, classes, samples, multi_label=True)


def _tenth_frames(folder: Path) -> Iterator[str]:
    for sequence in unpacked.visible(folder):
        for name in unpacked.visible(folder / sequence) if (folder / sequence).is_dir() else ():
            if name.endswith("0.jpg"):
                yield f"{sequence}/{name}"


def _classes_in(label_map: Path) -> tuple[int, ...] | str:
    """Return the labels of a frame, or why there are none."""
    try:
        with Image.open(label_map, formats=["PNG"]) as image:
            if image.mode not in {"L", "P"}:
                return f"a label map has one channel of 8 bits, not {image.mode}"
            pixels = image.histogram()
    except (OSError, SyntaxError) as error:
        return f"no label map that can be read: {error}"
    return tuple(i for i, number in enumerate(VIPER_CLASSES) if pixels[number])


def _sequence(sample: Sample) -> str:
    return sample.origin.split("/")[2]
