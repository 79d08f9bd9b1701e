"""The matrix of a similarity stage: means over pairs of trials, by their configurations."""

from __future__ import annotations

import dataclasses
import json
import xml.etree.ElementTree as ET
from statistics import fmean, stdev

import pytest
from reports import finished, launched

from hpt_dist.recipe.figures import COMPARED, Matrix
from hpt_dist.report.alike import configurations_of
from hpt_dist.report.foreseen import doubts
from hpt_dist.report.report import Report, build

NAMES = [
    "features/seed=0,hpt.steps=5,hpt.seed=0,basis=moco",
    "features/seed=1,hpt.steps=5,hpt.seed=1,basis=moco",
    "features/seed=2,hpt.steps=5,hpt.seed=2,basis=moco",
    "features/seed=0,hpt.steps=5,hpt.seed=0,basis=supervised",
]
RV2 = [
    [1.0, 0.9, 0.8, 0.3],
    [0.9, 1.0, 0.7, 0.2],
    [0.8, 0.7, 1.0, 0.1],
    [0.3, 0.2, 0.1, 1.0],
]
IOU = [[None if 3 in (i, j) else 0.5 for i in range(4)] for j in range(4)]
MATRICES = {"features/rv2": RV2, "errors/iou": IOU}


def made(*, is_done: bool = True, **figure: object) -> Report:
    launch = launched([*NAMES, "alike"])
    compared = {name: launch.trials[name] for name in NAMES}
    settings = {"alike": {"compared": compared, "spec": {"kind": "similarity"}}}
    launch = dataclasses.replace(launch, report={"matrix": "alike", **figure}, settings=settings)
    details = {"trials": NAMES, "n_test": 40, "matrices": MATRICES, "welch": {}}
    metrics = {"similarity/features/rv2": 0.5}
    done = [finished("alike", metrics, kind="similarity", details=details, images=0)]
    return build(launch, done if is_done else [])


def cells(report: Report, panel: str) -> dict[tuple[str, str], object]:
    table = next(one.table for one in report.figures[0].panels if one.name == panel)
    return {(cell.row, cell.column): cell for cell in table.cells}


def test_a_cell_is_the_mean_over_pairs_of_different_trials() -> None:
    found = cells(made(), "features/rv2")
    moco, other = "moco", "supervised"
    diagonal, across, single = found[moco, moco], found[moco, other], found[other, other]
    assert diagonal.values == (0.9, 0.8, 0.7)  # no trial with itself
    assert diagonal.mean == pytest.approx(fmean((0.9, 0.8, 0.7)))
    assert diagonal.std == pytest.approx(stdev((0.9, 0.8, 0.7)))
    assert across.values == found[other, moco].values == (0.3, 0.2, 0.1)
    assert (single.planned, single.mean) == (0, None)  # one trial has no pair


def test_each_matrix_has_a_panel_and_what_cannot_be_computed_no_value() -> None:
    report = made()
    expected = ["features/rv2", "features/cka", "outputs/rv2", "outputs/cka", "errors/iou"]
    assert [panel.name for panel in report.figures[0].panels] == expected
    found = cells(report, "errors/iou")
    assert found["moco", "moco"].values == (0.5, 0.5, 0.5)
    across = found["moco", "supervised"]
    assert (across.planned, across.mean) == (0, None)  # it is done, and there is none
    assert report.notes == ()
    assert json.dumps(report.as_json())
    drawn = report.drawings()
    assert len(drawn) == len(expected)
    drawing = [one.text for one in ET.fromstring(drawn["figure-1-1.svg"]).iter()]
    assert "0.800" in drawing
    assert drawing.count("nothing to measure") == 1


def test_published_values_stand_in_their_cells_and_beside_ours() -> None:
    paper = {"features/rv2": {"moco": {"moco": 0.98, "supervised": 0.78}}}
    report = made(paper=paper, paper_source="a paper, page 3")
    drawn = report.drawings()
    texts = [one.text for one in ET.fromstring(drawn["figure-1-1.svg"]).iter()]
    assert texts.count("[0.98]") == texts.count("[0.78]") == 1
    assert b"[" not in drawn["figure-1-5.svg"]
    page = " ".join(report.markdown().split())
    assert "| moco | moco | 0.98 | 0.800 | -0.180 |" in page
    assert "| moco | supervised | 0.78 | 0.200 | -0.580 |" in page
    assert "In brackets: a paper, page 3." in report.html()
    figure = Matrix(matrix="alike", paper=paper)
    launch = launched([*NAMES, "alike"])
    documents = {"alike": {"compared": dict.fromkeys(NAMES, "")}}
    assert doubts(figure, launch.trials, (), documents) == []
    for wrong, says in (
        ({"features/rv3": {"moco": {"moco": 1}}}, "values of features/rv3, and the matrices will"),
        ({"errors/iou": {"moco": {"sup": 1}}}, '"moco" and "sup", of which there will be no pair'),
    ):
        [(setting, what)] = doubts(
            Matrix(matrix="alike", paper=wrong), launch.trials, (), documents
        )
        assert setting == "paper"
        assert says in what


def test_a_metric_is_one_panel() -> None:
    [panel] = made(metric="errors/iou").figures[0].panels
    assert panel.table.metric == "errors/iou"


def test_a_column_of_several_axes_has_a_line_for_each() -> None:
    names = [f"p/lr={lr},basis={basis}" for lr in (50, 5000) for basis in ("moco", "supervised")]
    launch = dataclasses.replace(launched(["alike"]), report={"matrix": "alike"})
    details = {"trials": names, "matrices": {"errors/iou": RV2}}
    report = build(launch, [finished("alike", {}, kind="similarity", details=details, images=0)])
    drawing = ET.fromstring(report.drawings()["figure-1-5.svg"])
    texts = [one.text for one in drawing.iter() if one.tag.endswith("text")]
    assert texts[0] == "lr, basis"
    assert texts[1:9] == ["moco", "50", "supervised", "50", "moco", "5000", "supervised", "5000"]


def test_what_is_not_done_has_its_places() -> None:
    report = made(is_done=False)
    found = cells(report, "features/rv2")
    assert {place: cell.planned for place, cell in found.items()} == {
        ("moco", "moco"): 3,
        ("moco", "supervised"): 3,
        ("supervised", "moco"): 3,
        ("supervised", "supervised"): 0,
    }
    assert all(cell.mean is None for cell in found.values())
    assert b"not done" in report.drawings().get("figure-1-1.svg", b"not drawn")


def test_a_result_whose_matrices_do_not_fit_gives_no_values() -> None:
    launch = launched([*NAMES, "alike"])
    launch = dataclasses.replace(launch, report={"matrix": "alike"})
    details = {"trials": NAMES, "matrices": {"features/rv2": [[1.0]]}}
    report = build(launch, [finished("alike", {}, kind="similarity", details=details, images=0)])
    assert all(cell.mean is None for one in report.figures[0].panels for cell in one.table.cells)


def test_a_launch_of_before_that_recorded_no_settings_is_reported() -> None:
    launch = dataclasses.replace(launched(["alike"]), report={"matrix": "alike"})
    assert "how alike" in build(launch, []).html()


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["probe/seed=0", "probe/seed=1"], (COMPARED, ["probe", "probe"])),
        (["a/lr=1,b=2,seed=0", "a/lr=2,b=2,seed=0"], ("lr", ["1", "2"])),
        (["a/lr=1,b=1", "a/lr=2,b=2"], ("lr, b", ["1, 1", "2, 2"])),
        (["a/lr=1,b=1", "b/b=1"], (COMPARED, ["a, lr=1", "b"])),
        (["a/init=x", "a/init=y,y.steps=5"], (COMPARED, ["init=x", "init=y, y.steps=5"])),
        ([], (COMPARED, [])),
    ],
)
def test_a_configuration_is_what_tells_trials_apart_but_for_seeds(
    names: list[str], expected: tuple[str, list[str]]
) -> None:
    assert configurations_of(names) == expected
