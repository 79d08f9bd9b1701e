"""What the kinds that judge frozen features have in common: a metric, features, three splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field

from hpt_dist.recipe.facts import DatasetFacts
from hpt_dist.recipe.kinds.stage import Fault, Read, images_of
from hpt_dist.recipe.metrics import METRICS, metric_fault, metric_of
from hpt_dist.recipe.numerics import has_tokens
from hpt_dist.recipe.settings import LATER

METRIC: Any = Field(
    None,
    description="what val chooses by and the report prints; null is the manifest's, top1 of one "
    "label an image and auroc of several",
    json_schema_extra=LATER,
)
_MODULE = r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*"
MODULE = rf"^{_MODULE}$"
Features = Annotated[str, Field(pattern=rf"^(cls\+mean|{_MODULE})$")]
FEATURES: Any = Field(
    "pool",
    description="pool, what the backbone gives; a part of it by its name, such as layer3 or "
    "stages.2, averaged over positions; or of a ViT's last tokens cls, mean or cls+mean",
    json_schema_extra=LATER,
)
_TOKENS = ("cls", "mean", "cls+mean")
_JUDGED = ("val", "test")
# What a report may ask for of them, by default the first.
REPORTED = tuple(f"{split}/{name}" for split in reversed(_JUDGED) for name in METRICS)
SPLITS: Any = Field(
    description="a dataset with labelled train, val and test splits; or DATASET/train@10% or "
    "DATASET/train@SUBSET to learn from some of train, and be judged on the whole val and test"
)


def trained_on(data: str) -> str:
    """Return the split that is learned from: that which is named, else the dataset's train."""
    return data if "/" in data else f"{data}/train"


def dataset_of(data: str) -> str:
    """Return the recipe's name of a dataset of which a split may be named, too."""
    return data.partition("/")[0]


def evaluated(data: str) -> list[Read]:
    """Return what is learned from and what judges, with their labels; see `SPLITS`."""
    judged = (f"{dataset_of(data)}/{split}" for split in _JUDGED)
    splits = (trained_on(data), *judged)
    return [Read("data", split, labelled=True, several=True) for split in splits]


def decoded(data: str, datasets: Mapping[str, DatasetFacts], views: int = 1) -> int:
    """Return the images that features of all three splits take, where no other trial has them.

    Args:
        data: see `SPLITS`.
        datasets: by the recipe's names.
        views: copies of each image that is learned from.
    """
    learned, *judged = (images_of(datasets, read.split) for read in evaluated(data))
    return learned * views + sum(judged)


def looks(data: str, datasets: Mapping[str, DatasetFacts], steps: int, every: int) -> int:
    """Return the images of val at each of its looks, and of test once.

    Args:
        data: see `SPLITS`.
        datasets: by the recipe's names.
        steps: of the training.
        every: steps between two looks.
    """
    val, test = (images_of(datasets, read.split) for read in evaluated(data)[1:])
    return -(-steps // every) * val + test


def judged_faults(
    data: str,
    asked: str | None,
    datasets: Mapping[str, DatasetFacts],
    judged: Sequence[str] = _JUDGED,
) -> list[Fault]:
    """Return why nothing could be judged: what judges is learned from, or a metric does not fit.

    Args:
        data: see `SPLITS`.
        asked: the metric that the recipe names; None is the manifest's.
        datasets: by the recipe's names.
        judged: the splits that judge.
    """
    return learned_faults(data) or metric_faults(asked, datasets[dataset_of(data)], judged)


def learned_faults(data: str) -> list[Fault]:
    """Return that a split that judges cannot be learned from; see `SPLITS`."""
    split = trained_on(data).partition("/")[2].partition("@")[0]
    if split not in _JUDGED:
        return []
    use = "chooses" if split == "val" else "is read once, at the end"
    what = f"{data} cannot be learned from: {split} {use}"
    return [Fault("data", what, f"{dataset_of(data)}, or {dataset_of(data)}/train@10%")]


def metric_faults(
    asked: str | None, dataset: DatasetFacts, splits: Sequence[str] = _JUDGED
) -> list[Fault]:
    """Return why splits cannot be judged by a metric.

    Args:
        asked: the metric that the recipe names; None is the manifest's.
        dataset: that is judged on.
        splits: of it.
    """
    fault = metric_fault(metric_of(asked, dataset), dataset, splits)
    return [fault] if fault else []


def metric_doubts(
    asked: str | None, dataset: DatasetFacts, splits: Sequence[str] = _JUDGED
) -> list[Fault]:
    """Return how many classes have no value of a metric in splits; see `metric_faults`."""
    name = metric_of(asked, dataset)
    if name not in METRICS or metric_faults(asked, dataset, splits):
        return []
    doubts = []
    for split in splits:
        counts = dataset.class_counts.get(split, ())
        counted = METRICS[name].counted(counts, dataset.images[split])
        if left_out := len(counts) - len(counted):
            what = f"{left_out} of {len(counts)} classes have all or none of the images of "
            what += f"{dataset.name}/{split}, so that {name} leaves them out there"
            doubts.append(Fault("metric", what, fix="the result names them"))
    return doubts


def label_doubts(setting: str, images: int, dataset: DatasetFacts) -> list[Fault]:
    """Return that fewer labelled images than classes cannot show every class.

    Args:
        setting: that says how many are learned from.
        images: as many; 0 where only their labels tell.
        dataset: whose classes they show.
    """
    if dataset.label != "single" or not 0 < images < dataset.classes:
        return []
    count = f"{images} labelled image{'s' * (images != 1)}"
    what = f"{count} cannot show the {dataset.classes} classes of {dataset.name}"
    return [Fault(setting, what, fix="classes that nothing shows are never the answer")]


def shots_faults(
    shots: int | None, data: str, dataset: DatasetFacts, instead: str = ""
) -> list[Fault]:
    """Return that a class has fewer images than labelled ones are asked for.

    Args:
        shots: labelled images of each class; None asks for no number.
        data: see `SPLITS`.
        dataset: that it names.
        instead: what else would do.
    """
    split = trained_on(data).partition("/")[2]
    counts = dataset.class_counts.get(split, ()) if dataset.label == "single" else ()
    if not shots or not counts or shots <= min(counts):
        return []
    name, least = f"{dataset.name}/{split}", min(counts)
    if not least:
        what = f"{counts.count(0)} of {dataset.classes} classes of {name} have no image"
        return [Fault("shots", what, fix="leave shots out, to take what is there")]
    what = f"{shots} shots, but the rarest class of {name} has {least}"
    return [Fault("shots", what, f"1 to {least}", instead)]


def learned_doubts(data: str, datasets: Mapping[str, DatasetFacts]) -> list[Fault]:
    """Return that what is learned from cannot show every class; see `SPLITS`."""
    dataset = datasets[dataset_of(data)]
    images = dataset.images.get(trained_on(data).partition("/")[2], 0)
    return label_doubts("data", images, dataset)


def feature_faults(features: str, backbone: str) -> list[Fault]:
    """Return why a backbone has no such features, as far as its name tells."""
    if features not in _TOKENS or has_tokens(backbone):
        return []
    what = f"{backbone} has no tokens, so features: {features} does not exist"
    return [Fault("features", what, "pool, or the name of a part such as layer3 or stages.2")]
