"""k-nearest neighbours on frozen features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from hpt_dist.recipe.facts import DatasetFacts
from hpt_dist.recipe.kinds.stage import Fault, Read, StageSpec
from hpt_dist.recipe.settings import MAX_BAD, MaxBad, Positive, Rate

_K = (5, 20, 200)


class Knn(StageSpec):
    """Weighted k-nearest neighbours on frozen features (Wu et al., arXiv 1805.01978)."""

    VERSION: ClassVar[int] = 2
    JUDGES: ClassVar[bool] = True
    METRICS: ClassVar[tuple[str, ...]] = ("val/top1", "test/top1")
    CHOOSES: ClassVar[bool] = True
    DATA: ClassVar[tuple[str, ...]] = ("data",)

    kind: Literal["knn"]
    init: str
    data: str = Field(description="a dataset with labelled train, val and test splits")
    k: tuple[Positive, ...] = Field(_K, min_length=1, description="candidates; val chooses")
    temperature: Rate = 0.07
    max_bad: MaxBad = MAX_BAD

    def faults(self, datasets: Mapping[str, DatasetFacts]) -> list[Fault]:
        """Return neighbours that are more than there are; those by default stand for all."""
        images = datasets[self.data].images["train"]
        too_many = [k for k in self.k if k > images and k not in _K]
        what = f"{', '.join(map(str, too_many))} nearest neighbours among {images} images"
        return [Fault("k", f"{what} of {self.data}/train", f"1 to {images}")] if too_many else []

    def reads(self) -> list[Read]:
        """Return its dataset's three splits, with their labels."""
        splits = ("train", "val", "test")
        return [Read("data", f"{self.data}/{split}", labelled=True) for split in splits]
