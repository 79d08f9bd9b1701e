"""What makes a gain unlikely, or a result doubtful, in words. Pure."""

from __future__ import annotations

from hpt_dist.advice import evidence
from hpt_dist.advice.facts import Base, Dataset, Facts, Source
from hpt_dist.advice.rules import Choices
from hpt_dist.evals.evidence import images_to_show


def of(facts: Facts, chosen: Choices) -> list[str]:
    """Return what makes a gain unlikely, or a result doubtful, a line each."""
    found = [
        *_of_images(facts),
        *_of_machine(facts),
        *_of_gap(facts, chosen.base.value),
        *(line for one in chosen.sources.value for line in _of_source(one, facts)),
        *_of_labels(facts.target),
    ]
    if facts.target.lacks:
        found.append(facts.target.lacks)
    return found


def _of_images(facts: Facts) -> list[str]:
    pictures, copies, lines = facts.pictures, facts.copies, []
    if count := len(pictures.damaged):
        names = ", ".join(pictures.damaged[:3]) + (", ..." if count > 3 else "")
        lines.append(
            f"{count} of {pictures.seen} images are damaged ({names}): training stops at one; "
            "hpt-dist data verify names all of them, max_bad: N replaces up to N"
        )
    if pictures.flat > 0.05:
        lines.append(f"{_per_cent(pictures.flat)} of the images show hardly any contrast")
    if pictures.deep:
        low, high = pictures.range
        lines.append(
            f"{_per_cent(pictures.deep)} of the images have more than 8 bits, of which networks "
            f"see the upper 8 (values {low} to {high} of 255): shard with --scale if that is a "
            "small part"
        )
    if copies and (copies.exact or copies.near):
        exact = f"{copies.exact:,} images that judge are also trained on; " if copies.exact else ""
        lines.append(
            f"{exact}{copies.near:,} of {copies.judged:,} images that judge look like one of "
            f"{copies.others:,} that are trained on: copies flatter every score; hpt-dist data "
            "leaks lists them, and shard --leave-out FILE leaves them out"
        )
    return lines


def _of_machine(facts: Facts) -> list[str]:
    if (share := facts.speed.share) >= evidence.BUSY:
        return []
    return [
        f"this machine is busy: training got {_per_cent(share)} of its cores while it was "
        "measured, so hours are those of a machine as busy as now"
    ]


def _of_gap(facts: Facts, chosen: Base) -> list[str]:
    """Return that the data are far from the base, as HPT found of quickdraw alone of 16."""
    lines = []
    pixels = facts.difference(chosen.name, "raw pixels")
    if pixels and pixels.verdict != "better":
        lines.append(
            f"{chosen.name} is not evidently better on these images than raw pixels are "
            f"({100 * pixels.mean:+.1f} ± {100 * pixels.half_width:.1f} points): HPT won on "
            "15 of 16 datasets, and not on quickdraw, which is that far from photographs"
        )
    if chosen.shift is not None and chosen.shift > evidence.SHIFTED.value:
        lines.append(
            f"the images are far from what {chosen.name} knows: its batch norm sees them "
            f"{chosen.shift:.2f} deviations off ({evidence.SHIFTED.source}): gains are less sure"
        )
    return lines


def _of_source(one: Source, facts: Facts) -> list[str]:
    name, images, own = one.dataset.alias, one.dataset.pool_images, facts.target.pool_images
    lines = []
    if one.distance is not None and one.distance > evidence.FAR.value:
        lines.append(
            f"{name} is {one.distance:.0f} times as far from {facts.target.alias} as its own "
            f"halves are: expect little of it ({evidence.FAR.source})"
        )
    if images < evidence.LARGER * own:
        lines.append(
            f"{name} has {images:,} images, {facts.target.alias} {own:,}: HPT found larger similar "
            "sources of use"
        )
    return lines


def _of_labels(target: Dataset) -> list[str]:
    """Return what so few images that judge can show."""
    if target.judges == "none" or target.label != "single":
        return []
    images = target.images[target.judges]
    needed = images_to_show(evidence.GAIN, evidence.CHANGED)
    if images >= needed:
        return []
    shown = next(
        gain / 1000
        for gain in range(1, 1001)
        if images_to_show(gain / 1000, max(gain / 1000, evidence.CHANGED)) <= images or gain == 1000
    )
    return [
        f"{images:,} images of {target.judges} show a gain of {100 * shown:.0f} points or more "
        f"four times in five; {100 * evidence.GAIN:.0f} points would need about "
        f"{round(needed, -1):,} (where a fifth of the answers change)"
    ]


def _per_cent(share: float) -> str:
    return f"{100 * share:.0f} %"
