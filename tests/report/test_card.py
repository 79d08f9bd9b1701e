"""The model card of pulled weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
from many_figures import FIGURES, SETS, everything

from hpt_dist.report import card
from hpt_dist.report.exhibits import DataCard, Exhibits, WeightsCard
from hpt_dist.report.report import build

EXHIBITS = Exhibits(
    data=(
        DataCard("photos", "photos", "CC BY 4.0", "Ada", {"train": 1200}),
        DataCard("other", "other", "not stated", "", {}),
    ),
    weights=(
        WeightsCard("base", "torchvision/resnet18/IMAGENET1K_V1", "BSD-3-Clause"),
        WeightsCard("elsewhere", "x", "y"),
    ),
    recipe="name: quick\n",
    options=("stages.hpt.steps=50",),
)


def text_of(name: str, exhibits: Exhibits = EXHIBITS) -> str:
    launch, done = everything([*FIGURES[1:2]])
    report = build(launch, done)
    return card.markdown(report, exhibits, {one.name: one for one in done}, name)


@pytest.fixture(scope="module")
def text() -> str:
    return " ".join(text_of("hpt/steps=5000").split())


def test_what_it_rests_on_is_named_with_its_cost(text: str) -> None:
    assert text.startswith("# quick/hpt/steps=5000 - kind: pretrain, of stage hpt, seed 0")
    assert "base: import - hpt/steps=5000: pretrain from base, 2,560,000 image views, 0.79" in text
    assert "target" not in text.partition("## Results")[0]


def test_only_its_own_data_and_weights_are_listed(text: str) -> None:
    assert "| photos | photos | CC BY 4.0 | Ada | train 1,200 |" in text
    assert "| base | torchvision/resnet18/IMAGENET1K_V1 | BSD-3-Clause |" in text
    assert "elsewhere" not in text
    assert "| other" not in text


def test_the_rows_that_rest_on_it_have_their_intervals(text: str) -> None:
    results = text.partition("## Results")[2].partition("## Intended use")[0]
    assert "| few | hpt | data resisc | test/top1 |" in results
    assert "helped by +" in results
    assert "(n=3)" in results
    assert "| hpt_bn |" not in results
    assert "| target |" not in results
    assert "So far: 162 of 165 trials of the launch are done." in results


def test_a_curve_gives_the_columns_that_rest_on_it_once() -> None:
    launch, done = everything([FIGURES[0], *FIGURES[1:]])
    report = build(launch, done)
    text = card.markdown(report, EXHIBITS, {one.name: one for one in done}, "hpt/steps=500")
    lines = [line for line in text.splitlines() if line.startswith("| features")]
    assert len(lines) == len(SETS)
    assert all(" steps 500 " in line for line in lines)


def test_use_limits_and_recipe_follow(text: str) -> None:
    assert "starting point for images like those of photos" in text
    assert "No test of bias or of safety was made." in text
    assert "stages.hpt.steps=50" in text
    assert text.endswith("``` name: quick ```") or "name: quick" in text


def test_a_recipe_cannot_close_its_own_block() -> None:
    hostile = replace(EXHIBITS, recipe="a\n```\n# not a heading\n````\n")
    assert "\n`````\na\n```\n# not a heading\n````\n`````" in text_of("hpt/steps=5000", hostile)
