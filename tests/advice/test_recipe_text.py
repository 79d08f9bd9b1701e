"""The recommended text is a recipe: it plans without torch, at the cost that was counted."""

import subprocess
import sys

import pytest
import yaml
from seen import base, dataset, facts, planned, source

from hpt_dist.advice import cost, hours, recipe_text, rules
from hpt_dist.advice.facts import Difference, Pictures
from hpt_dist.recipe import plan

FEW = {"train": 210, "unlabeled": 90, "val": 45, "test": 45}
NETWORK = "timm/tf_efficientnet_lite0"
LEVEL = (Difference(f"{NETWORK}=b.pth", f"{NETWORK}=a.pth", -0.01, 0.1, "undecided"),)
CASES = {
    "usual": {},
    "few": {"target": dataset(images=FEW)},
    "tiny": {"target": dataset(images={"train": 9, "val": 3, "test": 3})},
    "many": {"target": dataset(images={"train": 200_000, "val": 20_000, "test": 20_000})},
    "gpu": {"device": "gpu"},
    "no labels": {"target": dataset(judges="none", images={"train": 900})},
    "no test": {"target": dataset(judges="val", images={"train": 90, "val": 30})},
    "multi": {"target": dataset(label="multi", metric="auroc")},
    "source": {"sources": (source("birds", 3.0),)},
    "sources": {"sources": (source("birds", 3.0), source("cats", 3.1))},
    "sources without labels": {
        "sources": (source("birds", 3.0), source("cats", 3.1)),
        "target": dataset(judges="none", images={"train": 900}),
    },
    "bases": {"bases": (base("a.pth", 0.61), base("b.pth", 0.6)), "differences": LEVEL},
    "vit": {"bases": (base(backbone="timm/vit_tiny_patch16_224"),)},
    "gray": {"pictures": Pictures(9, (28, 28, 28), 1.0, 0.0, 0.0, (0, 250))},
}


def written(found, limit=None, head=("A comment.",)):
    chosen = hours.fitted(rules.choices(found), found, limit)
    return recipe_text.text("advised", "s3://b/x", chosen, found, head), chosen


@pytest.mark.parametrize("case", CASES)
def test_it_plans_and_costs_what_was_counted(case):
    found = facts(**CASES[case])
    text, chosen = written(found)
    datasets = [found.target, *(one.dataset for one in found.sources)]
    trials = plan.unique(planned(text, datasets, found.device))
    work = cost.work(chosen, found)
    assert sum(one.views for one in work) == sum(trial.images for trial in trials)
    evaluated = [
        trial.spec.judged_on(trial.datasets)
        for trial in trials
        if trial.spec.reads() and not trial.candidates
    ]
    # A candidate reads no test, and the choice does, of one: that is as many images at most.
    assert sum(one.evaluated for one in work) == pytest.approx(sum(evaluated), rel=0.01)
    stages = yaml.safe_load(text)["stages"]
    assert ("features" in stages) == (found.target.judges == "test")
    assert stages["hpt"]["keep"] == ("last" if found.target.judges == "none" else "best")
    assert max(map(len, text.splitlines())) < 140


def test_each_decision_carries_its_reason():
    text, _ = written(facts(sources=(source("birds", 3.0),)), limit=2)
    lines = text.splitlines()
    for key in ("size", "normalize", "steps", "moco", "batch", "batch_norm", "augment", "monitor"):
        at = next(i for i, line in enumerate(lines) if line.strip().startswith(f"{key}: "))
        assert "# " in lines[at] or lines[at - 1].strip().startswith("# "), key
    assert "what 2 hours allow here" in text
    assert "First a source" in text


def test_what_the_hours_leave_out_is_not_in_it():
    found = facts(target=dataset(images=FEW), sources=(source("birds", 3.0), source("cats", 3.1)))
    full, _ = written(found)
    short, chosen = written(found, 0.1)
    assert {"hpt_bn", "hpt_direct", "source_2"} <= set(yaml.safe_load(full)["stages"])
    assert set(yaml.safe_load(short)["stages"]) == {"base", "source", "hpt", "features"}
    assert chosen.cuts
    assert yaml.safe_load(short)["stages"]["features"]["sweep"] == {
        "init": ["base", "source", "hpt"]
    }
    trials = plan.unique(planned(short, [found.target, *(one.dataset for one in found.sources)]))
    evaluated = [one.spec.judged_on(one.datasets) for one in trials if one.spec.reads()]
    assert sum(one.evaluated for one in cost.work(chosen, found)) == sum(evaluated)


def test_names_of_others_stay_comments_and_values():
    target = dataset("yes", {"train": 12_000, "val": 90, "test": 90}, reference="a b/ümlaut: #x")
    lines = ["evil\nname: other", "next\u2028store: elsewhere", "bell\x07 nel\x85x: 1"]
    text, _ = written(facts(target=target), head=lines)
    recipe = yaml.safe_load(text)
    assert recipe["name"] == "advised"
    assert recipe["store"] == "${HPT_STORE:-s3://b/x}"
    assert recipe["datasets"] == {"yes": "a b/ümlaut: #x"}
    assert recipe["stages"]["hpt"]["data"] == ["yes/train"]
    assert planned(text, [target])


def test_importing_advice_imports_no_torch():
    code = "import sys, hpt_dist.advice; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
