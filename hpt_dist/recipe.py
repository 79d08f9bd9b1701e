"""What a recipe may say: frozen, strict specs, one class for each kind of stage.

Reading YAML files into these specs is `recipe_file.py`. Defaults are the paper's values
(HPT, arXiv 2103.12718, tables 4 and 5 and section 4) unless a field says otherwise. Nothing here
imports torch: a login node plans and validates in a fraction of a second.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[int, Field(gt=0)]
Rate = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]

# Fields marked so do not change a trial's result and are left out of its key.
_OPERATIONAL: dict[str, Any] = {"operational": True}
_MAX_BAD: Any = Field(
    10,
    description="damaged images that may be replaced by their neighbours, by each stream of each "
    "process",
    json_schema_extra=_OPERATIONAL,
)


class Spec(BaseModel):
    """A frozen group of settings that refuses what it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _check_range(name: str, limits: tuple[float, float]) -> None:
    low, high = limits
    if not 0 < low <= high:
        raise ValueError(f"{name} must be [low, high] with 0 < low <= high")


class Image(Spec):
    """How images enter the network, the same in every stage."""

    size: Positive = Field(224, description="side of the square network input, pixels")
    normalize: Literal["imagenet", "half", "dataset"] = Field(
        "imagenet",
        description="mean and std: ImageNet's, 0.5 and 0.5, or those of the stage's datasets",
    )


class Optimizer(Spec):
    """The optimizer and its learning rate at its peak."""

    name: Literal["sgd", "adamw"] = "sgd"
    lr: Rate = Field(0.03, description="peak learning rate, used as written (never rescaled)")
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    momentum: Fraction = Field(0.9, description="sgd only")
    nesterov: bool = Field(default=False, description="sgd only")
    backbone_lr_scale: Rate = Field(1.0, description="backbone learning rate as a share of lr")

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> Optimizer:
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs a momentum above 0")
        return self


class Augment(Spec):
    """The random views of one image; the defaults are MoCo v2's (hue 0.1)."""

    crop_area: tuple[Fraction, Fraction] = Field((0.2, 1.0), description="share of the image")
    flip: Fraction = Field(0.5, description="probability of a horizontal flip")
    jitter: Fraction = Field(0.8, description="probability of colour jitter")
    brightness: Fraction = 0.4
    contrast: Fraction = 0.4
    saturation: Fraction = 0.4
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    gray: Fraction = Field(0.2, description="probability of turning gray")
    blur: Fraction = Field(0.5, description="probability of a Gaussian blur")
    blur_sigma: tuple[Rate, Rate] = Field((0.1, 2.0), description="range, in pixels at 224")

    @model_validator(mode="after")
    def _ordered(self) -> Augment:
        _check_range("crop_area", self.crop_area)
        _check_range("blur_sigma", self.blur_sigma)
        return self


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


class StageSpec(Spec):
    """What every stage says."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0


class Import(StageSpec):
    """Somebody else's weights: the base of a recipe."""

    kind: Literal["import"]
    weights: str = Field(
        description="torchvision/NAME/WEIGHTS, timm/NAME, package/efficientnet-lite0, random, "
        "or a file or store URI (.safetensors, .pt, .pth)"
    )
    force: bool = Field(
        default=False, description="accept weights of which less than 99 % match the backbone"
    )


class MoCo(Spec):
    """MoCo v2 (arXiv 2003.04297)."""

    queue: Positive = Field(65536, description="number of negative keys; a multiple of batch")
    momentum: Fraction = Field(0.999, description="of the key encoder")
    temperature: Rate = 0.2
    dim: Positive = Field(128, description="length of the embedding")


class Pretrain(StageSpec):
    """Self-supervised pretraining on unlabelled images."""

    kind: Literal["pretrain"]
    init: str = Field(description="the stage whose backbone this one starts from")
    data: tuple[str, ...] = Field(min_length=1, description="dataset/split, ...")
    method: Literal["moco_v2"] = "moco_v2"
    moco: MoCo = MoCo()
    steps: Positive = 5000
    batch: Annotated[int, Field(ge=2)] = Field(256, description="images a step over all ranks")
    train: Literal["all", "batchnorm", "head"] = Field(
        "all", description="the backbone parameters that learn; the projector always learns"
    )
    batch_norm: Literal["train", "frozen"] = Field(
        "train", description="whether the backbone's batch-norm statistics move"
    )
    optimizer: Optimizer = Optimizer()
    head_warmup_steps: Annotated[int, Field(ge=0)] = Field(
        0, description="first steps in which only the projector learns"
    )
    augment: Augment = Augment()
    shuffle: Shuffle = Shuffle()
    max_bad: Annotated[int, Field(ge=0)] = _MAX_BAD
    checkpoint_every: Positive = Field(
        500, description="steps between saved states", json_schema_extra=_OPERATIONAL
    )

    @model_validator(mode="after")
    def _queue_holds_whole_batches(self) -> Pretrain:
        if self.moco.queue % self.batch:
            raise ValueError(f"moco.queue {self.moco.queue} is no multiple of batch {self.batch}")
        if self.head_warmup_steps >= self.steps:
            raise ValueError("head_warmup_steps must be less than steps")
        if self.batch % (self.shuffle.streams or 1):
            raise ValueError(f"shuffle.streams {self.shuffle.streams} does not divide batch")
        return self


class Knn(StageSpec):
    """Weighted k-nearest neighbours on frozen features (Wu et al., arXiv 1805.01978)."""

    kind: Literal["knn"]
    init: str
    data: str = Field(description="a dataset with labelled train, val and test splits")
    k: tuple[Positive, ...] = Field(
        (5, 20, 200), min_length=1, description="candidates; val chooses"
    )
    temperature: Rate = 0.07


class Linear(StageSpec):
    """A linear classifier on frozen features; val chooses the learning rate, test is read once."""

    kind: Literal["linear"]
    init: str
    data: str = Field(description="a dataset with labelled train, val and test splits")
    learning_rates: tuple[Rate, ...] = Field((0.3, 3.0, 30.0), min_length=1)
    steps: Positive = 5000
    batch: Positive = 512
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    views: Positive = Field(
        8, description="augmented copies (crop and flip) of each training image"
    )


class Mme(StageSpec):
    """Semi-supervised domain adaptation by Minimax Entropy (Saito et al., arXiv 1904.06487)."""

    kind: Literal["mme"]
    init: str
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
    batch_norm: Literal["train", "frozen"] = "train"
    optimizer: Optimizer = Optimizer(
        name="sgd", lr=0.01, weight_decay=5e-4, nesterov=True, backbone_lr_scale=0.1
    )
    head_warmup_steps: Annotated[int, Field(ge=0)] = Field(
        0, description="first steps in which only the head learns"
    )
    crop_area: tuple[Fraction, Fraction] = (0.7, 1.0)
    eval_every: Positive = 500
    patience: Positive | None = Field(
        6, description="evaluations in a row below the best before stopping; null = never"
    )
    max_bad: Annotated[int, Field(ge=0)] = _MAX_BAD
    checkpoint_every: Positive = Field(
        500, description="steps between saved states", json_schema_extra=_OPERATIONAL
    )

    @model_validator(mode="after")
    def _consistent(self) -> Mme:
        if (self.shots is None) == (self.labels is None):
            raise ValueError("give exactly one of shots and labels")
        _check_range("crop_area", self.crop_area)
        if self.head_warmup_steps >= self.steps:
            raise ValueError("head_warmup_steps must be less than steps")
        return self


StageKind = Import | Pretrain | Knn | Linear | Mme
KINDS: dict[str, type[StageKind]] = {
    "import": Import,
    "pretrain": Pretrain,
    "knn": Knn,
    "linear": Linear,
    "mme": Mme,
}
# Kinds whose trials leave a backbone that another stage can start from.
MAKES_WEIGHTS = {"import", "pretrain"}


class Report(Spec):
    """The table that a launch ends with."""

    table: str = Field(description="the stage whose trials fill the table")
    rows: str = Field(description="the sweep axis that makes rows")
    columns: str = Field(description="the sweep axis that makes columns")
    metric: str = "test/top1"
    baseline: str = Field("base", description="the row that the others are compared with")
    compare: str | None = Field(None, description="published values to print beside ours")


def result_fields(spec: Spec) -> dict[str, Any]:
    """Return the part of a spec that determines its result: what a key is made of."""
    fields = type(spec).model_fields
    kept = {}
    for name, value in spec:
        if (fields[name].json_schema_extra or {}) == _OPERATIONAL:
            continue
        kept[name] = result_fields(value) if isinstance(value, Spec) else value
    return kept
