"""What a report will not be able to answer, foreseen from the names of its trials. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from hpt_dist.evals.evidence import is_seed
from hpt_dist.recipe.figures import Curve, Figure, Matrix, paper_values
from hpt_dist.report.alike import compared_by, panels_of
from hpt_dist.report.axes import parts_of
from hpt_dist.report.cells import Entry, entries_of, names_of
from hpt_dist.report.lineage import nodes_of, setting_behind
from hpt_dist.report.points import Point, read_points
from hpt_dist.report.references import points_to, references_of


def doubts(
    figure: Figure,
    trials: Mapping[str, str],
    judges: Collection[str],
    documents: Mapping[str, Any] | None = None,
) -> list[tuple[str, str]]:
    """Return (setting of the figure, what it cannot answer and what to do) for each doubt.

    Args:
        figure: what a recipe asks for.
        trials: names to keys, of the whole recipe.
        judges: the stages that judge frozen features, which need no seeds.
        documents: what each trial's key is made of, by its name.
    """
    known = documents or {}
    points = read_points(trials, [])
    if isinstance(figure, Matrix) and figure.of_compared:
        return list(_unknown_pairs(figure, points, known))
    found = []
    columns = figure.columns or ""
    if columns == figure.rows:
        what = f"{columns} makes the rows already, so there is one column; leave columns out"
        found.append(("columns", what))
        columns = ""
    places: dict[str, set[tuple[str, str]]] = {}  # of each row
    nodes = nodes_of(trials, known, [])

    def setting(name: str, axis: str) -> str:
        return setting_behind(nodes, known, name, axis)

    for stage in figure.stages:
        ours = points
        if isinstance(figure, Curve) and figure.of_compared:
            them = references_of(figure, stage, points, partial(compared_by, known))
            found += [("reference", one.says) for one in them.values() if not one.is_possible]
            ours = list(points_to(figure, stage, points, them))
        for part in parts_of(ours, stage, figure, columns, setting):
            entries = entries_of(part.points, stage, figure.metric or "", figure.rows, columns)
            for entry in entries:
                places.setdefault(entry.row, set()).add((part.name, entry.column))
            if figure.has_verdicts:
                found += _without_verdict(figure, entries, stage, stage in judges)
    found += _unknown_names(figure, places)
    return list(dict.fromkeys(found))


def _unknown_pairs(
    figure: Matrix, points: Sequence[Point], documents: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    """Yield the published values of pairs of which a matrix will have none."""
    tables = [
        (panel, table)
        for stage in figure.stages
        for panel, table in panels_of(figure, stage, points, partial(compared_by, documents))
    ]
    panels = {
        panel: {(c.row, c.column) for c in table.cells if c.planned} for panel, table in tables
    }
    for panel, row, column in paper_values(figure):
        if panel not in panels:
            yield "paper", f"it has values of {panel}, and the matrices will be {', '.join(panels)}"
        elif (row, column) not in panels[panel]:
            known = ", ".join(dict.fromkeys(f'"{one}"' for one, _ in sorted(panels[panel])))
            what = f'it has a value of "{row}" and "{column}", of which there will be no pair'
            yield "paper", f"{what}; what is compared is {known}"


def _without_verdict(
    figure: Figure, entries: Sequence[Entry], stage: str, judges: bool
) -> Iterator[tuple[str, str]]:
    """Yield why rows will not be compared."""
    rows = names_of(entry.row for entry in entries)
    if figure.baseline not in rows:
        what = f"no row {figure.baseline} to compare with, so there will be no verdict"
        yield "baseline", f"{what}; the rows will be {', '.join(rows)}"
    elif len(rows) == 1:
        what = f"{rows[0]} will be the only row, so there will be no verdict"
        yield "rows", f"{what}; sweep {stage} over more values of {figure.rows}"
    elif not judges and (single := [row for row in rows if _seeds(entries, row) < 2]):
        what = f"one seed of {', '.join(single)}, so there will be no verdict"
        yield figure.kind, f"{what}; sweep {stage} over seeds, such as seed: [0, 1, 2]"


def _unknown_names(
    figure: Figure, places: Mapping[str, set[tuple[str, str]]]
) -> Iterator[tuple[str, str]]:
    """Yield the claims and a paper's values that are of no row, or of other places."""
    known = f"the rows will be {', '.join(places)}"
    for claim in figure.checked:
        unknown = [row for row in claim.rows if row not in places]
        for row in unknown:
            yield "claims", f'"{claim.text}" names the row {row}, and {known}'
        if unknown:
            continue
        there = len(set.intersection(*(places[row] for row in claim.rows)))
        if claim.of is not None and claim.of != there:
            yield "claims", f'"{claim.text}" is of {claim.of} places, and there will be {there}'
        if claim.relation == "within" and not (figure.paper or figure.compare):
            yield "claims", f'"{claim.text}" needs values of a paper: add paper or compare'
    for row in names_of(row for _, row, _ in paper_values(figure)):
        if row not in places:
            yield "paper", f"it has values of the row {row}, and {known}"


def _seeds(entries: Sequence[Entry], row: str) -> int:
    """Return over how many seeds a row repeats its trials."""
    own = (entry.axes for entry in entries if entry.row == row)
    return len({frozenset(item for item in axes.items() if is_seed(item[0])) for axes in own})
