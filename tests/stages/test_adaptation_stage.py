"""Adaptation launched on drawings: every objective, killed and gone on with, by one rank and two."""

import json
import os
import shutil
import sys
from collections import Counter
from unittest import mock

import pytest
import torch
from safetensors.torch import load_file
from small import environment, fill, hpt, outcome, write_recipe

from hpt_dist.cli.main import main
from hpt_dist.methods import MME
from hpt_dist.processes import children
from hpt_dist.reading.split import open_split
from hpt_dist.store import open_store
from hpt_dist.train.checkpoint import Checkpoints

# States are saved after steps 4, 8, ... and centres placed before steps 3, 6, ...
RECIPE = """\
name: adapted
store: ${HPT_STORE}
datasets: {color: openmoji/color, line: openmoji/line}
backbone: timm/test_efficientnet
image: {size: 32}
stages:
  base: {kind: import, weights: random}
"""
ADAPTS = """\
    kind: mme
    init: base
    source: color/train
    target: line
    shots: 1
    steps: 12
    batch_labelled: 4
    batch_unlabelled: 6
    eval_every: 6
    checkpoint_every: 4
    consistency: {threshold: 0.05}
"""
RECIPE += f"""\
  plain:
{ADAPTS}\
    sweep: {{objective: [ent, s+t, t, consistency]}}
  labels:
{ADAPTS}\
    source_label_adaptation: true
    source_labels: {{warmup_steps: 3, update_every: 3}}
    sweep: {{objective: [mme, s+t, consistency]}}
"""
TRIALS = 7


def launch(recipe, store, *more, code=0):
    threads = torch.get_num_threads()
    printed = hpt(
        *("launch", str(recipe), "--on", "inline", *more),
        store=str(store),
        process=False,
        code=code,
    )
    torch.set_num_threads(threads)
    return printed


def results(store):
    found = (json.loads(path.read_text()) for path in store.glob("stages/*/result.json"))
    return {one["trial"]: one for one in found}


@pytest.fixture(scope="module")
def adapted(drawings, mlflow_tables, tmp_path_factory):
    """A store in which every objective went through undisturbed."""
    folder = tmp_path_factory.mktemp("adapted")
    store = fill(folder / "store", drawings, mlflow_tables)
    launch(write_recipe(folder, RECIPE), store)
    return store


def _dies_at_a_second_state(_pipe, recipe):
    """Launch, and die as soon as a trial has saved its second state."""
    saved = Counter()
    commit = Checkpoints.commit

    def commit_and_die(self, snapshot, guard=lambda: None):
        commit(self, snapshot, guard)
        saved[id(self)] += 1
        if saved[id(self)] == 2:
            os.kill(os.getpid(), 9)

    torch.set_num_threads(1)
    with (
        mock.patch.object(Checkpoints, "commit", commit_and_die),
        mock.patch.object(sys, "argv", ["hpt-dist", "launch", recipe, "--on", "inline"]),
    ):
        main()


@pytest.mark.xdist_group("ranks")  # whose server of warm processes it uses
def test_each_objective_ends_with_the_same_bytes_after_kills(
    adapted, drawings, mlflow_tables, tmp_path
):
    store = fill(tmp_path / "store", drawings, mlflow_tables)
    recipe = write_recipe(tmp_path, RECIPE)
    variables = environment(str(store))
    children.warm_up(variables)
    for _ in range(TRIALS):
        child = children.start(_dies_at_a_second_state, str(recipe), variables=variables, warm=True)
        child.process.join()
        assert child.exit_code == -9
    assert len(outcome(store)) == TRIALS  # the base, and all but the last
    launch(recipe, store)
    assert len(outcome(store)) == 1 + TRIALS
    assert outcome(store) == outcome(adapted)
