"""What a detector found, as blocks of a page: scores, curves and its worst images. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from hpt_dist.evals.detection_document import OfClass, Shown, Worst
from hpt_dist.page import Block, Drawing, Drawings, Grid, Heading, Paragraph, Picture, one_line
from hpt_dist.report.figures import recall

_CURVES = 12  # of the classes with the lowest AP50
_CURVE_PX = 180
_LETTERS = 60
_HEADS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
_CAPTION = (
    "Of each pair the image with its objects, then with what was detected. Objects: green found, "
    "orange missed. Detections: blue right, red wrong. Gray does not count: crowds, difficult "
    "objects, and what hit one. Images with the most mistakes first."
)


def blocks(shown: Shown, trial: str, pictures: Mapping[str, bytes]) -> list[Block]:
    """Return what a page shows of one file of a trial.

    Args:
        shown: the file.
        trial: its name.
        pictures: files of the trial by name.
    """
    return [
        Heading(1, f"{trial}: {shown.kind} on {shown.split}"),
        Paragraph(_summary(shown)),
        *_without_truth(shown),
        *_curves(shown),
        Heading(2, "By class, the lowest AP first"),
        by_class(shown),
        *_worst(shown, pictures),
    ]


def _summary(shown: Shown) -> str:
    values = ", ".join(
        f"{name} {_number(shown.metrics.get(name))}" for name in _HEADS if name in shown.metrics
    )
    objects = sum(one.objects for one in shown.classes)
    return (
        f"{objects:,} objects in {shown.images:,} images. In per cent, by COCO's rule: {values}. "
        f"Right, wrong and missed are counted at an overlap of 0.5, among detections with a score "
        f"of {shown.sure:g} or more."
    )


def _without_truth(shown: Shown) -> list[Block]:
    if not shown.without_truth:
        return []
    names = ", ".join(one_line(name, _LETTERS) for name in shown.without_truth[:_CURVES])
    more = len(shown.without_truth) - _CURVES
    names += f" and {more} more" if more > 0 else ""
    return [Paragraph(f"Without an object that counts, and so without an AP: {names}.")]


def _curves(shown: Shown) -> Iterator[Block]:
    if not shown.precision:
        return
    yield Heading(2, "Precision and recall, at an overlap of 0.5")
    drawn = [Drawing(recall.draw(shown.precision, "all classes together"), "all together")]
    lowest = _ranked(one for one in shown.classes if one.precision)
    drawn += [
        Drawing(recall.draw(one.precision, one.name), one_line(one.name, _LETTERS))
        for one in lowest[:_CURVES]
        if len(shown.classes) > 1
    ]
    left = len(lowest) - _CURVES
    caption = "Upright the best precision that is reached at a recall, or at a higher one."
    caption += f" {left} more classes have a higher AP50." if left > 0 else ""
    yield Drawings(drawn, caption=caption, px=_CURVE_PX)


def _ranked(classes: Iterator[OfClass]) -> list[OfClass]:
    return sorted(classes, key=lambda one: _or_last(one.metrics.get("AP50")))


def _or_last(value: float | None) -> float:
    return 101.0 if value is None else value


def by_class(shown: Shown) -> Grid:
    """Return the table of how each class fared, the lowest AP first."""
    heads = [name for name in _HEADS if any(name in one.metrics for one in shown.classes)]
    classes = sorted(shown.classes, key=lambda one: _or_last(one.metrics.get("AP")))
    rows = [
        [
            one_line(one.name, _LETTERS),
            f"{one.objects:,}",
            *(_number(one.metrics.get(name)) for name in heads),
            *(f"{count:,}" for count in (one.right, one.wrong, one.missed)),
        ]
        for one in classes
    ]
    return Grid(["class", "objects", *heads, "right", "wrong", "missed"], rows)


def _worst(shown: Shown, pictures: Mapping[str, bytes]) -> Iterator[Block]:
    if not shown.worst:
        return
    yield Heading(2, "The images with the most mistakes")
    if shown.picture in pictures:
        yield Picture(pictures[shown.picture], _CAPTION)
    yield Grid(["image", "missed", "wrong", "mistakes"], list(map(_row, shown.worst)), num_left=3)


def _row(one: Worst) -> list[str]:
    return [one_line(one.key), _named(one.missed), _named(one.wrong), f"{one.mistakes:,}"]


def _named(names: Sequence[str]) -> str:
    counted = {name: names.count(name) for name in names}
    texts = (
        one_line(name, _LETTERS) + (f" ({count})" if count > 1 else "")
        for name, count in counted.items()
    )
    return ", ".join(texts) or "-"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
