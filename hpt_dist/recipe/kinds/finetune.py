"""The whole network on labelled images: supervised fine-tuning, and LP-FT."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from hpt_dist.recipe import fractions
from hpt_dist.recipe.facts import DatasetFacts
from hpt_dist.recipe.kinds.frozen import (
    METRIC,
    REPORTED,
    SPLITS,
    dataset_of,
    evaluated,
    judged_faults,
    label_doubts,
    looks,
    metric_doubts,
    shots_faults,
    trained_on,
)
from hpt_dist.recipe.kinds.stage import Fault, Read, Trained, group_faults, images_of
from hpt_dist.recipe.metrics import MetricName
from hpt_dist.recipe.settings import (
    LATER,
    OPERATIONAL,
    PRESET,
    Fraction,
    Optimizer,
    Positive,
    Preset,
    Rate,
    check_range,
    misfit,
    tuples,
)

_STEPS = 2500  # HPT, arXiv 2103.12718, table 4; or 90 epochs
_OPTIMIZER = {"name": "sgd", "lr": 0.01, "weight_decay": 0.0}
_SHORT = ("lr", "backbone_lr_scale")
_SCHEDULE = re.compile(r"([1-9][0-9]*) (steps|epochs)")
_LABELS = "all, a number of images, or a share such as 10%"


def _labels(written: Any) -> Any:
    """Return a budget of labels that is one.

    Raises:
        ValueError: it is none.
    """
    if isinstance(written, str) and written != "all":
        fractions.percent(written)
    elif not isinstance(written, str) and (type(written) is not int or written < 1):
        raise ValueError(f"labels is {_LABELS}")
    return written


class Finetune(Trained):
    """Fine-tuning of the whole network and a linear head; val chooses a step, test is read once."""

    VERSION: ClassVar[int] = 1
    LEAVES: ClassVar = "model"
    METRICS: ClassVar[tuple[str, ...]] = REPORTED
    CHOOSES: ClassVar[bool] = True
    DATA: ClassVar[tuple[str, ...]] = ("data",)

    kind: Literal["finetune"]
    data: str = SPLITS
    preset: Preset = PRESET
    labels: Annotated[int | str, BeforeValidator(_labels)] = Field(
        "all",
        description="labelled images: all, how many (at least one of each class), or a share of "
        "them such as 10%, the images of DATASET/train@10%",
    )
    shots: Positive | None = Field(None, description="labelled images of each class, not labels")
    schedule: str | None = Field(
        None,
        description="how long it trains in one word, so that it can be swept: 2500 steps, or 90 "
        "epochs",
        json_schema_extra=OPERATIONAL,  # steps and epochs hold it
    )
    steps: Positive | None = Field(
        None, description="optimizer steps; 2500 where neither epochs nor schedule is given"
    )
    epochs: Positive | None = Field(None, description="times through the labelled images")
    batch: Annotated[int, Field(ge=2)] = Field(256, description="images a step over all ranks")
    bn_group: Annotated[int, Field(ge=2)] | None = Field(
        None,
        description="images of a batch that share batch-norm statistics, on any number of "
        "devices; a divisor of batch; null is the whole batch",
    )
    lr: Rate | None = Field(
        None, description="short for optimizer.lr", json_schema_extra=OPERATIONAL
    )
    backbone_lr_scale: Rate | None = Field(
        None, description="short for optimizer.backbone_lr_scale", json_schema_extra=OPERATIONAL
    )
    optimizer: Optimizer = Field(
        Optimizer.model_validate(_OPTIMIZER),
        description="by default sgd at 0.01 without weight decay; what is not written here stays",
    )
    head_lr_scale: Rate = Field(1.0, description="the head's learning rate as a multiple of lr")
    milestones: tuple[Fraction, Fraction] = Field(
        (1 / 3, 2 / 3), description="shares of the training at which the rates fall tenfold"
    )
    linear_first_steps: Annotated[int, Field(ge=0)] = Field(
        0,
        description="steps before all others in which the head alone learns, on features of the "
        "frozen backbone in evaluation mode (LP-FT, arXiv 2202.10054)",
    )
    crop_area: tuple[Fraction, Fraction] = Field(
        (0.08, 1.0), description="of random crops: share of the image"
    )
    flip: Fraction = Field(0.5, description="probability of a horizontal flip")
    eval_every: Positive | None = Field(
        None, description="steps between two looks at val; null is a tenth of all steps"
    )
    eval_images: Positive | None = Field(
        None,
        description="images of val at each look, at most, a seeded choice; the end judges all. "
        "Null = all",
        json_schema_extra=LATER,
    )
    keep: Literal["best", "last"] = Field(
        "best", description="which step's weights are left and read test: the best on val"
    )
    metric: MetricName | None = METRIC

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, written: Any) -> Any:
        return _in_full(tuples(written)) if isinstance(written, dict) else written

    @model_validator(mode="after")
    def _consistent(self) -> Finetune:
        if self.shots is not None and self.labels != "all":
            raise misfit("shots", "both shots and labels are given", fix="keep one of them")
        check_range("crop_area", self.crop_area)
        if self.milestones[0] > self.milestones[1]:
            raise misfit("milestones", "the rates fall a second time before they fall once")
        if self.bn_group and self.batch % self.bn_group:
            what = f"bn_group {self.bn_group} does not divide batch {self.batch}"
            raise misfit("bn_group", what)
        if self.head_warmup_steps:
            what = "of finetune, head_warmup_steps is linear_first_steps"
            raise misfit("head_warmup_steps", what, fix="write linear_first_steps")
        return self

    def labelled(self, datasets: Mapping[str, DatasetFacts]) -> int:
        """Return how many images have their labels used; 0 where only the labels tell."""
        dataset = datasets[dataset_of(self.data)]
        split = trained_on(self.data).partition("/")[2]
        images = dataset.images.get(split, 0)
        if self.shots:
            is_known = dataset.label == "single" and split in dataset.class_counts
            return self.shots * dataset.classes if is_known else 0
        if isinstance(self.labels, int):
            return self.labels
        return images if self.labels == "all" else fractions.count(images, self.share)

    @property
    def share(self) -> float:
        """The percentage that `labels` names; 0 where it names none."""
        named = isinstance(self.labels, str) and self.labels != "all"
        return fractions.percent(str(self.labels)) if named else 0.0

    def tuning_steps(self, labelled: int) -> int:
        """Return the steps in which everything learns, of a number of labelled images."""
        return self.steps or math.ceil((self.epochs or 0) * labelled / self.batch)

    def steps_on(self, datasets: Mapping[str, DatasetFacts]) -> int:
        """Return all its steps, the linear ones first."""
        return self.linear_first_steps + self.tuning_steps(self.labelled(datasets))

    def images_on(self, datasets: Mapping[str, DatasetFacts]) -> int:
        """Return how many image views it feeds to the network in training."""
        return self.steps_on(datasets) * self.batch

    def judged_on(self, datasets: Mapping[str, DatasetFacts]) -> int:
        """Return the images of val at each look, and of test."""
        steps = self.steps_on(datasets)
        every = self.eval_every or max(1, steps // 10)
        val, test = (images_of(datasets, read.split) for read in self.reads()[1:])
        if not self.eval_images or self.eval_images >= val:
            return looks(self.data, datasets, steps, every)
        return -(-steps // every) * self.eval_images + val + test

    def result_fields_on(self, datasets: Mapping[str, DatasetFacts]) -> dict[str, Any]:
        """Return the settings that determine its result; how many images of val, if not all."""
        fields = super().result_fields_on(datasets)
        val = datasets[dataset_of(self.data)].images["val"]
        if self.eval_images and self.eval_images >= val:
            fields.pop("eval_images", None)
        return fields

    def reads(self) -> list[Read]:
        """Return what is learned from, val and test, with their labels."""
        return evaluated(self.data)

    def batches(self) -> dict[str, int]:
        """Return the images of a step."""
        return {"batch": self.batch}

    def rank_faults(self, ranks: int) -> list[Fault]:
        """Return why its batch, or its batch-norm groups, cannot be shared out over ranks."""
        return super().rank_faults(ranks) or group_faults(self.batch, self.bn_group, ranks)

    def faults(self, datasets: Mapping[str, DatasetFacts]) -> list[Fault]:
        """Return why nothing can be judged, or why its labels are not there."""
        if faults := judged_faults(self.data, self.metric, datasets):
            return faults
        return self._label_faults(datasets[dataset_of(self.data)])

    def doubts(self, datasets: Mapping[str, DatasetFacts]) -> list[Fault]:
        """Return classes that its metric or its labels leave out, and a batch that is too large."""
        dataset = datasets[dataset_of(self.data)]
        doubts = metric_doubts(self.metric, dataset)
        count = self.labelled(datasets)
        setting = "data" if self.labels == "all" else "labels"
        doubts += label_doubts(setting, count, dataset)
        if 0 < count < self.batch:
            what = f"a batch of {self.batch} holds {count} labelled images several times each"
            fix = f"a batch of up to {count} does not" if count > 1 else ""
            doubts.append(Fault("batch", what, fix=fix))
        return doubts

    def _label_faults(self, dataset: DatasetFacts) -> list[Fault]:
        if self.shots:
            faults = shots_faults(self.shots, self.data, dataset, "or give the budget: labels: N")
            return faults or self._epochs_faults(dataset)
        if not isinstance(self.labels, int):
            return []
        split = trained_on(self.data).partition("/")[2]
        images, name = dataset.images[split], f"{dataset.name}/{split}"
        counts = dataset.class_counts.get(split, ()) if dataset.label == "single" else ()
        if counts and not min(counts):
            what = f"{counts.count(0)} of {dataset.classes} classes of {name} have no image"
            return [Fault("labels", what, fix="labels: all takes what is there")]
        least = dataset.classes if counts else 1
        if not least <= self.labels <= images:
            allowed = f"{least} (one of each class) to {images}" if counts else f"1 to {images}"
            return [Fault("labels", f"{self.labels} labels of {name}", allowed)]
        return []

    def _epochs_faults(self, dataset: DatasetFacts) -> list[Fault]:
        """Return that epochs of a number of images that only their labels tell have no length."""
        if not self.epochs or self.labelled({dataset_of(self.data): dataset}):
            return []
        name = f"{dataset.name}/{trained_on(self.data).partition('/')[2]}"
        what = f"how many images {self.shots} shots of {name} are, only their labels tell"
        return [Fault("epochs", what, fix="give steps")]

    def remark_on(self, datasets: Mapping[str, DatasetFacts]) -> str:
        """Return its images and steps in words, and learning rates that are not lr itself."""
        count, first = self.labelled(datasets), self.linear_first_steps
        images = f"{count:,} labelled images" if count else f"{self.shots} labelled images a class"
        alone = f"{first:,} steps of the head alone, then " if first else ""
        epochs = f" ({self.epochs} epoch{'s' * (self.epochs > 1)})" if self.epochs else ""
        tuning = self.tuning_steps(count)
        # Of so many shots as only the labels tell there are steps, and no epochs.
        length = f"{alone}{tuning:,} step{'s' * (tuning != 1)} of {self.batch}{epochs}"
        lr, scales = self.optimizer.lr, (self.optimizer.backbone_lr_scale, self.head_lr_scale)
        rates = "; learning rate {:g}, of the head {:g}".format(*(lr * one for one in scales))
        return f"{images} of {trained_on(self.data)}, {length}{rates if set(scales) != {1} else ''}"


def _in_full(written: dict[str, Any]) -> dict[str, Any]:
    """Return plain data without its short forms: the settings that they stand for are in it.

    Raises:
        PydanticCustomError: a setting is there in both forms.
    """
    lengths = [name for name in ("schedule", "steps", "epochs") if written.get(name) is not None]
    if len(lengths) > 1:
        raise misfit(lengths[0], f"{' and '.join(lengths)} are given", fix="keep one of them")
    if not lengths:
        written["steps"] = _STEPS
    elif lengths == ["schedule"]:
        found = _SCHEDULE.fullmatch(str(written["schedule"]))
        if not found:
            what = f"schedule is no number of steps or epochs (given: {written['schedule']!r})"
            raise misfit("schedule", what, "such as 2500 steps, or 90 epochs")
        written[found[2]] = int(found[1])
    optimizer = written.get("optimizer", {})
    if isinstance(optimizer, Optimizer):
        optimizer = optimizer.model_dump()
    given = {name: written[name] for name in _SHORT if written.get(name) is not None}
    if isinstance(optimizer, dict):
        for name in given.keys() & optimizer.keys():
            what = f"{name} stands in the stage and in its optimizer"
            raise misfit(name, what, fix="keep one of them")
        # What is no rate is reported once, where it stands.
        rates = {name: one for name, one in given.items() if _is_rate(one)}
        written["optimizer"] = {**_OPTIMIZER, **optimizer, **rates}
    return written


def _is_rate(value: Any) -> bool:
    return isinstance(value, int | float) and value > 0
