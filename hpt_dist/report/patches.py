"""What the features of positions told, as blocks of a page. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hpt_dist.page import Block, Grid, Heading, Paragraph, Picture, one_line

PICTURE = "patches.webp"

_LETTERS = 60
_HEADS = {"miou": "classifier", "knn_miou": "neighbours"}
_CAPTION = (
    "Images of val, and the features of their positions: the first three principal components as "
    "red, green and blue. {}"
)
_BEFORE = (
    "Right of each image first those of the weights that its pretraining began from, then those of "
    "the weights judged here; both have one projection, so equal colours are equal features."
)


def blocks(result: Mapping[str, Any], trial: str, pictures: Mapping[str, bytes]) -> list[Block]:
    """Return what a page shows of a trial of kind dense; nothing of another one.

    Args:
        result: of the trial, as it was committed.
        trial: its name.
        pictures: its files by name.
    """
    details = result.get("details", {})
    by_name = details.get("iou")
    if result.get("kind") != "dense" or not isinstance(by_name, Mapping):
        return []
    page: list[Block] = [Heading(1, f"{trial}: classes of positions")]
    if PICTURE in pictures:
        words = _BEFORE if details.get("before") else ""
        page.append(Picture(pictures[PICTURE], _CAPTION.format(words).strip()))
    columns = {
        f"{split} {head}": by_name[f"{split}/{name}"]
        for split in ("val", "test")
        for name, head in _HEADS.items()
        if f"{split}/{name}" in by_name
    }
    classes = list(next(iter(columns.values()), {}))
    rows = [
        [one_line(each, _LETTERS), *(_number(column.get(each)) for column in columns.values())]
        for each in classes
    ]
    page.append(Grid(["IoU, %", *columns], rows))
    page.append(
        Paragraph(
            "Of each class the positions that are rightly given to it, over those that are given "
            "to it or are of it; by a linear classifier, and by nearest neighbours. A class "
            "without a position in a split has no value there, and is in no mean."
        )
    )
    return page


def _number(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"
