"""The common part of annotation files: objects in boxes, and the labels that follow from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

LABEL_RULE = "labels: the classes with a box"


def has_area(box: Sequence[float], width: int, height: int) -> bool:
    """Return whether a box covers any of its frame.

    Args:
        box: left, top, width and height, pixels.
        width: of the frame, pixels.
        height: of the frame, pixels.
    """
    left, top, box_width, box_height = box
    across = min(left + box_width, width) - max(left, 0)
    down = min(top + box_height, height) - max(top, 0)
    return box_width > 0 and box_height > 0 and across > 0 and down > 0


def labels_of(objects: Iterable[Mapping[str, Any]]) -> tuple[int, ...]:
    """Return the classes of objects that are neither a crowd nor difficult, ascending."""
    counted = (one for one in objects if not one["crowd"] and not one.get("difficult"))
    return tuple(sorted({one["class"] for one in counted}))


def rule_in_words(rule: str, dropped: int) -> str:
    """Return the rule of a source in words, with the number of boxes that were left out."""
    boxes = f"{dropped:,} box{'es' if dropped != 1 else ''} without area left out"
    return "; ".join([rule, LABEL_RULE, *([boxes] if dropped else [])])
