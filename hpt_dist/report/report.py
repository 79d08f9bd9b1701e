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
from hpt_dist.evals import similarity_tables
from hpt_dist.evals.choice import Choice
from hpt_dist.evals.evidence import scale_of
from hpt_dist.page import Block, Heading, Items, Paragraph, Picture
from hpt_dist.report import figure, published, sections, unlabelled
from hpt_dist.report.cells import Difference
from hpt_dist.report.evaluations import Evaluated, evaluated
from hpt_dist.report.gates import Gate, gates
from hpt_dist.report.points import (
    Cost,
    Point,
    chosen_by,
    costs,
    metric_of,
    read_points,
    replaced_images,
    same_trials,
    single_runs,
    without_replicates,
)
from hpt_dist.report.published import PublishedTable
from hpt_dist.report.tables import Table, computed_by_row, tabulate
from hpt_dist.report.unlabelled import Unjudged, unjudged
from hpt_dist.store import files
from hpt_dist.trial.records import Finished, Launch

_PLOT = "report.png"
_MISSING_SHOWN = 5


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
        evaluated: evaluations that neither the table nor, beside a table, a gate shows.
        single_runs: rows whose trials all start from the same pretraining run.
        gates: comparisons of pretrained backbones with the baseline on validation.
        verdicts: for each pretraining trial, its own verdict on validation.
        unjudged: the pretraining trials that were watched without labels.
        choices: for each trial that let validation choose, what it chose from.
        similarities: for each trial that compared others, its result's details.
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
    evaluated: tuple[Evaluated, ...]
    single_runs: tuple[str, ...]
    gates: tuple[Gate, ...]
    verdicts: Mapping[str, str]
    unjudged: tuple[Unjudged, ...]
    choices: Mapping[str, Choice]
    similarities: Mapping[str, Mapping[str, Any]]
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
            blocks += sections.of_table(self.table, self.computed)
            blocks += sections.of_differences(self.table, self.differences, self.single_runs)
            caption = "Mean ± sample standard deviation; each small dot is one trial."
            blocks += [Picture(png, caption) for png in self.plots().values()]
            if self.published:
                blocks += sections.of_published(self.table, self.published)
        blocks += sections.of_evaluations(self.evaluated, has_table=bool(self.table))
        blocks += sections.of_verdicts(self.verdicts)
        is_judged = bool(self.gates or self.differences or self.verdicts)
        blocks += unlabelled.section(self.unjudged, self.recipe, is_judged=is_judged)
        for name, chosen in self.choices.items():
            blocks += [Heading(2, f"{name}: what validation chose"), *chosen.blocks()]
        for name, details in self.similarities.items():
            blocks += [Heading(2, f"{name}: how alike"), *similarity_tables.blocks(details, 3)]
        for gate in self.gates:
            blocks += sections.of_gate(gate)
        return blocks + sections.of_costs(self.costs)


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
        rows, columns = settings["rows"], settings.get("columns") or ""
        table, differences = tabulate(
            points,
            settings["table"],
            settings.get("metric") or metric_of(points, settings["table"], "test"),
            rows,
            "" if columns == rows else columns,  # the rows again: a diagonal would compare nothing
            baseline,
        )
        notes += _metric_note(points, table)
        notes += without_replicates(points, table.stage, table.metric)
        if table.baseline not in table.rows:
            known = ", ".join(table.rows)
            notes.append(f"There is no row {baseline} to compare with; the rows are {known}.")
            differences = ()
    compared = tuple(gates(points, baseline))
    for gate in compared:
        notes += without_replicates(points, gate.stage, gate.metric)
    notes += same_trials(points) + replaced_images(points)
    values = None
    if name := settings.get("compare"):
        try:
            values = published.find(name)
        except RequestError as error:
            notes.append(" ".join(filter(None, (f"{error.problem.what}.", error.problem.fix))))
    compared = tuple(gates(points, baseline))
    shown = {table.stage, *(gate.stage for gate in compared)} if table else set()
    return Report(
        recipe=launch.recipe,
        launch=launch.id,
        created=launch.created,
        trials=len(launch.trials),
        missing=tuple(point.name for point in points if point.finished is None),
        table=table,
        computed=computed_by_row(table, points) if table else {},
        differences=differences,
        evaluated=tuple(evaluated(points, shown)),
        single_runs=single_runs(points, table.rows) if table else (),
        gates=compared,
        verdicts={p.name: text for p in points if p.finished and (text := _verdict(p.finished))},
        choices={p.name: one for p in points if p.finished and (one := chosen_by(p.finished))},
        similarities={
            p.name: p.finished.result["details"]
            for p in points
            if p.finished and similarity_tables.is_whole(p.finished.result["details"])
        },
        unjudged=tuple(unjudged(points)),
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


def _verdict(trial: Finished) -> str:
    """Return a pretraining trial's verdict on itself; empty if no label judged it."""
    details = trial.result.get("details", {})
    text = str(details.get("gate", {}).get("says", ""))
    if text and (collapsed := details.get("collapsed")):
        text += f"; its features have collapsed ({', '.join(collapsed)})"
    return text
