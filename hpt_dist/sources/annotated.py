"""The common part of annotation files: objects in boxes, and the labels that follow from them.

A box that covers nothing of its image is left out and counted in the source's rule. An image that
loses boxes so and has no class left gets no label: it is not known to show none of the classes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hpt_dist.errors import RequestError

LABEL_RULE = "labels: the classes with a box"
_SHOWN = 3


@dataclass
class ImageBoxes:
    """The boxes of one image.

    Args:
        objects: those that cover some of it, as `Sample.annotation` holds them.
        left_out: where each of the others is in its file.
    """

    objects: list[dict[str, Any]]
    left_out: list[str] = field(default_factory=list)

    def label(self) -> tuple[int, ...] | None:
        """Return the label of the image, or None where the boxes that would decide are left out."""
        label = labels_of(self.objects)
        return None if self.left_out and not label else label


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


def refuse_none_left(images: Collection[ImageBoxes], where: str) -> None:
    """Refuse annotations of which not one box covers any of its image.

    Args:
        images: the boxes of each image.
        where: the files.

    Raises:
        RequestError: there are boxes, and all of them would be left out.
    """
    left_out = sum(len(one.left_out) for one in images)
    if left_out and not any(one.objects for one in images):
        raise RequestError(
            f"none of its {left_out:,} boxes covers any of its image",
            where=where,
            allowed="boxes of a width and a height above 0, inside the image, in pixels",
            fix="export the boxes again",
        )


def left_out_in_words(images: Collection[ImageBoxes]) -> list[str]:
    """Return where the boxes are that are left out, in a line for the terminal; none for none."""
    places = [place for one in images for place in one.left_out]
    if not places:
        return []
    more = f" and {len(places) - _SHOWN:,} more" if len(places) > _SHOWN else ""
    return [f"left out, as they cover nothing of their image: {'; '.join(places[:_SHOWN])}{more}"]


def rule_in_words(rule: str, images: Collection[ImageBoxes]) -> str:
    """Return the rule of a source in words, with what was left out.

    Args:
        rule: how the images were chosen and split.
        images: the boxes of each image.
    """
    words = [rule, LABEL_RULE]
    if left_out := sum(len(one.left_out) for one in images):
        words.append(f"{left_out:,} box{'es' if left_out != 1 else ''} without area left out")
    if unlabelled := sum(1 for one in images if one.left_out and not labels_of(one.objects)):
        words.append(
            f"{unlabelled:,} image{'s' if unlabelled != 1 else ''} without a label, as no box of "
            "theirs is left"
        )
    return "; ".join(words)
