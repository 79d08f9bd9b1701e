"""xView (http://xviewdataset.org): square tiles of large satellite images, labelled by their boxes.

The archives unpack to `train_images/<number>.tif` and `xView_train.geojson`, in which a feature is
a box: `image_id`, `type_id` and `bounds_imcoords` "left,top,right,bottom". An image is cut from its
top left into tiles without overlap, without the narrower rests at the right and at the bottom. The
labels of a tile are the classes of the boxes whose centre lies in it.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from PIL import Image
from pydantic import ConfigDict, TypeAdapter
from pydantic.dataclasses import dataclass

from hpt_dist.images.formats import to_png, to_rgb
from hpt_dist.sources.named import holdout, unpacked
from hpt_dist.sources.problems import Problems
from hpt_dist.sources.sample import FileSource, Sample, file_sample, key_of

TILE_PX = 512  # as in the configuration files of the paper's authors
RULE = (
    "512-pixel tiles without overlap of the labelled images, without the rests at the right and at "
    "the bottom; val and test are 6 % each, whole images, by SHA-256 of the path; labels: the "
    "classes of the boxes whose centre is in the tile"
)
_LABELS = "xView_train.geojson"
_HELD_OUT_PERCENT = 6
_TILE_BYTES = 400_000  # about; only where shards end depends on it
# The artefacts of labelling: two types without a name, and one image that was never released.
_NO_TYPES = {75, 82}
_NO_IMAGE = "1395.tif"

CLASSES = {
    11: "Fixed-wing Aircraft",
    12: "Small Aircraft",
    13: "Cargo Plane",
    15: "Helicopter",
    17: "Passenger Vehicle",
    18: "Small Car",
    19: "Bus",
    20: "Pickup Truck",
    21: "Utility Truck",
    23: "Truck",
    24: "Cargo Truck",
    25: "Truck w/Box",
    26: "Truck Tractor",
    27: "Trailer",
    28: "Truck w/Flatbed",
    29: "Truck w/Liquid",
    32: "Crane Truck",
    33: "Railway Vehicle",
    34: "Passenger Car",
    35: "Cargo Car",
    36: "Flat Car",
    37: "Tank car",
    38: "Locomotive",
    40: "Maritime Vessel",
    41: "Motorboat",
    42: "Sailboat",
    44: "Tugboat",
    45: "Barge",
    47: "Fishing Vessel",
    49: "Ferry",
    50: "Yacht",
    51: "Container Ship",
    52: "Oil Tanker",
    53: "Engineering Vehicle",
    54: "Tower crane",
    55: "Container Crane",
    56: "Reach Stacker",
    57: "Straddle Carrier",
    59: "Mobile Crane",
    60: "Dump Truck",
    61: "Haul Truck",
    62: "Scraper/Tractor",
    63: "Front loader/Bulldozer",
    64: "Excavator",
    65: "Cement Mixer",
    66: "Ground Grader",
    71: "Hut/Tent",
    72: "Shed",
    73: "Building",
    74: "Aircraft Hangar",
    76: "Damaged Building",
    77: "Facility",
    79: "Construction Site",
    83: "Vehicle Lot",
    84: "Helipad",
    86: "Storage Tank",
    89: "Shipping container lot",
    91: "Shipping Container",
    93: "Pylon",
    94: "Tower",
}
_IDS = {number: i for i, number in enumerate(CLASSES)}
_PASSED_OVER = ConfigDict(extra="ignore")


@dataclass(frozen=True, slots=True, config=_PASSED_OVER)
class _XviewBox:
    image_id: str
    type_id: int
    bounds_imcoords: str


@dataclass(frozen=True, slots=True, config=_PASSED_OVER)
class _Feature:
    properties: _XviewBox


@dataclass(frozen=True, slots=True, config=_PASSED_OVER)
class _Labels:
    features: list[_Feature]


_LABELS_OF: TypeAdapter[_Labels] = TypeAdapter(_Labels)


def open_xview(root: Path) -> FileSource:
    """List the tiles of the labelled images.

    Raises:
        RequestError: the layout is another one, or all mistakes in the labels.
    """
    folder = unpacked.find(root, ["train_images", _LABELS], ["xView"])
    problems = Problems()
    labels = _tile_labels(folder / _LABELS, problems)
    samples: list[Sample] = []
    for image_id, tiles in sorted(labels.items()):
        path = folder / "train_images" / image_id
        if path.is_file():
            samples += _tiles(path, f"train_images/{image_id}", tiles, problems)
        elif image_id != _NO_IMAGE:
            problems.add(str(folder / _LABELS), f"no such image: 'train_images/{image_id}'")
    problems.refuse(f"the labels of {folder}", unpacked.MORE_TO_UNPACK)
    part = holdout.percent(_HELD_OUT_PERCENT, len(samples))
    for split in ("test", "val"):
        samples = holdout.hold_out(samples, split, part, group=_image_of)
    return FileSource("xview", RULE, list(CLASSES.values()), samples, multi_label=True)


def read_tile(path: Path, left: int, top: int) -> bytes:
    """Cut one tile out of an image.

    Args:
        path: of the TIFF.
        left: of the tile, pixels.
        top: of the tile, pixels.

    Returns:
        An RGB PNG.

    Raises:
        OSError: the image cannot be read.
    """
    with Image.open(path, formats=["TIFF"]) as image:
        return to_png(to_rgb(image.crop((left, top, left + TILE_PX, top + TILE_PX))))


def _tile_labels(file: Path, problems: Problems) -> dict[str, dict[tuple[int, int], set[int]]]:
    """Return the labels of the tiles that have any, by image and by column and row."""
    labels: dict[str, dict[tuple[int, int], set[int]]] = {}
    for number, feature in enumerate(unpacked.read_json(file, _LABELS_OF).features):
        box = feature.properties
        of_image = labels.setdefault(box.image_id, {})
        if box.type_id in _NO_TYPES:
            continue
        where = f"{file}: feature {number}"
        try:
            left, top, right, bottom = (int(one) for one in box.bounds_imcoords.split(","))
        except ValueError:
            problems.add(where, f"bounds_imcoords is {box.bounds_imcoords!r}, not four numbers")
            continue
        if box.type_id not in _IDS:
            problems.add(where, f"unknown type_id {box.type_id}")
            continue
        tile = ((left + right) // 2 // TILE_PX, (top + bottom) // 2 // TILE_PX)
        of_image.setdefault(tile, set()).add(_IDS[box.type_id])
    return labels


def _tiles(
    path: Path, relative: str, labels: dict[tuple[int, int], set[int]], problems: Problems
) -> list[Sample]:
    try:
        with Image.open(path, formats=["TIFF"]) as image:
            columns, rows = image.width // TILE_PX, image.height // TILE_PX
    except (OSError, Image.DecompressionBombError) as error:
        problems.add(str(path), f"no image that can be read: {error}")
        return []
    whole = file_sample(path, relative, "train", None)
    return [
        Sample(
            key=key_of(f"{relative.removesuffix('.tif')}-{column:02}-{row:02}.tif"),
            split="train",
            label=tuple(sorted(labels.get((column, row), ()))),
            origin=f"{relative}: tile {column},{row}",
            version=whole.version,
            size_bytes=_TILE_BYTES,
            read=partial(read_tile, path, column * TILE_PX, row * TILE_PX),
        )
        for row in range(rows)
        for column in range(columns)
    ]


def _image_of(tile: Sample) -> str:
    return tile.origin.partition(":")[0]
