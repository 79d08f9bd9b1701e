"""Photographs: COCO 2014, Pascal VOC 2007 and 2012, Oxford Flowers 102."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from hpt_dist.errors import RequestError
from hpt_dist.sources import coco, voc
from hpt_dist.sources.named import holdout, unpacked
from hpt_dist.sources.problems import Problems
from hpt_dist.sources.sample import FileSource, Sample

VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle"),
    *("bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person"),
    *("pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)

# By the number of the class from 1, as the dataset's page names them.
FLOWERS = (
    """
pink primrose, hard-leaved pocket orchid, canterbury bells, sweet pea, english marigold, tiger
lily, moon orchid, bird of paradise, monkshood, globe thistle, snapdragon, colt's foot, king
protea, spear thistle, yellow iris, globe-flower, purple coneflower, peruvian lily, balloon
flower, giant white arum lily, fire lily, pincushion flower, fritillary, red ginger, grape
hyacinth, corn poppy, prince of wales feathers, stemless gentian, artichoke, sweet william,
carnation, garden phlox, love in the mist, mexican aster, alpine sea holly, ruby-lipped cattleya,
cape flower, great masterwort, siam tulip, lenten rose, barbeton daisy, daffodil, sword lily,
poinsettia, bolero deep blue, wallflower, marigold, buttercup, oxeye daisy, common dandelion,
petunia, wild pansy, primula, sunflower, pelargonium, bishop of llandaff, gaura, geranium, orange
dahlia, pink-yellow dahlia?, cautleya spicata, japanese anemone, black-eyed susan, silverbush,
californian poppy, osteospermum, spring crocus, bearded iris, windflower, tree poppy, gazania,
azalea, water lily, rose, thorn apple, morning glory, passion flower, lotus, toad lily, anthurium,
frangipani, clematis, hibiscus, columbine, desert-rose, tree mallow, magnolia, cyclamen,
watercress, canna lily, hippeastrum, bee balm, ball moss, foxglove, bougainvillea, camellia,
mallow, mexican petunia, bromelia, blanket flower, trumpet creeper, blackberry lily
""".replace("\n", " ")
    .strip()
    .split(", ")
)


def open_coco2014(root: Path) -> FileSource:
    """List COCO 2014: `train2014/`, `val2014/`, `annotations/instances_{train,val}2014.json`.

    Raises:
        RequestError: the layout is another one; see also `coco.open_coco`.
    """
    annotations = {
        split: f"annotations/instances_{official}.json"
        for split, official in (("train", "train2014"), ("val", "val2014"))
    }
    folder = unpacked.find(root, ["train2014", "val2014", *annotations.values()], ["coco"])
    source = coco.open_coco(
        {split: (folder / file, folder / f"{split}2014") for split, file in annotations.items()},
        name="coco2014",
        rule="train2014; val and test are the halves of val2014, by SHA-256 of the path",
        root=folder,
    )
    half = sum(one.split == "val" for one in source.files) // 2
    return dataclasses.replace(source, files=holdout.hold_out(source.files, "test", half, of="val"))


def open_pascal_voc(root: Path) -> FileSource:
    """List Pascal VOC 07+12: `VOCdevkit/VOC2007` with its test set, and `VOCdevkit/VOC2012`.

    Raises:
        RequestError: the layout is another one; see also `voc.open_voc`.
    """
    sets = [("VOC2007", "trainval"), ("VOC2012", "trainval"), ("VOC2007", "test")]
    required = [f"{year}/ImageSets/Main/{one}.txt" for year, one in sets]
    folder = unpacked.find(root, required, ["VOCdevkit"])
    train, more, test = ((folder / year, one) for year, one in sets)
    source = voc.open_voc(
        {"train": [train, more], "test": [test]},
        name="pascal-voc",
        rule="test is VOC2007's; val is 20 % of both years' trainval, by SHA-256 of the path",
        classes=VOC_CLASSES,
        root=folder,
    )
    part = holdout.percent(20, sum(one.split == "train" for one in source.files))
    return dataclasses.replace(source, files=holdout.hold_out(source.files, "val", part))


def open_flowers102(root: Path) -> FileSource:
    """List Oxford Flowers 102: `jpg/image_00001.jpg`, `imagelabels.mat` and `setid.mat`.

    Raises:
        RequestError: the layout is another one, or all mistakes in the two files.
    """
    folder = unpacked.find(root, ["jpg", "imagelabels.mat", "setid.mat"], ["flowers-102"])
    [labels] = _arrays(folder / "imagelabels.mat", ["labels"])
    sets = _arrays(folder / "setid.mat", ["trnid", "valid", "tstid"])
    problems = Problems()
    samples: list[Sample] = []
    where = str(folder / "setid.mat")
    seen: set[int] = set()
    for split, numbers in zip(("train", "val", "test"), sets, strict=True):
        for number in numbers:
            if not 1 <= number <= len(labels):
                problems.add(where, f"no label of image {number}")
            elif not 1 <= labels[number - 1] <= len(FLOWERS):
                problems.add(where, f"image {number} has the class {labels[number - 1]}")
            elif number in seen:
                problems.add(where, f"image {number} is in two sets")
            else:
                name = f"jpg/image_{number:05}.jpg"
                label = labels[number - 1] - 1
                unpacked.add_image(samples, problems, folder, name, split, label, where)
            seen.add(number)
    problems.refuse("the sets of Flowers 102", unpacked.MORE_TO_UNPACK)
    return FileSource("flowers102", "the official sets of setid.mat", FLOWERS, samples)


def _arrays(file: Path, names: list[str]) -> list[list[int]]:
    """Return arrays of whole numbers in a MATLAB file."""
    from scipy.io import loadmat  # takes long to import
    from scipy.io.matlab import MatReadError

    try:
        contents: dict[str, Any] = loadmat(file)
    except (OSError, ValueError, MatReadError) as error:
        raise RequestError(f"no MATLAB file that can be read: {error}", where=str(file)) from error
    missing = [name for name in names if name not in contents]
    if missing:
        known = ", ".join(name for name in contents if not name.startswith("__"))
        raise RequestError(f"no {', '.join(missing)}", where=str(file), allowed=known)
    return [[int(one) for one in contents[name].ravel()] for name in names]
