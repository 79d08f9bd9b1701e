"""A tiny twin of a unit from the recipe to its file, stopped on the way; what pixels are worth."""

from __future__ import annotations

import time

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from small import fill

from evidence import page, pixels, records
from evidence.matrix import ROOT, Target, Unit
from evidence.run import Sitting, measure
from hpt_dist.datasets import fewshot
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
  fresh: null
  near: null
  tuned: null
  hpt:
    steps: 40
    batch: 8
    moco: {{queue: 32, momentum: 0.9}}
    head_warmup_steps: 1
    monitor: {{data: target, every: 40, images: 32}}
    checkpoint_every: 2
  linear: {{l2: [0.1], sweep: {{init: [base, hpt]}}}}
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
    assert sorted(planned) == sorted(
        ["hpt/seed=0"]
        + [f"{e}/init={a},seed=0" for e in ("few", "linear") for a in ("base", "hpt", "pixels")]
    )
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
    assert page.text(tmp_path / "results").count("| hpt     | linear") == 1


def check(record, store, trials):
    few, linear = record.of("few", "hpt"), record.of("linear", "hpt")
    assert (few.labels, linear.labels, few.images) == (5 * 38, 509, 447)
    for one in record.trials.values():
        if one.right:
            assert one.answers().mean() == pytest.approx(one.top1)
    gate = record.training("hpt").gate
    assert (gate.num_images, gate.verdict) == (32, "no evidence")
    assert record.of("few", "hpt").settings == record.of("few", "hpt").settings
    assert len({record.of("few", arm).settings for arm in ("base", "hpt", "pixels")}) == 3
    sitting = record.sittings[-1]
    assert len(sitting.commit) == 40
    assert "float32" in sitting.numerics
    assert sitting.cpu_seconds > 0
    (trial,) = (one for one in trials if one.name == "linear/init=base,seed=0")
    assert committed.is_done(store, trial.key)
    check_pixels(record, store, trial)


def check_pixels(record, store, trial):
    """Raw pixels are what scikit-learn makes of them."""
    train, test = (
        pixels._pixels(pixels._pool(store, trial, f"target/{s}")) for s in ("train", "test")
    )
    mean, std = (f(train.features.double().numpy(), axis=0) for f in (np.mean, np.std))
    std[std == 0] = 1.0
    scaled = [(one.features.double().numpy() - mean) / std for one in (train, test)]
    chosen = fewshot.k_shot(train.labels.numpy(), 38, 5, 0)
    assert record.of("few", "pixels").labels == len(chosen)
    model = LogisticRegression(C=1 / (0.1 * len(scaled[0])), tol=1e-6, max_iter=1000)
    model.fit(scaled[0], train.labels.numpy())
    right = model.predict(scaled[1]) == test.labels.numpy()
    differ = right != record.of("linear", "pixels").answers()
    assert differ.sum() <= 2  # an image between two classes may fall on either side
