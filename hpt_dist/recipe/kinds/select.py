"""Task-aware source search: which backbone a target is best served by."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from hpt_dist.recipe.kinds.frozen import REPORTED, SPLITS
from hpt_dist.recipe.kinds.linear import Linear
from hpt_dist.recipe.kinds.stage import Read


class Select(Linear):
    """The backbone whose linear evaluation is the best on the target's val; it reads no test.

    Its other settings are those of that evaluation.
    """

    VERSION: ClassVar[int] = 1
    LEAVES: ClassVar = "weights"
    JUDGES: ClassVar[bool] = False
    CHOOSES: ClassVar[bool] = False
    METRICS: ClassVar[tuple[str, ...]] = tuple(name for name in REPORTED if name.startswith("val/"))

    kind: Literal["select"]  # type: ignore[assignment]
    init: Literal[""] = ""
    candidates: tuple[str, ...] = Field(
        min_length=1,
        description="the stages whose backbones compete: every trial of a swept one",
    )
    data: str = SPLITS
    distance_images: Annotated[int, Field(ge=0)] = Field(
        10_000,
        description="images of the target's train, and of those that each candidate was trained "
        "on, whose Fréchet distance is computed on the backbone that all go back to; 0 is none",
    )

    def tries(self) -> tuple[Linear, ...]:
        """Return the evaluation of each stage's backbones."""
        settings = {name: getattr(self, name) for name in Linear.model_fields}
        return tuple(
            Linear.model_construct(**settings | {"kind": "linear", "init": stage})
            for stage in self.candidates
        )

    def reads(self) -> list[Read]:
        """Return nothing: its evaluations read."""
        return []
