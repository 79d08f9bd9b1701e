"""What a recipe may say: frozen, strict specs, one class for each kind of stage.

Reading YAML files into these specs is `file.py`. Defaults are the paper's values
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

    name: Literal["sgd", "lars", "adamw"] = "sgd"
    lr: Rate = Field(
        0.03, description="peak learning rate, used as written unless lr_scaling says otherwise"
    )
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    momentum: Fraction = Field(0.9, description="sgd and lars only")
    nesterov: bool = Field(default=False, description="sgd only")
    trust: Rate = Field(1e-3, description="lars only: its trust coefficient, eta")
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
    solarize: Fraction = Field(0.0, description="probability of inverting all bright pixels")

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


Preset = Literal["paper", "authors-code"]
# What it fills in is what counts, so it is not itself part of a key.
_PRESET: Any = Field(
    "paper",
    description="whose values stand for what is not set: the paper's text, or its authors' code",
    json_schema_extra=_OPERATIONAL,
)
SCALING_BATCH = 256  # at which a scaled learning rate is the one that is written
# The group of settings of each method.
METHOD_SETTINGS = {"moco_v2": "moco", "byol": "byol", "simclr": "simclr"}


class Resources(Spec):
    """What a trial would like of a cluster; a profile says what it gets."""

    gpus: Positive = Field(
        1, description="processes that share its training, each with a GPU where there are any"
    )
    memory_gb: Rate | None = Field(None, description="of each node; null is the profile's")
    time_min: Annotated[int, Field(ge=5)] | None = Field(
        None, description="limit of one job, minutes; null is the profile's, also its most"
    )


class StageSpec(Spec):
    """What every stage says."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    resources: Resources = Field(
        Resources(), description="wishes on a cluster", json_schema_extra=_OPERATIONAL
    )


class Import(StageSpec):
    """Somebody else's weights: the base of a recipe."""

    kind: Literal["import"]
    weights: str = Field(
        description="torchvision/NAME/WEIGHTS, timm/NAME, package/efficientnet-lite0, random, a "
        "file or store URI (.safetensors, .npz, .pt, .pth, .pth.tar, .ckpt, .bin), or MLflow's "
        "runs:/, models:/ or mlflow-artifacts:/; #ENCODER may follow, see docs/weights.md"
    )
    force: bool = Field(
        default=False, description="accept weights of which less than 99 % match the backbone"
    )


class Trained(StageSpec):
    """What every stage says that trains by gradients."""

    init: str = Field(description="the stage whose backbone this one starts from")
    batch_norm: Literal["train", "frozen"] = Field(
        "train", description="whether the backbone's batch-norm statistics move"
    )
    head_warmup_steps: Annotated[int, Field(ge=0)] = Field(
        0, description="first steps in which the backbone is frozen and only the head learns"
    )
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="of the network's passes; auto is float32 on a CPU and bfloat16 on a GPU, or "
        "what the profile says",
    )
    memory_format: Literal["auto", "channels_last", "contiguous"] = Field(
        "auto",
        description="of images and weights; auto is channels_last for convolutional networks",
    )
    max_bad: Annotated[int, Field(ge=0)] = Field(
        10,
        description="damaged images that may be replaced by their neighbours, by each stream of "
        "each process",
        json_schema_extra=_OPERATIONAL,
    )
    checkpoint_every: Positive = Field(
        500, description="steps between saved states", json_schema_extra=_OPERATIONAL
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


class Monitor(Spec):
    """What is looked at during pretraining, before the first step, and after the last."""

    data: str | None = Field(
        None,
        description="a dataset with labelled train and val: nearest neighbours classify val; "
        "without one only collapse is watched, on images of the pretraining data",
    )
    every: Positive | None = Field(
        None, description="steps between two looks; null is a tenth of all steps"
    )
    k: Positive = Field(20, description="nearest neighbours")
    temperature: Rate = 0.07
    images: Positive = Field(
        2048, description="at most so many images of each split, a seeded choice"
    )


class Pretrain(Trained):
    """Self-supervised pretraining on unlabelled images."""

    kind: Literal["pretrain"]
    preset: Preset = _PRESET
    data: tuple[str, ...] = Field(min_length=1, description="dataset/split, ...")
    method: Literal["moco_v2", "byol", "simclr"] = "moco_v2"
    moco: MoCo = MoCo()
    byol: Byol = Byol()
    simclr: SimClr = SimClr()
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

    @model_validator(mode="after")
    def _batches_divide(self) -> Pretrain:
        if self.method == "moco_v2" and self.moco.queue % self.batch:
            raise ValueError(f"moco.queue {self.moco.queue} is no multiple of batch {self.batch}")
        if self.batch % (self.shuffle.streams or 1):
            raise ValueError(f"shuffle.streams {self.shuffle.streams} does not divide batch")
        if self.bn_group and self.batch % self.bn_group:
            raise ValueError(f"bn_group {self.bn_group} does not divide batch {self.batch}")
        return self

    @model_validator(mode="after")
    def _steps_fit(self) -> Pretrain:
        for name in ("head_warmup_steps", "warmup_steps"):
            if getattr(self, name) >= self.steps:
                raise ValueError(f"{name} must be less than steps")
        return self

    @model_validator(mode="after")
    def _consistent(self) -> Pretrain:
        for method, group in METHOD_SETTINGS.items():
            if method != self.method and getattr(self, group) != type(getattr(self, group))():
                raise ValueError(f"{group} is of method {method}, and method is {self.method}")
        other = self.augment_other
        if other and other.crop_area != self.augment.crop_area:
            raise ValueError("augment_other.crop_area must be that of augment")
        if self.keep == "best" and not self.keeps_best:
            raise ValueError("keep: best needs monitor.data, a dataset with labelled train and val")
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
    preset: Preset = _PRESET
    learning_rates: tuple[Rate, ...] = Field((0.3, 3.0, 30.0), min_length=1)
    milestones: tuple[Fraction, Fraction] = Field(
        (1 / 3, 2 / 3), description="shares of steps after which the rate falls tenfold"
    )
    steps: Positive = 5000
    batch: Positive = 512
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    views: Positive = Field(
        8, description="augmented copies (crop and flip) of each training image"
    )


class Mme(Trained):
    """Semi-supervised domain adaptation by Minimax Entropy (Saito et al., arXiv 1904.06487)."""

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
