"""Validation chooses among candidates, and what it chose alone reads test."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import picture
from safetensors.torch import load
from shapes import write_shapes
from shared import made_once
from small import environment, hpt, outcome, write_recipe

from hpt_dist.recipe import plan
from hpt_dist.stages import finetune, mme
from hpt_dist.stages.frozen import Frozen
from hpt_dist.stages.select import DISTANCE
from hpt_dist.store import open_store
from hpt_dist.weights.files import content_digest

RECIPE = """\
name: choosing
store: ${HPT_STORE}
datasets: {pets: pets, shapes: shapes}
backbone: timm/test_efficientnet
image: {size: 32}
stages:
  base: {kind: import, weights: random}
  hpt:
    {kind: pretrain, init: base, data: [shapes/train], steps: 2, batch: 4, moco: {queue: 8},
    keep: last, optimizer: {lr: 0.3}}
  probe:
    kind: linear
    init: base
    data: pets
    learning_rates: [3.0]
    steps: 20
    batch: 16
    views: 1
    choose: {weight_decay: [0.5, 0.0]}
    sweep: {seed: [0, 1]}
  near: {kind: knn, init: base, data: pets, k: [1, 5], choose: {temperature: [0.07, 1.0]}}
  regression:
    {kind: linear, init: base, data: pets, solver: lbfgs, metric: ece,
    choose: {features: [blocks.2, pool]}}
  several:
    {kind: linear, init: base, data: shapes, views: 0, steps: 20, batch: 16,
    choose: {weight_decay: [0.5, 0.0]}}
  tune:
    {kind: finetune, init: base, data: pets, steps: 4, batch: 8,
    choose: {lr: [1.0e+30, 0.001, 0.1]}}
  adapt:
    kind: mme
    init: base
    source: pets/train
    target: pets
    shots: 1
    steps: 4
    batch_labelled: 4
    batch_unlabelled: 8
    batch_norm: frozen
    eval_every: 2
    optimizer: {name: sgd, nesterov: true}
    choose: {optimizer.lr: [1.0e+30, 0.001, 0.01]}
  probe_by_hand:
    kind: linear
    init: base
    data: pets
    learning_rates: [3.0]
    steps: 20
    batch: 16
    views: 1
    sweep: {weight_decay: [0.5, 0.0], seed: [0, 1]}
  regression_by_hand:
    {kind: linear, init: base, data: pets, solver: lbfgs, metric: ece,
    sweep: {features: [blocks.2, pool]}}
  several_by_hand:
    {kind: linear, init: base, data: shapes, views: 0, steps: 20, batch: 16,
    sweep: {weight_decay: [0.5, 0.0]}}
  tune_by_hand:
    {kind: finetune, init: base, data: pets, steps: 4, batch: 8, sweep: {lr: [0.001, 0.1]}}
  near_by_hand:
    {kind: knn, init: base, data: pets, k: [1, 5], sweep: {temperature: [0.07, 1.0]}}
  adapt_by_hand:
    kind: mme
    init: base
    source: pets/train
    target: pets
    shots: 1
    steps: 4
    batch_labelled: 4
    batch_unlabelled: 8
    batch_norm: frozen
    eval_every: 2
    optimizer: {name: sgd, nesterov: true}
    sweep: {optimizer.lr: [0.001, 0.01]}
  search: {kind: select, candidates: [base, hpt], data: pets, steps: 20, batch: 16, views: 1}
  after: {kind: knn, init: search, data: pets, k: [1]}
  beside: {kind: knn, data: pets, k: [1], sweep: {init: [base, hpt]}}
"""


# By which each stage chooses.
METRICS = {
    "probe": "top1",
    "near": "top1",
    "regression": "ece",
    "several": "auroc",
    "tune": "top1",
    "adapt": "top1",
}


@pytest.fixture(scope="session")
def chosen(tmp_path_factory, mlflow_tables):
    """A store in which a recipe that chooses went through, and the same choice by hand."""

    def make(folder):
        drawn, store = folder / "pets", folder / "store"
        drawn.mkdir()
        for number in range(120):
            picture(number, (24, 24)).save(drawn / f"{number}.png")
        splits = ("train", "val", "test")
        rows = (f"{n}.png,{'abc'[n % 3]},{splits[n // 3 % 3]}" for n in range(120))
        (drawn / "list.csv").write_text("\n".join(["path,label,split", *rows]))
        (store / "work").mkdir(parents=True)
        shutil.copy(mlflow_tables, store / "work/mlflow.db")
        hpt("shard", str(drawn / "list.csv"), f"{store}/datasets/pets", store=str(store))
        write_shapes(open_store(str(store)))
        launch(write_recipe(folder, RECIPE), store)

    return made_once(tmp_path_factory, "chosen", make)


@pytest.fixture
def copy(chosen, tmp_path):
    """A copy of it that a test may change."""
    store = tmp_path / "store"
    shutil.copytree(chosen / "store", store, symlinks=True)
    return store


def results(store: Path, recipe: Path) -> dict[str, dict]:
    return {
        one["trial"]: json.loads((store / "stages" / one["key"] / "result.json").read_text())
        for one in planned(store, recipe)
    }


def planned(store: Path, recipe: Path) -> list[dict]:
    """Return the plan's trials; its doubts follow them."""
    printed = hpt("plan", str(recipe), "--json", store=str(store))
    return json.JSONDecoder().raw_decode(printed)[0]


def test_the_choice_is_that_by_hand_on_val_and_candidates_read_no_test(chosen):
    ours = results(chosen / "store", chosen / "choosing.yaml")
    deciding = {name: one for name, one in ours.items() if "choice" in one["details"]}
    del deciding["search"]
    assert set(deciding) == {"probe/seed=0", "probe/seed=1", *METRICS} - {"probe"}
    for name, result in deciding.items():
        stage, _, seed = name.partition("/")
        tried = [
            one["metrics"]
            for other, one in ours.items()
            if other.startswith(f"{stage}_by_hand/") and seed in other
        ]
        assert len(tried) == 2
        metric = f"val/{METRICS[stage]}"
        choose = min if metric == "val/ece" else max
        best = choose(tried, key=lambda metrics: metrics[metric])
        assert result["metrics"] == pytest.approx(best)
        assert result["details"]["n_test"] > 0
        assert {one.split("/")[0] for one in result["details"]["intervals"]} == {"val", "test"}
    for name, result in ours.items():
        stage, is_candidate, axes = name.partition(".candidates/")
        if "lr=1e+30" in axes:
            assert not result["metrics"]
            assert axes in deciding[stage]["details"]["choice"]["diverged"]
        elif is_candidate:
            assert {metric.partition("/")[0] for metric in result["metrics"]} == {"val"}
            assert "n_test" not in result["details"]
            assert set(result["details"].get("excluded", {})) <= {"val"}
    assert set(deciding["several"]["details"]["excluded"]) == {"val", "test"}


def test_candidates_share_the_features_that_others_compute(chosen):
    done = (chosen / "store/features").glob("*/DONE")
    found = [json.loads(one.read_text())["of"] for one in done]
    for split in ("val", "test"):
        names = ("weights", "features", "dataset")
        ours = [tuple(one[name] for name in names) for one in found if one["split"] == split]
        # Two backbones on pets, a part of one of them, and one on shapes.
        assert len(set(ours)) == len(ours) == 4


def test_status_report_and_plan_show_candidates_and_choice(chosen):
    store, recipe = str(chosen / "store"), str(chosen / "choosing.yaml")
    again = hpt("plan", recipe, store=store)
    assert "probe: validation chooses among weight_decay=0.5; weight_decay=0.0" in again
    assert "45 trials: 45 cached" in again
    details = results(chosen / "store", chosen / "choosing.yaml")["near"]["details"]["choice"]
    status = hpt("status", last_launch(chosen), store=store)
    assert f"chose {details['chosen']}" in status
    assert re.search(r"tune.candidates/lr=1e\+30 +cached .*, out: the .* not finite", status)
    assert "probe.candidates/seed=1,weight_decay=0.5" in status
    report = hpt("report", last_launch(chosen), store=store)
    assert "probe/seed=1: what validation chose" in report
    assert "temperature=0.07" in report
    assert "Fréchet distance" in report


def test_mlflow_tells_candidates_apart_and_has_each_choice(chosen):
    with contextlib.closing(sqlite3.connect(chosen / "store/work/mlflow.db")) as tables:
        rows = tables.execute(
            "select runs.name, tags.key, tags.value from tags join runs "
            "on runs.run_uuid = tags.run_uuid where tags.key in ('hpt.role', 'hpt.candidates')"
        ).fetchall()
        uris = tables.execute("select artifact_uri from runs").fetchall()
    tagged = {(name, key): value for name, key, value in rows}
    assert tagged["adapt.candidates/optimizer.lr=0.01", "hpt.role"] == "candidate"
    assert tagged["search", "hpt.candidates"] == "init=base, init=hpt"
    # By the runs of this store: those of its copies write below this folder, whose path they have.
    folders = [Path(uri.removeprefix("file://")) for (uri,) in uris]
    pages = [page.read_text() for one in folders for page in one.glob("choice.md")]
    assert len(pages) == 8
    assert sum("LogME" in page and "Fréchet distance" in page for page in pages) == 1
    assert sum("not finite" in page for page in pages) == 2


def last_launch(folder: Path) -> str:
    return next(folder.glob("store/launches/choosing-*.json")).stem


def test_a_deciding_trial_that_is_killed_decides_alike(copy, chosen):
    before = outcome(copy)
    trials = planned(copy, chosen / "choosing.yaml")
    key = next(one["key"] for one in trials if one["trial"] == "adapt")
    forget(copy, key)
    killed = patched(
        "import os; from hpt_dist.stages import choice; "
        "choice.alike.left_by = lambda *_: os.kill(os.getpid(), 9)",
        "launch", str(chosen / "choosing.yaml"), "--on", "inline", store=copy,
    )  # fmt: skip
    assert killed.returncode == -9, killed.stderr
    assert (copy / "stages" / key / "lease.json").exists()
    launch(chosen / "choosing.yaml", copy)
    assert outcome(copy) == before


def test_a_search_leaves_the_winner_and_what_follows_it_reads_the_same(chosen):
    found = results(chosen / "store", chosen / "choosing.yaml")
    search, choice = found["search"], found["search"]["details"]["choice"]
    tried = {
        name.partition("/")[2]: one["metrics"]["val/top1"]
        for name, one in found.items()
        if name.startswith("search.candidates/")
    }
    assert choice["values"] == tried
    distances = {name: beside.pop(DISTANCE, None) for name, beside in choice["beside"].items()}
    assert {len(beside) for beside in choice["beside"].values()} == {2}
    assert distances == {"init=base": None, "init=hpt": pytest.approx(distance_by_hand(chosen))}
    assert search["details"]["distance"] == {
        "on": found["base"]["key"],
        "target_images": 42,
        "images": {"init=hpt": 60},
    }
    assert choice["chosen"] == max(tried, key=lambda name: tried[name])
    winner = choice["chosen"].removeprefix("init=")
    stages = chosen / "store/stages"
    weights = [tensors(stages / one["key"]) for one in (search, found[winner])]
    torch.testing.assert_close(*weights, rtol=0, atol=0)
    after, beside = (
        json.loads((stages / found[name]["key"] / "DONE").read_text())
        for name in ("after", f"beside/init={winner}")
    )
    assert after.get("same_as") == beside["key"] or beside.get("same_as") == after["key"]


def distance_by_hand(folder: Path) -> float:
    """Return the Fréchet distance of pets and shapes on base, from the features of both stages."""
    stages = folder / "store/stages"
    base = results(folder / "store", folder / "choosing.yaml")["base"]["key"]
    digest = content_digest((stages / base / "weights.safetensors").read_bytes())
    found = {}
    for done in (folder / "store/features").glob("*/DONE"):
        of = json.loads(done.read_text())["of"]
        wanted = (digest, "train", "pool", {"crop": "center"})
        if tuple(of[name] for name in ("weights", "split", "features", "view")) == wanted:
            (data,) = done.parent.glob("*.safetensors")
            found[of["dataset"]] = load(data.read_bytes())["features"].double().numpy()
    one, other = found.values()
    x, y = ((f - f.mean(0)) / np.sqrt(len(f) - 1) for f in (one, other))
    shared = np.linalg.svd(x @ y.T, compute_uv=False).sum()
    apart = one.mean(0) - other.mean(0)
    return float(apart @ apart + (x * x).sum() + (y * y).sum() - 2 * shared)


def test_a_search_launched_again_decides_alike_and_what_follows_names_its_winner(copy, chosen):
    before, found = outcome(copy), results(copy, chosen / "choosing.yaml")
    for name in ("search", "after"):
        forget(copy, found[name]["key"])
    launch(chosen / "choosing.yaml", copy)
    assert outcome(copy) == before
    search, after = (copy / "stages" / found[name]["key"] for name in ("search", "after"))
    winner = copy / "stages" / json.loads((search / "result.json").read_text())["details"]["winner"]
    weights = content_digest((winner / "weights.safetensors").read_bytes())
    document = json.loads((after / "spec.json").read_text())
    read = plan.key_of({**document, "init": {"weights": weights}})
    assert (copy / "inputs" / read).is_file()


def forget(store: Path, key: str) -> None:
    """Delete a trial, and that others may take its result."""
    shutil.rmtree(store / "stages" / key)
    for note in (store / "inputs").iterdir():
        if note.is_file() and note.read_text() == key:
            note.unlink()


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return load((folder / "weights.safetensors").read_bytes())


def test_on_slurm_the_deciding_job_waits_for_every_candidate(chosen, tmp_path):
    store = tmp_path / "store"
    store.mkdir()
    shutil.copytree(chosen / "store/datasets", store / "datasets")
    printed = hpt(
        *("launch", str(write_recipe(tmp_path, RECIPE)), "--on", "generic-cpu", "--dry-run"),
        *("--only", "probe", "--set", "stages.probe.sweep.seed=[7]"),
        store=str(store),
        HPT_WORK=str(tmp_path / "work"),
        process=False,
    )
    waits = re.findall("afterok:(.*)'", printed)
    tried = [f"<probe.candidates/seed=7,weight_decay={value}>" for value in (0.5, 0.0)]
    assert waits == ["<base>", ":".join(["<base>", *tried])]


def test_a_candidate_that_reads_test_fails(copy, chosen, monkeypatch):
    """A leak into the selection of each kind, planted where it asks for the images of val."""
    features, pool = Frozen.features, finetune._Judge._pool
    monkeypatch.setattr(
        Frozen,
        "features",
        lambda self, name, *more: features(self, name.replace("val", "test"), *more),
    )
    monkeypatch.setattr(finetune._Judge, "_pool", lambda self, _: pool(self, "test"))
    monkeypatch.setattr(
        mme, "_looked_at", lambda context, spec: mme.pool_of(context, (f"{spec.target}/test",))
    )
    overrides = {stage: f"stages.{stage}.seed=7" for stage in METRICS}
    overrides["probe"] = "stages.probe.sweep.seed=[7]"
    options = [word for stage, one in overrides.items() for word in ("--only", stage, "--set", one)]
    printed = launch(chosen / "choosing.yaml", copy, *options, code=1)
    for stage in METRICS:
        data = "shapes" if stage == "several" else "pets"
        said = rf"{stage}\.candidates/\S+ reads {data}/test, which is kept back from candidates"
        assert len(re.findall(said, printed)) >= 1, stage


def launch(recipe: Path, store: Path, *options: str, code: int = 0) -> str:
    """Launch in the tests' own process, which saves seconds of imports."""
    command = ("launch", str(recipe), "--on", "inline", *options)
    return hpt(*command, store=str(store), code=code, process=False)


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
