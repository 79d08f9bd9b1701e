"""Pretraining that no label judged: what changed, and what would give a verdict. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hpt_dist.evals.evidence import images_to_show
from hpt_dist.page import Block, Grid, Heading, Items, Paragraph
from hpt_dist.report.points import Point

_RANK, _SPREAD = "monitor/rankme", "monitor/feature_std"
_CHANGED = 0.2  # of the images, that one of two good classifiers has right and the other has wrong
_GAINS = (0.1, 0.05)


@dataclass(frozen=True)
class Unjudged:
    """A pretraining trial whose features were watched, and judged by no label.

    Args:
        trial: its name.
        images: in its pool.
        steps: of training.
        rank: effective rank of the features before and after.
        spread: standard deviation of the normalised features before and after.
        collapsed: which of the two fell to a tenth.
        cosine: mean cosine of an image's features before and after; None if unknown.
        neighbours: share of an image's nearest images that are the same; None if unknown.
        k: how many nearest images.
    """

    trial: str
    images: int
    steps: int
    rank: tuple[float, float]
    spread: tuple[float, float]
    collapsed: tuple[str, ...]
    cosine: float | None
    neighbours: float | None
    k: int


def unjudged(points: Sequence[Point]) -> list[Unjudged]:
    """Return the finished trials that were watched without labels."""
    found = []
    for point in points:
        details = point.finished.result["details"] if point.finished else {}
        looks = {int(step): look for step, look in details.get("monitor", {}).items()}
        if "gate" in details or len(looks) < 2:
            continue
        first, last = looks[min(looks)], looks[max(looks)]
        if not {_RANK, _SPREAD} <= first.keys() & last.keys():
            continue
        change = details.get("change", {})
        found.append(
            Unjudged(
                trial=point.name,
                images=int(details.get("pool_images", 0)),
                steps=max(looks),
                rank=(first[_RANK], last[_RANK]),
                spread=(first[_SPREAD], last[_SPREAD]),
                collapsed=tuple(details.get("collapsed", ())),
                cosine=change.get("cosine"),
                neighbours=change.get("neighbours"),
                k=int(change.get("k", 0)),
            )
        )
    return found


def section(trials: Sequence[Unjudged], recipe: str, *, is_judged: bool) -> list[Block]:
    """Return what changed, and what it does not say.

    Args:
        trials: watched without labels.
        recipe: name of the recipe.
        is_judged: whether another part of the report judges with labels.
    """
    if not trials:
        return []
    header = ["trial", "images", "steps", "effective rank", "spread", "cosine", "same neighbours"]
    rows = [
        [
            one.trial,
            f"{one.images:,}",
            f"{one.steps:,}",
            f"{one.rank[0]:.1f} -> {one.rank[1]:.1f}",
            f"{one.spread[0]:.4f} -> {one.spread[1]:.4f}",
            "-" if one.cosine is None else f"{one.cosine:.3f}",
            "-" if one.neighbours is None else f"{one.neighbours:.0%} of {one.k}",
        ]
        for one in trials
    ]
    meanings = (
        "Of images that it trained on, before -> after. effective rank: over how many dimensions "
        "the features spread; with spread, it falls where they collapse to one point. cosine: of "
        "an image's features before and after; 1 is no change. same neighbours: of the images most "
        "similar to an image before, how many still are."
    )
    blocks: list[Block] = [
        Heading(2, "Pretraining without labels: what changed"),
        Grid(header, rows),
        Items([_in_words(one) for one in trials]),
        Paragraph(meanings),
    ]
    return blocks if is_judged else [*blocks, Paragraph(_no_verdict(trials, recipe))]


def _in_words(one: Unjudged) -> str:
    if one.collapsed:
        names = ", ".join(one.collapsed)
        return f"{one.trial}: its features have collapsed ({names}): do not use these weights"
    pairs = {"rank": one.rank, "spread": one.spread}
    shares = (f"{name} at {100 * b / a:.0f} %" for name, (a, b) in pairs.items() if a)
    return f"{one.trial}: its features have not collapsed: {', '.join(shares)} of before"


def needed() -> str:
    """Return in words how many labelled images would show gains in accuracy."""
    return " and ".join(
        f"about {round(images_to_show(gain, _CHANGED), -1)} for {100 * gain:.0f} points"
        for gain in _GAINS
    )


def _no_verdict(trials: Sequence[Unjudged], recipe: str) -> str:
    """Return why there is no verdict, and the least that would give one."""
    name = next((one.trial for one in trials if not one.collapsed), trials[0].trial)
    return (
        "There is no verdict on quality: without labels, neither these numbers nor the loss can "
        "show whether the features became better or worse than those of the base. A few labelled "
        f"images can: to show a gain in accuracy, {needed()} (where a fifth of them is classified "
        "differently), and some of each class to learn from. Shard them as a dataset of their own "
        "with the splits train and val, and name it: monitor: {data: ...}. "
        f"The weights: hpt-dist pull {recipe}/{name.partition('/')[0]} FOLDER."
    )
