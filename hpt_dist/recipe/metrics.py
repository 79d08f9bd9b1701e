"""The metrics of evaluations: what each is called, needs and means. Computed in `evals.metrics`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from hpt_dist.errors import nearest
from hpt_dist.recipe.facts import DatasetFacts
from hpt_dist.recipe.kinds.stage import Fault

MetricName = Literal["top1", "top5", "balanced_accuracy", "auroc", "map", "ece"]


@dataclass(frozen=True)
class Metric:
    """A metric; all of them are shares of 1.

    Args:
        title: in words.
        labels: the kinds of labels that it is computed on: single, multi.
        lower_is_better: whether it is an error.
        least_classes: with fewer classes it says nothing.
        needs: what a class needs in a split to count in the mean over classes: "image", at least
            one; "both", an image that has it and one that has not; empty for no such mean.
    """

    title: str
    labels: tuple[str, ...]
    lower_is_better: bool = False
    least_classes: int = 1
    needs: Literal["", "image", "both"] = ""

    def counted(self, class_counts: Sequence[int], images: int) -> list[int]:
        """Return the classes that count in a split.

        Args:
            class_counts: images of each class in the split.
            images: of the split.
        """
        most = images - 1 if self.needs == "both" else images
        least = 1 if self.needs else 0
        return [c for c, count in enumerate(class_counts) if least <= count <= most]


METRICS: dict[str, Metric] = {
    "top1": Metric("top-1 accuracy", ("single",)),
    "top5": Metric("top-5 accuracy", ("single",), least_classes=6),
    "balanced_accuracy": Metric("accuracy, mean over classes", ("single",), needs="image"),
    "auroc": Metric("AUROC, mean over classes", ("single", "multi"), needs="both"),
    "map": Metric("average precision, mean over classes", ("multi",), needs="both"),
    "ece": Metric("expected calibration error", ("single", "multi"), lower_is_better=True),
}
# Shares of 1 that no `metric` asks for: of detections by COCO's rule and by VOC's, of patches.
OTHER_SHARES = frozenset(
    ["miou", "knn_miou"]
    + [
        f"{rule}{name}"
        for rule in ("", "mask_", "voc_")
        for name in ("AP", "AP50", "AP75", "APs", "APm", "APl")
    ]
)
# Where neither recipe nor manifest names one (HPT, arXiv 2103.12718, table 5).
_DEFAULT = {"single": "top1", "multi": "auroc"}


def metric_of(asked: str | None, dataset: DatasetFacts) -> str:
    """Return the metric that selects and is reported: the recipe's, else the manifest's."""
    return asked or dataset.metric or _DEFAULT.get(dataset.label, "")


def metric_fault(name: str, dataset: DatasetFacts, splits: Sequence[str]) -> Fault | None:
    """Return why an evaluation cannot use a metric, as a fault of `metric`; None where it can.

    Args:
        name: of the metric.
        dataset: what it is computed on.
        splits: those that it is computed on, which have images.
    """
    fitting = [
        one
        for one, metric in METRICS.items()
        if dataset.label in metric.labels and dataset.classes >= metric.least_classes
    ]
    allowed = ", ".join(fitting)
    if name not in METRICS:
        return Fault("metric", f"there is no metric {name}", allowed, nearest(name, fitting))
    metric = METRICS[name]
    if dataset.label not in metric.labels:
        labels = {"single": "one label", "multi": "several labels"}.get(dataset.label, "no labels")
        what = f"{name} cannot be computed on {dataset.name}, which has {labels} an image"
        return Fault("metric", what, allowed)
    if dataset.classes < metric.least_classes:
        what = f"{name} of the {dataset.classes} classes of {dataset.name} is always 1"
        return Fault("metric", what, allowed)
    for split in splits:
        counts = dataset.class_counts.get(split, ())
        if not metric.counted(counts, dataset.images[split]):
            what = f"{name} cannot be computed on {dataset.name}/{split}: each class has all of "
            what += "its images or none"
            return Fault("metric", what, fix="use another metric, or another split of the images")
    return None
