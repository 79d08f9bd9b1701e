"""Figures of the paper run for real: small twins that extend the shipped recipes."""

import json

import pytest
from shared import made_once
from small import document, fill, hpt

SMALL = """\
datasets: {color: openmoji/color, line: openmoji/line}
backbone: timm/test_efficientnet
image: {size: 32}
"""
FIGURE_2 = (
    f"name: figure_2\nextends: paper/fig2_separability\n{SMALL}"
    + """\
groups: {dataset: [color, line]}
stages:
  base: {weights: random, seed: 1}
  random: null
  target: null
  hpt: {batch: 8, moco: {queue: 16}, sweep: {steps: [2, 4]}}
  hpt_bn: null
  features: {steps: 20, batch: 16, views: 1, sweep: {init: [base, hpt]}}
"""
)
FIGURE_4 = (
    f"name: figure_4\nextends: paper/fig4_sequential\n{SMALL}"
    + """\
groups:
  chain:
    xray: null
    aerial: null
    drawings: {source: color, target: line, source_steps: 4}
    itself: {source: color, target: color, source_steps: 4}
stages:
  base: {weights: random, seed: 1}
  random: null
  t: null
  s: {batch: 8, moco: {queue: 16}}
  b_t: null
  s_t: {batch: 8, moco: {queue: 16}, steps: 2}
  s_t_bn: null
  tuned:
    labels: 60
    batch: 16
    steps: 4
    choose: {schedule: null}
    sweep: {init: [s_t]}
"""
)


@pytest.fixture(scope="module")
def launched(drawings, mlflow_tables, tmp_path_factory):
    """A store in which both twins went through."""

    def make(folder):
        store = fill(folder / "store", drawings, mlflow_tables)
        for name, text in (("figure_2", FIGURE_2), ("figure_4", FIGURE_4)):
            (folder / f"{name}.yaml").write_text(text)
            printed = hpt("launch", str(folder / f"{name}.yaml"), store=str(store))
            (folder / f"{name}.txt").write_text(printed)

    return made_once(tmp_path_factory, "twins", make)


def done(folder, name):
    """Return what `plan` says of each trial of a twin, by its name."""
    plan = document(
        hpt("plan", str(folder / f"{name}.yaml"), "--json", store=str(folder / "store"))
    )
    assert {trial["state"] for trial in plan} == {"cached"}
    return {trial["trial"]: trial for trial in plan}


def spec_of(folder, trial):
    return json.loads((folder / f"store/stages/{trial['key']}/spec.json").read_text())


def test_figure_2_pretrains_and_judges_each_dataset_by_itself(launched):
    trials = done(launched, "figure_2")
    assert len(trials) == 1 + 2 * 2 + 2 * (1 + 2)
    for dataset in ("color", "line"):
        hpt_4 = trials[f"hpt/dataset={dataset},steps=4"]
        features = spec_of(launched, trials[f"features/dataset={dataset},init=hpt,hpt.steps=4"])
        assert features["init"] == hpt_4["key"]
        assert list(features["datasets"]) == [dataset]
        assert spec_of(launched, hpt_4)["spec"]["data"] == [f"{dataset}/train", f"{dataset}/val"]
    printed = (launched / "figure_2.txt").read_text()
    assert "features: test/top1 by init and dataset" in printed
    assert "color" in printed
    assert "line" in printed


def test_figure_4_goes_from_the_source_to_the_target_and_val_chooses_the_rate(launched):
    trials = done(launched, "figure_4")
    source, target = trials["s/chain=drawings"], trials["s_t/chain=drawings"]
    assert spec_of(launched, source)["spec"]["data"] == ["color/train", "color/val"]
    assert spec_of(launched, target)["init"] == source["key"]
    assert spec_of(launched, target)["spec"]["data"] == ["line/train", "line/val"]
    tuned = trials["tuned/chain=drawings,init=s_t"]
    result = json.loads((launched / f"store/stages/{tuned['key']}/result.json").read_text())
    assert 0 <= result["metrics"]["test/top1"] <= 1
    candidates = spec_of(launched, tuned)["candidates"]
    rates = {
        json.loads((launched / f"store/stages/{key}/spec.json").read_text())["spec"]["optimizer"][
            "lr"
        ]
        for key in candidates
    }
    assert rates == {0.01, 0.001}
    # Both chains have the same source, which figure 2 has pretrained: it ran once.
    assert source["key"] == done(launched, "figure_2")["hpt/dataset=color,steps=4"]["key"]
    assert trials["s/chain=itself"]["key"] == source["key"]
    assert spec_of(launched, trials["s_t/chain=itself"])["init"] == source["key"]
    assert "tuned: test/top1 by init and chain" in (launched / "figure_4.txt").read_text()
