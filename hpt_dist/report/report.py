"""The report of a launch: its answer, its figures, verdicts in words, and cost."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hpt_dist import page
from hpt_dist.errors import RequestError, nearest
from hpt_dist.evals import similarity_tables
from hpt_dist.evals.choice import Choice
from hpt_dist.evals.evidence import scale_of
from hpt_dist.page import Block, Heading, Items, Paragraph
from hpt_dist.recipe import figures as asked
from hpt_dist.report import appendix, figure, gains, published, sections, unlabelled
from hpt_dist.report.alike import compared_by
from hpt_dist.report.answer import Answer, answer
from hpt_dist.report.cells import Difference
from hpt_dist.report.claims import Checked, check
from hpt_dist.report.evaluations import Evaluated, evaluated
from hpt_dist.report.exhibits import Exhibits
from hpt_dist.report.gains import Gains
from hpt_dist.report.gates import Gate, gates, verdict_of
from hpt_dist.report.lineage import Node, nodes_of, setting_behind, taken_before
from hpt_dist.report.points import (
    Cost,
    Point,
    chosen_by,
    costs,
    metric_of,
    protocols,
    read_points,
    replaced_images,
    same_trials,
    without_replicates,
)
from hpt_dist.report.published import PublishedTable
from hpt_dist.report.shown import Shown, show
from hpt_dist.report.tables import Table
from hpt_dist.report.unlabelled import Unjudged, unjudged
from hpt_dist.store import files
from hpt_dist.trial.records import Finished, Launch

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
        answer: all of it in a sentence.
        figures: what the recipe asks for.
        claims: of each figure, what was checked.
        published: of each figure, a paper's values; None if it names no paper's table.
        evaluated: evaluations that neither a figure nor, beside one, a gate shows.
        gates: comparisons of pretrained backbones with the baseline on validation.
        verdicts: for each pretraining trial, its own verdict on validation.
        unjudged: the pretraining trials that were watched without labels.
        choices: for each trial that let validation choose, what it chose from.
        similarities: for each trial that compared others, its result's details.
        costs: cost of each finished trial.
        lineage: what each trial starts from and reads.
        notes: what could not be reported and why, and what else its reader must know.
        gains: for each dataset, which classes gain and lose in the answer's row; none where the
            store was not asked. See `launch.by_class`.
    """

    recipe: str
    launch: str
    created: str
    trials: int
    missing: tuple[str, ...]
    answer: Answer
    figures: tuple[Shown, ...]
    claims: tuple[tuple[Checked, ...], ...]
    published: tuple[PublishedTable | None, ...]
    evaluated: tuple[Evaluated, ...]
    gates: tuple[Gate, ...]
    verdicts: Mapping[str, str]
    unjudged: tuple[Unjudged, ...]
    choices: Mapping[str, Choice]
    similarities: Mapping[str, Mapping[str, Any]]
    costs: tuple[Cost, ...]
    lineage: tuple[Node, ...]
    notes: tuple[str, ...]
    gains: tuple[Gains, ...] = ()

    @property
    def table(self) -> Table | None:
        """The table of the first figure; None if the recipe asks for none."""
        return self.figures[0].panels[0].table if self.figures else None

    @property
    def computed(self) -> Mapping[str, str]:
        """How the trials of each row of the table trained, in words."""
        return self.figures[0].panels[0].computed if self.figures else {}

    @property
    def differences(self) -> tuple[Difference, ...]:
        """The differences of the table's rows from the baseline row."""
        return self.figures[0].panels[0].differences if self.figures else ()

    @property
    def judged(self) -> tuple[str, ...]:
        """Names of a trial of the answer's row and of one of the baseline: those with mistakes."""
        if not (self.figures and self.answer.row):
            return ()
        found: dict[str, str] = {}
        for panel in self.figures[0].panels:
            for row, _, name in panel.trials:
                if row in (self.answer.row, panel.table.baseline) and name not in self.missing:
                    found.setdefault(row, name)
        return tuple(found.values())

    def markdown(self) -> str:
        """Return the report in Markdown, aligned for a terminal."""
        return page.markdown([*self._blocks(), *sections.of_costs(self.costs)])

    def html(self, exhibits: Exhibits | None = None) -> str:
        """Return the report as one HTML file that needs no other.

        Args:
            exhibits: what follows the figures.
        """
        blocks = self._blocks()
        after = appendix.blocks(exhibits, self.lineage) if exhibits else []
        costs = appendix.folded(sections.of_costs(self.costs))
        return page.as_html(f"{self.recipe}: report", [*blocks, *after, *costs])

    def drawings(self) -> dict[str, bytes]:
        """Return the SVG of each drawing by its file name; none while no cell has a value."""
        return {
            f"figure-{number}{end}.svg": one.encode()
            for number, shown in enumerate(self.figures, 1)
            if figure.drawings(shown)
            for end, _, one in figure.svgs(shown)
        }

    def as_json(self) -> dict[str, Any]:
        """Return all numbers and verdicts as plain values; `table` is that of the first figure."""
        first = {
            "table": asdict(self.table) if self.table else None,
            "computed": dict(self.computed),
            "differences": [asdict(one) for one in self.differences],
        }
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self) | first))
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

    def files(self, exhibits: Exhibits | None = None) -> dict[str, bytes]:
        """Return every file of the report by its name; see `html`."""
        return {
            "report.md": self.markdown().encode(),
            "report.html": self.html(exhibits).encode(),
            "report.json": (json.dumps(self.as_json(), indent=2) + "\n").encode(),
            **self.drawings(),
        }

    def write(self, folder: Path, exhibits: Exhibits | None = None) -> list[Path]:
        """Write every file into a folder, which is created if needed, and return their paths."""
        contents = self.files(exhibits)
        for name, data in contents.items():
            files.replace(folder / name, data)
        return [folder / name for name in contents]

    def _blocks(self) -> list[Block]:
        done = self.trials - len(self.missing)
        when = self.created.replace("T", " ").replace("+00:00", " UTC")
        blocks: list[Block] = [
            Heading(1, self.recipe),
            self.answer.lead(),
            Paragraph(f"Launch {self.launch}, {when}: {done} of {self.trials} trials done."),
        ]
        if self.missing:
            more = len(self.missing) - _MISSING_SHOWN
            names = ", ".join(self.missing[:_MISSING_SHOWN]) + (f" and {more} more" * (more > 0))
            blocks.append(Paragraph(f"Not done: {names}."))
        if self.notes:
            blocks.append(Items(self.notes))
        parts = zip(self.figures, self.claims, self.published, strict=True)
        for shown, checked, paper in parts:
            blocks += figure.blocks(shown, checked, paper)
        blocks += gains.blocks(self.gains)
        blocks += sections.of_evaluations(self.evaluated, has_table=bool(self.figures))
        blocks += sections.of_verdicts(self.verdicts)
        # What a stage forgot says nothing of what it gained.
        by_labels = self.verdicts.keys() - {one.trial for one in self.unjudged}
        is_judged = bool(self.gates or self.differences or by_labels)
        blocks += unlabelled.section(self.unjudged, self.recipe, is_judged=is_judged)
        for name, chosen in self.choices.items():
            blocks += [Heading(2, f"{name}: what validation chose"), *chosen.blocks()]
        for name, details in self.similarities.items():
            blocks += [Heading(2, f"{name}: how alike"), *similarity_tables.blocks(details, 3)]
        for gate in self.gates:
            blocks += sections.of_gate(gate)
        return blocks


def build(launch: Launch, done: Sequence[Finished]) -> Report:
    """Return the report of a launch from its finished trials.

    Results that are missing or do not fit never make it fail; the report has a note on them.

    Args:
        launch: record of the launch; its `report` names the table.
        done: the finished trials, in any order.
    """
    points = read_points(launch.trials, done, launch.settings)
    wanted = asked.read(launch.report)
    baseline = wanted[0].baseline if wanted else "base"
    nodes = nodes_of(launch.trials, launch.settings, done)
    by_name = {one.name: one for one in done}
    tables, notes = _published(wanted)
    figures = tuple(
        show(
            one,
            points,
            lambda stage: metric_of(points, stage, "test"),
            table,
            lambda name: taken_before(nodes, by_name, name),
            lambda name, axis: setting_behind(nodes, launch.settings, name, axis),
            lambda name: _compared(launch, by_name, name),
        )
        for one, table in zip(wanted, tables, strict=True)
    )
    found = tuple(gates(points, baseline))
    watched = tuple(unjudged(points))
    in_figures = {panel.table.stage for shown in figures for panel in shown.panels}
    elsewhere = in_figures | {gate.stage for gate in found} if figures else set[str]()
    return Report(
        recipe=launch.recipe,
        launch=launch.id,
        created=launch.created,
        trials=len(launch.trials),
        missing=tuple(point.name for point in points if point.finished is None),
        answer=answer(
            *(figures, found, _on_val(points).get),
            done=len(done),
            trials=len(launch.trials),
            is_watched=bool(watched),
        ),
        figures=figures,
        claims=tuple(
            tuple(check(claim, shown) for claim in one.checked)
            for one, shown in zip(wanted, figures, strict=True)
        ),
        published=tables,
        evaluated=tuple(evaluated(points, elsewhere)),
        gates=found,
        verdicts={
            p.name: text
            for p in points
            if p.finished and (text := verdict_of(p.finished.result.get("details", {})))
        },
        choices={p.name: one for p in points if p.finished and (one := chosen_by(p.finished))},
        similarities={
            p.name: p.finished.result["details"]
            for p in points
            if p.finished and similarity_tables.is_whole(p.finished.result["details"])
        },
        unjudged=watched,
        costs=tuple(costs([p.finished for p in points if p.finished])),
        lineage=tuple(nodes.values()),
        notes=tuple(dict.fromkeys(notes + _of_values(points, wanted, figures, found))),
    )


def _of_values(
    points: Sequence[Point],
    wanted: Sequence[asked.Figure],
    figures: Sequence[Shown],
    found: Sequence[Gate],
) -> list[str]:
    """Return the notes on the values of figures, of gates, and of all trials."""
    notes: list[str] = []
    for one, shown in zip(wanted, figures, strict=True):
        if not one.of_compared:  # those values are in details, and have no baseline
            notes += [note for panel in shown.panels for note in _notes(points, panel.table)]
    for gate in found:
        notes += without_replicates(points, gate.stage, gate.metric)
    return notes + protocols(points) + same_trials(points) + replaced_images(points)


def _compared(launch: Launch, by_name: Mapping[str, Finished], name: str) -> list[str]:
    """Return the names of the trials that a trial compares; its key tells them apart by name."""
    details = by_name[name].result["details"] if name in by_name else {}
    if similarity_tables.is_whole(details):
        return [str(one) for one in details["trials"]]
    return compared_by(launch.settings, name)


def _on_val(points: Sequence[Point]) -> dict[str, float | None]:
    """Return what trials reached on validation, by their names."""
    metrics = {stage: metric_of(points, stage, "val") for stage in {one.stage for one in points}}
    return {one.name: one.value(metrics[one.stage]) for one in points}


def _published(
    wanted: Sequence[asked.Figure],
) -> tuple[tuple[PublishedTable | None, ...], list[str]]:
    """Return the table that each figure is compared with, and a note on each that is not known."""
    found: list[PublishedTable | None] = []
    notes = []
    for one in wanted:
        try:
            found.append(published.find(one.compare) if one.compare else None)
        except RequestError as error:
            found.append(None)
            notes.append(" ".join(filter(None, (f"{error.problem.what}.", error.problem.fix))))
    return tuple(found), notes


def _notes(points: Sequence[Point], table: Table) -> list[str]:
    """Return what a table cannot show and why."""
    notes = _metric_note(points, table) + without_replicates(points, table.stage, table.metric)
    if table.baseline not in table.rows:
        known = ", ".join(table.rows)
        notes.append(f"There is no row {table.baseline} to compare with; the rows are {known}.")
    return notes


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
