"""A linear classifier on frozen features."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from hpt_dist.recipe.kinds.stage import Read, StageSpec
from hpt_dist.recipe.settings import MAX_BAD, PRESET, Fraction, MaxBad, Positive, Preset, Rate


class Linear(StageSpec):
    """A linear classifier on frozen features; val chooses the learning rate, test is read once."""

    VERSION: ClassVar[int] = 2
    JUDGES: ClassVar[bool] = True
    METRICS: ClassVar[tuple[str, ...]] = ("val/top1", "test/top1")
    CHOOSES: ClassVar[bool] = True
    DATA: ClassVar[tuple[str, ...]] = ("data",)

    kind: Literal["linear"]
    init: str
    data: str = Field(description="a dataset with labelled train, val and test splits")
    preset: Preset = PRESET
    learning_rates: tuple[Rate, ...] = Field((0.3, 3.0, 30.0), min_length=1)
    milestones: tuple[Fraction, Fraction] = Field(
        (1 / 3, 2 / 3), description="shares of steps after which the rate falls tenfold"
    )
    steps: Positive = 5000
    batch: Positive = 512
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    views: Positive = Field(
        8, description="augmented copies (crop and flip) of each training image"
    )
    max_bad: MaxBad = MAX_BAD

    def reads(self) -> list[Read]:
        """Return its dataset's three splits, with their labels."""
        splits = ("train", "val", "test")
        return [Read("data", f"{self.data}/{split}", labelled=True) for split in splits]
