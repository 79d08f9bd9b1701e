"""A list of figures: what a launch records of it, and what is followed of the file now."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from reports import launched

from hpt_dist.launch import report_settings
from hpt_dist.recipe.file import load
from hpt_dist.trial.records import Launch

ALONG = "{curve: alike, metric: errors/iou, reference: best on validation, rows: init, columns: "
RECIPE = """\
name: quick
store: ./store
datasets: {photos: photos}
backbone: resnet18
stages:
  base: {kind: import, weights: torchvision/resnet18/IMAGENET1K_V1}
  hpt: {kind: pretrain, init: base, data: [photos/train], sweep: {steps: [50, 500]}}
  probe: {kind: linear, data: photos, sweep: {init: [base, hpt], seed: [0, 1]}}
  other: {kind: knn, data: photos, sweep: {init: [base, hpt]}}
report:
  - {table: probe, rows: init, columns: steps}
  - {bars: [probe, other], rows: init}
"""
NAMES = [
    "base",
    *(f"hpt/steps={steps}" for steps in (50, 500)),
    *(f"probe/init=base,seed={seed}" for seed in (0, 1)),
    *(f"probe/init=hpt,seed={seed},hpt.steps={steps}" for seed in (0, 1) for steps in (50, 500)),
    "other/init=base",
    *(f"other/init=hpt,hpt.steps={steps}" for steps in (50, 500)),
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "quick.yaml"
    path.write_text(RECIPE)
    return path


def recorded(file: Path, stages: set[str] | None = None, *options: str) -> Launch:
    recipe = load(file, options)
    every = {"base", "hpt", "probe", "other"} if stages is None else stages
    return dataclasses.replace(
        launched(NAMES),
        file=str(file),
        report=report_settings.of(recipe, every),
        report_set=report_settings.by_option(recipe),
    )


def test_a_launch_of_some_stages_has_their_figures(file: Path) -> None:
    kinds = [set(one) & {"table", "bars"} for one in recorded(file).report["figures"]]
    assert kinds == [{"table"}, {"bars"}]
    found = recorded(file, {"other"}).report
    assert [one.get("bars") for one in found["figures"]] == ["other"]
    assert recorded(file, {"base"}).report == {}


def test_what_the_file_says_now_is_followed(file: Path) -> None:
    launch = recorded(file)
    assert report_settings.followed(launch, "quick") == (launch, "")
    file.write_text(
        RECIPE.replace("  - {bars: [probe, other], rows: init}\n", "  - {cost: probe}\n")
    )
    found, says = report_settings.followed(launch, "quick")
    assert says.startswith("report as in")
    assert [set(one) & {"table", "cost"} for one in found.report["figures"]] == [
        {"table"},
        {"cost"},
    ]
    assert report_settings.followed(launch, launch.id) == (launch, "")


def test_one_figure_in_place_of_a_list_is_followed_too(file: Path) -> None:
    launch = recorded(file)
    head = RECIPE.partition("report:")[0]
    file.write_text(f"{head}report: {{table: probe, rows: init}}\n")
    found, _ = report_settings.followed(launch, "quick")
    assert found.report["table"] == "probe"


def test_an_axis_that_no_trial_has_needs_another_launch(file: Path) -> None:
    launch = recorded(file)
    text = RECIPE.replace("seed: [0, 1]}", "seed: [0, 1], views: [1, 4]}")
    file.write_text(text.replace("columns: steps", "columns: views"))
    found, says = report_settings.followed(launch, "quick")
    assert found is launch
    assert "asks for views, which" in says


def test_figures_of_what_is_compared_are_followed(file: Path) -> None:
    text = RECIPE.replace(
        "report:", "  alike: {kind: similarity, of: [probe], data: photos}\nreport:"
    )
    file.write_text(text)
    names = [*NAMES, "alike"]
    compared = {name: "0" * 64 for name in NAMES if name.startswith("probe/")}
    launch = dataclasses.replace(
        recorded(file), trials=launched(names).trials, settings={"alike": {"compared": compared}}
    )
    for figure in (ALONG + "steps}", "{matrix: alike}"):
        file.write_text(text + f"  - {figure}\n")
        found, says = report_settings.followed(launch, "quick")
        assert len(found.report["figures"]) == 3, says
    launch = dataclasses.replace(launch, settings={"alike": {"compared": {"probe/init=base": ""}}})
    file.write_text(text + f"  - {ALONG}steps}}\n")
    found, says = report_settings.followed(launch, "quick")
    assert found is launch
    assert "asks for steps, which" in says


def test_a_list_that_an_option_gave_stays(file: Path) -> None:
    launch = recorded(file, None, "report=[{matrix: probe, rows: init, columns: steps}]")
    assert launch.report_set == ("figures",)
    assert report_settings.followed(launch, "quick") == (launch, "")


def test_figures_of_which_an_option_changed_one_stay(file: Path) -> None:
    launch = recorded(file, None, "report.1.title=Both")
    assert launch.report_set == ("figures",)
    file.write_text(RECIPE.replace("columns: steps", "columns: hpt.steps"))
    found, _ = report_settings.followed(launch, "quick")
    assert [one.get("title") for one in found.report["figures"]] == [None, "Both"]
    assert found.report["figures"][0]["columns"] == "steps"
