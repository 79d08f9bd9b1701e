"""What a report will not be able to answer, foreseen from the names of its trials. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hpt_dist.evals.evidence import is_seed
from hpt_dist.recipe.settings import Report
from hpt_dist.report.cells import Entry, entries_of, names_of
from hpt_dist.report.points import read_points


def doubts(report: Report, trials: Mapping[str, str], judges: bool) -> list[tuple[str, str]]:
    """Return (setting of the report, what it cannot answer and what to do) for each doubt.

    Args:
        report: what a recipe asks for.
        trials: names to keys, of the whole recipe.
        judges: whether the table's stage judges frozen features, which need no seeds.
    """
    found = []
    columns = report.columns or ""
    if columns == report.rows:
        what = f"{columns} makes the rows already, so there is one column; leave columns out"
        found.append(("columns", what))
        columns = ""
    points = read_points(trials, [])
    entries = entries_of(points, report.table, report.metric or "", report.rows, columns)
    rows = names_of(entry.row for entry in entries)
    if report.baseline not in rows:
        what = f"no row {report.baseline} to compare with, so there will be no verdict"
        found.append(("baseline", f"{what}; the rows will be {', '.join(rows)}"))
    elif len(rows) == 1:
        what = f"{rows[0]} will be the only row, so there will be no verdict"
        found.append(("rows", f"{what}; sweep {report.table} over more values of {report.rows}"))
    elif not judges and (single := [row for row in rows if _seeds(entries, row) < 2]):
        what = f"one seed of {', '.join(single)}, so there will be no verdict"
        found.append(("table", f"{what}; sweep {report.table} over seeds, such as seed: [0, 1, 2]"))
    return found


def _seeds(entries: Sequence[Entry], row: str) -> int:
    """Return over how many seeds a row repeats its trials."""
    own = (entry.axes for entry in entries if entry.row == row)
    return len({frozenset(item for item in axes.items() if is_seed(item[0])) for axes in own})
