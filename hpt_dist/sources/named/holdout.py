"""Splits of datasets that have none, or too few: whole groups, in the order of their SHA-256.

Which images are chosen depends on their paths alone. The number of images is met to the last one
wherever groups are small, as patients are.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Callable, Hashable, Sequence

from hpt_dist.sources.sample import Sample


def hold_out(
    samples: Sequence[Sample],
    to: str,
    count: int,
    *,
    of: str = "train",
    group: Callable[[Sample], str] = lambda sample: sample.origin,
    by_class: bool = False,
) -> list[Sample]:
    """Move images of one split to another.

    Args:
        samples: of all splits.
        to: the split to move to.
        count: how many images to move; fewer are moved where no group fits the rest.
        of: the split to take from.
        group: what an image shares with those that must stay in the same split.
        by_class: take the same share of each class; a group counts for that of its first image.

    Returns:
        The samples, in the same order.
    """
    pool = [one for one in samples if one.split == of]
    strata = [one.label if by_class else None for one in pool]
    chosen = pick([group(one) for one in pool], strata, count)
    return [
        dataclasses.replace(one, split=to) if one.split == of and group(one) in chosen else one
        for one in samples
    ]


def pick(groups: Sequence[str], strata: Sequence[Hashable], count: int) -> set[str]:
    """Choose groups that hold `count` images, or a little less.

    Args:
        groups: of each image.
        strata: of each image; a group belongs to that of its first image.
        count: at most as many as there are images.
    """
    sizes = Counter(groups)
    stratum_of = dict(zip(reversed(groups), reversed(strata), strict=True))
    members: dict[Hashable, list[str]] = {}
    for one in sizes:
        members.setdefault(stratum_of[one], []).append(one)
    parts = shares([sum(sizes[one] for one in those) for those in members.values()], count)
    chosen = set()
    for those, part in zip(members.values(), parts, strict=True):
        left = part
        for one in sorted(those, key=_digest):
            if sizes[one] <= left:
                left -= sizes[one]
                chosen.add(one)
    return chosen


def shares(sizes: Sequence[int], count: int) -> list[int]:
    """Share out a count in proportion to sizes; what rounding leaves goes to the largest rests."""
    total = sum(sizes)
    parts = [size * count // total for size in sizes]
    rests = sorted(range(len(sizes)), key=lambda i: (-(sizes[i] * count % total), i))
    for i in rests[: count - sum(parts)]:
        parts[i] += 1
    return parts


def percent(share: int, of: int) -> int:
    """Return so many percent of a count, rounded to the nearest."""
    return (of * share + 50) // 100


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
