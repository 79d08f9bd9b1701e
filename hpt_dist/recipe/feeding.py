"""Why a stage cannot be fed from its datasets, and its backbone does not fit. Pure."""

from __future__ import annotations

from hpt_dist.errors import nearest
from hpt_dist.recipe import fractions
from hpt_dist.recipe.facts import DatasetFacts, Facts
from hpt_dist.recipe.kinds.stage import Fault, Read, StageSpec


def faults_of(spec: StageSpec, facts: Facts, backbone: str) -> list[Fault]:
    """Return what a stage asks of its datasets, and of the backbone, that they do not have.

    Args:
        spec: its settings.
        facts: about the datasets.
        backbone: the recipe's.
    """
    faults = [fault for read in spec.reads() if (fault := _missing(spec, read, facts))]
    faults = faults or spec.faults(facts.datasets)
    faults += spec.backbone_faults(backbone)
    return list(dict.fromkeys(faults))


def _missing(spec: StageSpec, read: Read, facts: Facts) -> Fault | None:
    """Return why a stage cannot read a split; None where it can."""
    alias, _, split = read.split.partition("/")
    dataset = facts.datasets[alias]
    if not split:
        return Fault(read.setting, f"{read.split} names no split", f"{alias}/SPLIT")
    if read.labelled and dataset.label == "none":
        what = f"{dataset.name} has no labels, which {spec.kind} needs here"
        return Fault(read.setting, what, fix="for images without labels see the recipe unlabeled")
    if fault := _no_share(read, dataset, split) or _no_such_split(read.setting, dataset, split):
        return fault
    if not read.labelled:
        return None
    if read.boxes or dataset.label == "boxes":
        return _other_than_boxes(spec, read, dataset)
    whole = split.partition("@")[0]
    if dataset.label == "multi":
        if read.several:
            return None
        what = f"{dataset.name} has several labels an image; {spec.kind} needs one"
        fix = "knn, linear and finetune read several labels, and pretraining needs none"
        return Fault(read.setting, what, fix=fix)
    if sum(dataset.class_counts.get(whole, ())) < dataset.images[whole]:
        return Fault(read.setting, f"{dataset.name}/{whole} has images without a label")
    return None


def _other_than_boxes(spec: StageSpec, read: Read, dataset: DatasetFacts) -> Fault | None:
    """Return why a stage cannot read the labels of a dataset, one of the two being boxes."""
    if read.boxes and dataset.label == "boxes":
        return None
    if read.boxes:
        what = f"{dataset.name} has labels without boxes; {spec.kind} needs boxes"
        return Fault(read.setting, what, fix="shard it again with --boxes, from COCO or Pascal VOC")
    what = f"the labels of {dataset.name} are boxes; {spec.kind} needs classes"
    fix = "sharded without --boxes, the classes of its boxes are its labels"
    return Fault(read.setting, what, fix=fix)


def _no_share(read: Read, dataset: DatasetFacts, split: str) -> Fault | None:
    """Return why a split@10% is none; None where it is, and where no share is named."""
    whole, _, part = split.partition("@")
    if not fractions.is_fraction(part):
        return None
    try:
        fractions.percent(part)
    except ValueError as error:
        return Fault(read.setting, f"{read.split}: {error}")
    return _no_such_split(read.setting, dataset, whole)


def _no_such_split(setting: str, dataset: DatasetFacts, split: str) -> Fault | None:
    if dataset.images.get(split):
        return None
    known = [name for name, images in dataset.images.items() if images]
    if dataset.stand_in and "@" in split:
        what = f"the stand-in for {dataset.name} does not say how many images {split} has"
        return Fault(setting, what, ", ".join(known), f"add {split}: N to its images")
    what = f"{dataset.name} has no split {split}"
    return Fault(setting, what, ", ".join(known), nearest(split, known))
