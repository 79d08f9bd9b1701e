"""The section `report`: one figure or a list, checked with the line of each fault."""

from __future__ import annotations

import pytest

from hpt_dist.errors import RecipeError
from hpt_dist.recipe import claims, figures
from hpt_dist.recipe.file import parse, schema

HEAD = """\
name: curves
store: ./store
datasets: {photos: photos}
backbone: resnet18
stages:
  base: {kind: import, weights: torchvision/resnet18/IMAGENET1K_V1}
  hpt:
    kind: pretrain
    init: base
    data: [photos/train]
    sweep: {steps: [50, 500]}
  probe:
    kind: linear
    data: photos
    sweep: {init: [base, hpt], seed: [0, 1]}
  other: {kind: knn, data: photos, sweep: {init: [base, hpt]}}
  alike: {kind: similarity, of: [probe], data: photos}
report:
"""
ALONG = "{curve: alike, rows: init, columns: steps, reference: best on validation"
FIRST_LINE = HEAD.count("\n") + 1


def faults(report: str) -> str:
    with pytest.raises(RecipeError) as caught:
        parse(HEAD + report)
    return str(caught.value)


def test_one_figure_is_a_list_of_one():
    alone = parse(HEAD + "  {table: probe, rows: init}\n")
    listed = parse(HEAD + "  - {table: probe, rows: init}\n")
    assert alone.report == listed.report
    assert alone.report[0].stages == ("probe",)
    assert alone.where(*alone.report_path(0), "rows").endswith("report.rows")
    assert listed.where(*listed.report_path(0), "rows").endswith("report.0.rows")


def test_every_kind_is_read():
    report = """\
  - {curve: probe, rows: init, columns: steps}
  - {bars: [probe, other], rows: init}
  - {delta: probe, rows: init, panels: seed}
  - {matrix: probe, rows: init, columns: hpt.steps}
  - {table: probe, rows: init}
  - {cost: probe}
"""
    found = parse(HEAD + report).report
    assert [one.kind for one in found] == ["curve", "bars", "delta", "matrix", "table", "cost"]
    assert {one.kind for one in found} == set(figures.FIGURES)


@pytest.mark.parametrize("more", ["", ", metric: errors/iou", ", title: alike"])
def test_a_matrix_of_what_is_compared_names_no_axes(more):
    [figure] = parse(HEAD + f"  {{matrix: alike{more}}}\n").report
    assert figure.of_compared
    [again] = figures.read(figures.recorded(figure, figure.stages))
    assert again == figure


@pytest.mark.parametrize("reference", ["best on validation", "probe/init=hpt*steps=500"])
def test_a_curve_of_what_is_compared_has_its_axes(reference):
    line = f'  {{curve: alike, metric: outputs/rv2, reference: "{reference}", rows: init, '
    [figure] = parse(f"{HEAD}{line}columns: steps, panels: seed}}\n").report
    assert figure.of_compared
    assert not figure.has_verdicts
    [again] = figures.read(figures.recorded(figure, figure.stages))
    assert again == figure


@pytest.mark.parametrize(
    ("figure", "path", "says"),
    [
        ("{matrix: probe}", ".rows", "a stage of kind similarity alone has its own"),
        ("{matrix: [alike, probe]}", ".rows", "rows is missing"),
        ("{matrix: probe, rows: init}", ".rows", "columns is missing"),
        ("{matrix: probe, columns: init}", ".columns", "rows is missing"),
        ("{matrix: alike, metric: errors/iuo}", ".metric", "did you mean errors/iou?"),
        ("{matrix: alike, metric: flattened/rv2}", ".metric", "allowed: features/rv2"),
        ("{matrix: alike, panels: seed}", ".panels", "takes no panels"),
        ("{matrix: alike, claims: [a above b]}", ".claims", "takes no claims"),
        ("{matrix: alike, paper: {a: 1}}", ".paper.a", "PANEL: {ROW: {COLUMN: NUMBER}}"),
        (ALONG + "}", ".metric", "metric is missing"),
        (ALONG + ", metric: test/top1}", ".metric", "allowed: features/rv2, features/cka"),
        (
            ALONG + ", metric: outputs/rv2, panels: step}",
            ".panels",
            "alike and probe have no sweep",
        ),
        (ALONG.replace("alike", "probe") + "}", ".reference", "probe compares no trials"),
        (ALONG + ", metric: errors/iou, claims: [hpt helped]}", ".claims.0", "no verdict judges"),
        (ALONG + ", metric: errors/iou, compare: paper/x}", ".compare", "use paper"),
        (ALONG.replace("validation", "val") + ", metric: errors/iou}", ".reference", "best on val"),
        ("{curve: alike, rows: init, columns: steps}", ".rows", "give a reference"),
        ("{bars: alike, rows: init, reference: x}", ".reference", "unknown setting reference"),
        ("{bar: probe, rows: init}", "", "did you mean bars?"),
        ("{curve: probe, bars: probe, rows: init}", "", "it is curve and bars at once"),
        ("probe", "", "a figure is a mapping of settings"),
        ("{curve: probe, rows: init}", ".columns", "columns is missing"),
        ("{curve: probe, rows: init, columns: step}", ".columns", "did you mean steps?"),
        ("{table: [probe, prob], rows: init}", ".table.1", "did you mean probe?"),
        ("{table: probe, rows: init, metric: test/tap1}", ".metric", "did you mean test/top1?"),
        ("{table: [probe, other], rows: init, panels: seed}", ".panels", "are a panel each"),
        ("{bars: probe, rows: init, columns: init}", ".columns", "makes the rows already"),
        ("{table: probe, rows: init, paper: {hpt: {1: 2}}}", ".paper", "allowed: ROW: NUMBER"),
        ("{table: probe, rows: init, paper: {hpt: much}}", ".paper", "'much' is no number"),
        ("{table: probe, rows: init, paper_source: x}", ".paper_source", "no values"),
        ("{table: probe, rows: init, claims: [hpt wins]}", ".claims.0", "no claim that can be"),
        ("{table: probe, rows: init, claims: [hpt helped on 3 of 2]}", ".claims.0", "3 of 2"),
        ("{table: probe, rows: init, colour: red}", ".colour", "unknown setting colour"),
    ],
)
def test_a_fault_has_its_line_and_path(figure, path, says):
    lines = faults(f"  - {{table: probe, rows: init}}\n  - {figure}\n")
    assert f"recipe.yaml:{FIRST_LINE + 1} report.1{path}" in lines
    assert says in lines


def test_all_faults_come_at_once():
    found = faults("  - {bar: probe}\n  - {table: prob, rows: init}\n  - {cost: probe, rows: x}\n")
    assert found.startswith("3 problems")


def test_the_report_is_in_no_key_and_in_the_schema():
    assert parse(HEAD + "  - {cost: probe}\n").stages == parse(HEAD + "  {cost: probe}\n").stages
    choices = schema()["properties"]["report"]["oneOf"]
    kinds = [(set(one["properties"]) & set(figures.FIGURES)).pop() for one in choices[:6]]
    assert kinds == list(figures.FIGURES)
    assert choices[6]["type"] == "array"


@pytest.mark.parametrize(
    ("line", "claim"),
    [
        ("hpt at least base on 15 of 16", ("hpt", "at least", "base", 0.0, 15, 16)),
        ("hpt (lr=1) above base + 2.5 on all", ("hpt (lr=1)", "above", "base", 2.5, None, None)),
        ("a b below c - 1", ("a b", "below", "c", -1.0, None, None)),
        ("hpt not harmed on 3 of 4", ("hpt", "not harmed", "", 0.0, 3, 4)),
        ("hpt helped", ("hpt", "helped", "", 0.0, None, None)),
        ("hpt within 1.5 of paper on 6 of 7", ("hpt", "within", "", 1.5, 6, 7)),
    ],
)
def test_claims_are_read(line, claim):
    found = claims.parse(line)
    assert (found.row, found.relation, found.other) == claim[:3]
    assert (found.offset, found.least, found.of) == claim[3:]


@pytest.mark.parametrize(
    "line", ["", "hpt", "hpt at least", "hpt beats base", "hpt helped on 0 of 2", "hpt helped on x"]
)
def test_what_is_no_claim_is_refused(line):
    with pytest.raises(ValueError, match=r"no claim|no number of places"):
        claims.parse(line)


def test_a_record_of_before_is_read_and_a_figure_is_recorded_as_one():
    before = {
        "table": "probe",
        "rows": "init",
        "columns": None,
        "metric": None,
        "baseline": "base",
        "compare": None,
    }
    [figure] = figures.read(before)
    assert figures.recorded(figure, figure.stages) == before
    several = {"figures": [before, {"cost": ["probe", "other"], "rows": "init"}]}
    assert [one.kind for one in figures.read(several)] == ["table", "cost"]
    assert figures.read({}) == []
