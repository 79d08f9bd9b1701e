"""NWPU-RESISC45 and UC Merced Land Use: a folder for each class, and no split.

TensorFlow Datasets and the paper cut both 60/20/20 at random. Where their three lists of file names
lie beside the class folders (or above them), they are used: `train.txt`, `val.txt` and `test.txt`,
or with a prefix such as `resisc45-train.txt`.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from hpt_dist.errors import RequestError
from hpt_dist.sources.named import holdout, unpacked
from hpt_dist.sources.problems import Problems
from hpt_dist.sources.sample import FileSource, Sample, file_sample

_SPLITS = ("train", "val", "test")
_HASHED = "60 % train, 20 % val and 20 % test of each class, by SHA-256 of the path"


def open_resisc45(root: Path) -> FileSource:
    """List NWPU-RESISC45, `NWPU-RESISC45/<class>/<class>_001.jpg`.

    Raises:
        RequestError: the layout is another one, or all mistakes in the lists.
    """
    folder = unpacked.find(root, ["airplane", "wetland"], ["NWPU-RESISC45"])
    return _open("resisc45", folder, _lists(("resisc45-", ""), folder, root), ".jpg")


def open_ucmerced(root: Path) -> FileSource:
    """List UC Merced Land Use, `UCMerced_LandUse/Images/<class>/<class>00.tif`.

    Raises:
        RequestError: the layout is another one, or all mistakes in the lists.
    """
    inside = ["UCMerced_LandUse/Images", "Images"]
    folder = unpacked.find(root, ["agricultural", "tenniscourt"], inside)
    return _open("ucmerced", folder, _lists(("uc_merced-", ""), folder, root), ".tif")


def _open(name: str, folder: Path, lists: Mapping[str, Path], suffix: str) -> FileSource:
    classes = [one for one in unpacked.visible(folder) if (folder / one).is_dir()]
    samples = [
        file_sample(folder / one / image, f"{one}/{image}", "train", label)
        for label, one in enumerate(classes)
        for image in unpacked.visible(folder / one)
        if image.endswith(suffix)
    ]
    if lists:
        rule = f"the lists {', '.join(path.name for path in lists.values())}"
        return FileSource(name, rule, classes, _by_lists(samples, lists))
    part = holdout.percent(20, len(samples))
    for split in ("test", "val"):
        samples = holdout.hold_out(samples, split, part, by_class=True)
    return FileSource(name, _HASHED, classes, samples)


def _lists(prefixes: tuple[str, ...], *folders: Path) -> dict[str, Path]:
    """Return the lists of the three splits, or nothing where there are none."""
    for folder in folders:
        for prefix in prefixes:
            lists = {split: folder / f"{prefix}{split}.txt" for split in _SPLITS}
            missing = [path.name for path in lists.values() if not path.is_file()]
            if not missing:
                return lists
            if len(missing) < len(lists):
                raise RequestError(
                    f"there are lists of splits, but no {', '.join(missing)}",
                    where=str(folder),
                    fix="add what is missing, or remove the others for a split by SHA-256",
                )
    return {}


def _by_lists(samples: list[Sample], lists: Mapping[str, Path]) -> list[Sample]:
    problems = Problems()
    by_name = {one.origin.rpartition("/")[2]: one for one in samples}
    listed: list[Sample] = []
    seen: Counter[str] = Counter()
    for split, path in lists.items():
        for where, line in unpacked.lines(path):
            name = line.rpartition("/")[2]
            seen[name] += 1
            if name not in by_name:
                problems.add(where, f"no such image: {name!r}")
            elif seen[name] > 1:
                problems.add(where, f"{name!r} is listed twice")
            else:
                listed.append(dataclasses.replace(by_name[name], split=split))
    for name in sorted(by_name.keys() - seen.keys()):
        problems.add(by_name[name].origin, "in none of the lists")
    problems.refuse("the lists of splits", unpacked.MORE_TO_UNPACK)
    return listed
