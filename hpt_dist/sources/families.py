"""Splits of images that come in families: a drawing and its variants, views of one thing.

Of two images of a family a network that knows the one recognises the other, so that each family
lies in one split.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence

SHARES = {"train": 0.45, "test": 0.40, "val": 0.15}
UNLABELED = "unlabeled"
IN_WORDS = (
    ", ".join(f"{share * 100:.0f} % {split}" for split, share in SHARES.items()) + " by family"
)


def assign_splits(images: Iterable[tuple[str, str]], classes: Sequence[str]) -> dict[str, str]:
    """Give each family of the classes to one split.

    Class by class, the largest family first (equals by SHA-256 of their ids) goes to the split
    that is the furthest below its share of the class. A family keeps the split that an earlier
    class gave it.

    Args:
        images: the family and the class of each.
        classes: those that are split, in their order; images of others are passed over.

    Returns:
        The split of each family id.
    """
    sizes: dict[str, Counter[str]] = {name: Counter() for name in classes}
    for family, name in images:
        if name in sizes:
            sizes[name][family] += 1
    splits: dict[str, str] = {}
    for of_class in sizes.values():
        _share_out(of_class, splits)
    return splits


def _share_out(sizes: Counter[str], splits: dict[str, str]) -> None:
    """Add the families of one class, given with their sizes, to `splits`."""
    lacking = {split: share * sizes.total() for split, share in SHARES.items()}

    def turn(member: str) -> tuple[bool, int, str]:
        digest = hashlib.sha256(member.encode()).hexdigest()
        return member not in splits, -sizes[member], digest

    for member in sorted(sizes, key=turn):
        split = splits.setdefault(member, max(lacking, key=lacking.__getitem__))
        lacking[split] -= sizes[member]


def place(split: str | None, is_labelled: bool) -> str:
    """Return the split of an image; empty for one that is left out.

    Args:
        split: that of its family, if a class has given it one.
        is_labelled: whether the image has one of the classes. Others are unlabelled, and left out
            where they are of a family of val or test.
    """
    if is_labelled:
        return split or UNLABELED
    return "" if split in {"val", "test"} else UNLABELED
