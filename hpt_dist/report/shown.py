"""A figure of a report with its numbers, which are drawn and which claims are checked on. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from hpt_dist.recipe.figures import Curve, Figure, Matrix, paper_values
from hpt_dist.report import alike, references
from hpt_dist.report.axes import Part, numbers_of, parts_of
from hpt_dist.report.cells import Difference, entries_of, names_of
from hpt_dist.report.lineage import Spent, Taken, unit_of
from hpt_dist.report.points import Point, single_runs
from hpt_dist.report.published import PublishedTable
from hpt_dist.report.tables import Table, computed_by_row, tabulate


@dataclass(frozen=True)
class PaperValue:
    """A published value at a place of a panel, on the printed scale."""

    row: str
    column: str
    value: float


@dataclass(frozen=True)
class Panel:
    """One panel of a figure.

    Args:
        name: empty where there is one.
        table: its cells.
        computed: for each row, how its trials trained, in words.
        differences: of the rows from the baseline row.
        single_runs: rows whose trials all start from the same pretraining run.
        constant: rows that are the same in every column.
        spent: what the training behind each cell took; cells of which it is not known are left out.
        paper: published values at its places.
        trials: (row, column, name) of each trial; one of a constant row is in each column.
        reference: in words, what its trials are shown to be alike to; empty where they are not.
    """

    name: str
    table: Table
    computed: Mapping[str, str]
    differences: tuple[Difference, ...]
    single_runs: tuple[str, ...]
    constant: tuple[str, ...]
    spent: tuple[Spent, ...]
    paper: tuple[PaperValue, ...]
    trials: tuple[tuple[str, str, str], ...]
    reference: str = ""

    @property
    def heading(self) -> str:
        """What stands above it; empty where it needs nothing."""
        return ": ".join(filter(None, (self.name, self.reference)))


@dataclass(frozen=True)
class Shown:
    """One figure.

    Args:
        kind: how it is drawn: a key of `recipe.figures.FIGURES`.
        title: what it shows.
        panels: at least one.
        panels_axis: what the panels are values of; empty where there is one.
        paper_source: where published values are from; empty without any.
    """

    kind: str
    title: str
    panels: tuple[Panel, ...]
    panels_axis: str
    paper_source: str

    @property
    def rows(self) -> tuple[str, ...]:
        """The rows of all panels, each once."""
        return names_of(row for panel in self.panels for row in panel.table.rows)

    @property
    def baseline(self) -> str:
        """The row that the others are compared with."""
        return self.panels[0].table.baseline

    def verdicts(self, panel: Panel) -> list[Difference]:
        """Return the difference of each row that says most: over all columns.

        Along a curve it is that of its last column, wherever the best one is.
        """
        found: dict[str, Difference] = {}
        for one in panel.differences:
            there, mean = found.get(one.row), one.comparison.mean
            is_better = there is None or one.columns > there.columns
            if self.kind == "curve":
                is_better = one.columns == 1
            if mean is not None and is_better:
                found[one.row] = one
        return list(found.values())


def show(
    figure: Figure,
    points: Sequence[Point],
    metric_of: Callable[[str], str],
    published: PublishedTable | None,
    taken: Callable[[str], Taken | None],
    setting: Callable[[str, str], str],
    compared: Callable[[str], Sequence[str]],
) -> Shown:
    """Return a figure with its numbers.

    Args:
        figure: what is asked for.
        points: all trials of the launch.
        metric_of: the metric that a stage chose by, on test.
        published: the table that it is compared with.
        taken: what the training behind a trial took, by the trial's name.
        setting: see `axes.parts_of`.
        compared: the names of the trials that a trial compares, by its name.
    """
    source = figure.paper_source or ("the recipe" if figure.paper else "")
    if isinstance(figure, Matrix) and figure.of_compared:
        panels = [
            Panel(name, table, {}, (), (), (), (), (), ())
            for stage in figure.stages
            for name, table in alike.panels_of(figure, stage, points, compared)
        ]
        title = figure.title or f"{', '.join(figure.stages)}: how alike, mean over pairs of trials"
        return Shown(figure.kind, title, _with_paper(figure, panels), "matrix", source)
    columns = "" if figure.columns in (None, figure.rows) else str(figure.columns)
    panels = []
    for stage in figure.stages:
        ours, said = _points_of(stage, figure, points, compared)
        for part in parts_of(ours, stage, figure, columns, setting):
            metric = figure.metric or metric_of(stage)
            panel = _panel(part, figure, metric, columns, taken)
            if reference := said(part.points):  # its cells are of pairs, and no trial's result
                table = replace(panel.table, over=())
                panel = replace(panel, reference=reference, table=table, trials=())
            panels.append(panel)
    panels = [
        replace(panel, paper=(*panel.paper, *_of_table(published, panel.table)))
        for panel in _with_paper(figure, panels)
    ]
    title = figure.title or _title(figure, panels[0].table)
    source = source or (published.source if published else "")
    axis = figure.panels or ("stage" if len(panels) > 1 else "")
    return Shown(figure.kind, title, tuple(panels), axis, source)


def _points_of(
    stage: str, figure: Figure, points: Sequence[Point], compared: references.Names
) -> tuple[list[Point], Callable[[Sequence[Point]], str]]:
    """Return the points that a figure shows of a stage, and what some of them are shown against."""
    if not (isinstance(figure, Curve) and figure.of_compared):
        return list(points), lambda _: ""
    known = references.references_of(figure, stage, points, compared)
    found = references.points_to(figure, stage, points, known)
    return list(found), lambda part: references.said_of(part, known)


def _with_paper(figure: Figure, panels: Sequence[Panel]) -> tuple[Panel, ...]:
    """Return panels with the figure's own published values at their places."""
    own = paper_values(figure)
    return tuple(
        replace(
            panel,
            paper=tuple(
                PaperValue(row, column, value)
                for (name, row, column), value in own.items()
                if name == panel.name
            ),
        )
        for panel in panels
    )


def _panel(
    part: Part, figure: Figure, metric: str, columns: str, taken: Callable[[str], Taken | None]
) -> Panel:
    table, differences = tabulate(
        part.points,
        part.stage,
        metric,
        figure.rows,
        columns,
        figure.baseline,
        median=figure.median,
    )
    if figure.kind == "curve":
        table, differences = _ordered(table, differences)
    compares = table.baseline in table.rows
    places = _places(part, table)
    # A row's name may have more than its value: `base (basis=moco)`.
    pairs = zip(places, part.points, strict=True)
    values = {row: point.axes.get(figure.rows, "") for (row, _, _), point in pairs}
    return Panel(
        name=part.name,
        table=table,
        computed=computed_by_row(table, part.points),
        differences=differences if compares and figure.has_verdicts else (),
        single_runs=single_runs(part.points, table.rows),
        constant=tuple(row for row in table.rows if values[row] in part.constant),
        spent=tuple(_spent(places, taken)),
        paper=(),
        trials=tuple(places),
    )


def _ordered(
    table: Table, differences: tuple[Difference, ...]
) -> tuple[Table, tuple[Difference, ...]]:
    """Return a table whose columns are in the order of their numbers, if they are numbers."""
    values = numbers_of(table.columns)
    if values is None:
        return table, differences
    pairs = sorted(zip(values, table.columns, strict=True))
    columns = tuple(name for _, name in pairs)
    cells = {(cell.row, cell.column): cell for cell in table.cells}
    ordered = tuple(cells[row, column] for row in table.rows for column in columns)
    rows = {row: at for at, row in enumerate(table.rows)}
    later = len(columns)  # the mean over columns comes after them
    place = {column: at for at, column in enumerate(columns)}
    sorted_differences = sorted(
        differences,
        key=lambda d: (rows[d.row], later if d.columns > 1 else place[d.column]),
    )
    return replace(table, columns=columns, cells=ordered), tuple(sorted_differences)


def _places(part: Part, table: Table) -> list[tuple[str, str, str]]:
    """Return the trials of a panel, see there."""
    axes = table.stage, table.metric, table.rows_axis, table.columns_axis
    entries = [entries_of([point], *axes)[0] for point in part.points]
    return [(e.row, e.column, p.name) for e, p in zip(entries, part.points, strict=True)]


def _spent(
    places: Sequence[tuple[str, str, str]], taken: Callable[[str], Taken | None]
) -> list[Spent]:
    """Return what the training behind each cell took, where it is known of each of its trials."""
    cells: dict[tuple[str, str], list[Taken | None]] = {}
    for row, column, name in places:
        cells.setdefault((row, column), []).append(taken(name))
    found = []
    for (row, column), those in cells.items():
        known = [one for one in those if one]
        if known and len(known) == len(those) and len({one.base for one in known}) == 1:
            images, hours = fmean(o.images for o in known), fmean(o.hours for o in known)
            unit = unit_of(frozenset().union(*(one.on for one in known)))
            found.append(Spent(row, column, known[0].base, images, hours, unit))
    return found


def _of_table(published: PublishedTable | None, table: Table) -> list[PaperValue]:
    """Return the values of a published table that are at places of a table."""
    if published is None or table.columns_axis not in published.axes:
        return []
    columns = [str(value) for value in published.axes[table.columns_axis]]
    return [
        PaperValue(row, column, value)
        for row, (_, values) in published.rows.items()
        for column, value in zip(columns, values, strict=True)
        if row in table.rows and column in table.columns
    ]


def _title(figure: Figure, table: Table) -> str:
    """Return what a figure shows in words."""
    axes = " and ".join(filter(None, (table.rows_axis, table.columns_axis)))
    stages = ", ".join(figure.stages)
    to = f" to {figure.reference}" if isinstance(figure, Curve) and figure.reference else ""
    by = {
        "curve": f"{table.metric}{to} against {table.columns_axis}, "
        f"a line for each {table.rows_axis}",
        "delta": f"{table.metric} against {table.baseline}",
        "cost": f"{table.metric} against the cost of training",
    }
    panels = f", for each {figure.panels}" if figure.panels else ""
    return f"{stages}: {by.get(figure.kind, f'{table.metric} by {axes}')}{panels}"
