"""What is measured: units of a target and a seed, in the order of their use. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "evidence/results"
BASE = "base"
PIXELS = "pixels"


@dataclass(frozen=True)
class Target:
    """Images that something is pretrained for, or adapted to.

    Args:
        name: of its recipe.
        title: for readers.
        dataset: by which `hpt-dist shard` knows it.
        domain: targets of one domain share their test images, and count as one.
        decides: whether it has verdicts; one that has too few test images tells a story.
        seeds: how many pipelines, from 0 on.
        folder: of its recipe.
    """

    name: str
    title: str
    dataset: str
    domain: str
    decides: bool = True
    seeds: int = 5
    folder: Path = ROOT / "recipes/evidence"

    @property
    def recipe(self) -> Path:
        """The file of its recipe."""
        return self.folder / f"{self.name}.yaml"


TARGETS = (
    Target("line", "OpenMoji, lines only", "openmoji/line", "OpenMoji"),
    Target("clipart", "openclipart", "openclipart", "openclipart"),
    Target("fashion_1k", "Fashion-MNIST, 1,000 images", "fashion-mnist", "Fashion-MNIST"),
    Target("fashion_5k", "Fashion-MNIST, 5,000 images", "fashion-mnist", "Fashion-MNIST"),
    Target("tuxpaint", "Tux Paint", "tuxpaint", "Tux Paint", decides=False, seeds=3),
)

# Pairs of a labelled source and a target with few labels. evidence/paint_to_line is not among them:
# settings are chosen on it. All have drawings of OpenMoji to test on, so that they are one domain.
ADAPTATIONS = (
    Target("color_to_line", "OpenMoji, colour to lines", "openmoji/line", "OpenMoji"),
    Target("color_to_paint", "OpenMoji, colour to paint", "openmoji/paint", "OpenMoji"),
    Target("clipart_to_line", "openclipart to OpenMoji's lines", "shared/line", "OpenMoji"),
)

# Pictures with boxes. Drawings of OpenMoji, so that they are of its domain.
DETECTIONS = (
    Target("composed", "OpenMoji's drawings on backgrounds", "composed", "OpenMoji", seeds=3),
)
EVERY = (*TARGETS, *ADAPTATIONS, *DETECTIONS)

# What stands beside the base in tables, in this order. What a recipe does not have has no row.
ARMS = {
    BASE: "published weights",
    "fresh": "batch-norm statistics of the target, as far as val decides",
    "hpt": "HPT: pretraining on the target from the published weights",
    "hpt_bn": "HPT-BN: the same, batch norm alone",
    "anchored": "HPT with an anchor to the published weights",
    "averaged": "HPT, or an average with the published weights, as val decides",
    "scratch": "pretraining on the target from random weights, as many steps",
    "random": "random weights",
    PIXELS: "raw pixels, 28 x 28",
}
# The arms that end with a gate, and what each started from.
GATED = {"hpt": BASE, "hpt_bn": BASE, "anchored": BASE, "averaged": BASE, "scratch": "random"}
# Stages that judge; the first is what verdicts are about.
EVALUATIONS = {
    "linear": "logistic regression on frozen features",
    "few": "the same with few labels",
    "tuned": "fine-tuned network",
    "near": "20 nearest neighbours",
}

# The stage of adaptations, what they start from, and what they learn by.
ADAPT = "adapt"
STARTS = {BASE: "published weights", "hpt": "HPT: pretraining on both domains, without labels"}
OBJECTIVES = {
    "s+t": "labelled images of source and target alone",
    "mme": "Minimax Entropy",
    "consistency": "confident answers to weak views teach strong ones",
}


# The stage of detectors.
DETECTOR = "detector"


@dataclass(frozen=True)
class Unit:
    """All arms of a target with one seed: they share labels, and what they start from."""

    target: Target
    seed: int

    @property
    def name(self) -> str:
        """Such as line/0."""
        return f"{self.target.name}/{self.seed}"

    @property
    def command(self) -> str:
        """What measures it."""
        return f'make evidence ARGS="--only {self.target.name} --seed {self.seed}"'


def units(targets: Sequence[Target] = TARGETS) -> list[Unit]:
    """Return all units: the first seed of every target, then the second, and so on."""
    most = max(target.seeds for target in targets)
    return [Unit(one, seed) for seed in range(most) for one in targets if seed < one.seeds]


def every_unit() -> list[Unit]:
    """Return all units, those of pretraining first."""
    return [*units(), *units(ADAPTATIONS), *units(DETECTIONS)]


def axes_of(trial: str) -> dict[str, str]:
    """Return what was swept of a trial, by its name."""
    parts = trial.partition("/")[2]
    return dict(part.partition("=")[::2] for part in parts.split(",")) if parts else {}


def arm_of(trial: str) -> str:
    """Return the arm that an evaluation is of, by its trial's name; empty for another trial."""
    return axes_of(trial).get("init", "")


def seedless(trial: str) -> str:
    """Return what a trial's name has in common with those of other seeds."""
    axes = axes_of(trial).items()
    kept = ",".join(f"{axis}={value}" for axis, value in axes if axis != "seed")
    return "/".join(part for part in (trial.partition("/")[0], kept) if part)
