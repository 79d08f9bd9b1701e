"""Which precision and memory format a trial trains in: a rule over its device and its backbone.

Nothing is measured and no processor is asked what it can do: equal recipes on the same kind of
device get the same numerics, whatever else the machine does, and the decision is in a trial's key.
Applying it to torch is `precision.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hpt_dist.errors import RequestError

Precision = Literal["float32", "bfloat16", "float16"]
MemoryFormat = Literal["channels_last", "contiguous"]
DeviceKind = Literal["cpu", "gpu"]

# How the names of networks without overlapping convolutions begin, in timm and torchvision. Their
# patch embeddings are linear maps, so channels-last would only cost a copy of the images.
_NOT_CONVOLUTIONAL = (
    *("vit_", "deit", "beit", "cait_", "crossvit_", "eva", "flexivit_", "xcit_", "tnt_", "twins_"),
    *("naflexvit_", "samvit_", "swin", "maxxvitv2_", "pit_", "visformer_", "volo_", "jx_nest_"),
    *("nest_", "mixer_", "gmixer_", "gmlp_", "resmlp_", "aimv2_", "hiera_", "test_vit"),
)


@dataclass(frozen=True)
class Device:
    """Where trials will compute.

    Args:
        kind: of the device.
        precision: what `precision: auto` means there; None is the rule's own answer.
        name: of the place in a sentence, such as this machine.
    """

    kind: DeviceKind = "cpu"
    precision: Precision | None = None
    name: str = "this machine"


THIS_CPU = Device()


@dataclass(frozen=True)
class Numerics:
    """How a network computes.

    Args:
        precision: of convolutions and matrix products; everything kept stays float32.
        memory_format: of images and of convolutions' weights.
    """

    precision: Precision
    memory_format: MemoryFormat

    def __str__(self) -> str:
        return f"{self.precision}, {self.memory_format}"


# What everything computes in that does not train step by step: evaluations of frozen features.
FLOAT32 = Numerics("float32", "channels_last")


def decide(
    precision: Precision | Literal["auto"],
    memory_format: MemoryFormat | Literal["auto"],
    backbone: str,
    device: Device,
) -> Numerics:
    """Decide how a trial trains.

    On a CPU float32; on a GPU bfloat16 unless its profile says otherwise. Channels-last for
    convolutional networks: on the CPUs measured it halves the time of a step
    (`benchmarks/precision.py`), and GPUs' matrix units want it.

    Args:
        precision: "auto", or the one that the recipe names.
        memory_format: "auto", or the one that the recipe names.
        backbone: its name, such as timm/resnet50.
        device: where it will train.

    Raises:
        RequestError: no device of that kind trains in that precision.
    """
    if precision == "auto":
        precision = device.precision or ("float32" if device.kind == "cpu" else "bfloat16")
    if precision == "float16" and device.kind == "cpu":
        raise RequestError(
            "float16 does not train on a CPU",
            allowed="auto, float32, bfloat16",
            fix="use auto, which is float32 on a CPU and bfloat16 on a GPU",
        )
    if memory_format == "auto":
        memory_format = "channels_last" if is_convolutional(backbone) else "contiguous"
    return Numerics(precision, memory_format)


def is_convolutional(backbone: str) -> bool:
    """Return whether a backbone's convolutions overlap, by its name alone: no torch is needed."""
    return not backbone.rpartition("/")[2].startswith(_NOT_CONVOLUTIONAL)


# How the names of networks of one sequence of tokens begin, the class token among them or not.
_OF_TOKENS = ("vit_", "deit", "beit", "cait_", "eva", "flexivit_", "naflexvit_", "test_vit", "jx_")


def has_tokens(backbone: str) -> bool:
    """Return whether a backbone is a ViT or the like; one of another distribution may be."""
    library, _, name = backbone.rpartition("/")
    return name.startswith(_OF_TOKENS) or library == "plugin"
