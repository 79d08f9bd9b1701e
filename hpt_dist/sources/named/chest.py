"""Chest X-rays: CheXpert, and the children's X-rays of Kermany and others (2018)."""

from __future__ import annotations

import csv
import re
from pathlib import Path

from hpt_dist.errors import RequestError
from hpt_dist.sources.named import holdout, unpacked
from hpt_dist.sources.problems import Problems
from hpt_dist.sources.sample import FileSource, Sample, file_sample

# The five of CheXpert's competition, in the order of its paper.
CHEXPERT_CLASSES = (
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Pleural Effusion",
)
CHEXPERT_RULE = (
    "test is the official valid.csv; val is 20 % of train.csv, whole patients, by SHA-256 of the "
    "patient; uncertain (-1) and blank labels count as absent (U-Zeros)"
)
_PATH = re.compile(r"[^/]+/([^/]+/[^/]+/.+)")
_PRESENT = {"1.0": True, "0.0": False, "-1.0": False, "": False}

KIDS_CLASSES = ("normal", "bacteria", "virus")
KIDS_RULE = (
    "test is the official test; val is 20 % of all others, of each class the same share, whole "
    "patients as far as file names tell them, by SHA-256 of the patient"
)
_PERSON = re.compile(r"person\d+")


def open_chexpert(root: Path) -> FileSource:
    """List CheXpert-v1.0 or CheXpert-v1.0-small: `train.csv`, `valid.csv` and what they name.

    Raises:
        RequestError: the layout is another one, or all mistakes in the tables.
    """
    folder = unpacked.find(
        root, ["train.csv", "valid.csv"], ["CheXpert-v1.0-small", "CheXpert-v1.0"]
    )
    problems = Problems()
    samples: list[Sample] = []
    for table, split in (("train.csv", "train"), ("valid.csv", "test")):
        _add_table(samples, problems, folder, table, split)
    problems.refuse("the tables of CheXpert", unpacked.MORE_TO_UNPACK)
    train = sum(one.split == "train" for one in samples)
    samples = holdout.hold_out(samples, "val", holdout.percent(20, train), group=_patient)
    return FileSource("chexpert", CHEXPERT_RULE, list(CHEXPERT_CLASSES), samples, multi_label=True)


def open_kids(root: Path) -> FileSource:
    """List the chest part of the archive: `chest_xray/{train,test}/{NORMAL,PNEUMONIA}/*.jpeg`.

    A `val` folder, which the copy on Kaggle has, counts as train.

    Raises:
        RequestError: the layout is another one, or a file name without a kind of pneumonia.
    """
    folder = unpacked.find(root, ["train/NORMAL", "train/PNEUMONIA", "test/NORMAL"], ["chest_xray"])
    problems = Problems()
    samples = []
    for top in ("train", "val", "test"):
        for kind in ("NORMAL", "PNEUMONIA"):
            below = folder / top / kind
            for name in unpacked.visible(below) if below.is_dir() else ():
                label = _kind(name, kind)
                if label is None:
                    problems.add(str(below / name), "neither bacteria nor virus is in its name")
                    continue
                split = "test" if top == "test" else "train"
                samples.append(file_sample(below / name, f"{top}/{kind}/{name}", split, label))
    problems.refuse(str(folder))
    train = sum(one.split == "train" for one in samples)
    samples = holdout.hold_out(
        samples, "val", holdout.percent(20, train), group=_child, by_class=True
    )
    return FileSource("chest-xray-kids", KIDS_RULE, list(KIDS_CLASSES), samples)


def _add_table(
    samples: list[Sample], problems: Problems, folder: Path, table: str, split: str
) -> None:
    file = folder / table
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise RequestError(f"not UTF-8: {error}", where=str(file)) from error
    reader = csv.DictReader(text.splitlines())
    missing = {"Path", *CHEXPERT_CLASSES} - set(reader.fieldnames or ())
    if missing:
        raise RequestError(f"no column {', '.join(sorted(missing))}", where=f"{file}:1")
    for row in reader:
        where = f"{file}:{reader.line_num}"
        marks = [row[one] or "" for one in CHEXPERT_CLASSES]
        strange = [mark for mark in marks if mark not in _PRESENT]
        path = _PATH.fullmatch(row["Path"] or "")
        if strange:
            problems.add(where, f"a label is {strange[0]!r}, not 1.0, 0.0, -1.0 or blank")
        elif path is None:
            problems.add(where, f"{row['Path']!r} is not ARCHIVE/FOLDER/PATIENT/...")
        else:
            label = tuple(i for i, mark in enumerate(marks) if _PRESENT[mark])
            unpacked.add_image(samples, problems, folder, path[1], split, label, where)


def _patient(sample: Sample) -> str:
    """Return `patient00001` of `train/patient00001/study1/view1_frontal.jpg`."""
    return sample.origin.split("/")[1]


def _kind(name: str, folder: str) -> int | None:
    if folder == "NORMAL":
        return KIDS_CLASSES.index("normal")
    classes = [i for i, one in enumerate(KIDS_CLASSES) if one in name.lower()]
    return classes[0] if len(classes) == 1 else None


def _child(sample: Sample) -> str:
    """Return what names the patient.

    It is `person7` of `person7_bacteria_25.jpeg`, and without the number of the picture at its end
    `BACTERIA-1008087` of `BACTERIA-1008087-0001.jpeg` or `IM-0115` of `IM-0115-0001.jpeg`.
    """
    name = Path(sample.origin).stem
    person = _PERSON.match(name)
    return person.group() if person else name.rpartition("-")[0] or name
