"""A linear classifier on frozen features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from hpt_dist.recipe import fractions
from hpt_dist.recipe.facts import DatasetFacts
from hpt_dist.recipe.kinds.frozen import (
    FEATURES,
    METRIC,
    REPORTED,
    SPLITS,
    Features,
    dataset_of,
    decoded,
    evaluated,
    feature_faults,
    judged_faults,
    learned_doubts,
    metric_doubts,
    shots_faults,
    trained_on,
)
from hpt_dist.recipe.kinds.stage import Fault, Read, StageSpec
from hpt_dist.recipe.metrics import MetricName
from hpt_dist.recipe.settings import (
    LATER,
    MAX_BAD,
    PRESET,
    Fraction,
    MaxBad,
    Positive,
    Preset,
    Rate,
)

# Features have a variance of 1 there, so that one grid serves every backbone.
_L2 = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
_OF_SGD = ("learning_rates", "milestones", "steps", "batch", "weight_decay", "views", "crop_seed")


class Linear(StageSpec):
    """A linear classifier on frozen features; val chooses its strength, test is read once."""

    VERSION: ClassVar[int] = 2
    JUDGES: ClassVar[bool] = True
    METRICS: ClassVar[tuple[str, ...]] = REPORTED
    CHOOSES: ClassVar[bool] = True
    DATA: ClassVar[tuple[str, ...]] = ("data",)

    kind: Literal["linear"]
    init: str
    data: str = SPLITS
    preset: Preset = PRESET
    learning_rates: tuple[Rate, ...] = Field((0.3, 3.0, 30.0), min_length=1)
    milestones: tuple[Fraction, Fraction] = Field(
        (1 / 3, 2 / 3), description="shares of steps after which the rate falls tenfold"
    )
    steps: Positive = 5000
    batch: Positive = 512
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    views: Annotated[int, Field(ge=0)] = Field(
        8,
        description="augmented copies (crop and flip) of each training image; 0 is the image as "
        "val and test see theirs",
    )
    metric: MetricName | None = METRIC
    features: Features = FEATURES
    solver: Literal["sgd", "lbfgs"] = Field(
        "sgd",
        description="sgd, over learning_rates; or lbfgs, logistic regression over l2, which no "
        "seed changes, on images without augmentation",
        json_schema_extra=LATER,
    )
    l2: tuple[Rate, ...] = Field(
        _L2,
        min_length=1,
        description="of solver lbfgs: weights of half the squared norm beside the mean loss; val "
        "chooses",
        json_schema_extra=LATER,
    )
    crop_seed: Annotated[int, Field(ge=0, lt=2**63)] | None = Field(
        None,
        description="of the augmented copies; null is the stage's own seed, and a number lets "
        "seeds share their features",
        json_schema_extra=LATER,
    )
    shots: Positive | None = Field(
        None,
        description="labelled images of each class that it learns from, a seeded choice of data; "
        "null is all of them",
        json_schema_extra=LATER,
    )
    max_bad: MaxBad = MAX_BAD

    @model_validator(mode="after")
    def _of_its_solver(self) -> Linear:
        others = ("l2",) if self.solver == "sgd" else _OF_SGD
        solver = "lbfgs" if self.solver == "sgd" else "sgd"
        for name in others:
            if getattr(self, name) != type(self).model_fields[name].get_default():
                raise ValueError(f"{name} is of solver {solver}, and solver is {self.solver}")
        return self

    def reads(self) -> list[Read]:
        """Return its dataset's three splits, with their labels."""
        return evaluated(self.data)

    def judged_on(self, datasets: Mapping[str, DatasetFacts]) -> int:
        """Return the most images of its three splits, with the copies of train's."""
        views = max(1, self.views) if self.solver == "sgd" else 1
        return decoded(self.data, datasets, views)

    def faults(self, datasets: Mapping[str, DatasetFacts]) -> list[Fault]:
        """Return why its model cannot be judged, or why its labels are not there."""
        faults = judged_faults(self.data, self.metric, datasets)
        return faults or shots_faults(self.shots, self.data, datasets[dataset_of(self.data)])

    def doubts(self, datasets: Mapping[str, DatasetFacts]) -> list[Fault]:
        """Return classes that its metric leaves out, or that it cannot learn."""
        doubts = metric_doubts(self.metric, datasets[dataset_of(self.data)])
        return doubts + learned_doubts(self.data, datasets)

    def backbone_faults(self, backbone: str) -> list[Fault]:
        """Return why the backbone has no such features."""
        return feature_faults(self.features, backbone)

    def remark(self) -> str:
        """Return how many labels it learns from, or that a seed changes nothing."""
        if self.shots:
            return f"{self.shots} labelled images a class of {trained_on(self.data)}"
        is_same = self.solver == "lbfgs" and not fractions.is_fraction(self.data)
        return "lbfgs: the same result for every seed" if is_same else ""
