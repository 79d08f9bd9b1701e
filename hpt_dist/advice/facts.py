"""What was seen of the data, the bases and this machine: plain values, ready for JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from hpt_dist.recipe.numerics import DeviceKind

Judges = Literal["test", "val", "none"]
Verdict = Literal["better", "worse", "undecided"]


@dataclass(frozen=True)
class Dataset:
    """A dataset as its manifest describes it.

    Args:
        alias: how the recipe calls it.
        reference: its name in the store, or its URI.
        images: of each split.
        pool: the splits to pretrain on: all but those that judge.
        label: single, multi, boxes or none.
        classes: how many.
        fewest: labelled images of the rarest class in train; 0 without labels.
        metric: of its evaluations; empty without labels.
        judges: what can judge: a linear evaluation on test, a probe on val, or nothing.
        lacks: why it is not test; empty where it is.
        in_words: its splits and classes in a line.
    """

    alias: str
    reference: str
    images: Mapping[str, int]
    pool: tuple[str, ...]
    label: str
    classes: int
    fewest: int
    metric: str
    judges: Judges
    lacks: str
    in_words: str

    @property
    def pool_images(self) -> int:
        """The images to pretrain on."""
        return sum(self.images[split] for split in self.pool)


@dataclass(frozen=True)
class Pictures:
    """How the images look that were decoded; those to pretrain on.

    Args:
        seen: how many were decoded.
        short_sides: pixels, of the smallest tenth, the median, and the largest tenth.
        gray: share without colours.
        deep: share with more than 8 bits a channel.
        flat: share that shows hardly any contrast; see `lookalikes.MIN_CONTRAST`.
        range: gray values, 0 to 255, between which 98 % of the pixels lie.
        damaged: names of those that do not decode.
    """

    seen: int
    short_sides: tuple[int, int, int]
    gray: float
    deep: float
    flat: float
    range: tuple[int, int]
    damaged: tuple[str, ...] = ()


@dataclass(frozen=True)
class Copies:
    """Images that are there more than once.

    Args:
        exact: images that are trained on, or chosen by, and have the bytes of one of val or test,
            of all images; None where that was not looked at.
        judged: images of val and test that were compared by look.
        others: images to pretrain on, those of sources too, that were compared by look.
        near: those of `judged` that look like one of `others`.
        whole: whether these were all images.
    """

    exact: int | None
    judged: int
    others: int
    near: int
    whole: bool


@dataclass(frozen=True)
class Score:
    """A metric of nearest neighbours on val, a share of 1, with its 95 % interval over images.

    Args:
        metric: as the dataset names it.
        value: of the metric.
        interval: low and high; None where nothing varies.
        images: that were classified.
        neighbours: labelled images that they were compared with.
        split: of those that were classified: val, or train where there is no val.
    """

    metric: str
    value: float
    interval: tuple[float, float] | None
    images: int
    neighbours: int
    split: str = "val"


@dataclass(frozen=True)
class Difference:
    """Of two scores on the same images, by a paired bootstrap.

    Args:
        one: what is compared: the name of a base, or raw pixels.
        other: what it is compared with.
        mean: one minus the other, a share of 1.
        half_width: of the interval at 95 % for all comparisons of this look.
        verdict: about `one`.
    """

    one: str
    other: str
    mean: float
    half_width: float
    verdict: Verdict


@dataclass(frozen=True)
class Base:
    """Weights to start from.

    Args:
        weights: as a recipe names them.
        backbone: of them.
        dim: length of its features.
        images_per_second: of computing features.
        score: of its features; None without labels.
        shift: how far the inputs of its batch-norm layers are from its own statistics, in its
            standard deviations, the median over layers; None without such layers.
    """

    weights: str
    backbone: str
    dim: int
    images_per_second: float
    score: Score | None = None
    shift: float | None = None

    @property
    def name(self) -> str:
        """How a command names it; weights of a file do not tell their network."""
        is_known = self.weights.startswith(("package/", "torchvision/", "timm/"))
        return self.weights if is_known else f"{self.backbone}={self.weights}"


@dataclass(frozen=True)
class Source:
    """A dataset to pretrain on before the target.

    Args:
        dataset: its manifest's facts.
        distance: Fréchet distance to the target on the base's features, as a multiple of that of
            two halves of the target; None where it was not measured.
        spread: standard deviation of that over random halves.
        seen: images of it that were looked at.
    """

    dataset: Dataset
    distance: float | None = None
    spread: float = 0.0
    seen: int = 0


@dataclass(frozen=True)
class Speed:
    """Of a real training step on this machine.

    Args:
        size: side of the images, pixels.
        batch: images of a step.
        views_per_second: image views that training consumes.
        steps: that were measured.
        share: of the cores that it got meanwhile; 1 on a GPU.
    """

    size: int
    batch: int
    views_per_second: float
    steps: int
    share: float = 1.0


@dataclass(frozen=True)
class Facts:
    """All that was seen.

    Args:
        target: the dataset that the recipe is for.
        device: what trials of this machine compute on.
        cores: of this machine that trials may use.
        pictures: how its images look.
        copies: images that are there more than once; None where that was not looked at.
        bases: in the order that they were given.
        pixels: score of raw pixels, the floor; None without labels.
        differences: of the bases to the best of them, and of that one to raw pixels.
        sources: in the order that they were given.
        speed: of training from the base that is recommended.
        seconds: that the look took.
        skipped: what it had no time for, in words.
    """

    target: Dataset
    device: DeviceKind
    cores: int
    pictures: Pictures
    copies: Copies | None
    bases: tuple[Base, ...]
    pixels: Score | None
    differences: tuple[Difference, ...]
    sources: tuple[Source, ...]
    speed: Speed
    seconds: float
    skipped: tuple[str, ...] = ()

    def difference(self, one: str, other: str) -> Difference | None:
        """Return how one compares with another, either way round."""
        for found in self.differences:
            if (found.one, found.other) == (one, other):
                return found
        return None
