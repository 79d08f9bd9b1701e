"""The page of a model's mistakes: the most confident as pictures, the confusion as tables. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hpt_dist.datasets.preview import THUMBNAIL_PX, Thumbnail
from hpt_dist.page import Block, Grid, Heading, Paragraph, Picture, Sheet, one_line
from hpt_dist.report.mistakes import Kind, Mistake, Mistakes, OfClass, in_per_cent

_TITLES: dict[Kind, str] = {
    "confusion": "Most confident mistakes",
    "false positive": "Most confident false positives",
    "false negative": "Most confident false negatives",
}
_CAPTIONS: dict[Kind, str] = {
    "confusion": "Below each image: its class, with the probability that the model gave to it; "
    "after the arrow what was answered; the image's key.",
    "false positive": "Below each image: its classes; after the plus one that was answered and is "
    "none of them; the image's key.",
    "false negative": "Below each image: its classes; after the minus one of them that was not "
    "answered; the image's key.",
}
_TEST = (
    "These are images of test: what is changed because of them makes the numbers on test too good."
)
_NAME_LETTERS = 60
_PAIRS = 100


def blocks(
    found: Mistakes, trial: str, pictures: Mapping[str, Thumbnail], lack: str, count: int
) -> list[Block]:
    """Return the page.

    Args:
        found: what was answered wrongly.
        trial: whose answers they are, for the title.
        pictures: of the images, by key.
        lack: why there are no pictures; empty if there are.
        count: how many mistakes of each kind it shows.
    """
    page: list[Block] = [
        Heading(1, f"Mistakes of {trial}"),
        Paragraph(f"{found.summary()[0].upper()}{found.summary()[1:]}."),
    ]
    if found.facts.split == "test":
        page.append(Paragraph(_TEST))
    if lack:
        page.append(Paragraph(f"Without pictures: {lack}"))
    for kind in found.kinds:
        shown = found.of_kind(kind, count)
        total = sum(one.kind == kind for one in found.mistakes)
        page.append(Heading(2, f"{_TITLES[kind]}: {len(shown):,} of {total:,}"))
        page += _shown(shown, pictures, _CAPTIONS[kind]) if shown else [Paragraph("There is none.")]
    if not found.facts.several:
        page.append(Heading(2, "Classes that are confused, the most frequent first"))
        page.append(confused(found, _PAIRS) or Paragraph("There are none."))
        if len(found.pairs) > _PAIRS:
            page.append(Paragraph(f"And {len(found.pairs) - _PAIRS:,} pairs of fewer images."))
    page += [Heading(2, "By class, the worst first"), by_class(found, None)]
    return page


def confused(found: Mistakes, count: int | None) -> Grid | None:
    """Return the table of the classes that are most often confused; None without any."""
    rows = [
        (_name(one.true), _name(one.answered), f"{one.images:,}", in_per_cent(one.share))
        for one in found.pairs[:count]
    ]
    return Grid(("class", "answered", "images", "of its images"), rows, 2) if rows else None


def by_class(found: Mistakes, count: int | None) -> Grid:
    """Return the table of how each class fared, the worst first."""
    several = found.facts.several
    header = ("class", "images", "AP", "found") if several else ("class", "images", "accuracy")
    rows = [_of_class(one, several=several) for one in found.classes[:count]]
    return Grid((*header, "given wrongly"), rows)


def _of_class(one: OfClass, *, several: bool) -> tuple[str, ...]:
    precision = (in_per_cent(one.average_precision),) if several else ()
    shares = (*precision, in_per_cent(one.share_right))
    return _name(one.name), f"{one.images:,}", *shares, f"{one.wrong:,}"


def _shown(
    shown: Sequence[Mistake], pictures: Mapping[str, Thumbnail], caption: str
) -> list[Block]:
    if all(one.key in pictures for one in shown):
        cells = [
            Picture(pictures[one.key].png(), "\n".join(_lines(one)), one.file or one.key)
            for one in shown
        ]
        return [Paragraph(caption), Sheet(cells, THUMBNAIL_PX)]
    rows = [(*_lines(one), one_line(one.file)) for one in shown]
    return [Grid(("class", "mistake", "key", "file"), rows, 4)]


def _lines(one: Mistake) -> tuple[str, str, str]:
    """Return the lines of a caption: the truth, the mistake, the key."""
    true = ", ".join(map(_name, one.true)) or "none"
    if one.true_probability is not None:
        true += f" ({in_per_cent(one.true_probability, 0)})"
    sign = {"confusion": "→", "false positive": "+", "false negative": "−"}[one.kind]
    # The number first: a long line is cut.
    return true, f"{sign} {in_per_cent(one.probability, 0)} {_name(one.answered)}", one.key


def _name(text: str) -> str:
    return one_line(text, _NAME_LETTERS)
