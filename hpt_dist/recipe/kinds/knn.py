"""k-nearest neighbours on frozen features."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from hpt_dist.recipe.kinds.stage import Read, StageSpec
from hpt_dist.recipe.settings import MAX_BAD, MaxBad, Positive, Rate


class Knn(StageSpec):
    """Weighted k-nearest neighbours on frozen features (Wu et al., arXiv 1805.01978)."""

    VERSION: ClassVar[int] = 2
    JUDGES: ClassVar[bool] = True
    DATA: ClassVar[tuple[str, ...]] = ("data",)

    kind: Literal["knn"]
    init: str
    data: str = Field(description="a dataset with labelled train, val and test splits")
    k: tuple[Positive, ...] = Field(
        (5, 20, 200), min_length=1, description="candidates; val chooses"
    )
    temperature: Rate = 0.07
    max_bad: MaxBad = MAX_BAD

    def reads(self) -> list[Read]:
        """Return its dataset's three splits, with their labels."""
        splits = ("train", "val", "test")
        return [Read("data", f"{self.data}/{split}", labelled=True) for split in splits]
