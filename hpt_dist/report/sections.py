"""The sections of a report as blocks of a page. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hpt_dist.evals.evidence import Scale, scale_of
from hpt_dist.page import Block, Faint, Grid, Heading, Items, Paragraph
from hpt_dist.recipe.metrics import METRICS
from hpt_dist.report.cells import Cell, Difference
from hpt_dist.report.evaluations import Evaluated
from hpt_dist.report.gates import Gate
from hpt_dist.report.points import Cost
from hpt_dist.report.published import PublishedTable
from hpt_dist.report.tables import Table

_GATE_ADVICE = {
    "helped": "start from {row}",
    "harmed": "keep {baseline}",
    "no evidence": "{baseline} is the simpler choice",
    "none": "keep {baseline} until there is evidence",
}
_CHOSEN_ON_VAL = "Every choice was made on validation; each trial read the test split once."
_LAST = "kept its last weights without a look at validation, and read the test split once."


def of_table(table: Table, computed: Mapping[str, str]) -> list[Block]:
    """Return the table, what its cells hold, and how its trials trained."""
    scale = scale_of(table.metric)
    header = [table.rows_axis, *_column_heads(table)]
    rows = [[row, *_cells_of_row(table, row, scale)] for row in table.rows]
    unit = f" in {scale.unit}" if scale.unit else ""
    over = " and ".join(table.over)
    text = f"{_with_title(table.metric)}{unit}"
    middle = "median" if table.median else "mean"
    text += f", {middle} ± sample standard deviation over {over} (n trials)." if over else "."
    text += _about_images(table, scale)
    selection = _how_it_was_selected(table)
    return [
        Grid(header, rows),
        Paragraph(f"{text} {selection}"),
        *([Items(_how_it_was_computed(computed))] if computed else []),
    ]


def _with_title(metric: str) -> str:
    """Return a metric's name, and what it is in words where it is known."""
    known = METRICS.get(metric.rpartition("/")[2])
    return f"{metric} ({known.title})" if known else metric


def _about_images(table: Table, scale: Scale) -> str:
    """Return what the number of images adds to a table's numbers."""
    images = f"{table.num_images:,} images" if table.num_images else "images"
    if any(cell.over_images for cell in table.cells):
        return (
            f" [low, high] is the 95 % interval over its {images} (bootstrap): other images of the "
            "same kind, the same models. ± is over trials, on the same images."
        )
    if table.num_images and table.standard_error is not None:
        return (
            f" The number of images adds an error: up to {scale.text(table.standard_error)}"
            f"{scale.step} (standard error of one accuracy on {images})."
        )
    return ""


def _column_heads(table: Table) -> list[str]:
    if not table.columns_axis:
        return _heads_apart(table.metric, table.cells)
    return [f"{table.columns_axis} {name}" for name in table.columns]


def _cells_of_row(table: Table, row: str, scale: Scale) -> list[str]:
    cells = {cell.column: cell for cell in table.cells if cell.row == row}
    if not table.columns_axis:
        return _apart(cells[""], table.cells, scale)
    return [_cell(cells[column], scale) for column in table.columns]


def _heads_apart(metric: str, cells: Sequence[Cell]) -> list[str]:
    """Return the heads of columns that keep what images and what trials add apart."""
    unit = scale_of(metric).unit
    if not any(cell.over_images for cell in cells):
        return [f"{metric}, {unit}" if unit else metric]
    return [f"{metric}, {unit}" if unit else metric, "95 % over images", "± over trials"]


def _apart(cell: Cell, cells: Sequence[Cell], scale: Scale) -> list[str]:
    """Return the columns of a cell; see `_heads_apart`."""
    if not any(one.over_images for one in cells):
        return [_cell(cell, scale)]
    spread = "-" if cell.std is None else f"{scale.text(cell.std)} (n={len(cell.values)})"
    mean = _cell(cell, scale) if cell.mean is None else scale.text(cell.mean)
    return [mean, _ends(cell, scale) or "-", spread]


def _ends(cell: Cell, scale: Scale) -> str:
    if cell.over_images is None:
        return ""
    return "[{}, {}]".format(*map(scale.text, cell.over_images))


def _how_it_was_computed(computed: Mapping[str, str]) -> list[str]:
    """Return one line for each precision and memory format, with the rows that trained in it."""
    rows: dict[str, list[str]] = {}
    for row, numerics in computed.items():
        rows.setdefault(numerics, []).append(row)
    return [f"{', '.join(names)}: {numerics}" for numerics, names in rows.items()]


def _how_it_was_selected(table: Table) -> str:
    metric = table.metric
    if metric.startswith("test/"):
        return f"Each trial {_LAST}" if table.val_unread else _CHOSEN_ON_VAL
    if metric.startswith("published/"):
        return "Choices were made on validation images that are also among these, as published."
    if metric.startswith("val/"):
        return "Choices were made on these same validation images, so these values are optimistic."
    return ""


def _cell(cell: Cell, scale: Scale) -> str:
    done = len(cell.values)
    if cell.mean is None:
        return Faint(f"- (0 of {cell.planned} done)" if cell.planned else "-")
    spread = f" {_ends(cell, scale)}".rstrip()
    spread += f" ± {scale.text(cell.std)}" if cell.std is not None else ""
    of = f" of {cell.planned}" if done < cell.planned else ""
    return f"{scale.text(cell.mean)}{spread} (n={done}{of})"


def of_differences(
    table: Table, differences: Sequence[Difference], single_runs: Sequence[str]
) -> list[Block]:
    """Return each row's difference from the baseline row, and how to read them."""
    if not differences:
        return []
    axis = table.columns_axis
    texts = []
    for difference in differences:
        place = f", mean over {difference.columns} values of {axis}"
        if difference.columns == 1:
            place = f", {axis} {difference.column}" if axis else ""
        texts.append(f"{difference.row}{place}: {difference.comparison.says}")
    text = "Differences are paired by seed; ± is the 95 % t-interval over seeds, on these images."
    if any(difference.comparison.images_half_width is not None for difference in differences):
        text += (
            " ± over images is the 95 % interval of a bootstrap of the images that both sides "
            "answered. Where both are given, the verdict needs both."
        )
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


def of_evaluations(evaluated: Sequence[Evaluated], *, has_table: bool) -> list[Block]:
    """Return what validation and test say of the evaluations that no table shows.

    Where no trial has a value on validation, there is no column of them.
    """
    if not evaluated:
        return []
    has_val = any(one.val.values for one in evaluated)
    rows = []
    for one in evaluated:
        scale = scale_of(f"test/{one.metric}")
        unit = f", {scale.unit}" if scale.unit else ""
        val = [Faint("-") if one.val_unread else _cell(one.val, scale)] if has_val else []
        rows.append([one.name, f"{one.metric}{unit}", *val, _cell(one.test, scale)])
    text = f"Mean ± sample standard deviation over seeds. {_how_these_were_selected(evaluated)}"
    if not has_table:
        text += " `report: {table: STAGE, rows: SETTING}` in the recipe compares with a baseline."
    title = "Other evaluations" if has_table else "Evaluations"
    header = ["trials", "metric", *(["val"] if has_val else []), "test"]
    return [Heading(2, title), Grid(header, rows, num_left=2), Paragraph(text)]


def _how_these_were_selected(evaluated: Sequence[Evaluated]) -> str:
    unread = [one.name for one in evaluated if one.val_unread]
    if len(unread) == len(evaluated):
        return f"Each trial {_LAST}"
    return " ".join([_CHOSEN_ON_VAL, *(f"Each trial of {name} {_LAST}" for name in unread)])


def of_verdicts(verdicts: Mapping[str, str]) -> list[Block]:
    """Return the verdict of each pretraining trial on itself."""
    if not verdicts:
        return []
    text = (
        "Judged during pretraining by a probe on validation, against the weights that the stage "
        "started from; ± is the 95 % interval, paired by image, which allows for "
        "choosing among all checks."
    )
    items = [f"{name}: {verdict}" for name, verdict in verdicts.items()]
    return [Heading(2, "Pretraining: what each stage did"), Items(items), Paragraph(text)]


def of_gate(gate: Gate) -> list[Block]:
    """Return whether pretrained backbones have better features, and where to start from."""
    scale = scale_of(gate.metric)
    texts = []
    for difference in gate.differences:
        verdict = difference.comparison.verdict
        advice = _GATE_ADVICE[verdict].format(row=difference.row, baseline=gate.baseline)
        texts.append(f"{difference.row}: {difference.comparison.says}; {advice}")
    rows = [[cell.row, *_apart(cell, gate.cells, scale)] for cell in gate.cells]
    return [
        Heading(2, f"{gate.stage}: did pretraining help the features?"),
        Grid(["init", *_heads_apart(gate.metric, gate.cells)], rows),
        Items([*texts, *gate.averages]),
        Paragraph(
            f"Frozen features judged by {gate.kind} on validation, by {_with_title(gate.metric)}, "
            f"against {gate.baseline}; ± is the 95 % interval."
        ),
    ]


def of_published(table: Table, paper: PublishedTable) -> list[Block]:
    """Return a paper's values beside those of a table."""
    heading = Heading(2, "The paper's values beside ours")
    axis = table.columns_axis
    if axis not in paper.axes:
        given = f", not by {axis}" if axis else "; this table has no columns"
        text = f"{paper.source} has values by {' and by '.join(paper.axes)}{given}."
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


def of_costs(costs: Sequence[Cost]) -> list[Block]:
    """Return the cost of each trial, and of all."""
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
