"""What the rules rest on: each number with where it comes from, in this one place.

A study that finds better ones changes this module alone. "HPT" is arXiv 2103.12718. What was
measured here was measured with EfficientNet-Lite0 on two CPU cores.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from hpt_dist.recipe.numerics import DeviceKind

T = TypeVar("T")


@dataclass(frozen=True)
class Evidence(Generic[T]):
    """A value, and its source in words that fit a recipe's comment."""

    value: T
    source: str


# Settings of a pretraining stage that do not follow from the data. A recipe takes them as they
# stand, so that another arm, or settings such as an anchor, are written here and nowhere else.
DEFAULT_ARM: Evidence[Mapping[str, Any]] = Evidence(
    {
        "batch_norm": "frozen",
        "optimizer": {"name": "adamw", "lr": 1e-3, "backbone_lr_scale": 0.3},
    },
    "of the settings tried on drawings, moving statistics and a backbone rate of 1 harmed most",
)
# HPT's guideline for few images, which its own settings train as well as all weights.
FEW_IMAGES_ARM: Evidence[Mapping[str, Any]] = Evidence(
    {
        "train": "batchnorm",
        "batch_norm": "train",
        "optimizer": {"name": "adamw", "lr": 1e-3},
    },
    "HPT's guideline is batch norm alone, with moving statistics",
)
FEW_IMAGES = Evidence(10_000, "HPT's guideline")

STEPS = Evidence(5000, "HPT: 5,000 steps are enough at any number of images")
CPU_STEPS = Evidence(300, "200 to 600 steps of 64 were alike on drawings on a CPU")
LEAST_STEPS = Evidence(50, "HPT's shortest training")
# Below this many looks, fewer choices widen the verdict's interval less.
LOOKS = Evidence(6, "the package's recipes")
WARMUP = Evidence(0.2, "the package's recipes: a fifth of all steps, at most 500")
MOST_WARMUP = 500

SIZE: Mapping[DeviceKind, Evidence[int]] = {
    "cpu": Evidence(64, "the size of the package's recipes for a CPU"),
    "gpu": Evidence(224, "HPT's size"),
}
BATCH: Mapping[DeviceKind, Evidence[int]] = {
    "cpu": Evidence(64, "as in the package's recipes for a CPU"),
    "gpu": Evidence(256, "HPT's batch"),
}
# Enlarging is of use: of Fashion-MNIST's 28 pixels nearest neighbours found 75.9 % at 64 pixels
# and 77.1 % at 112 (700 images, one run).
ENLARGED = Evidence(4, "28 pixels gave 77.1 % at 112, 75.9 % at 64: no evidence for more")
QUEUE_BATCHES = Evidence(8, "eight batches, as in the package's recipes")
MOMENTUM = Evidence(0.99, "the package's recipes: short trainings, short queues")

# Up to this side, crops of a fifth of an image are too few pixels, and blur leaves nothing.
SMALL_SIDE = 96
SMALL_VIEWS: Evidence[Mapping[str, Any]] = Evidence(
    {"crop_area": [0.4, 1.0], "blur": 0}, "the package's recipes for a CPU"
)
COLOURLESS: Evidence[Mapping[str, Any]] = Evidence(
    {"saturation": 0, "hue": 0, "gray": 0}, "without colours these do nothing"
)
GRAY_SHARE = 0.95  # of the images seen, from which on a dataset counts as one without colours

VIEWS, SEEDS, LINEAR_STEPS, LINEAR_BATCH = 4, 3, 1000, 256
NEIGHBOURS = 20  # that a look compares with
WATCHED = 2048  # the default of `monitor.images`
# Two seeds give an interval of 13 deviations: one evaluation that no seed changes, judged by its
# images, says more.
LBFGS_PASSES = 400  # over the features: eight strengths
# A CPU computes features of so many images within minutes.
CPU_EVALUATED = 20_000
LEAST_EVALUATED = 2_000

# Of a source: its Fréchet distance as a multiple of that of two halves of one's own images. With
# 192 images each at 64 pixels: colour drawings to line drawings 5 to 8, clip-art to cut-out
# photographs 4, photographs to line drawings 13 to 24, products of 28 pixels to any of these 9 to
# 22.
FAR = Evidence(10.0, "drawings of other styles are up to 8 times as far, unlike images 9 to 24")
LARGER = 2.0  # times the target's images, from which on a source counts as larger
# Of the data to the base: how far its batch-norm inputs are from the base's statistics, in its
# deviations. No setting follows from it: a base knows images of 224 pixels, and at 64 all are off.
SHIFTED = Evidence(1.0, "line drawings are 0.94 off, photographs 0.73, at 64 pixels")

# What a test can show: accuracy, where so many answers change.
GAIN, CHANGED = 0.05, 0.2

MARGIN = 0.9  # of the hours that were given are planned
TRIAL_SECONDS = 6.0  # that a trial takes beside its images: its process, its records
BUSY = 0.6  # of the cores, which training has at least where nothing else runs
CPU_FLOPS, GPU_FLOPS = 2e10, 5e12  # of a linear classifier's steps
