"""The answer of a launch in a sentence: helped, harmed or no evidence, how much, at which cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from hpt_dist.evals.evidence import Comparison, Verdict, scale_of
from hpt_dist.page import Lead
from hpt_dist.report.cells import SAME, Difference
from hpt_dist.report.gates import Gate
from hpt_dist.report.lineage import Spent
from hpt_dist.report.shown import Panel, Shown

_WORDS: dict[Verdict, tuple[str, Literal["good", "bad", "neutral"]]] = {
    "helped": ("Helped.", "good"),
    "harmed": ("Harmed.", "bad"),
    "no evidence": ("No evidence of a difference.", "neutral"),
    "none": ("No verdict.", "neutral"),
}
_MIXED: tuple[str, Literal["neutral"]] = ("Mixed.", "neutral")
# The value on validation, by the same metric, of a trial by its name; None where it has none.
OnVal = Callable[[str], float | None]
_OTHERS_SHOWN = 4


@dataclass(frozen=True)
class Answer:
    """What a launch shows, of its first figure that compares rows, or else of its gate.

    Args:
        verdict: of the row; "mixed" where panels disagree.
        row: the one that validation prefers; empty without one.
        says: the rest of the sentence.
    """

    verdict: Literal["helped", "harmed", "no evidence", "none", "mixed"]
    row: str
    says: str

    def lead(self) -> Lead:
        """Return it as the page's opening."""
        word, tone = _MIXED if self.verdict == "mixed" else _WORDS[self.verdict]
        return Lead(word, self.says, tone)


def answer(
    figures: Sequence[Shown],
    gates: Sequence[Gate],
    on_val: OnVal,
    *,
    done: int,
    trials: int,
    is_watched: bool,
) -> Answer:
    """Return the answer of a launch.

    Of several rows it is about the one that validation prefers: the best on test would be better
    than it is.

    Args:
        figures: of its report.
        gates: its evaluations of frozen features.
        on_val: what each trial reached on validation.
        done: finished trials.
        trials: all of them.
        is_watched: whether a pretraining without labels was watched.
    """
    so_far = f" So far: {done} of {trials} trials are done." if done < trials else ""
    for figure in figures:
        panels = [panel for panel in figure.panels if figure.verdicts(panel)]
        if len(panels) == 1:
            return _of_panel(figure, panels[0], on_val, so_far)
        if panels:
            return _of_panels(figure, panels, on_val, so_far)
    for gate in gates:
        if any(one.comparison.mean is not None for one in gate.differences):
            return _of_gate(gate, so_far)
    if same := _that_kept_the_base(figures):
        return Answer("no evidence", same[0], f"{same[1]}{so_far}")
    if not done:
        return Answer("none", "", f"Nothing is done yet, of {trials} trials.")
    if is_watched:
        says = "No label judged the features; what pretraining changed is below."
        return Answer("none", "", says + so_far)
    return Answer("none", "", f"Nothing was compared with a baseline.{so_far}")


def _that_kept_the_base(figures: Sequence[Shown]) -> tuple[str, str] | None:
    """Return the first row that is the baseline by another name, and that in words."""
    for figure in figures:
        for panel in figure.panels:
            for one in panel.differences:
                if one.comparison.says == SAME.format(panel.table.baseline):
                    stage, metric = panel.table.stage, panel.table.metric
                    says = f"{one.row} in {stage}, {metric}: {one.comparison.says}."
                    return one.row, says
    return None


def _of_panel(figure: Shown, panel: Panel, on_val: OnVal, so_far: str) -> Answer:
    found, table = figure.verdicts(panel), panel.table
    row, by_val = _preferred(figure, [one.row for one in found], [panel], on_val)
    best = next(one for one in found if one.row == row)
    over = f" at {table.columns_axis} {best.column}" if best.column else ""
    if best.columns > 1:
        over = f", mean over {best.columns} values of {table.columns_axis}"
    where = f"{panel.name}, {table.stage}" if panel.name != table.stage else table.stage
    says = (
        f"{best.row} against {table.baseline} in {where if panel.name else table.stage}, "
        f"{table.metric}{over}: {_bare(best.comparison)}{_cost(panel.spent, best)}."
    )
    others = _others([one for one in found if one is not best], by_val=by_val)
    return Answer(best.comparison.verdict, best.row, f"{says}{others}{so_far}")


def _preferred(
    figure: Shown, rows: Sequence[str], panels: Sequence[Panel], on_val: OnVal
) -> tuple[str, bool]:
    """Return the row that is best on validation, and whether that is known.

    Rows are compared where they are judged, and only if all of them are judged in every panel and
    all their trials are done: means over other trials say nothing of which row is better. Else it
    is the first one of the recipe.
    """
    lower = scale_of(panels[0].table.metric).lower_is_better
    means = {}
    for row in rows:
        places = [(panel, one) for panel in panels for one in figure.verdicts(panel)]
        judged = [(panel, one) for panel, one in places if one.row == row]
        values = [
            on_val(name)
            for panel, one in judged
            for own, column, name in panel.trials
            if own == row and (one.columns > 1 or column == one.column or row in panel.constant)
        ]
        known = [value for value in values if value is not None]
        if not known or len(known) < len(values) or len(judged) < len(panels):
            return rows[0], False
        means[row] = fmean(known) * (-1 if lower else 1)
    return max(rows, key=means.__getitem__), True


def _bare(comparison: Comparison) -> str:
    """Return a comparison in words without its verdict, which opens the sentence."""
    says = comparison.says
    for opening in ("helped by ", "harmed by ", "no evidence of a difference: "):
        says = says.removeprefix(opening)
    return says


def _others(found: Sequence[Difference], *, by_val: bool) -> str:
    """Return why it is this row, and the verdicts on the other rows, in a sentence."""
    if not found:
        return ""
    shown = ", ".join(f"{one.row} ({_verdict(one)})" for one in found[:_OTHERS_SHOWN])
    more = f" and {len(found) - _OTHERS_SHOWN} more" if len(found) > _OTHERS_SHOWN else ""
    return f"{_which(len(found) + 1, by_val=by_val)}; the others: {shown}{more}."


def _which(rows: int, *, by_val: bool) -> str:
    why = "validation prefers it" if by_val else "it is the recipe's first"
    return f" Of {rows} rows {why}"


def _verdict(one: Difference) -> str:
    return "no verdict" if one.comparison.verdict == "none" else one.comparison.verdict


def _cost(spent: Sequence[Spent], best: Difference) -> str:
    """Return what the training behind a row took, at its column where the difference is of one."""
    ours = [
        one
        for one in spent
        if one.row == best.row and (best.columns > 1 or one.column == best.column)
    ]
    if not ours or not any(one.images for one in ours):
        return ""
    most = max(ours, key=lambda one: one.images)
    return f"; its training took {most.images:,.0f} image views and {most.hours:.3g} {most.unit}"


def _of_panels(figure: Shown, panels: Sequence[Panel], on_val: OnVal, so_far: str) -> Answer:
    """Return on how many panels a row helped, and on how many it harmed."""
    rows = [row for row in figure.rows if row != figure.baseline]
    best, by_val = _preferred(figure, rows, panels, on_val)
    count = _counted(figure, best)
    verdict: Literal["helped", "harmed", "no evidence", "none", "mixed"] = "none"
    if count["helped"] and count["harmed"]:
        verdict = "mixed"
    else:
        verdicts: tuple[Verdict, ...] = ("helped", "harmed", "no evidence")
        verdict = next((one for one in verdicts if count[one]), "none")
    words = ", ".join(
        f"{'no verdict' if name == 'none' else name} on {number}"
        for name, number in count.items()
        if number
    )
    best_of = f"{_which(len(rows), by_val=by_val)}." if len(rows) > 1 else ""
    table = panels[0].table
    what = f"{table.metric} on {len(figure.panels)} values of {figure.panels_axis}"
    if figure.panels_axis == "stage":
        what = f"{table.metric} in {len(figure.panels)} stages"
    if figure.kind == "curve":
        what += f", at the last {table.columns_axis} of each"
    says = f"{best} against {figure.baseline}, {what}: {words}.{best_of}{so_far}"
    return Answer(verdict, best, says)


def _counted(figure: Shown, row: str) -> dict[Verdict, int]:
    """Return on how many panels a row has each verdict."""
    count: dict[Verdict, int] = {"helped": 0, "harmed": 0, "no evidence": 0, "none": 0}
    for panel in figure.panels:
        for one in figure.verdicts(panel):
            if one.row == row:
                count[one.comparison.verdict] += 1
    return count


def _of_gate(gate: Gate, so_far: str) -> Answer:
    found = [one for one in gate.differences if one.comparison.mean is not None]
    sign = -1 if scale_of(gate.metric).lower_is_better else 1
    best = max(found, key=lambda one: sign * (one.comparison.mean or 0.0))
    others = [one for one in found if one is not best]
    says = (
        f"{best.row} against {gate.baseline}, frozen features judged by {gate.kind} on validation "
        f"in {gate.stage}: {_bare(best.comparison)}."
    )
    others_too = _others(others, by_val=True)
    return Answer(best.comparison.verdict, best.row, f"{says}{others_too}{so_far}")
