"""The claims of a figure, checked on its results. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from hpt_dist.recipe.claims import Claim
from hpt_dist.report.cells import Cell
from hpt_dist.report.shown import Panel, Shown

State = Literal["held", "not held", "not decided yet"]
_PLACES_SHOWN = 8
_CLOSE = 1e-9


@dataclass(frozen=True)
class Checked:
    """A claim and whether it holds.

    Args:
        claim: as it was written.
        state: held, not held, or not decided yet.
        held: at how many places it holds.
        places: how many the figure has.
        says: why, in words.
    """

    claim: str
    state: State
    held: int
    places: int
    says: str


def check(claim: Claim, figure: Shown) -> Checked:
    """Return whether a claim holds on a figure.

    A place is decided once all planned trials of the rows there are done. A claim is decided once
    no undecided place can change it.
    """
    missing = [row for row in claim.rows if row not in figure.rows]
    if missing:
        says = (
            f"there is no row {' and no row '.join(missing)}; the rows are {', '.join(figure.rows)}"
        )
        return Checked(claim.text, "not decided yet", 0, 0, says)
    answers = {
        place: _holds(claim, panel, column)
        for panel in figure.panels
        for column in panel.table.columns
        if all(_cell(panel, row, column) for row in claim.rows)
        for place in (_place(figure, panel, column),)
    }
    places = len(answers)
    if claim.of is not None and claim.of != places:
        says = f"it is of {claim.of} places, and the figure has {places}"
        return Checked(claim.text, "not decided yet", 0, places, says)
    least = places if claim.least is None else claim.least
    held = sum(answer is True for answer in answers.values())
    failed = [place for place, answer in answers.items() if answer is False]
    undecided = [place for place, answer in answers.items() if answer is None]
    state: State = "not decided yet"
    if held >= least:
        state = "held"
    elif held + len(undecided) < least:
        state = "not held"
    return Checked(claim.text, state, held, places, _says(held, places, failed, undecided))


def _says(held: int, places: int, failed: Sequence[str], undecided: Sequence[str]) -> str:
    says = f"on {held} of {places}"
    for what, names in (("not on", failed), ("open", undecided)):
        if names and places > 1:
            more = f" and {len(names) - _PLACES_SHOWN} more" if len(names) > _PLACES_SHOWN else ""
            says += f"; {what}: {', '.join(names[:_PLACES_SHOWN])}{more}"
    return says


def _place(figure: Shown, panel: Panel, column: str) -> str:
    axis = panel.table.columns_axis
    place = f"{axis} {column}" if column else ""
    return " at ".join(filter(None, (panel.name, place))) or figure.title


def _holds(claim: Claim, panel: Panel, column: str) -> bool | None:
    """Return whether a claim holds at a place; None while that is not decided."""
    ours = _mean(panel, claim.row, column)
    if claim.is_verdict:
        return _judged(claim, panel, column)
    if claim.relation == "within":
        paper = {(one.row, one.column): one.value for one in panel.paper}
        theirs = paper.get((claim.row, column))
        if ours is None or theirs is None:
            return None
        return abs(ours - theirs) <= claim.offset + _CLOSE
    other = _mean(panel, claim.other, column)
    if ours is None or other is None:
        return None
    gap = ours - other - claim.offset
    return {
        "at least": gap >= -_CLOSE,
        "above": gap > _CLOSE,
        "at most": gap <= _CLOSE,
        "below": gap < -_CLOSE,
    }[claim.relation]


def _judged(claim: Claim, panel: Panel, column: str) -> bool | None:
    """Return whether the verdict on a row is as claimed; None without a verdict."""
    wanted = claim.relation.removeprefix("not ")
    verdicts = {
        (one.row, one.column): one.comparison.verdict
        for one in panel.differences
        if one.columns == 1
    }
    verdict = verdicts.get((claim.row, column), "none")
    rows = (claim.row, panel.table.baseline)
    if verdict == "none" or any(_mean(panel, row, column) is None for row in rows):
        return None
    return (verdict == wanted) != claim.relation.startswith("not ")


def _mean(panel: Panel, row: str, column: str) -> float | None:
    """Return the mean of a cell of which all planned trials are done."""
    cell = _cell(panel, row, column)
    return cell.mean if cell and len(cell.values) == cell.planned else None


def _cell(panel: Panel, row: str, column: str) -> Cell | None:
    """Return a cell that has trials, done or not."""
    cells = (c for c in panel.table.cells if (c.row, c.column) == (row, column) and c.planned)
    return next(cells, None)
