"""The report of a launch: table, verdicts in words, cost, and the paper's values beside ours."""

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
from hpt_dist.report import figure, published
from hpt_dist.report.cells import Cell, Difference
from hpt_dist.report.gates import GATE_METRIC, Gate, gates
from hpt_dist.report.points import (
    Cost,
    Point,
    costs,
    read_points,
    replaced_images,
    same_trials,
    single_runs,
)
from hpt_dist.report.published import PublishedTable
from hpt_dist.report.tables import Table, computed_by_row, tabulate
from hpt_dist.store import files
from hpt_dist.trial.records import Finished, Launch

_PLOT = "report.png"
_MISSING_SHOWN = 5
_GATE_ADVICE = {
    "helped": "start from {row}",
    "harmed": "keep {baseline}",
    "no evidence": "{baseline} is the simpler choice",
    "none": "keep {baseline} until there is evidence",
}


@dataclass(frozen=True)
class Report:
    """The results of a launch, as numbers; the methods render them as text and files.

    Args:
        recipe: name of the recipe.
        launch: id of the launch.
        created: when the launch was created, ISO 8601, UTC.
        trials: number of trials.
        missing: names of the trials that are not done.
        table: the table; None if the recipe has none.
        computed: for each row of the table, how its trials trained, in words.
        differences: differences of the table's rows from the baseline row.
        single_runs: rows whose trials all start from the same pretraining run.
        gates: comparisons of pretrained backbones with the baseline on validation.
        verdicts: for each pretraining trial, its own verdict on validation.
        costs: cost of each finished trial.
        published: a paper's values; None if the recipe names no paper's table.
        notes: what could not be reported and why, and what else its reader must know.
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
        """Return the means of the table's cells in the metric's own unit, a share for accuracies.

        Their names are such as `adapt/hpt/shots 1/test/top1`.
        """
        table = self.table
        if table is None:
            return {}
        factor, found = scale_of(table.metric).factor, {}
        for cell in table.cells:
            column = f"{table.columns_axis} {cell.column}" if cell.column else ""
            name = "/".join(filter(None, (table.stage, cell.row, column, table.metric)))
            if cell.mean is not None:
                found[name] = cell.mean / factor
        return found

    def files(self) -> dict[str, bytes]:
        """Return every file of the report by its name."""
        return {
            "report.md": self.markdown().encode(),
            "report.html": self.html().encode(),
            "report.json": (json.dumps(self.as_json(), indent=2) + "\n").encode(),
            **self.plots(),
        }

    def write(self, folder: Path) -> list[Path]:
        """Write every file into a folder, which is created if needed, and return their paths."""
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
            more = len(self.missing) - _MISSING_SHOWN
            names = ", ".join(self.missing[:_MISSING_SHOWN]) + (f" and {more} more" * (more > 0))
            blocks.append(Paragraph(f"Not done: {names}."))
        if self.notes:
            blocks.append(Items(self.notes))
        if self.table:
            blocks += _table(self.table, self.computed)
            blocks += _differences(self.table, self.differences, self.single_runs)
            caption = "Mean ± sample standard deviation; each small dot is one trial."
            blocks += [Picture(png, caption) for png in self.plots().values()]
            if self.published:
                blocks += _published(self.table, self.published)
        blocks += _verdicts(self.verdicts)
        for gate in self.gates:
            blocks += _gate(gate)
        return blocks + _costs(self.costs)


def build(launch: Launch, done: Sequence[Finished]) -> Report:
    """Return the report of a launch from its finished trials.

    Results that are missing or do not fit never make it fail; the report has a note on them.

    Args:
        launch: record of the launch; its `report` names the table.
        done: the finished trials, in any order.
    """
    points = read_points(launch.trials, done, launch.settings)
    settings = launch.report
    baseline = str(settings.get("baseline", "base"))
    notes: list[str] = []
    table, differences = None, tuple[Difference, ...]()
    if settings:
        table, differences = tabulate(
            points,
            settings["table"],
            settings["metric"],
            settings["rows"],
            settings["columns"],
            baseline,
        )
        notes += _metric_note(points, table)
        if table.baseline not in table.rows:
            rows = ", ".join(table.rows)
            notes.append(f"There is no row {baseline} to compare with; the rows are {rows}.")
            differences = ()
    notes += same_trials(points) + replaced_images(points)
    values = None
    if name := settings.get("compare"):
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
        computed=computed_by_row(table, points) if table else {},
        differences=differences,
        single_runs=single_runs(points, table.rows) if table else (),
        gates=tuple(gates(points, baseline)),
        verdicts={p.name: text for p in points if p.finished and (text := _verdict(p.finished))},
        costs=tuple(costs([p.finished for p in points if p.finished])),
        published=values,
        notes=tuple(notes),
    )


def _metric_note(points: Sequence[Point], table: Table) -> list[str]:
    """Return a note if finished trials lack the metric: their cells look as if not done."""
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
    text = f"{table.metric}{unit}"
    text += f", mean ± sample standard deviation over {over} (n trials)." if over else "."
    if table.num_images and table.standard_error is not None:
        text += (
            f" The number of images adds an error: up to {scale.text(table.standard_error)}"
            f"{scale.step} (standard error of one accuracy on {table.num_images:,} images)."
        )
    selection = _how_it_was_selected(table.metric)
    return [
        Heading(2, f"{table.stage}: {table.metric} by {table.rows_axis} and {table.columns_axis}"),
        Grid(header, rows),
        Paragraph(f"{text} {selection}"),
        *([Items(_how_it_was_computed(computed))] if computed else []),
    ]


def _how_it_was_computed(computed: Mapping[str, str]) -> list[str]:
    """Return one line for each precision and memory format, with the rows that trained in it."""
    rows: dict[str, list[str]] = {}
    for row, numerics in computed.items():
        rows.setdefault(numerics, []).append(row)
    return [f"{', '.join(names)}: {numerics}" for numerics, names in rows.items()]


def _how_it_was_selected(metric: str) -> str:
    if metric.startswith("test/"):
        return "Every choice was made on validation; each trial read the test split once."
    if metric.startswith("val/"):
        return "Choices were made on these same validation images, so these values are optimistic."
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
    text = "Differences are paired by seed; ± is the 95 % t-interval over seeds, on these images."
    judged = sum(difference.comparison.half_width is not None for difference in differences)
    if judged > 1:
        text += (
            f" Of {judged} such intervals, about {0.05 * judged:.2g} miss the true value by chance."
        )
    if any(difference.comparison.verdict == "no evidence" for difference in differences):
        text += (
            " A true difference of the size that these seeds can show is detected in four of "
            "five experiments."
        )
    for row in single_runs:
        text += (
            f" All trials of {row} start from one pretraining run, so ± does not include the "
            "variance between pretraining runs."
        )
    return [Heading(3, f"Against {table.baseline}"), Items(texts), Paragraph(text)]


def _verdict(trial: Finished) -> str:
    """Return a pretraining trial's verdict on itself; empty if it had no monitor."""
    details = trial.result.get("details", {})
    text = str(details.get("gate", {}).get("says", ""))
    if collapsed := details.get("collapsed"):
        text += "; " * bool(text) + f"its features have collapsed ({', '.join(collapsed)})"
    return text


def _verdicts(verdicts: Mapping[str, str]) -> list[Block]:
    if not verdicts:
        return []
    text = (
        "Judged during pretraining by nearest neighbours on validation, against the weights that "
        "the stage started from; ± is the 95 % interval, paired by image, which allows for "
        "choosing among all checks."
    )
    items = [f"{name}: {verdict}" for name, verdict in verdicts.items()]
    return [Heading(2, "Pretraining: what each stage did"), Items(items), Paragraph(text)]


def _gate(gate: Gate) -> list[Block]:
    scale = scale_of(GATE_METRIC)
    texts = []
    for difference in gate.differences:
        verdict = difference.comparison.verdict
        advice = _GATE_ADVICE[verdict].format(row=difference.row, baseline=gate.baseline)
        texts.append(f"{difference.row}: {difference.comparison.says}; {advice}")
    rows = [[cell.row, _cell(cell, scale)] for cell in gate.cells]
    return [
        Heading(2, f"{gate.stage}: did pretraining help the features?"),
        Grid(["init", f"{GATE_METRIC}, {scale.unit}"], rows),
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
        text = f"{paper.source} has values by {' and by '.join(paper.axes)}, not by {axis}."
        return [heading, Paragraph(text)]
    scale = scale_of(table.metric)
    columns = [str(value) for value in paper.axes[axis]]
    means = {(cell.row, cell.column): cell.mean for cell in table.cells}
    rows = []
    for row, (name, values) in paper.rows.items():
        ours = [means.get((row, column)) for column in columns]
        rows.append([row, "ours", *("-" if v is None else scale.text(v) for v in ours)])
        rows.append([row, f"paper: {name}", *(f"{value:.2f}" for value in values)])
    text = (
        f"The rows marked paper are from {paper.source} and were not measured here: {paper.task}, "
        f"in {paper.unit}. Ours can be compared with them only if all of that is the same."
    )
    header = [table.rows_axis, "from", *(f"{axis} {column}" for column in columns)]
    return [heading, Grid(header, rows, num_left=2), Paragraph(text)]


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
            "images: image views that the network saw in training. seconds: the whole trial, "
            "with evaluation and with the saved work of interrupted attempts."
        ),
    ]


def _taken(images: int, seconds: float) -> list[str]:
    rate = f"{images / seconds:,.0f}" if images and seconds else "-"
    return [f"{images:,}" if images else "-", f"{seconds:,.1f}", rate]
