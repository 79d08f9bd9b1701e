"""A detector on a backbone, all of which learns: Faster R-CNN, and Mask R-CNN with masks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from hpt_dist.recipe.facts import DatasetFacts
from hpt_dist.recipe.kinds.frozen import dataset_of, trained_on
from hpt_dist.recipe.kinds.stage import (
    Fault,
    Read,
    Trained,
    group_faults,
    images_of,
    mask_faults,
)
from hpt_dist.recipe.settings import (
    OPERATIONAL,
    Fraction,
    Optimizer,
    Positive,
    Rate,
    later_than,
    misfit,
    tuples,
)

# Whose stages a detector can be cut at; see `networks.detector_stages`.
FAMILIES = "ResNet, EfficientNet, ConvNeXt"
_NAMES = ("resnet", "resnext", "wide_resnet", "efficientnet", "tf_efficientnet", "convnext")
_TEST_NAMES = ("test_efficientnet", "test_resnet", "test_convnext")
# What scoring computes of boxes by COCO's rule, of masks, and of boxes by VOC's own rule; see
# `stages.detection_results`.
MEASURES = ("AP", "AP50", "AP75", "APs", "APm", "APl")
_REPORTED = (*MEASURES, *(f"mask_{one}" for one in MEASURES), "voc_AP", "voc_AP50", "voc_AP75")
SELECTS = "val/AP"
_STEP = 32  # pixels, by which VOC's and COCO's short sides grow

Side = Annotated[int, Field(ge=32, le=4096)]
Pair = tuple[Positive, Positive]

_OPTIMIZER = {"name": "sgd", "lr": 0.02, "momentum": 0.9, "weight_decay": 1e-4}
_VOC: Mapping[str, Any] = {
    "steps": 24_000,
    "milestones": (18_000 / 24_000, 22_000 / 24_000),
    "warmup_steps": 100,
    "batch": 16,
    "optimizer": {"lr": 0.02},
    "sizes": tuple(range(480, 801, _STEP)),
    "test_size": 800,
    "max_size": 1333,
}
# Each holds what a recipe leaves open (HPT, arXiv 2103.12718, section 4.3, and detectron2's C4,
# which its authors trained with); docs/presets.md has what their code did otherwise.
PRESETS: dict[str, Mapping[str, Any]] = {
    "voc_24k": {**_VOC, "voc_recalls": "11"},
    "bdd_90k": {
        **_VOC,
        "steps": 90_000,
        "milestones": (60_000 / 90_000, 80_000 / 90_000),
        "warmup_steps": 1000,
        "batch": 8,
        "optimizer": {"lr": 0.01},
        "sizes": (362, 392, 422, 452, 482, 512),
        "test_size": 512,
        "max_size": 1200,
    },
    "coco_1x_b8": {
        **_VOC,
        "steps": 180_000,
        "milestones": (120_000 / 180_000, 160_000 / 180_000),
        "warmup_steps": 1000,
        "batch": 8,
        "optimizer": {"lr": 0.01},
        "sizes": tuple(range(640, 801, _STEP)),
        "masks": True,
    },
}


class Detect(Trained):
    """Training of a detector, whole; its last weights, or the best on val, read test once."""

    VERSION: ClassVar[int] = 1
    LEAVES: ClassVar = "model"
    SHOWS: ClassVar[bool] = True
    METRICS: ClassVar[tuple[str, ...]] = tuple(
        f"{split}/{name}" for split in ("test", "val") for name in _REPORTED
    )
    DATA: ClassVar[tuple[str, ...]] = ("data",)

    kind: Literal["detect"]
    data: str = Field(
        description="a dataset with boxes, whose train it learns from and whose test it is judged "
        "on; or DATASET/train@10% to learn from some of train"
    )
    preset: Literal["voc_24k", "bdd_90k", "coco_1x_b8"] | None = Field(
        None,
        description="whose schedule and sizes stand for what is not set",
        json_schema_extra=OPERATIONAL,  # what it fills in is what counts
    )
    architecture: Literal["c4", "fpn"] = Field(
        "c4",
        description="c4: regions from the map of stride 16, conv5 and an extra norm on each; fpn: "
        "torchvision's feature pyramid",
    )
    masks: bool = Field(default=False, description="whether it learns masks too (Mask R-CNN)")
    steps: Positive = 24_000
    batch: Positive = Field(16, description="images a step over all ranks")
    bn_group: Positive | None = Field(
        None,
        description="images of a batch that share batch-norm statistics, on any number of "
        "devices; a divisor of batch; null is the whole batch",
    )
    optimizer: Optimizer = Field(
        Optimizer.model_validate(_OPTIMIZER),
        description="by default sgd at 0.02; what is not written here stays",
    )
    decay_norms: bool = Field(
        default=False,
        description="whether weight decay also shrinks the weights and biases of batch norm and "
        "other norms; sgd only, the others never do",
        json_schema_extra=later_than(before=True),
    )
    warmup_steps: Annotated[int, Field(ge=0)] = Field(
        100, description="first steps in which the learning rate grows linearly"
    )
    milestones: tuple[Fraction, Fraction] = Field(
        (18_000 / 24_000, 22_000 / 24_000),
        description="shares of the training at which the rate falls tenfold",
    )
    sizes: Annotated[tuple[Side, ...], Field(min_length=1, max_length=100)] = Field(
        _VOC["sizes"],
        description="short sides of training images, of which each image draws one, pixels",
    )
    test_size: Side = Field(800, description="short side of images that judge, pixels")
    max_size: Side = Field(1333, description="longest side of any image, pixels")
    flip: Fraction = Field(0.5, description="probability of a horizontal flip")
    crop: Fraction = Field(0.0, description="probability of a random crop that keeps a box")
    jitter: Fraction = Field(0.0, description="probability of colour jitter")
    by_shape: bool = Field(
        default=True, description="whether a batch's images are all upright, or all wide"
    )
    images_without_boxes: Literal["keep", "leave_out"] = Field(
        "leave_out", description="of train: kept, as nothing but background, or left out"
    )
    difficult: Literal["learn", "leave_out"] = Field(
        "learn", description="VOC's difficult objects in train; they are never scored"
    )
    anchor_sizes: Annotated[tuple[Positive, ...], Field(min_length=1, max_length=20)] = Field(
        (32, 64, 128, 256, 512), description="pixels; of fpn five, one for each map"
    )
    anchor_ratios: Annotated[tuple[Rate, ...], Field(min_length=1, max_length=20)] = Field(
        (0.5, 1.0, 2.0), description="height / width"
    )
    before_nms: Pair | None = Field(
        None,
        description="proposals of a map before overlap is looked at, in training and otherwise; "
        "null is 12000 and 6000 of c4, 2000 and 1000 of fpn",
    )
    after_nms: Pair = Field(
        (2000, 1000), description="proposals of an image after that, in training and otherwise"
    )
    regions: Positive = Field(512, description="regions of an image that are trained on in a step")
    detections: Positive = Field(100, description="of an image, at most")
    precise_batch_norm: Annotated[int, Field(ge=0)] = Field(
        0,
        description="batches of train by which batch-norm statistics are taken anew after the "
        "last step (arXiv 2105.07576); 0 keeps the running ones",
    )
    eval_every: Positive | None = Field(
        None, description="steps between two looks at val; null never looks, and needs no val"
    )
    voc_recalls: Literal["11", "all"] | None = Field(
        None,
        description="score boxes by VOC's own rule, too, at 11 recalls (VOC 2007) or at all",
    )
    keep: Literal["last", "best"] = Field(
        "last", description="which weights are left and read test: the last, or the best on val"
    )

    @model_validator(mode="before")
    @classmethod
    def _with_preset(cls, written: Any) -> Any:
        return _filled(tuples(written)) if isinstance(written, dict) else written

    @model_validator(mode="after")
    def _consistent(self) -> Detect:
        if list(self.sizes) != sorted(set(self.sizes)):
            raise misfit("sizes", "the short sides are not ascending, each once")
        for name, side in (("sizes", self.sizes[-1]), ("test_size", self.test_size)):
            if side > self.max_size:
                raise misfit(name, f"{side} is above max_size {self.max_size}")
        if self.milestones[0] > self.milestones[1]:
            raise misfit("milestones", "the rate falls a second time before it falls once")
        if self.warmup_steps >= self.steps:
            what = f"warmup_steps {self.warmup_steps} leaves none of {self.steps} steps"
            raise misfit("warmup_steps", what)
        if self.bn_group and self.batch % self.bn_group:
            what = f"bn_group {self.bn_group} does not divide batch {self.batch}"
            raise misfit("bn_group", what)
        if self.architecture == "fpn" and len(self.anchor_sizes) != 5:
            what = f"an fpn has 5 maps, and {len(self.anchor_sizes)} anchor_sizes are given"
            raise misfit("anchor_sizes", what)
        if self.keep == "best" and self.eval_every is None:
            raise misfit("keep", "best never looks at val", fix="set eval_every, or keep: last")
        if self.head_warmup_steps:
            what = "a detector has no head_warmup_steps"
            raise misfit("head_warmup_steps", what, fix="use warmup_steps")
        return self

    def idle(self) -> frozenset[str]:
        """Return `decay_norms` where the optimizer decays no norm anyway."""
        decays = self.optimizer.name == "sgd" and self.optimizer.weight_decay > 0
        return frozenset() if decays else frozenset({"decay_norms"})

    @property
    def looks_at_val(self) -> bool:
        """Whether val is read."""
        return self.eval_every is not None

    @property
    def proposals_before(self) -> tuple[int, int]:
        """Proposals of a map before overlap is looked at, in training and otherwise."""
        return self.before_nms or {"c4": (12_000, 6000), "fpn": (2000, 1000)}[self.architecture]

    @property
    def images(self) -> int:
        """How many images it feeds to the network in training."""
        return self.steps * self.batch

    def judged_on(self, datasets: Mapping[str, DatasetFacts]) -> int:
        """Return the images of val at each look, of test, and of precise batch norm."""
        judged = images_of(datasets, f"{dataset_of(self.data)}/test")
        if self.eval_every:
            looks = -(-self.steps // self.eval_every)
            judged += looks * images_of(datasets, f"{dataset_of(self.data)}/val")
        return judged + self.precise_batch_norm * self.batch

    def reads(self) -> list[Read]:
        """Return what is learned from, and what judges, with their boxes."""
        judged = ("val", "test") if self.looks_at_val else ("test",)
        splits = (trained_on(self.data), *(f"{dataset_of(self.data)}/{one}" for one in judged))
        return [Read("data", split, labelled=True, boxes=True) for split in splits]

    def batches(self) -> dict[str, int]:
        """Return the images of a step."""
        return {"batch": self.batch}

    def rank_faults(self, ranks: int) -> list[Fault]:
        """Return why its batch, or its batch-norm groups, cannot be shared out over ranks."""
        return super().rank_faults(ranks) or group_faults(self.batch, self.bn_group, ranks)

    def faults(self, datasets: Mapping[str, DatasetFacts]) -> list[Fault]:
        """Return that it would learn from what judges it, or from masks that there are not."""
        split = trained_on(self.data).partition("/")[2].partition("@")[0]
        if split == "test" or (split == "val" and self.looks_at_val):
            what = f"{self.data} cannot be learned from: it judges"
            return [Fault("data", what, f"{dataset_of(self.data)}")]
        dataset = datasets[dataset_of(self.data)]
        return mask_faults("masks", dataset, "false") if self.masks else []

    def backbone_faults(self, backbone: str) -> list[Fault]:
        """Return that the recipe's backbone has no stages that are known."""
        name = backbone.rpartition("/")[2].partition(".")[0]
        if name.startswith((*_NAMES, *_TEST_NAMES)):
            return []
        return [Fault("kind", f"{backbone} is no backbone of a detector", FAMILIES)]

    def doubts(self, datasets: Mapping[str, DatasetFacts]) -> list[Fault]:
        """Return that its batch is larger than what it learns from."""
        images = images_of(datasets, trained_on(self.data))
        if images >= self.batch:
            return []
        what = f"a batch of {self.batch} holds {images} images several times each"
        return [Fault("batch", what, fix=f"a batch of up to {images} does not")]

    def remark_on(self, datasets: Mapping[str, DatasetFacts]) -> str:
        """Return its network, its length, and which images it leaves out, in words."""
        name = "Mask R-CNN" if self.masks else "Faster R-CNN"
        epochs = self.images / max(1, images_of(datasets, trained_on(self.data)))
        network = f"{name} {self.architecture.upper()}, {self.steps:,} steps of {self.batch}"
        without = {"keep": "kept", "leave_out": "left out"}[self.images_without_boxes]
        return f"{network} ({epochs:.1f} epochs); images without boxes are {without}"


def _filled(written: dict[str, Any]) -> dict[str, Any]:
    """Return plain data with its preset's values in the gaps, and sgd's in those of optimizer."""
    preset = written.get("preset")
    known = PRESETS.get(preset, {}) if isinstance(preset, str) else {}
    filled = {**known, **written}
    own = written.get("optimizer", {})
    if isinstance(own, Optimizer):
        own = own.model_dump()
    if isinstance(own, dict):
        theirs = known.get("optimizer", {}) if own.get("name", "sgd") == "sgd" else {}
        filled["optimizer"] = {**_OPTIMIZER, **theirs, **own}
    return filled
