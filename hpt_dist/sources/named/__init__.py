"""Datasets by name: those of the paper, as their own archives unpack, and `installed` ones.

The paper is HPT (arXiv 2103.12718), table 5. docs/datasets.md describes for each its
origin, its splits, and where the paper and the public data differ.
"""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from hpt_dist.errors import RequestError
from hpt_dist.sources.named import (
    boxes,
    chest,
    domainnet,
    domainnet_126,
    driving,
    installed,
    natural,
    remote_sensing,
    xview,
)
from hpt_dist.sources.sample import FileSource

log = logging.getLogger(__name__)

_SPLITS = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True)
class Named:
    """A dataset of the paper.

    Args:
        open: lists the images below a folder.
        home: where it comes from.
        licence: of the images, as far as it could be confirmed.
        credit: whom to credit.
        images: numbers of images in the paper's release, by split or by several splits joined by
            `+`; empty if unknown.
        note: which other release a user may have; reported where the numbers differ.
        splits: those that must have images.
    """

    open: Callable[[Path], FileSource]
    home: str
    licence: str
    credit: str
    images: Mapping[str, int] = field(default_factory=dict)
    note: str = ""
    splits: tuple[str, ...] = _SPLITS


def _sizes(train: int, val: int, test: int) -> dict[str, int]:
    return {"train": train, "val": val, "test": test}


_OF_DOMAINNET = partial(
    Named,
    home="http://ai.bu.edu/M3SDA/",
    licence="none; the site claims fair use for non-commercial research and education",
    credit="Peng et al., Moment Matching for Multi-Source Domain Adaptation, ICCV 2019",
)


def _domain(name: str, train: int, val: int, test: int, cleaned: int = 0) -> Named:
    note = f"the site's cleaned lists hold {cleaned:,} images; the paper used the original ones"
    return _OF_DOMAINNET(
        open=domainnet.OPENERS[name],
        images=_sizes(train, val, test),
        note=note if cleaned else "",
    )


DATASETS = {
    "domainnet/clipart": _domain("clipart", 27_215, 6_804, 14_818, cleaned=48_129),
    "domainnet/infograph": _domain("infograph", 29_670, 7_417, 16_114, cleaned=51_605),
    "domainnet/painting": _domain("painting", 42_294, 10_573, 22_892, cleaned=72_266),
    "domainnet/quickdraw": _domain("quickdraw", 96_600, 24_150, 51_750),
    "domainnet/real": _domain("real", 98_050, 24_513, 52_764, cleaned=172_947),
    "domainnet/sketch": _domain("sketch", 39_292, 9_823, 21_271, cleaned=69_128),
    "resisc45": Named(
        open=remote_sensing.open_resisc45,
        home="https://doi.org/10.1109/JPROC.2017.2675998",
        licence="not confirmed (check at the source)",
        credit="Cheng, Han, Lu, Remote Sensing Image Scene Classification, Proc. IEEE 2017",
        images=_sizes(18_900, 6_300, 6_300),
    ),
    "ucmerced": Named(
        open=remote_sensing.open_ucmerced,
        home="http://weegee.vision.ucmerced.edu/datasets/landuse.html",
        licence="public domain imagery of the U.S. Geological Survey (check at the source)",
        credit="Yang, Newsam, Bag-of-Visual-Words and Spatial Extensions, ACM GIS 2010; USGS",
        images=_sizes(1_260, 420, 420),
    ),
    "chexpert": Named(
        open=chest.open_chexpert,
        home="https://stanfordmlgroup.github.io/competitions/chexpert/",
        licence="Stanford University Dataset Research Use Agreement",
        credit="Irvin, Rajpurkar et al., CheXpert, AAAI 2019",
        images=_sizes(178_731, 44_683, 234),
    ),
    "chest-xray-kids": Named(
        open=chest.open_kids,
        home="https://doi.org/10.17632/rscbjbr9sj.2",
        licence="CC BY 4.0",
        credit="Kermany, Zhang, Goldbaum, Labeled OCT and Chest X-Ray Images, Mendeley Data 2018",
        images=_sizes(4_186, 1_046, 624),
    ),
    "bdd100k/weather": Named(
        open=driving.open_bdd_weather,
        home="https://doc.bdd100k.com/download.html",
        licence="BDD100K licence (check at the source)",
        credit="Yu et al., BDD100K, CVPR 2020",
        images={"train+val+unlabeled": 70_000, **_sizes(51_744, 10_000, 8_843)},
        note="the labels of 2018 and of 2020 tell the weather of 61,744 images of train",
    ),
    "coco2014": Named(
        open=natural.open_coco2014,
        home="https://cocodataset.org/#download",
        licence="annotations CC BY 4.0; images under Flickr's terms, each with its own licence",
        credit="Lin et al., Microsoft COCO, ECCV 2014",
        images=_sizes(82_783, 20_252, 20_252),
    ),
    "pascal-voc": Named(
        open=natural.open_pascal_voc,
        home="http://host.robots.ox.ac.uk/pascal/VOC/",
        licence="images under Flickr's terms (check at the source)",
        credit="Everingham et al., The Pascal Visual Object Classes Challenge, IJCV 2015",
        images=_sizes(13_241, 3_310, 4_952),
    ),
    "flowers102": Named(
        open=natural.open_flowers102,
        home="https://www.robots.ox.ac.uk/~vgg/data/flowers/102/",
        licence="not confirmed (check at the source)",
        credit="Nilsback, Zisserman, Automated Flower Classification, ICVGIP 2008",
        images=_sizes(1_020, 1_020, 6_149),
    ),
    "viper": Named(
        open=driving.open_viper,
        home="https://playing-for-benchmarks.org",
        licence="not confirmed (check at the source)",
        credit="Richter, Hayder, Koltun, Playing for Benchmarks, ICCV 2017",
        images={"train+val": 13_367, "test": 4_959},
    ),
    "xview": Named(
        open=xview.open_xview,
        home="http://xviewdataset.org",
        licence="CC BY-NC-SA 4.0 (check at the source)",
        credit="Lam et al., xView: Objects in Context in Overhead Imagery, 2018",
    ),
}
# Tables 1 and 2: objects in boxes; what trains is whole, and there is nothing to choose on val.
_FOR_BOXES = ("train", "test")
DETECTION = {
    "voc/boxes": Named(
        open=boxes.open_voc,
        home="http://host.robots.ox.ac.uk/pascal/VOC/",
        licence="images under Flickr's terms (check at the source)",
        credit="Everingham et al., The Pascal Visual Object Classes Challenge, IJCV 2015",
        images={"train": 16_551, "test": 4_952},
        splits=_FOR_BOXES,
    ),
    "bdd100k/boxes": Named(
        open=boxes.open_bdd,
        home="https://doc.bdd100k.com/download.html",
        licence="BDD100K licence (check at the source)",
        credit="Yu et al., BDD100K, CVPR 2020",
        images={"train+unlabeled": 70_000, "test": 10_000},
        splits=_FOR_BOXES,
    ),
    "coco2017": Named(
        open=boxes.open_coco2017,
        home="https://cocodataset.org/#download",
        licence="annotations CC BY 4.0; images under Flickr's terms, each with its own licence",
        credit="Lin et al., Microsoft COCO, ECCV 2014",
        images={"train": 118_287, "test": 5_000},
        splits=_FOR_BOXES,
    ),
}
# MME's lists (arXiv 1904.06487): 126 classes; images of source domains, labelled ones of targets.
_SOURCES = {"clipart": 18_703, "painting": 31_502, "real": 70_358, "sketch": 24_582}
_TARGETS = {f"{one}-{k}": (one, k) for one in domainnet_126.DOMAINS for k in domainnet_126.SHOTS}
_CLASSES = 126
ADAPTATION = {
    **{
        f"domainnet-126/{domain}": _OF_DOMAINNET(
            open=partial(domainnet_126.open_source_domain, domain),
            images={"train": images},
            splits=("train",),
        )
        for domain, images in _SOURCES.items()
    },
    **{
        f"domainnet-126/{name}": _OF_DOMAINNET(
            open=partial(domainnet_126.open_target_domain, *target),
            images={"train": _CLASSES * target[1]},
        )
        for name, target in _TARGETS.items()
    },
    **{
        f"domainnet-126/{name}-{domainnet_126.PUBLISHED}": _OF_DOMAINNET(
            open=partial(domainnet_126.open_published, *target),
            images={"train": _CLASSES * target[1], "val": _CLASSES * 3},
            splits=("train", "val", domainnet_126.PUBLISHED),
        )
        for name, target in _TARGETS.items()
    },
}
NAMES = (*installed.DATASETS, *DATASETS, *DETECTION, *ADAPTATION)
# As messages list them.
LISTED = (*installed.DATASETS, *DATASETS, *DETECTION, "domainnet-126/DOMAIN (docs/datasets.md)")


def open_named(name: str, root: Path | None) -> FileSource:
    """Open one of `NAMES`, and warn where its number of images differs from the paper's.

    Args:
        name: of the dataset.
        root: the folder that its archives were unpacked to; see also `installed.open_installed`.

    Raises:
        RequestError: the folder does not exist, has another layout, or all mistakes in it.
        DataError: a file is damaged.
    """
    if name in installed.DATASETS:
        return installed.open_installed(name, root)
    named = (DATASETS | DETECTION | ADAPTATION)[name]
    if root is None:
        raise RequestError(
            f"{name} is read from the folder that it was unpacked to",
            where="--root",
            fix=f"download it from {named.home} and name its folder; see docs/datasets.md",
        )
    opened = named.open(root)
    source = dataclasses.replace(opened, name=name, licence=named.licence, credit=named.credit)
    counts = Counter(one.split for one in source.files)
    empty = [split for split in named.splits if not counts[split]]
    if empty:
        raise RequestError(f"no images for {', '.join(empty)} of {name}", where=str(root))
    if words := differences(named, counts):
        log.warning("%s in %s: %s", name, root, words)
    return source


def differences(named: Named, counts: Mapping[str, int]) -> str:
    """Return in words how the numbers of images differ from those of the paper's release.

    Args:
        named: the dataset.
        counts: images by split.
    """
    words = []
    for splits, expected in named.images.items():
        images = sum(counts.get(split, 0) for split in splits.split("+"))
        if images != expected:
            words.append(f"{splits} has {images:,} images, not {expected:,}")
    return "; ".join([*words, *([named.note] if words and named.note else [])])
