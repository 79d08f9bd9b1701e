"""The figures of a report: what each kind shows, and that names cannot leave their text."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st
from many_figures import FIGURES, SETS, everything
from reports import finished, launched

from hpt_dist.report.figures.axis import across, ticks
from hpt_dist.report.report import Report, build

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def report() -> Report:
    return build(*everything())


def parsed(data: bytes) -> ET.Element:
    return ET.fromstring(data)


def texts(drawing: ET.Element) -> list[str]:
    return [one.text or "" for one in drawing.iter(f"{SVG}text")]


def hints(drawing: ET.Element) -> list[str]:
    return [one.text or "" for one in drawing.iter(f"{SVG}title")]


def test_each_drawing_is_an_svg_that_says_what_it_is(report: Report) -> None:
    drawn = report.drawings()
    assert len(drawn) == 4 + 1 + 1 + 1 + 1 + 2 * 4
    for data in drawn.values():
        root = parsed(data)
        assert root.get("role") == "img"
        assert root.get("aria-label")
        desc = root.find(f"{SVG}desc")
        assert desc is not None
        assert desc.text
        assert len(data) < 12_000


def test_a_curve_has_a_line_for_each_strategy_by_steps(report: Report) -> None:
    figure = report.figures[0]
    assert [panel.name for panel in figure.panels] == list(SETS)
    panel = figure.panels[0]
    assert panel.table.columns == ("50", "500", "5000", "50000", "200000")
    assert panel.table.rows == ("base", "target", "hpt", "hpt_bn")
    assert panel.constant == ("base",)  # hpt_bn's steps are its stage's, which sweeps none
    planned = {(cell.row, cell.column): cell.planned for cell in panel.table.cells}
    assert planned["hpt_bn", "5000"] == 3
    assert planned["hpt_bn", "50"] == 0
    assert planned["base", "50"] == 3
    drawing = parsed(report.drawings()["figure-1-1.svg"])
    assert {"50", "500", "5k", "50k", "200k", "steps", "test/top1, %"} <= set(texts(drawing))
    marks = [hint for hint in hints(drawing) if hint.startswith("hpt, steps")]
    assert len(marks) == 4


def test_a_row_of_a_curve_is_judged_at_its_last_column(report: Report) -> None:
    figure = report.figures[0]
    last = {one.row: one.column for one in figure.verdicts(figure.panels[0])}
    assert last == {"target": "200000", "hpt": "50000", "hpt_bn": "5000"}


def test_what_is_not_done_is_shown_as_that(report: Report) -> None:
    bars = parsed(report.drawings()["figure-2.svg"])
    assert [hint for hint in hints(bars) if "not done" in hint] == ["hpt_bn: not done"]
    matrix = parsed(report.drawings()["figure-4.svg"])
    assert [hint for hint in hints(matrix) if "not done" in hint] == ["not done"]
    delta = parsed(report.drawings()["figure-3.svg"])
    assert "not done yet" in texts(delta)
    assert '<td class="number faint">- (0 of 3 done)</td>' in report.html()


def test_a_papers_values_stand_beside_ours(report: Report) -> None:
    bars = parsed(report.drawings()["figure-2.svg"])
    assert [hint for hint in hints(bars) if hint.startswith("paper")] == [
        "paper, base: 71.2",
        "paper, hpt: 80.4",
        "paper, hpt: 90.1",
    ]
    text = " ".join(report.markdown().split())
    assert "Published values are from arXiv 2103.12718, figure 3 and were not measured here" in text
    assert re.search(r"\| hpt \| ucmerced \| 90\.1 \| 8\d\.\d \| -\d\.\d points \|", text)


def test_costs_are_of_the_training_behind_a_cell(report: Report) -> None:
    spent = {(one.row, one.column): one for one in report.figures[-1].panels[0].spent}
    assert spent["base", ""].images == 0
    hpt = spent["hpt (hpt.steps=5000)", ""]
    assert hpt.images == 5000 * 512
    assert hpt.hours == pytest.approx(5000 * 512 / 900 / 3600)
    assert (hpt.base, hpt.unit) == ("base", "CPU-hours")


def test_every_kind_survives_that_nothing_is_done() -> None:
    launch, _ = everything()
    report = build(launch, [])
    assert report.answer.verdict == "none"
    assert "Nothing is done yet" in report.markdown()
    for data in report.drawings().values():
        parsed(data)


@given(st.text(max_size=30), st.text(max_size=30))
def test_names_cannot_leave_their_text(row: str, column: str) -> None:
    columns = [column or "x", "</svg><script>alert(1)</script>"]
    names = [
        f"adapt/init={init},shots={one},seed=0"
        for init in (row or "r", "<img src=x onerror=alert(1)>")
        for one in columns
    ]
    done = [finished(name, {"test/top1": 0.5}) for name in names]
    for kind in ("curve", "bars", "delta", "matrix"):
        figure = {kind: "adapt", "rows": "init", "columns": "shots", "title": "</title><b>"}
        launch = launched(names)
        object.__setattr__(launch, "report", {"figures": [figure]})
        report = build(launch, done)
        for data in report.drawings().values():
            tags = {one.tag.removeprefix(SVG) for one in parsed(data).iter()}
            assert tags <= {"svg", "title", "desc", "path", "text", "rect", "circle"}
        page = report.html()
        assert page.count("<script>") == 1
        assert "<img" not in page
        assert "<b>" not in page


@given(st.floats(-1e4, 1e4), st.floats(1e-4, 1e9))
def test_ticks_are_round_and_inside(low: float, span: float) -> None:
    high = low + span
    found = ticks(low, high)
    assert 1 <= len(found.values) <= 12
    slack = span * 1e-6
    assert all(low - slack <= value <= high + slack for value in found.values)


def test_numbers_that_span_much_are_by_their_logarithm() -> None:
    log, even, named = across(("1", "10", "100")), across(("1", "2", "3")), across(("a", "b"))
    assert log.at("10") - log.at("1") == pytest.approx(log.at("100") - log.at("10"))
    assert even.at("2") - even.at("1") == pytest.approx(even.at("3") - even.at("2"))
    assert named.at("a") < named.at("b")


def test_the_figures_are_in_the_json() -> None:
    plain = build(*everything()).as_json()
    assert [one["kind"] for one in plain["figures"]] == [next(iter(one)) for one in FIGURES]
    assert plain["table"] == plain["figures"][0]["panels"][0]["table"]
    assert plain["claims"][0][0]["state"] == "not held"
