"""What a report is to check: one claim a line, in a small grammar.

    ROW at least|above|at most|below ROW [+ N | - N] [on N of M | on all]
    ROW helped|harmed|not helped|not harmed [on N of M | on all]
    ROW within N of paper [on N of M | on all]

A claim is checked at each place of its figure, a column of a panel; without `on` it is of all.
Numbers are on the printed scale: 2 is two points of an accuracy. `helped` and `harmed` are verdicts
against the figure's baseline, `paper` is the figure's own `paper` or `compare`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

Relation = Literal["at least", "above", "at most", "below"]
Judged = Literal["helped", "harmed", "not helped", "not harmed"]

ALLOWED = (
    '"hpt at least base on 15 of 16", "hpt above base + 2 on all", "hpt helped", '
    '"hpt not harmed on all", "hpt within 1.5 of paper on 6 of 7"'
)

_NUMBER = r"\d+(?:\.\d+)?"
_PLACES = r"(?:\s+on\s+(?:(?P<all>all)|(?P<least>\d+)\s+of\s+(?P<of>\d+)))?"
_COMPARED = re.compile(
    rf"(?P<row>.+?)\s+(?P<relation>{'|'.join(get_args(Relation))})\s+(?P<other>.+?)"
    rf"(?:\s+(?P<sign>[+-])\s+(?P<offset>{_NUMBER}))?{_PLACES}"
)
_JUDGED = re.compile(
    rf"(?P<row>.+?)\s+(?P<verdict>{'|'.join(reversed(get_args(Judged)))}){_PLACES}"
)
_REPRODUCED = re.compile(rf"(?P<row>.+?)\s+within\s+(?P<offset>{_NUMBER})\s+of\s+paper{_PLACES}")


@dataclass(frozen=True)
class Claim:
    """What is said of one row of a figure.

    Args:
        text: as it was written.
        row: name of the row.
        relation: a relation to another row, a verdict against the baseline, or "within" of paper.
        other: name of the other row; empty without one.
        offset: added to the other row's value; of "within", the largest distance.
        least: at how many places it must hold; None is at all.
        of: how many places the figure must have; None is any number.
    """

    text: str
    row: str
    relation: Relation | Judged | Literal["within"]
    other: str = ""
    offset: float = 0.0
    least: int | None = None
    of: int | None = None

    @property
    def is_verdict(self) -> bool:
        """Whether it is of a verdict against the baseline."""
        return self.relation in get_args(Judged)

    @property
    def rows(self) -> tuple[str, ...]:
        """The rows that it names."""
        return (self.row, self.other) if self.other else (self.row,)


def parse(text: str) -> Claim:
    """Return the claim that a line makes.

    Raises:
        ValueError: it makes none, with what was meant to be there.
    """
    if found := _REPRODUCED.fullmatch(text.strip()):
        return Claim(text, found["row"], "within", "", float(found["offset"]), *_places(found))
    if found := _JUDGED.fullmatch(text.strip()):
        return Claim(text, found["row"], found["verdict"], "", 0.0, *_places(found))  # type: ignore[arg-type]
    if found := _COMPARED.fullmatch(text.strip()):
        offset = float(found["offset"] or 0) * (-1 if found["sign"] == "-" else 1)
        return Claim(text, found["row"], found["relation"], found["other"], offset, *_places(found))  # type: ignore[arg-type]
    raise ValueError("this is no claim that can be checked")


def _places(found: re.Match[str]) -> tuple[int | None, int | None]:
    if found["least"] is None:
        return None, None
    least, of = int(found["least"]), int(found["of"])
    if not 0 < least <= of:
        raise ValueError(f"{least} of {of} is no number of places")
    return least, of
