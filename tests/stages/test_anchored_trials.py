"""An anchored pretraining from recipe to weights: nearer to its start, the same after a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from small import environment, fill, hpt, outcome, saved_step, wait_for, write_recipe

RECIPE = """\
name: anchored
store: ${HPT_STORE}
datasets: {shapes: shapes}
backbone: timm/test_efficientnet
image: {size: 32}
stages:
  base: {kind: import, weights: random}
  hpt:
    kind: pretrain
    init: base
    data: [shapes/train]
    method: simclr
    optimizer: {name: adamw, lr: 2e-3}
    batch_norm: frozen
    steps: 30
    batch: 8
    monitor: {images: 30, every: 30}
    checkpoint_every: 10
    sweep: {anchor.weight: [0, 20]}
"""
FREE, HELD = "hpt/anchor.weight=0", "hpt/anchor.weight=20"


@pytest.fixture(scope="module")
def launched(shapes, mlflow_tables, tmp_path_factory):
    """A store in which the recipe went through in this process."""
    threads = torch.get_num_threads()
    folder = tmp_path_factory.mktemp("anchored")
    store = fill(folder / "store", shapes, mlflow_tables)
    options = ("--on", "inline")
    hpt("launch", str(write_recipe(folder, RECIPE)), *options, store=str(store), process=False)
    yield store
    torch.set_num_threads(threads)


def folders(store):
    """Return the folder of each trial by its name."""
    [record] = store.glob("launches/*.json")
    trials = json.loads(record.read_text())["trials"]
    return {name: store / "stages" / key for name, key in trials.items()}


def test_an_anchor_keeps_the_features_nearer_to_their_start(launched):
    found = folders(launched)
    free, held = (
        json.loads((found[name] / "result.json").read_text())["details"]["change"]["cosine"]
        for name in (FREE, HELD)
    )
    assert free < 0.98
    assert 1 - held < (1 - free) / 2
    metrics = (found[HELD] / "metrics.jsonl").read_text()
    assert metrics.count("train/anchor") == 3
    base, left = (load_file(found[name] / "weights.safetensors") for name in ("base", HELD))
    assert {key: value.shape for key, value in left.items()} == {
        key: value.shape for key, value in base.items()
    }


def test_killed_it_goes_on_with_the_base_of_its_parent(launched, shapes, mlflow_tables, tmp_path):
    store = fill(tmp_path / "store", shapes, mlflow_tables)
    recipe = str(write_recipe(tmp_path, RECIPE.replace("[0, 20]", "[20]")))
    held = folders(launched)[HELD].name
    running = subprocess.Popen(
        [sys.executable, "-m", "hpt_dist", "launch", recipe],
        env=environment(str(store)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        wait_for(lambda: saved_step(store / "stages" / held) or running.poll() is not None, 500)
    finally:
        os.killpg(running.pid, signal.SIGKILL)
    printed, _ = running.communicate()
    assert 0 < saved_step(store / "stages" / held) < 30, printed
    wait_for(lambda: "resumes" in hpt("plan", recipe, store=str(store)))
    hpt("launch", recipe, "--on", "inline", store=str(store), process=False)
    assert outcome(store)[held] == outcome(launched)[held]
