"""Adaptation launched on drawings: every objective, killed and gone on with; two ranks as one."""

import json
import os
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
    sweep: {{objective: [ent, t, consistency]}}
  labels:
{ADAPTS}\
    source_label_adaptation: true
    source_labels: {{warmup_steps: 3, update_every: 3}}
    sweep: {{objective: [mme, s+t]}}
"""
TRIALS = 5


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


class Watched:
    """What each objective's `forward` was given, a list of (phase, inputs) by objective."""

    def __init__(self):
        self.given = {}

    def watching(self):
        forward = MME.forward

        def watched(method, inputs, phase):
            self.given.setdefault(method.objective, []).append((phase, inputs))
            return forward(method, inputs, phase)

        return mock.patch.object(MME, "forward", watched)


@pytest.fixture(scope="module")
def adapted(drawings, mlflow_tables, tmp_path_factory):
    """A store in which every objective went through undisturbed, and what its steps were given."""
    folder = tmp_path_factory.mktemp("adapted")
    store = fill(folder / "store", drawings, mlflow_tables)
    watched = Watched()
    with watched.watching():
        launch(write_recipe(folder, RECIPE), store)
    return store, watched.given


def test_each_step_has_its_images_of_each_pool(adapted):
    store, given = adapted
    opened = open_store(str(store))
    classes = {
        name: set(open_split(opened, f"openmoji/{name}", "train").labels.tolist())
        for name in ("color", "line")
    }
    assert given.keys() == {"ent", "t", "consistency", "mme", "s+t"}
    for objective, calls in given.items():
        phases = [phase for phase, _ in calls]
        assert phases == ([0, 1] * 12 if objective in ("ent", "mme") else [0] * 12)
        for phase, inputs in calls:
            shapes = [tuple(one.shape) for one in inputs]
            if phase == 1:
                assert shapes == [(6, 3, 32, 32)]
                continue
            labelled = 4 if objective == "t" else 8
            more = [(6, 3, 32, 32)] * 2 if objective == "consistency" else []
            assert shapes == [(labelled, 3, 32, 32), (labelled,), *more]
    weak, strong = given["consistency"][0][1][2:]
    assert not torch.equal(weak, strong)
    # One labelled image a class of the target: an epoch has each once. The source has them all.
    target = torch.cat([inputs[1][4:] for phase, inputs in given["mme"] if phase == 0]).tolist()
    assert max(Counter(target[: len(classes["line"])]).values()) == 1
    source = torch.cat([inputs[1][:4] for phase, inputs in given["mme"] if phase == 0]).tolist()
    assert source != target
    alone = torch.cat([inputs[1] for _, inputs in given["t"]]).tolist()
    assert alone == target
    assert set(source) <= classes["color"]


def test_what_is_left_predicts_and_has_no_centres(adapted):
    store, _ = adapted
    found = results(store)
    pool = open_split(open_store(str(store)), "openmoji/line", "train")
    classes = len(pool.classes)
    assert len(found) == 1 + TRIALS
    for name in ("labels/objective=mme", "plain/objective=consistency", "plain/objective=t"):
        details, model = found[name]["details"], store / f"stages/{found[name]['key']}"
        assert details["n_labelled"] == classes
        unlabelled = 0 if name == "plain/objective=t" else len(pool) - classes
        assert details["n_unlabelled"] == unlabelled
        assert not [key for key in load_file(model / "model.safetensors") if "centre" in key]


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
    assert outcome(store) == outcome(adapted[0])


def losses(store):
    (folder,) = (p.parent for p in store.glob("stages/*/spec.json") if '"mme"' in p.read_text())
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    values = [line["metrics"] for line in lines if "train/loss" in line["metrics"]]
    return [(one["train/loss"], one["train/consistency"], one["train/confident"]) for one in values]


TWO = (
    RECIPE[: RECIPE.index("  plain:")]
    + f"""\
  adapt:
{ADAPTS}\
    source_label_adaptation: true
    source_labels: {{warmup_steps: 3, update_every: 3}}
    objective: consistency
    batch_norm: frozen
"""
)


@pytest.mark.xdist_group("ranks")
def test_two_ranks_adapt_like_one(drawings, mlflow_tables, tmp_path):
    """Centres are placed by images that the ranks share, too."""
    recipe = write_recipe(tmp_path, TWO)
    found = []
    for name, how in (("one", ("--on", "inline")), ("two", ("--ranks", "2"))):
        store = fill(tmp_path / name, drawings, mlflow_tables)
        threads = torch.get_num_threads()
        hpt("launch", str(recipe), *how, store=str(store), process=False)
        torch.set_num_threads(threads)
        found.append((losses(store), results(store)["adapt"]["details"]["val/top1_by_step"]))
    (one, looked), (two, looked_by_two) = found
    assert len(one) == len(two) > 1
    assert [v for w in two for v in w] == pytest.approx([v for w in one for v in w], rel=1e-3)
    assert looked_by_two.keys() == looked.keys()
