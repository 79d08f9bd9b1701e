"""The features of positions, judged by a linear classifier and nearest neighbours of patches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from hpt_dist.recipe.facts import DatasetFacts
from hpt_dist.recipe.kinds.frozen import (
    MODULE,
    dataset_of,
    decoded,
    evaluated,
    learned_faults,
)
from hpt_dist.recipe.kinds.stage import Fault, Read, StageSpec, mask_faults
from hpt_dist.recipe.settings import Positive, Rate

_L2 = (1.0, 1e-1, 1e-2, 1e-3, 1e-4)
_K = (1, 5, 20)
PICTURES = 12  # images of val that are seen once more, by one or two backbones


class Dense(StageSpec):
    """What the features of positions tell: patches by a classifier and by nearest neighbours."""

    VERSION: ClassVar[int] = 1
    JUDGES: ClassVar[bool] = True
    SHOWS: ClassVar[bool] = True
    METRICS: ClassVar[tuple[str, ...]] = (
        "test/miou",
        "test/knn_miou",
        "val/miou",
        "val/knn_miou",
    )
    DATA: ClassVar[tuple[str, ...]] = ("data",)

    kind: Literal["dense"]
    init: str
    data: str = Field(
        description="a dataset with masks of objects and splits train, val and test; or "
        "DATASET/train@10% or DATASET/train@SUBSET to learn from some of train"
    )
    features: Annotated[str, Field(pattern=MODULE)] = Field(
        "last",
        description="last, the last features that have positions (a ViT's tokens of patches, of "
        "other networks the output before it is pooled); or a part by its name, such as layer3",
    )
    patches: Positive = Field(
        20_000,
        description="most patches that are learned from: as many of each image of train, a seeded "
        "choice",
    )
    l2: tuple[Rate, ...] = Field(
        _L2,
        min_length=1,
        description="of the classifier: weights of half the squared norm beside the mean loss; val "
        "chooses",
    )
    k: tuple[Positive, ...] = Field(_K, min_length=1, description="neighbours; val chooses")
    temperature: Rate = Field(0.07, description="of the neighbours' weights")

    def reads(self) -> list[Read]:
        """Return its dataset's three splits, with their objects."""
        return [replace(read, boxes=True) for read in evaluated(self.data)]

    def judged_on(self, datasets: Mapping[str, DatasetFacts]) -> int:
        """Return the images of its three splits, and those of its picture."""
        return decoded(self.data, datasets) + 2 * PICTURES

    def faults(self, datasets: Mapping[str, DatasetFacts]) -> list[Fault]:
        """Return why nothing could be judged: it learns from what judges, or there are no masks."""
        allowed = "a dataset in which every object has a mask"
        dataset = datasets[dataset_of(self.data)]
        return learned_faults(self.data) or mask_faults("data", dataset, allowed)

    def remark(self) -> str:
        """Return that the number of positions is part of what is measured."""
        return "mean IoU over positions: compare backbones with as many of them"
