"""The model card of weights: what they are, from what, how good, and for what. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from hpt_dist import page
from hpt_dist.evals.evidence import scale_of
from hpt_dist.page import Block, Code, Grid, Heading, Items, Paragraph
from hpt_dist.report.appendix import data_rows, licence_of
from hpt_dist.report.exhibits import Exhibits
from hpt_dist.report.gates import left_average
from hpt_dist.report.lineage import Node, behind, device_hours, device_of
from hpt_dist.report.report import Report
from hpt_dist.report.shown import Panel
from hpt_dist.trial.records import Finished

FILE = "model_card.md"
_UNJUDGED = "-"


def markdown(report: Report, exhibits: Exhibits, done: Mapping[str, Finished], name: str) -> str:
    """Return the model card of a trial in Markdown.

    Args:
        report: of its launch.
        exhibits: of its launch.
        done: the finished trials by their names; this one is among them.
        name: of the trial.
    """
    nodes = {node.name: node for node in report.lineage}
    rests_on = [nodes[name], *behind(nodes, name)]
    blocks: list[Block] = [
        Heading(1, f"{report.recipe}/{name}"),
        Items(list(_facts(done, nodes[name], rests_on))),
        *_sources(exhibits, rests_on),
        *_results(report, nodes, name),
        *_use(report, rests_on),
    ]
    if exhibits.recipe:
        blocks += [Heading(2, "Recipe"), Code(exhibits.recipe)]
        if exhibits.options:
            blocks += [Paragraph("Changed by --set:"), Items(exhibits.options)]
    return page.markdown(blocks)


def _facts(done: Mapping[str, Finished], node: Node, rests_on: Sequence[Node]) -> Iterator[str]:
    """Yield what the trial is, and how all that it rests on was trained, the first one first."""
    trial = done[node.name]
    yield f"kind: {node.kind}, of stage {node.stage}, seed {trial.result['seed']}"
    yield f"key: {trial.key}"
    if numerics := trial.run.get("numerics"):
        yield f"trained in {numerics}"
    chain = [one for one in rests_on if one.name in done]
    for one in reversed(chain):
        record = done[one.name]
        images = int(record.result["images"])
        took = f", {images:,} image views" if images else ""
        hours = f", {device_hours(record):.2f} {device_of(record)}-hours" if images else ""
        start = f" from {one.parent}" if one.parent else ""
        left = f"; {says}" if (says := left_average(record.result["details"])) else ""
        yield f"{one.name}: {one.kind}{start}{took}{hours}{left}"


def _sources(exhibits: Exhibits, rests_on: Sequence[Node]) -> Iterator[Block]:
    names = {one.name for one in rests_on}
    read = {data for one in rests_on for data in one.datasets}
    data = [card for card in exhibits.data if card.name in read]
    weights = [one for one in exhibits.weights if one.trial in names]
    if not (data or weights):
        return
    yield Heading(2, "Data, weights and licences")
    if weights:
        rows = [[one.trial, one.source, licence_of(one.licence)] for one in weights]
        yield Grid(["imported by", "weights", "licence"], rows, num_left=3)
    if data:
        header = ["dataset", "in the store", "licence", "credit", "images"]
        yield Grid(header, data_rows(data), num_left=5)
    yield Paragraph(
        "These weights may be bound by all of these licences. Look up those that are not stated "
        "before you pass the weights on."
    )


def _results(report: Report, nodes: Mapping[str, Node], name: str) -> Iterator[Block]:
    """Yield the verdict of the trial itself, and every row of a figure that rests on it."""
    rows = _rows_on(report, nodes, name)
    own = report.verdicts.get(name, "")
    if not rows and not own:
        return
    yield Heading(2, "Results")
    if own:
        yield Paragraph(f"On validation, against the weights that it started from: {own}.")
    if rows:
        header = ["stage", "row", "at", "metric", "value", "against the baseline"]
        yield Grid(header, rows, num_left=6)
        panels = [panel for figure in report.figures for panel in figure.panels]
        chosen = not all(panel.table.val_unread for panel in panels)
        yield Paragraph(
            "Mean \u00b1 sample standard deviation over n trials; differences are paired by seed, "
            f"with their 95 % interval.{' Choices were made on validation.' if chosen else ''}"
        )
    if report.missing:
        done = report.trials - len(report.missing)
        yield Paragraph(f"So far: {done} of {report.trials} trials of the launch are done.")


def _rows_on(report: Report, nodes: Mapping[str, Node], name: str) -> list[list[str]]:
    """Return each cell of the figures whose trials rest on a trial, once."""
    found: dict[tuple[str, frozenset[str]], list[str]] = {}
    for figure in report.figures:
        for panel in figure.panels:
            cells: dict[tuple[str, str], set[str]] = {}
            for row, column, trial in panel.trials:
                if _rests_on(nodes, trial, name):
                    cells.setdefault((row, column), set()).add(trial)
            for (row, column), trials in cells.items():
                key = panel.table.metric, frozenset(trials)
                line = _row(panel, row, column)
                if line and (key not in found or found[key][-1] == _UNJUDGED):
                    found[key] = line
    return list(found.values())


def _row(panel: Panel, row: str, column: str) -> list[str]:
    """Return a cell in words; nothing while it has no value."""
    table, scale = panel.table, scale_of(panel.table.metric)
    cell = next(one for one in table.cells if (one.row, one.column) == (row, column))
    if cell.mean is None:
        return []
    says = {(one.row, one.column): one.comparison.says for one in panel.differences}
    spread = f" \u00b1 {scale.text(cell.std)}" if cell.std is not None else ""
    value = f"{scale.text(cell.mean)}{spread} {scale.unit}".rstrip()
    of = f" of {cell.planned}" if len(cell.values) < cell.planned else ""
    place = f"{table.columns_axis} {column}" if column else ""
    name = "" if panel.name == table.stage else panel.name
    at = ", ".join(filter(None, (name, place))) or "-"
    number = f"{value} (n={len(cell.values)}{of})"
    if cell.over_images:
        number += f", over images [{', '.join(map(scale.text, cell.over_images))}]"
    return [table.stage, row, at, table.metric, number, says.get((row, column), _UNJUDGED)]


def _rests_on(nodes: Mapping[str, Node], trial: str, name: str) -> bool:
    return trial == name or any(one.name == name for one in behind(nodes, trial))


def _use(report: Report, rests_on: Sequence[Node]) -> Iterator[Block]:
    read = ", ".join(dict.fromkeys(data for one in rests_on for data in one.datasets))
    images = f"images like those of {read}" if read else "images"
    yield Heading(2, "Intended use and limits")
    limits = [
        f"Meant as a starting point for {images}: measure it on labelled images of your own, "
        "against the base, before you rely on it.",
        "The results above are on the images named here and say nothing of other images, people "
        "or conditions. No test of bias or of safety was made.",
    ]
    if not report.figures and not report.gates:
        limits.append("Nothing was compared with the base in this launch.")
    runs = {row for figure in report.figures for p in figure.panels for row in p.single_runs}
    if runs:
        limits.append(
            f"{', '.join(sorted(runs))}: one pretraining run, so its spread leaves out how much "
            "pretraining runs differ."
        )
    yield Items(limits)
