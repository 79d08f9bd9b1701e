"""What a pretraining stage may keep beside its steps, and what it forgets: settings, faults.

Both need labelled validation images: averages of weights are chosen on those of `monitor.data`, and
forgetting is measured on a dataset of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field
from pydantic_core import PydanticCustomError

from hpt_dist.recipe.facts import DatasetFacts
from hpt_dist.recipe.kinds.frozen import metric_faults
from hpt_dist.recipe.kinds.stage import Fault, Read
from hpt_dist.recipe.settings import LATER, misfit

_MOST = 20  # averages: each is one more look, and widens the interval of the verdict
FORGOTTEN = "monitor.forgetting"

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
