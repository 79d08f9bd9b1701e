"""Recipes of adaptation plan without torch; a tiny twin of a unit of theirs, and what it costs."""

from __future__ import annotations

import dataclasses

import pytest
from small import fill

from evidence import adapted, left, page, records
from evidence.matrix import ADAPT, ADAPTATIONS, OBJECTIVES, ROOT, STARTS, Target, Unit
from evidence.records import TrialRecord
from evidence.run import Sitting, _print_left, measure
from hpt_dist.launch import lookup
from hpt_dist.recipe import file as recipe_file
from hpt_dist.recipe import plan
from hpt_dist.store import open_store

STAND_INS = ROOT / "recipes/stand_ins/evidence.yaml"
RESERVED = Target("paint_to_line", "reserved", "openmoji/line", "OpenMoji")

# The stages of the real ones, with a network of random weights, few steps and one budget.
TWIN = f"""\
name: color_to_line
extends: {ROOT}/recipes/evidence/common/adaptation.yaml
datasets: {{source: openmoji/color, target: openmoji/line}}
backbone: timm/test_efficientnet
image: {{size: 32}}
stages:
  base: {{weights: random, seed: 7}}
  hpt:
    steps: 4
    batch: 8
    moco: {{queue: 32, momentum: 0.9}}
    head_warmup_steps: 1
    monitor: {{data: target, every: 4, images: 32}}
  adapt:
    steps: 2
    batch_labelled: 4
    batch_unlabelled: 4
    head_warmup_steps: 1
    eval_every: 2
    sweep: {{shots: [1]}}
report: null
"""


@pytest.fixture(scope="module")
def trials(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    made = {}

    def of(target):
        if target.name not in made:
            recipe = recipe_file.load(target.recipe, environment={})
            known = lookup.facts(recipe, open_store(str(folder)), STAND_INS)
            made[target.name] = plan.make(recipe, known)
        return made[target.name]

    return of


@pytest.mark.parametrize("target", ADAPTATIONS, ids=lambda target: target.name)
def test_a_unit_compares_all_arms_by_the_same_pipeline(trials, target):
    unit = left.of_unit(trials(target), Unit(target, 3))
    by_stage = [trial.stage for trial in unit]
    arms = adapted.planned(target)
    assert arms == adapted.Arms(tuple(STARTS), tuple(OBJECTIVES), (1, 3, 5))
    assert (by_stage.count("base"), by_stage.count("hpt"), by_stage.count(ADAPT)) == (1, 1, 18)
    keys = {trial.key: trial for trial in unit}
    (hpt,) = (trial for trial in unit if trial.stage == "hpt")
    assert (hpt.spec.seed, hpt.spec.keep) == (3, "last")
    assert not any("/val" in one or "/test" in one for one in hpt.spec.data)
    found = {}
    for trial in unit:
        if trial.stage == ADAPT:
            assert keys[trial.init].stage == trial.axes["init"]
            assert trial.spec.seed == 3
            assert trial.spec.protocol == "disjoint"
            assert not trial.spec.transductive
            axes = trial.axes["objective"], trial.axes["shots"]
            plain = trial.spec.model_dump(exclude={"init"})
            assert found.setdefault(axes, plain) == plain  # nothing else differs


def test_the_page_finds_every_trial_by_its_name(trials):
    unit = left.of_unit(trials(ADAPTATIONS[0]), Unit(ADAPTATIONS[0], 2))
    made = {trial.name: TrialRecord(trial.key, "s", 0, 1.0) for trial in left.measured(unit)}
    record = records.UnitRecord(ADAPTATIONS[0].name, 2, made)
    arms = adapted.planned(ADAPTATIONS[0])
    found = {
        adapted.trial(start, objective, shots)(record).key
        for start in arms.starts
        for objective in arms.objectives
        for shots in arms.shots
    }
    assert found | {record.training("hpt").key} == {one.key for one in made.values()}


def test_settings_are_compared_on_a_pair_that_is_not_reported(trials):
    """The first candidate of each objective is what the reported pairs have."""
    assert RESERVED.name not in {target.name for target in ADAPTATIONS}
    used = {"init", "seed", "shots"}
    reported = {}
    for trial in trials(ADAPTATIONS[0]):
        if trial.stage == ADAPT:
            reported[trial.axes["objective"]] = trial.spec.model_dump(exclude=used)
    first = {}
    for trial in trials(RESERVED):
        if trial.stage == ADAPT:
            first.setdefault(trial.axes["objective"], trial.spec.model_dump(exclude=used))
    assert first == reported
    sources = {trial.datasets["source"].name for trial in trials(RESERVED) if trial.datasets}
    assert sources == {"openmoji/paint"}
    for target in ADAPTATIONS:
        pairs = {tuple(one.name for one in trial.datasets.values()) for trial in trials(target)}
        assert ("openmoji/paint", "openmoji/line") not in pairs


@pytest.mark.parametrize("target", [*ADAPTATIONS, RESERVED], ids=lambda target: target.name)
def test_a_recipe_opens_with_its_question_and_commands(target):
    comment = target.recipe.read_text().split("\nname:")[0]
    assert "?" in "".join(comment.splitlines()[:2])
    assert f"hpt-dist launch evidence/{target.name}" in comment
    assert "Images: " in comment
    assert (f"--only {target.name}" in comment) == (target is not RESERVED)


def test_what_a_training_costs_is_estimated_from_its_passes(trials):
    unit = left.of_unit(trials(ADAPTATIONS[0]), Unit(ADAPTATIONS[0], 0))
    spent = {}
    for trial in unit:
        if trial.stage == ADAPT and (trial.axes["init"], trial.axes["shots"]) == ("base", 1):
            spent[trial.axes["objective"]] = left.estimated(trial)
    looks = 4 * 155 + 155 + 447
    images = {"s+t": 48 * 3, "mme": 96 * 3, "consistency": 96 * 3 + 48}
    for objective, passes in images.items():
        passed = (spent[objective] - left._BEGIN_S) / left._FORWARD_S
        assert passed == pytest.approx(120 * passes + looks)
    (hpt,) = (trial for trial in unit if trial.stage == "hpt")
    assert left.estimated(hpt) > left._FORWARD_S * 240 * 64 * 4
    assert left.estimated(unit[0]) is None  # an import
    assert left.estimated(None) is None


def test_what_was_measured_is_not_estimated(trials):
    unit = left.of_unit(trials(ADAPTATIONS[0]), Unit(ADAPTATIONS[0], 0))
    by_name = {trial.name: trial for trial in unit}
    (hpt,) = (name for name in by_name if name.startswith("hpt/"))
    minutes, is_measured = left.takes(lambda *_: 240.0, "color_to_line", [hpt], by_name)
    assert (minutes, is_measured) == (pytest.approx(2), True)
    minutes, is_measured = left.takes(lambda *_: None, "color_to_line", [hpt], by_name)
    assert (minutes, is_measured) == (pytest.approx(left.estimated(by_name[hpt]) / 120), False)
    assert left.takes(lambda *_: None, "line", ["near/init=pixels"], by_name) == (None, True)


def test_a_twin_of_a_unit_leaves_what_the_page_shows(
    drawings, mlflow_tables, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("HPT_CORES", "1")
    (tmp_path / "color_to_line.yaml").write_text(TWIN)
    unit = Unit(dataclasses.replace(ADAPTATIONS[0], folder=tmp_path), 0)
    store = fill(tmp_path / "store", drawings, mlflow_tables)
    sitting = Sitting(tmp_path / "results", tmp_path / "page.md", store=str(store))
    _print_left(sitting, [unit])
    assert "color_to_line/0: 7 results left, 1 minutes, estimated" in capsys.readouterr().out
    assert measure(sitting, unit) == {}
    record = records.read(unit, tmp_path / "results")
    names = {f"init={i},objective={o},shots=1" for i in STARTS for o in OBJECTIVES}
    assert set(record.trials) == {"hpt/seed=0", *(f"adapt/{name},seed=0" for name in names)}
    for start in STARTS:
        for objective in OBJECTIVES:
            one = adapted.trial(start, objective, 1)(record)
            assert (one.labels, one.images) == (38, 447)
            assert one.answers().mean() == pytest.approx(one.top1)
            assert one.val is not None
    assert record.training("hpt").gate.num_images == 32
    shown = (tmp_path / "page.md").read_text()
    assert shown == page.text(tmp_path / "results")
    assert "447 test images" in shown
    assert "one seed: no verdict" in shown.split("### OpenMoji, colour to lines")[1]
    goes_on(tmp_path, unit, store, record)


def goes_on(folder, unit, store, record):
    """What a killed process finished is taken from the store, and its CPU seconds are unknown."""
    lost, *kept = record.trials
    shorter = {name: record.trials[name] for name in kept}
    file = records.file_of(unit, folder / "results")
    records.write(dataclasses.replace(record, trials=shorter), file)
    again = Sitting(folder / "results", folder / "page.md", store=str(store))
    assert again.missing(unit) == [lost]
    assert measure(again, unit) == {}
    found = records.read(unit, folder / "results")
    assert found.trials[lost].right == record.trials[lost].right
    assert found.sittings[found.trials[lost].sitting].cpu_seconds is None
