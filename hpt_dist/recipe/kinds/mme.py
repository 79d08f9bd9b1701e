"""Minimax Entropy and its kin: semi-supervised domain adaptation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from hpt_dist.recipe.facts import DatasetFacts
from hpt_dist.recipe.kinds.stage import Fault, Read, Trained
from hpt_dist.recipe.settings import (
    LATER,
    Augment,
    Fraction,
    Optimizer,
    Positive,
    Rate,
    Spec,
    check_range,
    misfit,
)

# Objectives whose steps see unlabelled images.
_WITH_UNLABELLED = ("mme", "ent", "consistency")
_NAMED = 5  # classes in a message


class Consistency(Spec):
    """Confident answers to weak views teach strong ones (FixMatch, arXiv 2001.07685)."""

    threshold: Fraction = Field(0.95, description="probability from which on an answer teaches")
    weight: Rate = Field(1.0, description="of the loss of strong views")
    strong: Augment = Field(
        Augment(), description="of the strong view; the weak one is a crop_area and a flip"
    )


class SourceLabels(Spec):
    """Source labels mixed with what the target's centres answer (SLA, arXiv 2302.02335)."""

    mix: Fraction = Field(0.3, description="the paper's alpha, the weight of the centres' answers")
    warmup_steps: Annotated[int, Field(ge=0)] = Field(
        500, description="first steps with the labels as given; the learning rate then starts anew"
    )
    update_every: Positive = Field(500, description="steps between two placings of the centres")
    temperature: Rate = Field(0.6, description="by which distances from centres are multiplied")


class Mme(Trained):
    """Semi-supervised domain adaptation, by Minimax Entropy (arXiv 1904.06487) or its kin."""

    VERSION: ClassVar[int] = 3
    LEAVES: ClassVar = "model"
    METRICS: ClassVar[tuple[str, ...]] = ("val/top1", "test/top1", "published/top1")
    CHOOSES: ClassVar[bool] = True
    DATA: ClassVar[tuple[str, ...]] = ("source", "target")

    kind: Literal["mme"]
    source: str = Field(description="dataset/split of the labelled source domain")
    target: str = Field(
        description="a dataset; labels and unlabelled images from train, selection on val"
    )
    objective: Literal["mme", "ent", "s+t", "t", "consistency"] = Field(
        "mme",
        description="minimax entropy, entropy minimisation, labelled images only (s+t), labelled "
        "target images only (t), or confident answers to weak views that teach strong ones",
    )
    source_label_adaptation: bool = Field(
        default=False,
        description="mix the labels of source images with what the target's centres answer",
        json_schema_extra=LATER,
    )
    shots: Positive | None = Field(None, description="labelled target images of each class")
    labels: Positive | Literal["all"] | None = Field(
        None, description="labelled target images in all, at least one of each class; or all"
    )
    transductive: bool = Field(
        default=False,
        description="unlabelled images are those of test, without their labels, and not those of "
        "train whose labels are unused",
        json_schema_extra=LATER,
    )
    protocol: Literal["disjoint", "published"] = Field(
        "disjoint",
        description="published: unlabelled images and test are the target's split published, which "
        "shares images with val; its metric is published/top1",
        json_schema_extra=LATER,
    )
    steps: Positive = 50_000
    batch_labelled: Positive = Field(24, description="source images, and as many target images")
    batch_unlabelled: Positive = 48
    train: Literal["all", "batchnorm", "head"] = Field(
        "all",
        description="the backbone parameters that learn; embedding and prototypes always learn",
        json_schema_extra=LATER,
    )
    entropy_weight: Rate = Field(0.1, description="the paper's lambda")
    consistency: Consistency = Field(
        Consistency(), description="of objective consistency", json_schema_extra=LATER
    )
    source_labels: SourceLabels = Field(
        SourceLabels(), description="of source_label_adaptation", json_schema_extra=LATER
    )
    temperature: Rate = 0.05
    head_dim: Positive = 512
    optimizer: Optimizer = Optimizer(
        name="sgd", lr=0.01, weight_decay=5e-4, nesterov=True, backbone_lr_scale=0.1
    )
    crop_area: tuple[Fraction, Fraction] = (0.7, 1.0)
    squash: bool = Field(
        default=False,
        description="squash images to a square of 8/7 of the size and cut the size out of it, at "
        "random to train and in the middle to judge, as MME's code does, in place of crop_area",
        json_schema_extra=LATER,
    )
    eval_every: Positive = 500
    eval_images: Positive | None = Field(
        2000,
        description="images of val at each evaluation in training, at most, a seeded choice; the "
        "end judges all. Null = all",
        json_schema_extra=LATER,
    )
    patience: Positive | None = Field(
        6, description="evaluations in a row below the best before stopping; null = never"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Mme:
        if (self.shots is None) == (self.labels is None):
            raise ValueError("give exactly one of shots and labels")
        if self.source_label_adaptation and self.objective == "t":
            what = "objective t reads no source whose labels could be adapted"
            raise misfit("source_label_adaptation", what, fix="leave it out, or use s+t")
        if self.transductive and not self.needs_unlabelled:
            what = f"objective {self.objective} reads no unlabelled images, and transductive is set"
            raise misfit("transductive", what, fix="leave it out")
        check_range("crop_area", self.crop_area)
        if self.head_warmup_steps >= self.steps:
            what = "head_warmup_steps must be less than steps"
            raise misfit("head_warmup_steps", what, f"0 to {self.steps - 1}")
        return self

    @property
    def judged(self) -> str:
        """The split that is read once, at the end; metrics on it start with its name."""
        return "published" if self.protocol == "published" else "test"

    @property
    def learns_from_judged(self) -> bool:
        """Whether the images of that split are learned from, without their labels."""
        return self.needs_unlabelled and (self.transductive or self.protocol == "published")

    def kept_back(self) -> frozenset[str]:
        """Return the split that is read once."""
        return frozenset({f"{self.target}/{self.judged}"})

    def choice_faults(self) -> list[Fault]:
        """Return why validation cannot choose: candidates would read the images of test."""
        faults = super().choice_faults()
        if self.learns_from_judged:
            setting = "transductive" if self.transductive else "protocol"
            what = f"candidates would learn from {self.target}/{self.judged}"
            fix = "choose without it, then train with what was chosen"
            faults.append(Fault(setting, what, fix=fix))
        return faults

    @property
    def steps_see_unlabelled(self) -> bool:
        """Whether a step has a batch of unlabelled images."""
        return self.objective in _WITH_UNLABELLED

    @property
    def needs_unlabelled(self) -> bool:
        """Whether it reads unlabelled images at all: in its steps, or to place centres."""
        return self.steps_see_unlabelled or self.source_label_adaptation

    @property
    def batch_of_labelled(self) -> int:
        """The labelled images of a step: of source and target, or of the target alone."""
        return self.batch_labelled * (1 if self.objective == "t" else 2)

    @property
    def views_of_unlabelled(self) -> int:
        """The views of unlabelled images in a step."""
        views = 2 if self.objective == "consistency" else 1
        return views * self.batch_unlabelled if self.steps_see_unlabelled else 0

    def idle(self) -> frozenset[str]:
        """Return the settings of other objectives, and of what is not read."""
        idle = set() if self.steps_see_unlabelled else {"batch_unlabelled"}
        idle |= set() if self.objective in ("mme", "ent") else {"entropy_weight"}
        idle |= set() if self.objective == "consistency" else {"consistency"}
        idle |= set() if self.source_label_adaptation else {"source_labels"}
        idle |= {"crop_area"} if self.squash else set()
        return frozenset(idle | ({"source"} if self.objective == "t" else set()))

    @property
    def images(self) -> int:
        """How many image views it feeds to the network in training."""
        return self.steps * (self.batch_of_labelled + self.views_of_unlabelled)

    def reads(self) -> list[Read]:
        """Return the source's split, unless it goes without, and the target's three, labelled."""
        splits = ("train", "val", self.judged)
        target = [Read("target", f"{self.target}/{split}", labelled=True) for split in splits]
        source = [] if self.objective == "t" else [Read("source", self.source, labelled=True)]
        return [*source, *target]

    def judged_on(self, datasets: Mapping[str, DatasetFacts]) -> int:
        """Return the images of val at each look, as if it never stopped early, test and centres."""
        images = datasets[self.target].images
        looked = self._looked(images["val"])
        looks = -(-self.steps // self.eval_every)
        judged = looks * looked + images["val"] + images[self.judged]
        after = self.steps - self.source_labels.warmup_steps
        if not self.source_label_adaptation or after <= 0:
            return judged
        placings = -(-after // self.source_labels.update_every)
        unused = images["train"] - self._budget(datasets[self.target])
        return judged + placings * (images[self.judged] if self.learns_from_judged else unused)

    def result_fields_on(self, datasets: Mapping[str, DatasetFacts]) -> dict[str, Any]:
        """Return the settings that determine its result; how many images of val, if not all."""
        fields = super().result_fields_on(datasets)
        fields.pop("eval_images", None)
        images = datasets[self.target].images["val"]
        looked = self._looked(images)
        return fields | ({"eval_images": looked} if looked < images else {})

    def _looked(self, images: int) -> int:
        """Return how many of the images of val are looked at in training."""
        return min(images, self.eval_images or images)

    def batches(self) -> dict[str, int]:
        """Return the images of the batches of a step."""
        unlabelled = {"batch_unlabelled": self.batch_unlabelled}
        labelled = {"batch_labelled": self.batch_labelled}
        return labelled | (unlabelled if self.steps_see_unlabelled else {})

    def faults(self, datasets: Mapping[str, DatasetFacts]) -> list[Fault]:
        """Return why the domains do not fit each other, or the labels the target."""
        target = datasets[self.target]
        faults = [] if self.objective == "t" else _domain_faults(self.source, target, datasets)
        return faults + self._label_faults(target)

    def _budget(self, target: DatasetFacts) -> int:
        """Return how many target images have their labels used."""
        if self.labels == "all":
            return target.images["train"]
        return self.labels or (self.shots or 0) * target.classes

    def _label_faults(self, target: DatasetFacts) -> list[Fault]:
        faults = []
        setting = "shots" if self.shots else "labels"
        images = target.images["train"]
        least = min(target.class_counts["train"], default=0)
        counted = isinstance(self.labels, int)
        if counted and not target.classes <= self._budget(target) <= images:
            allowed = f"{target.classes} (one of each class) to {images}"
            faults.append(Fault(setting, f"{self.labels} labels of {target.name}", allowed))
        budget = self._budget(target)
        if self.needs_unlabelled and not self.learns_from_judged and budget == images:
            what = (
                f"all {budget} images of {target.name}/train are labelled: none is left unlabelled"
            )
            fix = "use fewer, or objective: s+t, or transductive: true"
            faults.append(Fault(setting, what, fix=fix))
        if self.shots and self.shots > least:
            what = f"{self.shots} shots, but the rarest class of {target.name}/train has {least}"
            fix = "or give the whole budget: labels: N"
            faults.append(Fault(setting, what, f"1 to {least}", fix))
        return faults


def _domain_faults(
    source: str, target: DatasetFacts, datasets: Mapping[str, DatasetFacts]
) -> list[Fault]:
    """Return why the classes of a source's split do not fit those of the target."""
    alias, _, split = source.partition("/")
    given = datasets[alias]
    if given.classes != target.classes or _differ(given.class_names, target.class_names):
        what = f"the classes of {given.name} and {target.name} differ"
        for one, other in ((given, target), (target, given)):
            if lacking := [c for c in other.class_names if c not in set(one.class_names)]:
                what += f"; {one.name} lacks {_listed(lacking)}" if one.class_names else ""
        fix = "the domains must share their classes, in the same order"
        return [Fault("target", what, fix=fix)]
    faults = []
    for setting, one, part in (("source", given, split), ("target", target, "train")):
        if empty := [c for c, n in enumerate(one.class_counts.get(part, ())) if not n]:
            names = one.class_names or [f"class {c}" for c in range(one.classes)]
            what = f"{one.name}/{part} has no image of {_listed([names[c] for c in empty])}"
            fix = "the domains must share their classes: leave these out of both"
            faults.append(Fault(setting, what, fix=fix))
    return faults


def _differ(names: Sequence[str], others: Sequence[str]) -> bool:
    return bool(names and others) and tuple(names) != tuple(others)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
