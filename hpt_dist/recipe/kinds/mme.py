"""Minimax Entropy: semi-supervised domain adaptation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from hpt_dist.recipe.facts import DatasetFacts
from hpt_dist.recipe.kinds.frozen import looks
from hpt_dist.recipe.kinds.stage import Fault, Read, Trained
from hpt_dist.recipe.settings import Fraction, Optimizer, Positive, Rate, check_range, misfit


class Mme(Trained):
    """Semi-supervised domain adaptation by Minimax Entropy (Saito et al., arXiv 1904.06487)."""

    VERSION: ClassVar[int] = 3
    LEAVES: ClassVar = "model"
    METRICS: ClassVar[tuple[str, ...]] = ("val/top1", "test/top1")
    CHOOSES: ClassVar[bool] = True
    DATA: ClassVar[tuple[str, ...]] = ("source", "target")

    kind: Literal["mme"]
    source: str = Field(description="dataset/split of the labelled source domain")
    target: str = Field(
        description="a dataset; labels and unlabelled images from train, selection on val"
    )
    objective: Literal["mme", "ent", "s+t"] = Field(
        "mme", description="minimax entropy, entropy minimisation, or labelled images only"
    )
    shots: Positive | None = Field(None, description="labelled target images of each class")
    labels: Positive | None = Field(
        None, description="labelled target images in all, at least one of each class"
    )
    steps: Positive = 50_000
    batch_labelled: Positive = Field(24, description="source images, and as many target images")
    batch_unlabelled: Positive = 48
    entropy_weight: Rate = Field(0.1, description="the paper's lambda")
    temperature: Rate = 0.05
    head_dim: Positive = 512
    optimizer: Optimizer = Optimizer(
        name="sgd", lr=0.01, weight_decay=5e-4, nesterov=True, backbone_lr_scale=0.1
    )
    crop_area: tuple[Fraction, Fraction] = (0.7, 1.0)
    eval_every: Positive = 500
    patience: Positive | None = Field(
        6, description="evaluations in a row below the best before stopping; null = never"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Mme:
        if (self.shots is None) == (self.labels is None):
            raise ValueError("give exactly one of shots and labels")
        check_range("crop_area", self.crop_area)
        if self.head_warmup_steps >= self.steps:
            what = "head_warmup_steps must be less than steps"
            raise misfit("head_warmup_steps", what, f"0 to {self.steps - 1}")
        return self

    def idle(self) -> frozenset[str]:
        """Return what only unlabelled images need, where labelled ones alone are used."""
        unlabelled = {"batch_unlabelled", "entropy_weight"}
        return frozenset(unlabelled if self.objective == "s+t" else ())

    @property
    def images(self) -> int:
        """How many image views it feeds to the network in training."""
        unlabelled = 0 if self.objective == "s+t" else self.batch_unlabelled
        return self.steps * (2 * self.batch_labelled + unlabelled)

    def reads(self) -> list[Read]:
        """Return the source's split and the target's three, with their labels."""
        splits = ("train", "val", "test")
        target = [Read("target", f"{self.target}/{split}", labelled=True) for split in splits]
        return [Read("source", self.source, labelled=True), *target]

    def judged_on(self, datasets: Mapping[str, DatasetFacts]) -> int:
        """Return the images of val at each look, as if it never stopped early, and of test."""
        return looks(self.target, datasets, self.steps, self.eval_every)

    def batches(self) -> dict[str, int]:
        """Return the images of both batches of a step."""
        return {
            "batch_labelled": self.batch_labelled,
            "batch_unlabelled": self.batch_unlabelled,
        }

    def faults(self, datasets: Mapping[str, DatasetFacts]) -> list[Fault]:
        """Return why the domains do not fit each other, or the labels the target."""
        target, source = datasets[self.target], datasets[self.source.split("/")[0]]
        faults = []
        names = {dataset.class_names for dataset in (source, target)} - {""}
        if source.classes != target.classes or len(names) > 1:
            what = f"the classes of {source.name} and {target.name} differ"
            fix = "the domains must share their classes, in the same order"
            faults.append(Fault("target", what, fix=fix))
        return faults + self._label_faults(target)

    def _label_faults(self, target: DatasetFacts) -> list[Fault]:
        faults = []
        setting = "shots" if self.shots else "labels"
        images = target.images["train"]
        least = min(target.class_counts["train"], default=0)
        if self.labels and not target.classes <= self.labels <= images:
            allowed = f"{target.classes} (one of each class) to {images}"
            faults.append(Fault(setting, f"{self.labels} labels of {target.name}", allowed))
        budget = self.labels or (self.shots or 0) * target.classes
        if self.objective != "s+t" and budget == images:
            what = (
                f"all {budget} images of {target.name}/train are labelled: none is left unlabelled"
            )
            faults.append(Fault(setting, what, fix="use fewer, or objective: s+t"))
        if self.shots and self.shots > least:
            what = f"{self.shots} shots, but the rarest class of {target.name}/train has {least}"
            fix = "or give the whole budget: labels: N"
            faults.append(Fault(setting, what, f"1 to {least}", fix))
        return faults
