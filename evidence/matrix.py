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
    """Images that something is pretrained for.

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


def arm_of(trial: str) -> str:
    """Return the arm that an evaluation is of, by its trial's name; empty for another trial."""
    axes = dict(part.partition("=")[::2] for part in trial.partition("/")[2].split(","))
    return axes.get("init", "")
