"""A figure of a report as blocks of a page: drawings, numbers, verdicts, claims."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hpt_dist.evals.evidence import scale_of
from hpt_dist.page import (
    Block,
    Drawing,
    Drawings,
    Faint,
    Folded,
    Grid,
    Heading,
    Items,
    Key,
    Paragraph,
)
from hpt_dist.report import sections
from hpt_dist.report.axes import numbers_of
from hpt_dist.report.claims import Checked
from hpt_dist.report.figures import bars, cost, curve, delta, matrix
from hpt_dist.report.figures.rows import Rows
from hpt_dist.report.published import PublishedTable
from hpt_dist.report.shown import Panel, Shown

_VERDICTS_SHOWN = 12
_PANEL_PX = 360
_SIGNS = {"held": "\u2713", "not held": "\u2717", "not decided yet": "\u2026"}
_CAPTIONS = {
    "curve": "Mean and sample standard deviation; each small dot is one trial. A dashed line is "
    "the same for all columns.",
    "bars": "Mean and sample standard deviation; each dot is one trial. A dashed outline is not "
    "done yet.",
    "delta": "The 95 % interval over seeds, paired; a filled mark is evidence, a hollow one is "
    "none.",
    "matrix": "The stronger the colour, the larger; a dashed field is not done yet, and "
    "of a gray one there is nothing to measure.",
    "cost": "Cost of the training before this evaluation, from the base on, without the "
    "evaluation; a line joins what starts from the same base. Mean and sample standard deviation.",
}
_OF_REFERENCE = (
    "Mean and sample standard deviation over pairs of a trial and one of the reference, of which "
    "each is a small dot; the reference's own trials are paired with each other, so one alone has "
    "no mark. 1: the same features up to rotation and scale, or the same errors."
)


def blocks(
    figure: Shown, checked: Sequence[Checked], published: PublishedTable | None
) -> list[Block]:
    """Return a figure as blocks.

    Args:
        figure: with its numbers.
        checked: its claims.
        published: the table of a paper that it is compared with.
    """
    found: list[Block] = [Heading(2, figure.title)]
    if figure.kind == "table":
        for panel in figure.panels:
            found += _numbers(panel)
        found += drawings(figure)
    else:
        found += drawings(figure)
        if summary := list(_verdicts(figure)):
            found.append(Items(summary))
        inner = [block for panel in figure.panels for block in _numbers(panel)]
        found.append(Folded("The numbers", inner))
    for panel in figure.panels:
        found += sections.of_published(panel.table, published) if published else []
        found += _paper(figure, panel) if panel.paper and not published else []
    return found + _claims(checked)


def drawings(figure: Shown) -> list[Block]:
    """Return a figure's drawings; none of a table while none of its cells has a value."""
    cells = [cell for panel in figure.panels for cell in panel.table.cells]
    if not cells or (figure.kind == "table" and all(cell.mean is None for cell in cells)):
        return []
    kind = drawn_as(figure)
    rows = Rows.of(figure)
    paper = figure.paper_source if any(p.paper for p in figure.panels) else ""
    keys: list[Key] = [] if kind in ("matrix", "delta") else rows.keys(figure.rows, paper)
    pictures = [Drawing(one, heading) for _, heading, one in svgs(figure)]
    return [Drawings(pictures, keys, _caption(figure, kind), _PANEL_PX)]


def _caption(figure: Shown, kind: str) -> str:
    """Return how to read a figure's drawings."""
    is_likeness = any(panel.reference for panel in figure.panels)
    found = [_OF_REFERENCE if is_likeness else _CAPTIONS[kind]]
    if kind == "matrix" and any(panel.paper for panel in figure.panels):
        found.append(f"In brackets: {figure.paper_source}.")
    return " ".join(found)


def drawn_as(figure: Shown) -> str:
    """Return the kind of drawing: a table is drawn as lines along numbers, or as bars."""
    if figure.kind != "table":
        return figure.kind
    columns = figure.panels[0].table.columns
    return "curve" if len(columns) > 1 and numbers_of(columns) else "bars"


def svgs(figure: Shown) -> Iterator[tuple[str, str, str]]:
    """Yield (end of its file's name, heading, SVG) of each drawing of a figure."""
    rows, kind = Rows.of(figure), drawn_as(figure)
    several = len(figure.panels) > 1
    for number, panel in enumerate(figure.panels, 1):
        title = ": ".join(filter(None, (figure.title, panel.heading)))
        end = f"-{number}" if several else ""
        if kind == "cost":
            for of in ("images", "hours"):
                name = f"{panel.name}, {of}" if panel.name else ""
                yield f"{end}-{of}", name, cost.draw(panel, rows, title, of)
        else:
            draw = {"curve": curve.draw, "bars": bars.draw, "delta": delta.draw}
            yield end, panel.heading, draw.get(kind, matrix.draw)(panel, rows, title)


def _numbers(panel: Panel) -> list[Block]:
    """Return a panel's table, and its rows against the baseline."""
    found: list[Block] = [Heading(3, panel.heading)] if panel.heading else []
    found += sections.of_table(panel.table, panel.computed)
    return found + sections.of_differences(panel.table, panel.differences, panel.single_runs)


def _verdicts(figure: Shown) -> Iterator[str]:
    """Yield the verdict on each row of each panel: see `Shown.verdicts`."""
    found = []
    for panel in figure.panels:
        axis = panel.table.columns_axis
        for one in figure.verdicts(panel):
            place = f" at {axis} {one.column}" if one.column else ""
            over = f", mean over {one.columns} values of {axis}" if one.columns > 1 else place
            name = f"{panel.name}, {one.row}" if panel.name else one.row
            found.append(f"{name}{over}: {one.comparison.says}")
    yield from found[:_VERDICTS_SHOWN]
    if len(found) > _VERDICTS_SHOWN:
        yield f"and {len(found) - _VERDICTS_SHOWN} more below"


def _paper(figure: Shown, panel: Panel) -> list[Block]:
    """Return a paper's values beside ours, with what lies between them."""
    scale = scale_of(panel.table.metric)
    means = {(cell.row, cell.column): cell.mean for cell in panel.table.cells}
    rows = []
    for one in panel.paper:
        ours = means.get((one.row, one.column))
        rest = ["-", "-"] if ours is None else [scale.text(ours), scale.signed(ours - one.value)]
        place = [one.row, *([one.column] if panel.table.columns_axis else [])]
        cells = [*place, str(one.value), *rest]
        rows.append([Faint(cell) for cell in cells] if ours is None else cells)
    axes = [*filter(None, (panel.table.rows_axis, panel.table.columns_axis))]
    title = "Published values beside ours" + (f": {panel.name}" if panel.name else "")
    text = (
        f"Published values are from {figure.paper_source} and were not measured here. Ours can be "
        "compared with them only if data, network and evaluation are the same."
    )
    header = [*axes, "paper", "ours", "ours - paper"]
    return [Heading(3, title), Grid(header, rows, num_left=len(axes)), Paragraph(text)]


def _claims(checked: Sequence[Checked]) -> list[Block]:
    if not checked:
        return []
    rows = []
    for one in checked:
        cells = [one.claim, f"{_SIGNS[one.state]} {one.state}", one.says]
        rows.append([Faint(c) for c in cells] if one.state == "not decided yet" else cells)
    return [Heading(3, "Claims"), Grid(["claim", "state", "where"], rows, num_left=3)]
