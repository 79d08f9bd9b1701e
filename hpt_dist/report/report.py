"""The report of a launch: its table, the evidence for it in words, its cost, the paper's values."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from hpt_dist import page
from hpt_dist.errors import RequestError, nearest
from hpt_dist.evals.evidence import Scale, scale_of
from hpt_dist.page import Block, Grid, Heading, Items, Paragraph, Picture
from hpt_dist.report import figure, published, tables
from hpt_dist.report.published import PublishedTable
from hpt_dist.report.tables import Cell, Cost, Difference, Gate, Point, Table
from hpt_dist.store import files
from hpt_dist.trial.records import Finished, Launch

_PLOT = "report.png"
_MISSING_TOLD = 5
_GATE_ADVICE = {
    "helped": "start from {row}",
    "harmed": "keep {baseline}",
    "no evidence": "{baseline} is the simpler choice",
    "none": "{baseline} stays until there is evidence",
}


@dataclass(frozen=True)
class Report:
    """What a launch found, as numbers; its methods put it into words.

    Args:
        recipe: name of the recipe.
        launch: id of the launch.
        created: of the launch, ISO 8601, UTC.
        trials: how many there are.
        missing: names of those that are not done.
        table: None where the recipe asks for none.
        computed: how the trials of each row of the table trained, in words.
        differences: of the table's rows from its baseline row.
        single_runs: rows that stand for one pretraining run, which all their trials share.
        gates: pretrained backbones against the baseline on validation.
        verdicts: what each pretraining trial found of itself on validation, by its name.
        costs: of each finished trial.
        published: a paper's values; None where the recipe asks for none.
        notes: what could not be reported, and why.
    """

    recipe: str
    launch: str
    created: str
    trials: int
    missing: tuple[str, ...]
    table: Table | None
    computed: Mapping[str, str]
    differences: tuple[Difference, ...]
    single_runs: tuple[str, ...]
    gates: tuple[Gate, ...]
    verdicts: Mapping[str, str]
    costs: tuple[Cost, ...]
    published: PublishedTable | None
    notes: tuple[str, ...]

    def markdown(self) -> str:
        """Return the report in Markdown, aligned for a terminal."""
        return page.markdown(self._blocks())

    def html(self) -> str:
        """Return the report as one HTML file with its plot inside."""
        return page.as_html(f"{self.recipe}: report", self._blocks())

    def plots(self) -> dict[str, bytes]:
        """Return the PNG of each plot by its file name; none while no cell has a value."""
        return dict(self._plots)

    @cached_property
    def _plots(self) -> dict[str, bytes]:
        table = self.table
        if table is None or all(cell.mean is None for cell in table.cells):
            return {}
        values = {(cell.row, cell.column): cell.values for cell in table.cells}
        unit = scale_of(table.metric).unit
        picture = figure.draw(
            table.columns,
            {row: [values[row, column] for column in table.columns] for row in table.rows},
            x_label=table.columns_axis,
            y_label=f"{table.metric}, {unit}" if unit else table.metric,
            title=f"{self.recipe}: {table.stage}",
        )
        return {_PLOT: picture}

    def as_json(self) -> dict[str, Any]:
        """Return all numbers and verdicts as plain values."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain

    def headline(self) -> dict[str, float]:
        """Return the means of the table's cells by name, such as `adapt/hpt/1`."""
        if self.table is None:
            return {}
        stage, cells = self.table.stage, self.table.cells
        return {f"{stage}/{c.row}/{c.column}": c.mean for c in cells if c.mean is not None}

    def files(self) -> dict[str, bytes]:
        """Return every file of the report by its name."""
        return {
            "report.md": self.markdown().encode(),
            "report.html": self.html().encode(),
            "report.json": (json.dumps(self.as_json(), indent=2) + "\n").encode(),
            **self.plots(),
        }

    def write(self, folder: Path) -> list[Path]:
        """Write every file into a folder, made if needed, and return their paths."""
        contents = self.files()
        for name, data in contents.items():
            files.replace(folder / name, data)
        return [folder / name for name in contents]

    def _blocks(self) -> list[Block]:
        done = self.trials - len(self.missing)
        when = self.created.replace("T", " ").replace("+00:00", " UTC")
        blocks: list[Block] = [
            Heading(1, self.recipe),
            Paragraph(f"Launch {self.launch}, {when}: {done} of {self.trials} trials done."),
        ]
        if self.missing:
            more = len(self.missing) - _MISSING_TOLD
            told = ", ".join(self.missing[:_MISSING_TOLD]) + (f" and {more} more" * (more > 0))
            blocks.append(Paragraph(f"Not done: {told}."))
        if self.notes:
            blocks.append(Items(self.notes))
        if self.table:
            blocks += _table(self.table, self.computed)
            blocks += _differences(self.table, self.differences, self.single_runs)
            caption = "Mean ± sample standard deviation; small dots are single trials."
            blocks += [Picture(png, caption) for png in self.plots().values()]
            if self.published:
                blocks += _published(self.table, self.published)
        blocks += _verdicts(self.verdicts)
        for gate in self.gates:
            blocks += _gate(gate)
        return blocks + _costs(self.costs)


def build(launch: Launch, done: Sequence[Finished]) -> Report:
    """Return the report of a launch from its finished trials.

    What is missing or does not fit is said in the report; it never fails for it.

    Args:
        launch: what was asked for; its `report` names the table.
        done: the finished trials, in any order.
    """
    points = tables.read_points(launch.trials, done, launch.settings)
    wanted = launch.report
    baseline = str(wanted.get("baseline", "base"))
    notes: list[str] = []
    table, differences = None, tuple[Difference, ...]()
    if wanted:
        table, differences = tables.tabulate(
            points,
            wanted["table"],
            wanted["metric"],
            wanted["rows"],
            wanted["columns"],
            baseline,
        )
        notes += _metric_note(points, table)
        if table.baseline not in table.rows:
            rows = ", ".join(table.rows)
            notes.append(f"There is no row {baseline} to compare with; the rows are {rows}.")
            differences = ()
    notes += tables.same_trials(points)
    values = None
    if name := wanted.get("compare"):
        try:
            values = published.find(name)
        except RequestError as error:
            notes.append(" ".join(filter(None, (f"{error.problem.what}.", error.problem.fix))))
    return Report(
        recipe=launch.recipe,
        launch=launch.id,
        created=launch.created,
        trials=len(launch.trials),
        missing=tuple(point.name for point in points if point.finished is None),
        table=table,
        computed=tables.computed_by_row(table, points) if table else {},
        differences=differences,
        single_runs=tables.single_runs(points, table.rows) if table else (),
        gates=tuple(tables.gates(points, baseline)),
        verdicts={p.name: said for p in points if p.finished and (said := _said(p.finished))},
        costs=tuple(tables.costs([p.finished for p in points if p.finished])),
        published=values,
        notes=tuple(notes),
    )


def _metric_note(points: Sequence[Point], table: Table) -> list[str]:
    """Say so where finished trials lack the metric: their cells look as if nothing were done."""
    ours = [point for point in points if point.stage == table.stage and point.finished]
    lacking = sum(point.value(table.metric) is None for point in ours)
    if not lacking:
        return []
    known = sorted({name for p in ours if p.finished for name in p.finished.result["metrics"]})
    return [
        f"{lacking} finished trials of {table.stage} have no metric {table.metric}; "
        f"they have {', '.join(known) or 'none'}. {nearest(table.metric, known)}".rstrip()
    ]


def _table(table: Table, computed: Mapping[str, str]) -> list[Block]:
    scale = scale_of(table.metric)
    cells = {(cell.row, cell.column): _cell(cell, scale) for cell in table.cells}
    header = [table.rows_axis, *(f"{table.columns_axis} {name}" for name in table.columns)]
    rows = [[row, *(cells[row, column] for column in table.columns)] for row in table.rows]
    unit = f" in {scale.unit}" if scale.unit else ""
    over = " and ".join(table.over)
    told = f"{table.metric}{unit}"
    told += f", mean ± sample standard deviation over {over} (n trials)." if over else "."
    if table.num_images and table.standard_error is not None:
        told += (
            f" The images add their own error: up to {scale.text(table.standard_error)}"
            f"{scale.step} (standard error of one accuracy on {table.num_images:,} images)."
        )
    read = _how_it_was_read(table.metric)
    return [
        Heading(2, f"{table.stage}: {table.metric} by {table.rows_axis} and {table.columns_axis}"),
        Grid(header, rows),
        Paragraph(f"{told} {read}"),
        *([Items(_how_it_was_computed(computed))] if computed else []),
    ]


def _how_it_was_computed(computed: Mapping[str, str]) -> list[str]:
    """Return a line for each way in which rows trained."""
    rows: dict[str, list[str]] = {}
    for row, numerics in computed.items():
        rows.setdefault(numerics, []).append(row)
    return [f"{', '.join(names)}: {numerics}" for numerics, names in rows.items()]


def _how_it_was_read(metric: str) -> str:
    if metric.startswith("test/"):
        return "Every choice was made on validation; each trial read test once."
    if metric.startswith("val/"):
        return "Choices were made on these same validation images, so read it as optimistic."
    return ""


def _cell(cell: Cell, scale: Scale) -> str:
    done = len(cell.values)
    if cell.mean is None:
        return f"- (0 of {cell.planned} done)" if cell.planned else "-"
    spread = f" ± {scale.text(cell.std)}" if cell.std is not None else ""
    of = f" of {cell.planned}" if done < cell.planned else ""
    return f"{scale.text(cell.mean)}{spread} (n={done}{of})"


def _differences(
    table: Table, differences: Sequence[Difference], single_runs: Sequence[str]
) -> list[Block]:
    if not differences:
        return []
    axis = table.columns_axis
    texts = []
    for difference in differences:
        place = f"mean over {difference.columns} values of {axis}"
        if difference.column:
            place = f"{axis} {difference.column}"
        texts.append(f"{difference.row}, {place}: {difference.comparison.says}")
    told = "Differences are paired by seed; ± is the 95 % t-interval over seeds, on these images."
    judged = sum(difference.comparison.half_width is not None for difference in differences)
    if judged > 1:
        told += f" Of {judged} such intervals, about {0.05 * judged:.2g} miss the truth by chance."
    if any(difference.comparison.verdict == "no evidence" for difference in differences):
        told += " What these seeds can show, they show four times in five."
    for row in single_runs:
        told += (
            f" All trials of {row} start from one pretraining run: how much another run would "
            "differ is not in ±."
        )
    return [Heading(3, f"Against {table.baseline}"), Items(texts), Paragraph(told)]


def _said(trial: Finished) -> str:
    """Return a pretraining trial's verdict on itself; empty where it was not watched."""
    details = trial.result.get("details", {})
    says = str(details.get("gate", {}).get("says", ""))
    if collapsed := details.get("collapsed"):
        says += "; " * bool(says) + f"its features have collapsed ({', '.join(collapsed)})"
    return says


def _verdicts(verdicts: Mapping[str, str]) -> list[Block]:
    if not verdicts:
        return []
    told = (
        "Judged during pretraining by nearest neighbours on validation, against the weights that "
        "the stage started from; ± is the 95 % interval, paired by image, for all looks at once."
    )
    items = [f"{name}: {says}" for name, says in verdicts.items()]
    return [Heading(2, "Pretraining: what each stage did"), Items(items), Paragraph(told)]


def _gate(gate: Gate) -> list[Block]:
    scale = scale_of(tables.GATE_METRIC)
    texts = []
    for difference in gate.differences:
        verdict = difference.comparison.verdict
        advice = _GATE_ADVICE[verdict].format(row=difference.row, baseline=gate.baseline)
        texts.append(f"{difference.row}: {difference.comparison.says}; {advice}")
    rows = [[cell.row, _cell(cell, scale)] for cell in gate.cells]
    return [
        Heading(2, f"{gate.stage}: did pretraining help the features?"),
        Grid(["init", f"{tables.GATE_METRIC}, {scale.unit}"], rows),
        Items(texts),
        Paragraph(
            f"Frozen features judged by {gate.kind} on validation, against {gate.baseline}; "
            "± is the 95 % interval."
        ),
    ]


def _published(table: Table, paper: PublishedTable) -> list[Block]:
    heading = Heading(2, "The paper's values beside ours")
    axis = table.columns_axis
    if axis not in paper.axes:
        told = f"{paper.source} has values by {' and by '.join(paper.axes)}, not by {axis}."
        return [heading, Paragraph(told)]
    scale = scale_of(table.metric)
    columns = [str(value) for value in paper.axes[axis]]
    means = {(cell.row, cell.column): cell.mean for cell in table.cells}
    rows = []
    for row, (name, values) in paper.rows.items():
        ours = [means.get((row, column)) for column in columns]
        rows.append([row, "ours", *("-" if v is None else scale.text(v) for v in ours)])
        rows.append([row, f"paper: {name}", *(f"{value:.2f}" for value in values)])
    told = (
        f"The rows marked paper are from {paper.source}, not measured here: {paper.task}, "
        f"in {paper.unit}. Ours are comparable only where all of that is the same."
    )
    header = [table.rows_axis, "whose", *(f"{axis} {column}" for column in columns)]
    return [heading, Grid(header, rows, num_left=2), Paragraph(told)]


def _costs(costs: Sequence[Cost]) -> list[Block]:
    if not costs:
        return []
    rows = [
        [cost.trial, cost.key[:12], str(cost.seed), *_taken(cost.images, cost.seconds)]
        for cost in costs
    ]
    images, seconds = sum(cost.images for cost in costs), sum(cost.seconds for cost in costs)
    rows.append(["total", "", "", *_taken(images, seconds)[:2], ""])
    return [
        Heading(2, "Cost"),
        Grid(["trial", "key", "seed", "images", "seconds", "images/s"], rows, num_left=2),
        Paragraph(
            "Images are the views that training fed to the network; seconds are the whole "
            "trial's, evaluation and the saved work of interrupted attempts included."
        ),
    ]


def _taken(images: int, seconds: float) -> list[str]:
    rate = f"{images / seconds:,.0f}" if images and seconds else "-"
    return [f"{images:,}" if images else "-", f"{seconds:,.1f}", rate]
