"""k-nearest neighbours on frozen features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from hpt_dist.recipe.facts import DatasetFacts
from hpt_dist.recipe.kinds.frozen import (
    FEATURES,
    METRIC,
    REPORTED,
    SPLITS,
    Features,
    dataset_of,
    evaluated,
    feature_faults,
    judged_faults,
    learned_doubts,
    metric_doubts,
    trained_on,
)
from hpt_dist.recipe.kinds.stage import Fault, Read, StageSpec
from hpt_dist.recipe.metrics import MetricName
from hpt_dist.recipe.settings import MAX_BAD, MaxBad, Positive, Rate

_K = (5, 20, 200)


class Knn(StageSpec):
    """Weighted k-nearest neighbours on frozen features (Wu et al., arXiv 1805.01978)."""

    VERSION: ClassVar[int] = 2
    JUDGES: ClassVar[bool] = True
    METRICS: ClassVar[tuple[str, ...]] = REPORTED
    CHOOSES: ClassVar[bool] = True
    DATA: ClassVar[tuple[str, ...]] = ("data",)

    kind: Literal["knn"]
    init: str
    data: str = SPLITS
    k: tuple[Positive, ...] = Field(_K, min_length=1, description="candidates; val chooses")
    temperature: Rate = 0.07
    metric: MetricName | None = METRIC
    features: Features = FEATURES
    max_bad: MaxBad = MAX_BAD

    def reads(self) -> list[Read]:
        """Return its dataset's three splits, with their labels."""
        return evaluated(self.data)

    def faults(self, datasets: Mapping[str, DatasetFacts]) -> list[Fault]:
        """Return a metric that cannot be computed, and neighbours that are more than there are.

        Those by default stand for all.
        """
        faults = judged_faults(self.data, self.metric, datasets)
        learned = trained_on(self.data)
        images = datasets[dataset_of(self.data)].images[learned.partition("/")[2]]
        if too_many := [k for k in self.k if k > images and k not in _K]:
            what = f"{', '.join(map(str, too_many))} nearest neighbours among {images} images"
            faults.append(Fault("k", f"{what} of {learned}", f"1 to {images}"))
        return faults

    def doubts(self, datasets: Mapping[str, DatasetFacts]) -> list[Fault]:
        """Return classes that its metric leaves out, or that it cannot learn."""
        doubts = metric_doubts(self.metric, datasets[dataset_of(self.data)])
        return doubts + learned_doubts(self.data, datasets)

    def backbone_faults(self, backbone: str) -> list[Fault]:
        """Return why the backbone has no such features."""
        return feature_faults(self.features, backbone)
