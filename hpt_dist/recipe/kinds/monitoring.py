"""How a pretraining stage is watched, what it may keep, and what it forgets: settings, faults.

Labelled validation images judge: averages of weights are chosen on those of `monitor.data`, and
forgetting is measured on a dataset of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic_core import PydanticCustomError

from hpt_dist.recipe.facts import DatasetFacts
from hpt_dist.recipe.kinds.frozen import metric_faults
from hpt_dist.recipe.kinds.stage import Fault, Read
from hpt_dist.recipe.metrics import MetricName, metric_of
from hpt_dist.recipe.settings import LATER, Positive, Rate, Spec, later_than, misfit

_MOST = 20  # averages: each is one more look, and widens the interval of the verdict
FORGOTTEN = "monitor.forgetting"
PROBES = ("ridge", "knn")

Share = Annotated[float, Field(gt=0, lt=1)]
Averages = Annotated[tuple[Share, ...], Field(min_length=1, max_length=_MOST)]
AVERAGES: Any = Field(
    None,
    description="weights between those that the stage starts from and those of its last step, "
    "which may be kept as well: 0.25 is (1 - 0.25) x start + 0.25 x last; ascending",
    json_schema_extra=LATER,
)
FORGETTING: Any = Field(
    None,
    description="a dataset with labelled train and val that the start is good at, such as what it "
    "was made for: how much worse the kept weights classify its val; chooses nothing",
    json_schema_extra=LATER,
)


class Monitor(Spec):
    """What is looked at during pretraining, before the first step, and after the last."""

    data: str | None = Field(
        None,
        description="a dataset with labelled train and val, by which a probe judges the features; "
        "without one only collapse is watched, on images of the pretraining data",
    )
    probe: Literal["ridge", "knn"] = Field(
        "ridge",
        description="what learns from train and judges val: ridge regression, or nearest "
        "neighbours",
        json_schema_extra=later_than("knn"),
    )
    every: Positive | None = Field(
        None, description="steps between two looks; null is a tenth of all steps"
    )
    k: Positive = Field(20, description="nearest neighbours; knn only")
    temperature: Rate = Field(0.07, description="of the neighbours' weights; knn only")
    images: Positive = Field(
        2048, description="at most so many images of each split, a seeded choice"
    )

    metric: MetricName | None = Field(
        None,
        description="of the probe, by which the best weights are kept and the stage is "
        "judged; null is the manifest's, top1 of one label an image and auroc of several",
        json_schema_extra=LATER,
    )
    forgetting: str | None = FORGETTING

    def idle(self) -> frozenset[str]:
        """Return the settings of another probe, and of all where nothing is classified."""
        of_data = frozenset() if self.data else frozenset({"metric"})
        if not self.data and not self.forgetting:
            return of_data | {"probe", "k", "temperature"}
        return of_data if self.probe == "knn" else of_data | {"k", "temperature"}


def averages_misfit(
    averages: Sequence[float], keep: str | None, *, keeps_best: bool
) -> PydanticCustomError | None:
    """Return why no average can be chosen as the settings are written; None where one can.

    Args:
        averages: shares of the way from the start to the last step.
        keep: as it is written.
        keeps_best: whether validation chooses.
    """
    ascending = sorted(set(averages))
    if list(averages) != ascending:
        fix = f"write [{', '.join(map(str, ascending))}]"
        return misfit("averages", "the averages are not ascending, each once", fix=fix)
    if averages and keep == "last":
        what = "keep: last keeps the last step, and no average"
        return misfit("averages", what, fix="write keep: best, or no averages")
    if averages and not keeps_best:
        what = "without labels nothing can tell whether an average is better"
        fix = "name a dataset with labelled train and val: monitor.data; or write no averages"
        return misfit("averages", what, fix=fix)
    return None


def forgetting_reads(name: str | None) -> list[Read]:
    """Return the splits of a dataset on which forgetting is measured; none without one."""
    return [
        Read(FORGOTTEN, f"{name}/{split}", labelled=True, normalizes=False, several=True)
        for split in ("train", "val")
        if name
    ]


def forgetting_faults(
    name: str | None, judged_on: str | None, datasets: Mapping[str, DatasetFacts]
) -> list[Fault]:
    """Return why a dataset cannot show forgetting, by the metric that its manifest names.

    Args:
        name: the dataset; None for none.
        judged_on: the dataset by which the stage is judged; None for none.
        datasets: by the recipe's names.
    """
    if name is None:
        return []
    dataset = datasets[name]
    if judged_on is not None and dataset.digest == datasets[judged_on].digest:
        what = f"{name} is the dataset of monitor.data, by which the stage is judged"
        fix = "name one that the start is good at, such as what it was made for"
        return [Fault(FORGOTTEN, what, fix=fix)]
    return [replace(fault, setting=FORGOTTEN) for fault in metric_faults(None, dataset, ("val",))]


def faults(monitor: Monitor | None, datasets: Mapping[str, DatasetFacts]) -> list[Fault]:
    """Return what does not fit the datasets or the probe: a metric, a number of neighbours.

    Args:
        monitor: None where nothing is watched.
        datasets: by the recipe's names.
    """
    if monitor is None:
        return []
    found = forgetting_faults(monitor.forgetting, monitor.data, datasets)
    if monitor.data:
        wrong = metric_faults(monitor.metric, datasets[monitor.data], ("val",))
        found += [replace(fault, setting="monitor.metric") for fault in wrong]
    if not (monitor.data or monitor.forgetting):
        return found
    if monitor.probe == "ridge":
        return found + _faults_of_ridge(monitor, datasets)
    for name in filter(None, (monitor.data, monitor.forgetting)):
        images = min(monitor.images, datasets[name].images["train"])
        if monitor.k > images and "k" in monitor.model_fields_set:
            what = f"{monitor.k} nearest neighbours among {images} images of {name}/train"
            found.append(Fault("monitor.k", what, f"1 to {images}"))
    return found


def _faults_of_ridge(monitor: Monitor, datasets: Mapping[str, DatasetFacts]) -> list[Fault]:
    """Return settings of nearest neighbours, and a metric that needs probabilities."""
    found = [
        Fault(
            f"monitor.{name}",
            f"{name} is of probe: knn, and probe is ridge",
            fix=f"write probe: knn, or leave {name} out",
        )
        for name in ("k", "temperature")
        if name in monitor.model_fields_set
    ]
    if monitor.data and metric_of(monitor.metric, datasets[monitor.data]) == "ece":
        what = "a ridge probe gives no probabilities, which ece is about"
        found.append(Fault("monitor.metric", what, fix="write probe: knn, or another metric"))
    return found
