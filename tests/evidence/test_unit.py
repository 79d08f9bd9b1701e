"""A tiny twin of a unit from the recipe to its file, stopped on the way; what pixels are worth."""

from __future__ import annotations

import dataclasses
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from small import fill

from evidence import matrix, page, pixels, records, run
from evidence.matrix import ROOT, Target, Unit
from evidence.run import Sitting, measure
from hpt_dist.datasets import fewshot
from hpt_dist.evals.features import Labelled
from hpt_dist.launch.local import NotDone
from hpt_dist.store import committed, open_store

# The arms and evaluations of the real ones, with a network of random weights and few of them.
RECIPE = f"""\
name: line
extends: {ROOT}/recipes/evidence/common/arms.yaml
datasets: {{target: openmoji/line}}
backbone: timm/test_efficientnet
image: {{size: 32}}
stages:
  base: {{weights: random, seed: 7}}
  random: null
  scratch: null
  hpt_bn: null
  anchored: null
  averaged: null
  fresh: null
  near: null
  linear: null
  tuned: null
  hpt:
    steps: 40
    batch: 8
    moco: {{queue: 32, momentum: 0.9}}
    head_warmup_steps: 1
    monitor: {{data: target, every: 40, images: 32}}
    checkpoint_every: 2
  few: {{l2: [0.1], shots: 5, sweep: {{init: [base, hpt]}}}}
report: null
"""


@pytest.fixture
def unit(tmp_path):
    (tmp_path / "line.yaml").write_text(RECIPE)
    return Unit(Target("line", "lines", "openmoji/line", "OpenMoji", folder=tmp_path), 0)


@pytest.fixture
def store(drawings, mlflow_tables, tmp_path):
    return fill(tmp_path / "store", drawings, mlflow_tables)


def sitting(tmp_path, store, seconds=float("inf")):
    ends_s = time.monotonic() + seconds
    return Sitting(tmp_path / "results", tmp_path / "page.md", ends_s, str(store))


def test_a_unit_that_is_stopped_goes_on_and_leaves_one_file(unit, store, tmp_path, monkeypatch):
    monkeypatch.setenv("HPT_CORES", "1")
    first = sitting(tmp_path, store, 0.0)
    planned = first.keys(unit)
    arms = ("base", "hpt", "pixels")
    assert set(planned) == {"hpt/seed=0", *(f"few/init={arm},seed=0" for arm in arms)}
    assert measure(first, unit) == {}  # its time is up: it fails nothing
    assert "hpt/seed=0" in first.missing(unit)
    second = sitting(tmp_path, store)
    assert measure(second, unit) == {}
    assert second.missing(unit) == []
    record = records.read(unit, tmp_path / "results")
    assert {name: one.key for name, one in record.trials.items()} == planned
    check(record, open_store(str(store)), second.trials(unit))
    written = (tmp_path / "results/line-0.json").read_text()
    assert records.encoded(record) == written
    assert measure(sitting(tmp_path, store), unit) == {}  # nothing is left: nothing changes
    assert (tmp_path / "results/line-0.json").read_text() == written
    shown = (tmp_path / "page.md").read_text()
    assert shown == page.text(tmp_path / "results")
    assert f"|hpt|fewlabels|{100 * record.of('few', 'hpt').top1:.1f}|" in shown.replace(" ", "")


def check(record, store, trials):
    few = record.of("few", "hpt")
    assert (few.labels, few.images) == (5 * 38, 447)
    for one in record.trials.values():
        if one.right:
            assert one.answers().mean() == pytest.approx(one.top1)
    assert record.training("hpt").gate.num_images == 32
    assert len({record.of("few", arm).settings for arm in ("base", "hpt", "pixels")}) == 3
    sitting = record.sittings[-1]
    assert len(sitting.commit) == 40
    assert "float32" in sitting.numerics
    took = sum(
        one.seconds for one in record.trials.values() if one.sitting == len(record.sittings) - 1
    )
    assert sitting.cpu_seconds > 0.2 * took  # its trials are children of a server that goes on
    (trial,) = (one for one in trials if one.name == "few/init=base,seed=0")
    assert committed.is_done(store, trial.key)
    check_pixels(record, store, trial)


def check_pixels(record, store, trial):
    """Raw pixels are worth what scikit-learn makes of five labelled drawings a class."""
    pools = (pixels._pool(store, trial, f"target/{split}") for split in ("train", "test"))
    learned, test = pixels._once([pixels._pixels(pool) for pool in pools])
    chosen = fewshot.k_shot(learned.labels.numpy(), 38, 5, 0)
    train = learned.features[chosen].double().numpy()
    mean, std = train.mean(axis=0), train.std(axis=0)
    std[std == 0] = 1.0
    scaled = [(x - mean) / std for x in (train, test.features.double().numpy())]
    # In the space of the learned images, where the penalty is the same, the solver is fast.
    _, _, directions = np.linalg.svd(scaled[0], full_matrices=False)
    train, judged = (x @ directions.T for x in scaled)
    model = LogisticRegression(C=1 / (0.1 * len(train)), tol=1e-5, max_iter=1000)
    answers = model.fit(train, learned.labels.numpy()[chosen]).predict(judged)
    differ = (answers == test.labels.numpy()) != record.of("few", "pixels").answers()
    assert differ.sum() <= 2  # an image between two classes may fall on either side


def test_gray_images_are_judged_by_one_channel():
    gray = torch.rand(4, 1, 5).expand(4, 3, 5).flatten(1)
    split = Labelled(gray, torch.arange(4))
    (once,) = pixels._once([split])
    assert torch.equal(once.features, gray[:, :5])
    colour = split._replace(features=torch.rand(4, 15))
    assert [one.features.shape[1] for one in pixels._once([split, colour])] == [15, 15]


def test_a_sitting_that_is_stopped_begins_no_other_unit(unit, tmp_path, monkeypatch, capsys):
    begun = []

    def stopped(sitting, one, store):
        begun.append(one.name)
        return {"hpt/seed=0": NotDone("stopped", stopped=True)}

    monkeypatch.setattr(run, "_run", stopped)
    monkeypatch.setattr(run, "_record", lambda *_, **__: None)
    monkeypatch.setattr(run.Sitting, "missing", lambda *_: ["hpt/seed=0"])
    monkeypatch.setattr(run.Sitting, "plan", lambda *_: SimpleNamespace(store=None))
    monkeypatch.setattr(run.marker, "begin", lambda store: store)
    ours = Sitting(tmp_path / "results", None)
    assert run._work_through(ours, [unit, dataclasses.replace(unit, seed=1)]) == 1
    assert begun == ["line/0"]
    assert "to go on, run the same command" in capsys.readouterr().err


def test_what_two_units_share_names_who_measured_it(tmp_path):
    first = Unit(matrix.TARGETS[2], 0)
    by = records.Sitting("c" * 40, (), "a processor", {}, "float32", 60.0)
    unknown = dataclasses.replace(by, commit="", cpu_seconds=None)
    shared, own = (records.TrialRecord(f"{n:064x}", "s", 0, 1.0) for n in (1, 2))
    kept = records.UnitRecord(first.target.name, 0, {"near/init=base,seed=0": shared}, (by,))
    records.write(kept, records.file_of(first, tmp_path))
    made = {"near/init=base,seed=0": shared, "fresh/seed=0": own}
    others = run._others(Sitting(tmp_path, None))
    assert run._by_sitting(made, unknown, others) == [
        (dataclasses.replace(by, cpu_seconds=None), {"near/init=base,seed=0": shared}),
        (unknown, {"fresh/seed=0": own}),
    ]
    assert run._by_sitting(made, unknown, {}) == [(unknown, made)]


def test_pixels_are_judged_once_for_units_that_share_them(monkeypatch):
    trials = [SimpleNamespace(name="near/init=base,seed=0")]
    known = records.TrialRecord("a" * 64, "s", 3, 0.0, top1=0.5)
    monkeypatch.setattr(run, "_of_pixels", lambda _: {"near/init=pixels,seed=0": trials[0]})
    monkeypatch.setattr(run.pixels, "key", lambda _: known.key)
    monkeypatch.setattr(run.pixels, "evaluate", lambda *_: pytest.fail("they are known"))
    empty = records.UnitRecord("fashion_5k", 0)
    by = records.Sitting("c" * 40, (), "a processor", {}, "", None)
    found = run._pixels_of(None, trials, empty, {known.key: (known, by)})
    assert found == {"near/init=pixels,seed=0": known}
