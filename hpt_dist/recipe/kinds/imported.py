"""Somebody else's weights."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from hpt_dist.recipe.kinds.stage import StageSpec


class Import(StageSpec):
    """Somebody else's weights: the base of a recipe."""

    VERSION: ClassVar[int] = 1
    LEAVES: ClassVar = "weights"
    METRICS: ClassVar[tuple[str, ...]] = ("import/matched_share",)
    USES_GPU: ClassVar[bool] = False

    kind: Literal["import"]
    weights: str = Field(
        description="torchvision/NAME/WEIGHTS, timm/NAME, package/efficientnet-lite0, random, a "
        "file or store URI (.safetensors, .npz, .pt, .pth, .pth.tar, .ckpt, .bin), or MLflow's "
        "runs:/, models:/ or mlflow-artifacts:/; #ENCODER may follow, see docs/weights.md"
    )
    force: bool = Field(
        default=False,
        description="accept weights with entries that are missing, of another shape or of layers "
        "that the backbone has not; they stay random or are left out",
    )

    @property
    def imported(self) -> str:
        """Where it takes the weights from."""
        return self.weights
