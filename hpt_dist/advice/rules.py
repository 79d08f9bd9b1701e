"""From what was seen to settings, each with its reason. Pure: one small function a setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from hpt_dist.advice import evidence
from hpt_dist.advice.facts import Base, Dataset, Difference, Facts, Pictures, Source
from hpt_dist.recipe import catalogue
from hpt_dist.recipe.metrics import METRICS
from hpt_dist.recipe.numerics import DeviceKind

T = TypeVar("T")
_PATCH = 32  # usual networks halve a side five times


@dataclass(frozen=True)
class Chosen(Generic[T]):
    """A setting's value, and why, in words."""

    value: T
    why: str


@dataclass(frozen=True)
class Choices:
    """All that the rules decide; `recipe_text` writes it, `cost` counts it.

    Args:
        base: to start from.
        rivals: weights of which the recipe's own evaluation chooses the base; empty where it is
            decided.
        size: side of the images, pixels.
        normalize: of the pixels.
        steps: of each pretraining.
        batch: of each pretraining; fewer images need a smaller one.
        queue: of MoCo.
        augment: what differs from the defaults.
        sources: one to pretrain on first, or several among which the recipe's evaluation chooses.
        direct: whether the target is also pretrained on without the source.
        few_images_arm: whether batch norm alone is also trained.
        views: augmented copies of each training image, of the linear evaluation.
        seeds: of the linear evaluation; 1 is logistic regression, which no seed changes and which
            has no augmented copies: the images alone judge.
        share: per cent of train that the linear evaluation learns from.
        cuts: what the hours left out, in words.
    """

    base: Chosen[Base]
    rivals: tuple[str, ...]
    size: Chosen[int]
    normalize: Chosen[str]
    steps: Chosen[int]
    batch: Chosen[int]
    queue: Chosen[int]
    augment: Chosen[Mapping[str, Any]]
    sources: Chosen[tuple[Source, ...]]
    direct: bool
    few_images_arm: bool
    views: int
    seeds: int
    share: Chosen[int]
    cuts: tuple[str, ...] = ()


def choices(facts: Facts) -> Choices:
    """Return what is recommended where time does not count; see `hours.fitted`."""
    target, device = facts.target, facts.device
    chosen = base(facts.bases, facts.differences)
    before = sources(facts)
    fewest = min([target.pool_images, *(one.dataset.pool_images for one in before.value)])
    side = size(facts.pictures, device, [chosen.value.backbone])
    images = batch(fewest, device)
    is_judged = target.judges == "test"
    return Choices(
        base=chosen,
        rivals=rivals(facts, chosen.value) if is_judged else (),
        size=side,
        normalize=normalize(),
        steps=steps(device),
        batch=images,
        queue=queue(fewest, images.value),
        augment=augment(facts.pictures, side.value),
        sources=before,
        direct=bool(before.value) and target.judges != "none",
        few_images_arm=has_few_images_arm(target, chosen.value),
        views=evidence.VIEWS,
        seeds=evidence.SEEDS,
        share=share(target, device),
    )


def best(bases: Sequence[Base]) -> Base:
    """Return the base of the best score; of equal ones, and without scores, the first."""

    def worth(one: Base) -> float:
        if one.score is None:
            return 0.0
        return -one.score.value if METRICS[one.score.metric].lower_is_better else one.score.value

    return max(bases, key=worth)


def base(bases: Sequence[Base], differences: Sequence[Difference]) -> Chosen[Base]:
    """Return the best base if that is evident on val, else the cheapest of those that may be it."""
    first = best(bases)
    if len(bases) == 1:
        return Chosen(first, "the base that was given" if first.score is None else _scored(first))
    if first.score is None:
        return Chosen(bases[0], "the first that was given: without labels nothing compares them")
    level = [first, *_undecided(bases, first, differences)]
    if len(level) == 1:
        return Chosen(first, f"{_scored(first)}: evidently better than the others")
    fastest = max(level, key=lambda one: one.images_per_second)
    cheaper = fastest.images_per_second > 1.2 * level[0].images_per_second
    one = fastest if cheaper else min(level, key=bases.index)
    names = " and ".join(other.name for other in level if other is not one)
    how = "the fastest" if cheaper else "the first"
    return Chosen(one, f"{_scored(one)}; no evidence of a difference to {names}: {how} of them")


def _scored(one: Base) -> str:
    if one.score is None:
        return "not judged"
    score = one.score
    return (
        f"{100 * score.value:.1f} % {score.metric} by nearest neighbours ({score.images:,} images)"
    )


def _undecided(bases: Sequence[Base], first: Base, differences: Sequence[Difference]) -> list[Base]:
    level = {d.one for d in differences if d.other == first.name and d.verdict != "worse"}
    return [one for one in bases if one.name in level]


def rivals(facts: Facts, chosen: Base) -> tuple[str, ...]:
    """Return bases of one network between which val does not decide yet: a linear one may."""
    first = best(facts.bases)
    level = [first, *_undecided(facts.bases, first, facts.differences)]
    names = [one.weights for one in facts.bases if one in level and one.backbone == chosen.backbone]
    return tuple(names) if len(names) > 1 else ()


def size(pictures: Pictures, device: DeviceKind, backbones: Sequence[str]) -> Chosen[int]:
    """Return the side of the images: the device's, or less where the images are small."""
    usual, most = evidence.SIZE[device], evidence.ENLARGED
    median = pictures.short_sides[1]
    enlarged = -(-most.value * median // _PATCH) * _PATCH
    if enlarged < usual.value:
        why = f"short sides of {median} pixels, enlarged {most.value} times at most: {most.source}"
        return Chosen(_readable(enlarged, backbones), why)
    why = f"short sides of {median} pixels; {usual.source}"
    other = evidence.SIZE["gpu" if device == "cpu" else "cpu"]
    if device == "cpu" and median > usual.value:
        why += f", {other.value} on a GPU"
    return Chosen(_readable(usual.value, backbones), why)


def _readable(side: int, backbones: Sequence[str]) -> int:
    """Return the least size from one on that all of some networks are known to read."""
    known = catalogue.load().networks
    networks = [known[one] for one in backbones if one in known]
    tried = range(side, side + 512)
    return next((one for one in tried if all(net.reads(one) for net in networks)), side)


def normalize() -> Chosen[str]:
    """Return how pixels are normalised: as the base is used to, whatever the images' colours."""
    return Chosen("imagenet", "as the base knows it, also where images are gray")


def steps(device: DeviceKind) -> Chosen[int]:
    """Return the steps of each pretraining, where no hours are given."""
    found = evidence.STEPS if device == "gpu" else evidence.CPU_STEPS
    more = "" if device == "gpu" else f"; up to {evidence.STEPS.value} with --hours"
    return Chosen(found.value, found.source + more)


def warmup(steps: int) -> int:
    """Return the steps in which the projector alone learns."""
    return min(round(evidence.WARMUP.value * steps), evidence.MOST_WARMUP, steps - 1)


def every(steps: int) -> int:
    """Return the steps between two looks at validation."""
    return max(1, -(-steps // evidence.LOOKS.value))


def batch(images: int, device: DeviceKind) -> Chosen[int]:
    """Return the images of a step: no more than there are."""
    usual = evidence.BATCH[device]
    if images >= usual.value:
        return Chosen(usual.value, usual.source)
    return Chosen(1 << (images.bit_length() - 1), f"only {images:,} images fill it")


def queue(images: int, batch: int) -> Chosen[int]:
    """Return the keys of MoCo's queue: whole batches, and no image twice."""
    wanted = evidence.QUEUE_BATCHES.value * batch
    if wanted <= images:
        return Chosen(wanted, evidence.QUEUE_BATCHES.source)
    why = f"{images:,} images: a longer queue would hold some twice, as negatives of themselves"
    return Chosen(images // batch * batch, why)


def augment(pictures: Pictures, size: int) -> Chosen[Mapping[str, Any]]:
    """Return what differs from MoCo v2's views."""
    views: dict[str, Any] = {}
    reasons = []
    if size <= evidence.SMALL_SIDE:
        views |= evidence.SMALL_VIEWS.value
        reasons.append(f"at {size} pixels no small crops, no blur")
    if is_gray(pictures):
        views |= evidence.COLOURLESS.value
        reasons.append(f"{100 * pictures.gray:.0f} % of the images have no colours to jitter")
    reasons.append("set flip: 0 where left and right differ, such as of text")
    return Chosen(views, "; ".join(reasons))


def is_gray(pictures: Pictures) -> bool:
    """Return whether a dataset counts as one without colours."""
    return pictures.gray >= evidence.GRAY_SHARE


def sources(facts: Facts) -> Chosen[tuple[Source, ...]]:
    """Return the nearest source; several, nearest first, where the look does not decide."""
    given = facts.sources
    if not given:
        return Chosen((), "")
    if len(given) == 1 or any(one.distance is None for one in given):
        why = "the source that was given" if len(given) == 1 else "their distances are not known"
        return Chosen(given if facts.target.judges == "test" else given[:1], why)
    ranked = sorted(given, key=lambda one: one.distance or 0.0)
    nearest = ranked[0]
    level = [one for one in ranked if _overlap(one, nearest)]
    if len(level) == 1:
        names = ", ".join(f"{one.dataset.alias} {_far(one)}" for one in ranked[1:])
        return Chosen((nearest,), f"{_far(nearest)}, the nearest source ({names})")
    names = " and ".join(f"{one.dataset.alias} {_far(one)}" for one in level)
    if facts.target.judges == "test":
        return Chosen(tuple(level), f"equally far as the look shows: {names}; val chooses")
    largest = max(level, key=lambda one: one.dataset.pool_images)
    return Chosen((largest,), f"equally far as the look shows: {names}; the largest of them")


def _far(one: Source) -> str:
    return f"{one.distance:.1f} ± {one.spread:.1f}"


def _overlap(one: Source, nearest: Source) -> bool:
    """Return whether a source may be as near as the nearest one: two deviations of each overlap."""
    apart = (one.distance or 0.0) - (nearest.distance or 0.0)
    return apart <= 2 * (one.spread + nearest.spread)


def has_few_images_arm(target: Dataset, chosen: Base) -> bool:
    """Return whether batch norm alone is trained too: few images, and something that judges."""
    is_few = target.pool_images < evidence.FEW_IMAGES.value
    return is_few and target.judges == "test" and catalogue.has_batch_norm(chosen.backbone)


def share(target: Dataset, device: DeviceKind) -> Chosen[int]:
    """Return the per cent of train that the linear evaluation learns from."""
    images = target.images.get("train", 0)
    if device == "gpu" or images <= evidence.CPU_EVALUATED:
        return Chosen(100, "")
    return Chosen(per_cent(evidence.CPU_EVALUATED, images), _of_share(images))


def per_cent(wanted: int, images: int) -> int:
    """Return how many per cent of images are about as many as wanted, at least one."""
    return min(100, max(1, round(100 * wanted / images)))


def _of_share(images: int) -> str:
    return (
        f"features of all {images:,} training images would take a CPU long; val and test are whole"
    )


def measured_settings(
    images: int, device: DeviceKind, pictures: Pictures, size: int
) -> dict[str, Any]:
    """Return the settings by which a look measures the speed of training."""
    step = batch(images, device).value
    return {
        **evidence.DEFAULT_ARM.value,
        "batch": step,
        "moco": {"queue": queue(images, step).value, "momentum": evidence.MOMENTUM.value},
        "augment": augment(pictures, size).value,
    }
