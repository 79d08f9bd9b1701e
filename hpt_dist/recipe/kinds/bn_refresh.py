"""Batch-norm statistics taken anew on other images."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from hpt_dist.recipe.kinds.stage import Read, StageSpec
from hpt_dist.recipe.settings import MAX_BAD, Fraction, MaxBad


class BnRefresh(StageSpec):
    """Batch-norm statistics taken anew on the target's images; no weight changes, no gradient."""

    VERSION: ClassVar[int] = 1
    LEAVES: ClassVar = "weights"
    TRAINS: ClassVar[bool] = True  # its ranks share out the batches
    DATA: ClassVar[tuple[str, ...]] = ("data",)

    kind: Literal["bn_refresh"]
    init: str = Field(description="the stage whose backbone this one starts from")
    data: tuple[str, ...] = Field(min_length=1, description="dataset/split, ...; no labels")
    mix: Fraction = Field(
        1.0, description="share of the new statistics: 1 replaces the old ones, 0 keeps them"
    )
    batch: Annotated[int, Field(ge=2)] = Field(
        256, description="images that are normalised together, always by one rank"
    )
    max_bad: MaxBad = MAX_BAD

    def reads(self) -> list[Read]:
        """Return the splits whose images it looks at."""
        return [Read("data", split) for split in self.data]

    def remark(self) -> str:
        """Return how much is replaced."""
        return (
            f"batch norm: {self.mix:.0%} statistics of its images, {1 - self.mix:.0%} the old ones"
        )
