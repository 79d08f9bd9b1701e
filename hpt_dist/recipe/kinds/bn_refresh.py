"""Batch-norm statistics taken anew on other images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from hpt_dist.recipe import catalogue
from hpt_dist.recipe.facts import DatasetFacts
from hpt_dist.recipe.kinds.frozen import METRIC, REPORTED, SPLITS, dataset_of, judged_faults
from hpt_dist.recipe.kinds.frozen import evaluated as splits_of
from hpt_dist.recipe.kinds.stage import Fault, Read, StageSpec
from hpt_dist.recipe.metrics import MetricName
from hpt_dist.recipe.settings import MAX_BAD, Fraction, MaxBad, Spec


class Judge(Spec):
    """An evaluation of the features, by its kind's defaults, whose val decides; it reads no test.

    No seed changes its result.
    """

    kind: Literal["knn", "linear"] = Field(
        "knn", description="nearest neighbours; or linear, which is solver lbfgs"
    )
    data: str = SPLITS
    metric: MetricName | None = METRIC


class BnRefresh(StageSpec):
    """Batch-norm statistics taken anew on the target's images; no weight changes, no gradient."""

    VERSION: ClassVar[int] = 1
    LEAVES: ClassVar = "weights"
    TRAINS: ClassVar[bool] = True  # its ranks share out the batches
    CHOOSES: ClassVar[bool] = True
    METRICS: ClassVar[tuple[str, ...]] = tuple(one for one in REPORTED if one.startswith("val/"))
    DATA: ClassVar[tuple[str, ...]] = ("data", "judge.data")

    kind: Literal["bn_refresh"]
    init: str = Field(description="the stage whose backbone this one starts from")
    data: tuple[str, ...] = Field(min_length=1, description="dataset/split, ...; no labels")
    mix: Fraction = Field(
        1.0, description="share of the new statistics: 1 replaces the old ones, 0 keeps them"
    )
    batch: Annotated[int, Field(ge=2)] = Field(
        256, description="images that are normalised together, always by one rank"
    )
    judge: Judge | None = Field(
        None, description="evaluates what is left on val, so that choose can decide, such as mix"
    )
    max_bad: MaxBad = MAX_BAD

    def reads(self) -> list[Read]:
        """Return the splits whose images it looks at, and those by which it is judged."""
        found = [Read("data", split) for split in self.data]
        if self.judge:
            found += [
                replace(read, setting="judge.data", normalizes=False)
                for read in splits_of(self.judge.data)
                if read.split not in self.kept_back()
            ]
        return found

    def kept_back(self) -> frozenset[str]:
        """Return the test split of the dataset that judges."""
        return frozenset([f"{dataset_of(self.judge.data)}/test"] if self.judge else [])

    def choice_faults(self) -> list[Fault]:
        """Return that nothing judges it, or that its statistics are those of the test images."""
        if not self.judge:
            what = "bn_refresh has no result on val for choose to go by"
            return [Fault("choose", what, fix="add judge: {kind: knn, data: DATASET}")]
        return super().choice_faults()

    def faults(self, datasets: Mapping[str, DatasetFacts]) -> list[Fault]:
        """Return why nothing could be judged."""
        if not self.judge:
            return []
        faults = judged_faults(self.judge.data, self.judge.metric, datasets, ["val"])
        return [replace(fault, setting=f"judge.{fault.setting}") for fault in faults]

    def backbone_faults(self, backbone: str) -> list[Fault]:
        """Return that a network has nothing to take anew, as far as that is known."""
        if catalogue.has_batch_norm(backbone):
            return []
        what = f"{backbone} has no batch-norm statistics to take anew"
        return [Fault("kind", what, fix="leave the stage out")]

    def remark(self) -> str:
        """Return how much is replaced."""
        return (
            f"batch norm: {self.mix:.0%} statistics of its images, {1 - self.mix:.0%} the old ones"
        )
