"""Self-supervised pretraining, and the settings of its methods."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

from pydantic import Field, JsonValue, model_validator

from hpt_dist.recipe.facts import DatasetFacts
from hpt_dist.recipe.kinds import monitoring
from hpt_dist.recipe.kinds.anchor import ANCHOR, Anchor
from hpt_dist.recipe.kinds.frozen import metric_doubts
from hpt_dist.recipe.kinds.monitoring import AVERAGES, FORGOTTEN, PROBES, Averages, Monitor
from hpt_dist.recipe.kinds.stage import Fault, Read, Trained, group_faults, images_of
from hpt_dist.recipe.metrics import METRICS
from hpt_dist.recipe.settings import (
    LATER,
    PRESET,
    Augment,
    Fraction,
    Optimizer,
    Positive,
    Preset,
    Rate,
    Spec,
    misfit,
)

SCALING_BATCH = 256  # at which a scaled learning rate is the one that is written
# The group of settings of each method.
METHOD_SETTINGS = {"moco_v2": "moco", "byol": "byol", "simclr": "simclr"}


class Shuffle(Spec):
    """How far samples are shuffled; only data sets of more than a window notice."""

    streams: Annotated[int, Field(ge=1, le=4096)] | None = Field(
        None,
        description="streams of shards that each batch is drawn from, a divisor of batch; "
        "null follows from the numbers of images and of the batch",
    )
    window: Annotated[int, Field(ge=1024)] = Field(
        2**16, description="images of a stream that are shuffled together"
    )


class MoCo(Spec):
    """MoCo v2 (arXiv 2003.04297)."""

    queue: Positive = Field(65536, description="number of negative keys; a multiple of batch")
    momentum: Fraction = Field(0.999, description="of the key encoder")
    temperature: Rate = 0.2
    dim: Positive = Field(128, description="length of the embedding")


class Byol(Spec):
    """BYOL (arXiv 2006.07733)."""

    hidden: Positive = Field(4096, description="width of the projector's and predictor's layer")
    dim: Positive = Field(256, description="length of the embedding")
    momentum: Fraction = Field(
        0.99, description="of the target network at the first step; rises to 1 by half a cosine"
    )


class SimClr(Spec):
    """SimCLR (arXiv 2002.05709)."""

    temperature: Rate = 0.1
    dim: Positive = Field(128, description="length of the embedding")


class Pretrain(Trained):
    """Self-supervised pretraining on unlabelled images."""

    VERSION: ClassVar[int] = 3
    LEAVES: ClassVar = "weights"
    METRICS: ClassVar[tuple[str, ...]] = (
        *(f"{probe}/{name}" for probe in PROBES for name in METRICS),
        "monitor/rankme",
        "monitor/feature_std",
    )
    DATA: ClassVar[tuple[str, ...]] = ("data", "monitor.data", FORGOTTEN)

    kind: Literal["pretrain"]
    preset: Preset = PRESET
    data: tuple[str, ...] = Field(
        min_length=1,
        description="dataset/split, ...; dataset/split@10% is a seeded share of its images, "
        "dataset/split@SUBSET a stored list of some",
    )
    # Names are checked with the recipe, which knows what other distributions offer.
    method: str = Field(
        "moco_v2",
        description="moco_v2, byol or simclr, or what an installed package offers",
        json_schema_extra={"examples": list(METHOD_SETTINGS)},
    )
    moco: MoCo = MoCo()
    byol: Byol = Byol()
    simclr: SimClr = SimClr()
    method_settings: dict[str, JsonValue] = Field(
        {},
        description="of a method that an installed package offers, as its keyword arguments",
        json_schema_extra=LATER,
    )
    steps: Positive = 5000
    batch: Annotated[int, Field(ge=2)] = Field(256, description="images a step over all ranks")
    bn_group: Annotated[int, Field(ge=2)] | None = Field(
        None,
        description="images of a batch that share batch-norm statistics, on any number of "
        "devices; a divisor of batch; null is the whole batch",
    )
    train: Literal["all", "batchnorm", "head"] = Field(
        "all", description="the backbone parameters that learn; the projector always learns"
    )
    anchor: Anchor | None = ANCHOR
    optimizer: Optimizer = Optimizer()
    lr_scaling: Literal["none", "linear", "sqrt"] = Field(
        "none", description="how the peak learning rate grows with batch / 256"
    )
    schedule: Literal["cosine", "constant"] = Field(
        "cosine", description="of the learning rate after its warm-up, by step"
    )
    warmup_steps: Annotated[int, Field(ge=0)] = Field(
        0, description="first steps in which the learning rate rises to its peak"
    )
    augment: Augment = Field(
        Augment(), description="of both views; what is written here counts for a preset's two"
    )
    augment_other: Augment | None = Field(
        None, description="of the second view where it differs from the first"
    )
    shuffle: Shuffle = Shuffle()
    monitor: Monitor | None = Monitor()
    keep: Literal["best", "last"] | None = Field(
        None,
        description="which weights the stage leaves: the best on monitor.data's val, those that "
        "it started from included, or the last; null is best where monitor.data is given",
    )
    averages: Averages | None = AVERAGES

    def idle(self) -> frozenset[str]:
        """Return the settings of the methods that do not run."""
        others = {group for name, group in METHOD_SETTINGS.items() if name != self.method}
        return frozenset(others)

    @property
    def peak_lr(self) -> float:
        """The head's peak learning rate, after scaling."""
        power = {"none": 0.0, "linear": 1.0, "sqrt": 0.5}[self.lr_scaling]
        return float(self.optimizer.lr * (self.batch / SCALING_BATCH) ** power)

    @property
    def keeps_best(self) -> bool:
        """Whether validation chooses the weights that the stage leaves."""
        watched = self.monitor is not None and self.monitor.data is not None
        return watched and self.keep != "last"

    @property
    def images(self) -> int:
        """How many image views it feeds to the network in training."""
        return 2 * self.steps * self.batch

    def reads(self) -> list[Read]:
        """Return its images, which need no labels, and what is watched, which does."""
        read = [Read("data", split) for split in self.data]
        if self.monitor and self.monitor.data:
            watched = (f"{self.monitor.data}/{split}" for split in ("train", "val"))
            read += [
                Read("monitor", split, labelled=True, normalizes=False, several=True)
                for split in watched
            ]
        forgotten = self.monitor.forgetting if self.monitor else None
        return read + monitoring.forgetting_reads(forgotten)

    def judged_on(self, datasets: Mapping[str, DatasetFacts]) -> int:
        """Return the images that it watches, at each look: before the first step, at averages too.

        Forgetting is two more looks, at images of its own.
        """
        monitor = self.monitor
        if monitor is None:
            return 0

        def watched(setting: str) -> list[int]:
            splits = [read.split for read in self.reads() if read.setting == setting]
            return [min(monitor.images, images_of(datasets, split)) for split in splits]

        images = watched("monitor") or [min(monitor.images, images_of(datasets, self.data[0]))]
        every = monitor.every or max(1, self.steps // 10)
        looks = 1 + -(-self.steps // every) + len(self.averages or ())
        return looks * sum(images) + 2 * sum(watched(FORGOTTEN))

    def batches(self) -> dict[str, int]:
        """Return the images of a step."""
        return {"batch": self.batch}

    def faults(self, datasets: Mapping[str, DatasetFacts]) -> list[Fault]:
        """Return images that come twice an epoch, and a batch of more images than there are."""
        seen: dict[tuple[str, str], str] = {}
        faults = []
        images = 0
        for reference in self.data:
            alias, _, split = reference.partition("/")
            found = datasets[alias]
            # Stand-ins of as many images have one digest, and are no images at all.
            images_id = found.name if found.stand_in else found.digest
            place = images_id, split.partition("@")[0]
            if place in seen:
                faults.append(Fault("data", f"{seen[place]} and {reference} hold the same images"))
            seen[place] = reference
            images += self._images_of(datasets, reference)
        if images < self.batch and not faults:
            count = f"{images} image{'s' * (images != 1)}"
            what = f"a batch of {self.batch} from {count} of {' and '.join(self.data)}"
            allowed = f"2 to {images}" if images > 1 else ""
            fix = "" if allowed else "name more images in data: a batch needs two"
            faults.append(Fault("batch", what, allowed, fix))
        return faults + monitoring.faults(self.monitor, datasets)

    def doubts(self, datasets: Mapping[str, DatasetFacts]) -> list[Fault]:
        """Return a queue that holds images more than once, and what will not be watched.

        With such a queue, images are also negatives of themselves. Not watched are images that are
        not there, and classes that a metric leaves out.
        """
        doubts = []
        images = sum(self._images_of(datasets, reference) for reference in self.data)
        if self.method == "moco_v2" and self.moco.queue > images >= self.batch:
            what = (
                f"a queue of {self.moco.queue} keys holds some of {images} images more than once, "
                "so that they are negatives of themselves"
            )
            fix = f"{images // self.batch * self.batch} is the most that does not"
            doubts.append(Fault("moco.queue", what, fix=fix))
        if self.monitor and "images" in self.monitor.model_fields_set:
            watched = [read.split for read in self.reads() if read.setting == "monitor"]
            counts = {one: self._images_of(datasets, one) for one in watched or self.data[:1]}
            if self.monitor.images > max(counts.values()):
                there = " and ".join(f"{one} has {count}" for one, count in counts.items())
                what = f"up to {self.monitor.images} images are watched, and {there}"
                doubts.append(Fault("monitor.images", what, fix="so all are"))
        return doubts + self._left_out(datasets)

    def _left_out(self, datasets: Mapping[str, DatasetFacts]) -> list[Fault]:
        """Return how many classes the monitor's metric leaves out."""
        monitor = self.monitor
        if monitor is None or monitor.data is None:
            return []
        doubts = metric_doubts(monitor.metric, datasets[monitor.data], ("val",))
        fix = "an image of each class there, and one without it, would have them judged"
        return [replace(one, setting="monitor.metric", fix=fix) for one in doubts]

    @staticmethod
    def _images_of(datasets: Mapping[str, DatasetFacts], reference: str) -> int:
        alias, _, split = reference.partition("/")
        return datasets[alias].images[split]

    def rank_faults(self, ranks: int) -> list[Fault]:
        """Return why its batch, or its batch-norm groups, cannot be shared out over ranks."""
        # MoCo's keys are grouped across: every rank holds some samples of each group.
        crosses = self.method == "moco_v2"
        return super().rank_faults(ranks) or group_faults(
            self.batch, self.bn_group, ranks, interleaved=crosses
        )

    def remark(self) -> str:
        """Return the peak learning rate, and what an anchor adds, in words: nothing is unsaid."""
        rule = "lr_scaling: none"
        if self.lr_scaling != "none":
            ratio = f"{self.batch}/{SCALING_BATCH}"
            scaled = {"linear": ratio, "sqrt": f"sqrt({ratio})"}[self.lr_scaling]
            rule = f"{self.optimizer.lr:g} x {scaled}, lr_scaling: {self.lr_scaling}"
        rate = f"{self.optimizer.name}, peak learning rate {self.peak_lr:g} ({rule})"
        return f"{rate}; {self.anchor.in_words(self.init)}" if self.anchor else rate

    @model_validator(mode="after")
    def _batches_divide(self) -> Pretrain:
        if self.method == "moco_v2" and self.moco.queue % self.batch:
            what = f"moco.queue {self.moco.queue} is no multiple of batch {self.batch}"
            fit = max(1, round(self.moco.queue / self.batch)) * self.batch
            raise misfit(
                "moco.queue", what, f"multiples of {self.batch}", f"write {fit}, or another batch"
            )
        if self.batch % (self.shuffle.streams or 1):
            raise ValueError(f"shuffle.streams {self.shuffle.streams} does not divide batch")
        if self.bn_group and self.batch % self.bn_group:
            raise ValueError(f"bn_group {self.bn_group} does not divide batch {self.batch}")
        return self

    @model_validator(mode="after")
    def _steps_fit(self) -> Pretrain:
        for name in ("head_warmup_steps", "warmup_steps"):
            if getattr(self, name) >= self.steps:
                what = f"{name} must be less than steps"
                raise misfit(name, what, f"0 to {self.steps - 1}")
        return self

    @model_validator(mode="after")
    def _consistent(self) -> Pretrain:
        for method, group in METHOD_SETTINGS.items():
            if method != self.method and getattr(self, group) != type(getattr(self, group))():
                raise ValueError(f"{group} is of method {method}, and method is {self.method}")
        if self.method_settings and self.method in METHOD_SETTINGS:
            group = METHOD_SETTINGS[self.method]
            raise ValueError(f"method_settings is not of {self.method}, whose settings are {group}")
        if "seed" in self.method_settings:
            raise ValueError("seed is a setting of the stage, which its method gets")
        json.dumps(self.method_settings, allow_nan=False)  # raises a ValueError
        policies = {views.policy for views in (self.augment, self.augment_other) if views}
        if len(policies) > 1:
            what = "policy differs in augment and augment_other"
            raise misfit("augment.policy", what, fix="write it in both")
        if self.anchor and self.train == "head":
            what = "an anchor holds the backbone's features, and train: head lets none of it learn"
            raise misfit("anchor", what, fix="leave out anchor, or write train: all or batchnorm")
        if self.keep == "best" and not self.keeps_best:
            what = "without labels nothing can tell which weights are best"
            fix = "write keep: last; or name a dataset with labelled train and val: monitor.data"
            raise misfit("keep", what, "last", fix)
        if wrong := monitoring.averages_misfit(
            self.averages or (), self.keep, keeps_best=self.keeps_best
        ):
            raise wrong
        return self
