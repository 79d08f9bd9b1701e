"""Validation chooses among candidates, and what it chose alone reads test."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from shared import made_once
from small import environment, fill, hpt, outcome, write_recipe

RECIPE = """\
name: choosing
store: ${HPT_STORE}
datasets: {color: openmoji/color, line: openmoji/line}
backbone: timm/test_efficientnet
image: {size: 32}
stages:
  base: {kind: import, weights: random}
  probe:
    kind: linear
    init: base
    data: line
    learning_rates: [3.0]
    steps: 60
    batch: 64
    views: 1
    choose: {weight_decay: [0.5, 0.0]}
    sweep: {seed: [0, 1]}
  near: {kind: knn, init: base, data: line, k: [1, 5], choose: {temperature: [0.07, 1.0]}}
  adapt:
    kind: mme
    init: base
    source: color/train
    target: line
    shots: 1
    steps: 4
    batch_labelled: 4
    batch_unlabelled: 8
    batch_norm: frozen
    eval_every: 2
    optimizer: {name: sgd, nesterov: true}
    choose: {optimizer.lr: [0.001, 0.01]}
report: {table: probe, rows: seed, columns: seed}
"""
BY_HAND = RECIPE.replace("name: choosing", "name: by-hand")
for _sought, _swept in (
    ("choose: {weight_decay: [0.5, 0.0]}\n    sweep: {", "sweep: {weight_decay: [0.5, 0.0], "),
    ("choose: {opt", "sweep: {opt"),
):
    BY_HAND = BY_HAND.replace(_sought, _swept)


@pytest.fixture(scope="session")
def chosen(drawings, mlflow_tables, tmp_path_factory):
    """A store in which a recipe that chooses went through, and the same choice by hand."""

    def make(folder):
        store = str(fill(folder / "store", drawings, mlflow_tables))
        for text in (RECIPE, BY_HAND):
            hpt("launch", str(write_recipe(folder, text)), "--on", "inline", store=store)

    return made_once(tmp_path_factory, "chosen", make)


@pytest.fixture
def copy(chosen, tmp_path):
    """A copy of it that a test may change."""
    store = tmp_path / "store"
    shutil.copytree(chosen / "store", store, symlinks=True)
    return store


def results(store: Path, recipe: Path) -> dict[str, dict]:
    trials = json.loads(hpt("plan", str(recipe), "--json", store=str(store)))
    return {
        one["trial"]: json.loads((store / "stages" / one["key"] / "result.json").read_text())
        for one in trials
    }


def test_the_choice_is_that_by_hand_on_val_and_candidates_read_no_test(chosen):
    ours = results(chosen / "store", chosen / "choosing.yaml")
    by_hand = results(chosen / "store", chosen / "by-hand.yaml")
    deciding = {name: one for name, one in ours.items() if "choice" in one["details"]}
    assert set(deciding) == {"probe/seed=0", "probe/seed=1", "near", "adapt"}
    for name, result in deciding.items():
        stage, _, seed = name.partition("/")
        tried = [
            one["metrics"]
            for other, one in by_hand.items()
            if other.startswith(f"{stage}/") and seed in other
        ]
        if not tried:  # by hand, one stage of each kind of head is enough
            continue
        assert len(tried) == 2
        best = max(tried, key=lambda metrics: metrics["val/top1"])
        assert result["metrics"] == pytest.approx(best)
        assert result["details"]["n_test"] > 0
    for name, result in ours.items():
        if ".candidates/" in name:
            assert set(result["metrics"]) == {"val/top1"}
            assert "n_test" not in result["details"]


def test_status_report_and_plan_show_candidates_and_choice(chosen):
    store, recipe = str(chosen / "store"), str(chosen / "choosing.yaml")
    again = hpt("plan", recipe, store=store)
    assert "probe: validation chooses among weight_decay=0.5; weight_decay=0.0" in again
    assert "13 trials: 13 cached" in again
    details = results(chosen / "store", chosen / "choosing.yaml")["near"]["details"]["choice"]
    status = hpt("status", recipe, store=store)
    assert f"chose {details['chosen']}" in status
    assert "probe.candidates/seed=1,weight_decay=0.5" in status
    report = hpt("report", recipe, store=store)
    assert "probe/seed=1: what validation chose" in report
    assert "temperature=0.07" in report


def test_a_deciding_trial_that_is_killed_decides_alike(copy, chosen):
    before = outcome(copy)
    trials = json.loads(hpt("plan", str(chosen / "choosing.yaml"), "--json", store=str(copy)))
    key = next(one["key"] for one in trials if one["trial"] == "adapt")
    shutil.rmtree(copy / "stages" / key)
    for note in (copy / "inputs").iterdir():
        if note.is_file() and note.read_text() == key:
            note.unlink()
    killed = patched(
        "import os; from hpt_dist.stages import choice; "
        "choice.alike.left_by = lambda *_: os.kill(os.getpid(), 9)",
        "launch", str(chosen / "choosing.yaml"), "--on", "inline", store=copy,
    )  # fmt: skip
    assert killed.returncode == -9, killed.stderr
    assert (copy / "stages" / key / "lease.json").exists()
    hpt("launch", str(chosen / "choosing.yaml"), "--on", "inline", store=str(copy))
    assert outcome(copy) == before


def test_on_slurm_the_deciding_job_waits_for_every_candidate(drawings, tmp_path):
    printed = hpt(
        *("launch", str(write_recipe(tmp_path, RECIPE)), "--on", "generic-cpu", "--dry-run"),
        *("--only", "probe", "--set", "stages.probe.sweep.seed=[7]"),
        store=str(drawings),
        HPT_WORK=str(tmp_path / "work"),
    )
    waits = re.findall("afterok:(.*)'", printed)
    tried = [f"<probe.candidates/seed=7,weight_decay={value}>" for value in (0.5, 0.0)]
    assert waits == ["<base>", ":".join(["<base>", *tried])]


def test_a_candidate_that_reads_test_fails(copy, chosen):
    leak = (
        "from hpt_dist.stages.frozen import Frozen; split = Frozen.split; "
        "Frozen.split = lambda self, name, *more: split(self, name.replace('val', 'test'), *more)"
    )
    options = ("--on", "inline", "--only", "probe", "--set", "stages.probe.sweep.seed=[7]")
    leaked = patched(leak, "launch", str(chosen / "choosing.yaml"), *options, store=copy)
    assert leaked.returncode == 1
    assert "reads line/test, which is kept back from candidates" in leaked.stdout + leaked.stderr


def patched(code: str, *arguments: str, store: Path) -> subprocess.CompletedProcess[str]:
    """Run a command whose process runs code first."""
    run = f"import sys; {code}; from hpt_dist.cli.main import main; main()"
    return subprocess.run(
        [sys.executable, "-c", run, *arguments],
        env=environment(str(store)),
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
