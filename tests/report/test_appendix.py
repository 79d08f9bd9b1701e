"""What follows the figures: single trainings with their curves, lineage, licences, the recipe."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from many_figures import everything

from hpt_dist.page import Grid, Heading
from hpt_dist.report.exhibits import (
    MOST_POINTS,
    MOST_TRIALS,
    DataCard,
    Exhibits,
    TrialCard,
    WeightsCard,
    curves_of,
    headline,
    thinned,
)
from hpt_dist.report.figures import graph
from hpt_dist.report.lineage import Node, ancestors, nodes_of
from hpt_dist.report.report import Report, build

NASTY = '<script>alert(1)</script><img src=x>"&'
CARD = TrialCard(
    name="hpt/steps=50",
    key="a" * 64,
    says="pretrain (moco_v2) from base, reads photos",
    verdict="this stage helped by +3.0 \u00b1 1.0 points",
    numerics="float32, channels_last on a CPU",
    versions={"torch": "2.9"},
    seconds=7200,
    place="s3://bucket/store/stages/aaaa",
    pull="hpt-dist pull quick/hpt DEST",
    run="https://mlflow.example/#/experiments/1/runs/2",
    curves={"loss": tuple((step, 1 / (step + 1)) for step in range(100))},
)
EXHIBITS = Exhibits(
    trials=(CARD,),
    more=3,
    data=(DataCard("photos", "photos", "CC BY 4.0", "Ada", {"train": 1200}),),
    weights=(WeightsCard("base", "torchvision/resnet18/IMAGENET1K_V1", ""),),
    recipe="name: quick\nstore: ./s # as it is\n",
    options=("stages.hpt.steps=50",),
    links={"this launch in MLflow": "https://mlflow.example/#/experiments/1"},
    commands=("hpt-dist status quick",),
)


@pytest.fixture(scope="module")
def report() -> Report:
    return build(*everything())


def nodes() -> dict[str, Node]:
    launch, done = everything()
    return nodes_of(launch.trials, launch.settings, done)


def test_a_page_has_all_of_it(report: Report) -> None:
    html = report.html(EXHIBITS)
    assert "pretrain (moco_v2) from base" in html
    assert "3 more finished trials" in html
    assert 'aria-label="hpt/steps=50: loss"' in html
    assert "CC BY 4.0" in html
    assert '<td class="faint">not stated</td>' in html
    assert "store: ./s # as it is" in html
    assert "stages.hpt.steps=50" in html
    assert 'href="https://mlflow.example/#/experiments/1/runs/2"' in html
    assert "hpt-dist pull quick/hpt DEST" in html
    assert "Lineage" in html
    assert report.html() == build(*everything()).html()
    assert "Lineage" not in report.html()


def test_names_of_others_stay_text(report: Report) -> None:
    card = replace(
        CARD,
        name=NASTY,
        says=NASTY,
        numerics=NASTY,
        place=NASTY,
        pull=NASTY,
        run="javascript:alert(1)",
        curves={NASTY: ((0, 1.0), (1, 2.0))},
    )
    data = DataCard(NASTY, NASTY, NASTY, NASTY, {NASTY: 1}, NASTY)
    hostile = Exhibits(
        (card,), 1, (data,), (WeightsCard(NASTY, NASTY, NASTY),), NASTY, (NASTY,), {NASTY: NASTY}
    )
    html = report.html(hostile)
    assert html.count("<script>") == 1
    assert "<img" not in html
    assert "href=" not in html


def test_twelve_trainings_of_all_stages_are_shown_in_turn() -> None:
    shown = headline(nodes().values())
    assert len(shown) <= MOST_TRIALS
    assert [node.stage for node in shown[:3]] == ["target", "hpt", "hpt_bn"]
    assert all(node.pretrains and node.is_done for node in shown)
    many = [
        Node(f"{stage}/seed={n}", f"{n}", stage, kind, "", (), is_done=True)
        for stage, kind in (("adapt", "mme"), ("a", "pretrain"), ("b", "pretrain"))
        for n in range(10)
    ]
    assert [node.stage for node in headline(many)] == ["a", "b"] * 6
    chosen = Node("adapt", "0", "adapt", "mme", "", (), is_done=True, others=("adapt/seed=0",))
    assert "adapt/seed=0" not in [node.name for node in headline([chosen, *many[:10]])]


@given(st.lists(st.floats(allow_nan=False), max_size=400), st.integers(2, 100))
def test_thinned_curves_keep_their_ends(values: list[float], most: int) -> None:
    points = list(enumerate(values))
    found = thinned(points, most)
    assert len(found) == min(len(points), most)
    assert set(found) <= set(points)
    assert list(found) == sorted(set(found))
    assert not points or (found[0], found[-1]) == (points[0], points[-1])


def test_curves_are_the_metrics_that_there_are() -> None:
    lines = [(step, {"train/loss": 1.0, "train/lr": 0.1}) for step in range(500)]
    lines += [(0, {"knn/top1": 0.5}), (499, {"knn/top1": 0.6}), (499, {"kept/knn/top1": 0.6})]
    lines += [(step, {"train/anchor": 0.02}) for step in (0, 9)]
    found = curves_of(lines)
    names = {"loss", "accuracy on validation", "learning rate"}
    assert found.keys() == names | {"distance from the start (1 - cosine)"}
    assert len(found["loss"]) == MOST_POINTS


def test_the_lineage_draws_each_stage_and_dataset_once() -> None:
    drawing = ET.fromstring(graph.draw(list(nodes().values()), "lineage"))
    names = [one.text for one in drawing.iter("{http://www.w3.org/2000/svg}text")]
    for stage in ("base", "target", "hpt", "hpt_bn", "features", "few"):
        assert names.count(stage) == 1
    assert names.count("photos") == 1
    assert "linear, 45 of 48 done" in names


def test_a_trial_knows_what_it_starts_from() -> None:
    every = nodes()
    name = next(name for name in every if name.startswith("features/init=hpt,"))
    assert [node.stage for node in ancestors(every, name)] == ["hpt", "base"]


@pytest.mark.parametrize("depth", [1, 30])
def test_a_long_line_of_starts_is_drawn(depth: int) -> None:
    chain = [
        Node(f"s{n}", f"{n}", f"s{n}", "pretrain", f"s{n - 1}" if n else "", ("d",), is_done=True)
        for n in range(depth)
    ]
    assert graph.draw(chain, "x").count("<rect") == 2 * (depth + 1)


def test_mistakes_are_shown_with_the_first_rows_of_long_tables(report: Report) -> None:
    rows = [[f"{NASTY}{n}", "x"] for n in range(30)]
    found = Exhibits(
        mistakes={"t": (Heading(1, f"Mistakes of {NASTY}"), Grid(["class", "n"], rows))}
    )
    html = report.html(found)
    assert "Mistakes on validation" in html
    assert "<h3>Mistakes of &lt;script&gt;" in html
    assert "<summary>All 30 rows</summary>" in html
    assert html.count("&quot;&amp;29</td>") == 1
    assert html.count("&quot;&amp;7</td>") == 2
    assert html.count("<script>") == 1


def test_whose_mistakes_are_shown(report: Report) -> None:
    best, baseline = report.answer.row, report.figures[0].baseline
    assert len(report.judged) == 2
    assert {name.partition("init=")[2].partition(",")[0] for name in report.judged} == {
        best,
        baseline,
    }
