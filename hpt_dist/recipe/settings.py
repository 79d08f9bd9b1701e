"""Groups of settings that several kinds of stage share: frozen, strict specs.

Defaults are the paper's values (HPT, arXiv 2103.12718, tables 4 and 5 and section 4) unless a field
says otherwise. Nothing in this package imports torch: a login node plans and validates in a
fraction of a second.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

Positive = Annotated[int, Field(gt=0)]
Rate = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]

# Fields marked so do not change a trial's result and are left out of its key.
OPERATIONAL: dict[str, Any] = {"operational": True}
# Fields that came after keys were made are left out of them at their default: keys stay.
LATER: dict[str, Any] = {"later": True}


def later_than(before: str | bool) -> dict[str, Any]:
    """Return the mark of a choice that came after keys were made, and was `before` until then.

    It is left out of keys at that value, and where it is idle; its default is another one.
    """
    return {"before": before}


class Spec(BaseModel):
    """A frozen group of settings that refuses what it does not know.

    `INSTEAD` has what to write in place of names that somebody may try.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    INSTEAD: ClassVar[Mapping[str, str]] = {}

    def idle(self) -> frozenset[str]:
        """Return the names of the settings that change nothing beside the others."""
        return frozenset()


def misfit(setting: str, what: str, allowed: str = "", fix: str = "") -> PydanticCustomError:
    """Return the error of a setting that does not fit another one of its spec.

    Args:
        setting: its path in the spec, such as moco.queue.
        what: the fault.
        allowed: what would be right.
        fix: what to do.
    """
    facts = {"setting": setting, "what": what, "allowed": allowed, "fix": fix}
    return PydanticCustomError("misfit", "{what}", facts)


def tuples(written: dict[str, Any]) -> dict[str, Any]:
    """Return plain data with tuples for lists, as a validator that runs before others must."""
    return {key: tuple(one) if isinstance(one, list) else one for key, one in written.items()}


def check_range(name: str, limits: tuple[float, float]) -> None:
    """Raise a ValueError unless a range of positive numbers is one."""
    low, high = limits
    if not 0 < low <= high:
        raise ValueError(f"{name} must be [low, high] with 0 < low <= high")


# Pixels: the usual network makes half a feature of the least, and a thousand times what it makes of
# 128 pixels of the most.
LEAST_SIZE, MOST_SIZE = 16, 4096


class Image(Spec):
    """How images enter the network, the same in every stage."""

    size: Annotated[int, Field(ge=LEAST_SIZE, le=MOST_SIZE)] = Field(
        224, description="side of the square network input, pixels"
    )
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

    def idle(self) -> frozenset[str]:
        """Return the settings of other optimizers."""
        others = {
            "sgd": {"trust"},
            "lars": {"nesterov"},
            "adamw": {"momentum", "nesterov", "trust"},
        }
        return frozenset(others[self.name])

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> Optimizer:
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs a momentum above 0")
        return self


# What each policy of augmentation leaves out: the probabilities that are 0 (HPT, arXiv 2103.12718,
# figure 5, and its authors' code, which leaves out the flip too where crops are kept).
POLICIES: dict[str, tuple[str, ...]] = {
    "full": (),
    "no_gray": ("gray",),
    "no_color": ("jitter",),
    "crop_blur": ("jitter", "gray", "flip", "solarize"),
    "crop_only": ("jitter", "gray", "flip", "solarize", "blur"),
}


class Augment(Spec):
    """The random views of one image; the defaults are MoCo v2's (hue 0.1)."""

    policy: Literal["full", "no_gray", "no_color", "crop_blur", "crop_only"] = Field(
        "full",
        description="what is left out: nothing; turning gray; colour jitter, but not gray; all but "
        "crops and blur; or all but crops",
        json_schema_extra=OPERATIONAL,  # what it leaves out is what counts
    )
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

    def idle(self) -> frozenset[str]:
        """Return the strengths of what never happens."""
        idle = set() if self.jitter else {"brightness", "contrast", "saturation", "hue"}
        return frozenset(idle | (set() if self.blur else {"blur_sigma"}))

    @model_validator(mode="before")
    @classmethod
    def _without_what_is_left_out(cls, written: Any) -> Any:
        if not isinstance(written, dict):
            return written
        policy = written.get("policy")
        left_out = POLICIES.get(policy, ()) if isinstance(policy, str) else ()
        for name in left_out:
            if written.get(name, 0) != 0:
                what = f"policy {policy} leaves {name} out, and {name} is set"
                raise misfit(name, what, fix="keep one of them")
        return {**tuples(written), **dict.fromkeys(left_out, 0.0)}

    @model_validator(mode="after")
    def _ordered(self) -> Augment:
        check_range("crop_area", self.crop_area)
        check_range("blur_sigma", self.blur_sigma)
        return self


MaxBad = Annotated[int, Field(ge=0)]
MAX_BAD: Any = Field(
    0,
    description="damaged images of train that may be replaced by their neighbours, in all; the "
    "result names them",
    json_schema_extra=LATER,
)
Preset = Literal["paper", "authors-code"]
# What it fills in is what counts, so it is not itself part of a key.
PRESET: Any = Field(
    "paper",
    description="whose values stand for what is not set: the paper's text, or its authors' code",
    json_schema_extra=OPERATIONAL,
)


class Resources(Spec):
    """What a trial would like of a cluster; a profile decides what it gets."""

    gpus: Positive = Field(
        1, description="processes that share its training, each with a GPU where there are any"
    )
    memory_gb: Rate | None = Field(None, description="of each node; null is the profile's")
    time_min: Annotated[int, Field(ge=5)] | None = Field(
        None, description="limit of one job, minutes; null is the profile's, also its most"
    )


def _readable(name: str) -> str:
    if not name.isprintable() or name != name.strip():
        raise ValueError("an experiment's name must be one line of visible characters")
    return name


Experiment = Annotated[str, Field(max_length=500), AfterValidator(_readable)]


class Mlflow(Spec):
    """Where MLflow shows the runs; in no trial's key."""

    experiment: Experiment = Field(
        "",
        description="MLflow's experiment; without it, the one that MLFLOW_EXPERIMENT_NAME names, "
        "or that of the cluster's profile, or else one of the recipe's name",
    )


def counting_settings(spec: Spec, prefix: str = "") -> dict[str, str]:
    """Return the settings that count for a result by their key paths, as text, for people."""
    flat: dict[str, str] = {}
    for name, value in spec:
        field = type(spec).model_fields[name]
        if name in spec.idle() or field.json_schema_extra == OPERATIONAL:
            continue
        if isinstance(value, Spec):
            flat |= counting_settings(value, f"{prefix}{name}.")
        elif isinstance(value, dict):
            flat |= {f"{prefix}{name}.{key}": str(one) for key, one in value.items()}
        elif value is not None:
            values = value if isinstance(value, tuple) else [value]
            flat[prefix + name] = ", ".join(map(str, values))
    return flat


def result_fields(spec: Spec) -> dict[str, Any]:
    """Return the part of a spec that determines its result: what a key is made of."""
    idle = spec.idle()
    kept = {}
    for name, value in spec:
        field = type(spec).model_fields[name]
        if not _in_keys(field, value, is_idle=name in idle):
            continue
        kept[name] = result_fields(value) if isinstance(value, Spec) else value
    return kept


def _in_keys(field: FieldInfo, value: Any, *, is_idle: bool) -> bool:
    mark = field.json_schema_extra
    if isinstance(mark, dict) and "before" in mark:
        return value != mark["before"] and not is_idle
    return mark != OPERATIONAL and not (mark == LATER and value == field.get_default())
