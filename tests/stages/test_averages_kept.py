"""Stages that may keep an average, launched: what is kept, what is forgotten, and what chooses."""

import json
import shutil
import subprocess
import sys

import psutil
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from small import environment, fill, hpt, outcome, wait_for

from hpt_dist.methods import METHODS, Loss, MoCoV2
from hpt_dist.train.averages import averaged

# The same training twice: one whose averages are looked at, and one that leaves the last step.
RECIPE = """\
name: averaged
store: ${HPT_STORE}
datasets: {color: openmoji/color, line: openmoji/line}
backbone: timm/test_efficientnet
image: {size: 32}
stages:
  base: {kind: import, weights: random}
  hpt:
    kind: pretrain
    init: base
    data: [line/train]
    steps: 6
    batch: 8
    moco: {queue: 32, momentum: 0.9}
    optimizer: {name: adamw, lr: 3e-3}
    averages: [0.1, 0.4, 0.8]
    monitor: {data: line, every: 6, images: 155, probe: knn, forgetting: color}
  last:
    kind: pretrain
    init: base
    data: [line/train]
    steps: 6
    batch: 8
    moco: {queue: 32, momentum: 0.9}
    optimizer: {name: adamw, lr: 3e-3}
    monitor: {data: line, every: 6, images: 155, probe: knn}
    keep: last
  probe: {kind: knn, data: line, k: [5], sweep: {init: [base, hpt]}}
report: {table: probe, rows: init}
"""
SHARES = (0.1, 0.4, 0.8)
UNLUCKY = "no average was better than the base and the last step: choose another seed"


def launch(recipe, store, *options):
    threads = torch.get_num_threads()
    try:
        arguments = ("launch", str(recipe), *options, "--on", "inline")
        return hpt(*arguments, store=str(store), process=False)
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def launched(drawings, mlflow_tables, tmp_path_factory):
    """Return a store in which everything is done, and its recipe."""
    folder = tmp_path_factory.mktemp("averaged")
    store = fill(folder / "store", drawings, mlflow_tables)
    recipe = folder / "averaged.yaml"
    recipe.write_text(RECIPE)
    launch(recipe, store)
    return store, recipe


def results(store):
    found = (json.loads(path.read_text()) for path in store.glob("stages/*/result.json"))
    return {one["trial"]: one for one in found}


def weights_of(store, result):
    return load_file(store / "stages" / result["key"] / "weights.safetensors")


def test_the_best_of_base_last_step_and_averages_is_kept(launched):
    store, _ = launched
    found = results(store)
    details, gate = found["hpt"]["details"], found["hpt"]["details"]["gate"]
    base, last = (weights_of(store, found[name]) for name in ("base", "last"))
    # In the order of ties: the base, the step, the averages.
    places = {"0": (details["monitor"]["0"], base), "6": (details["monitor"]["6"], last)}
    assert tuple(map(float, details["averages"])) == SHARES
    for share, metrics in details["averages"].items():
        places[share] = metrics, averaged(base, last, float(share))
    best = max(places, key=lambda place: places[place][0]["knn/top1"])
    metrics, expected = places[best]
    assert found["hpt"]["metrics"] == metrics
    kept = weights_of(store, found["hpt"])
    assert all(torch.equal(kept[name], value) for name, value in expected.items())
    assert best in details["averages"], UNLUCKY
    assert (details["kept_step"], details["kept_average"]) == (6, float(best))
    assert (gate["looks"], gate["kept_average"]) == (4, float(best))
    assert gate["mean"] == pytest.approx(
        100 * (metrics["knn/top1"] - details["monitor"]["0"]["knn/top1"])
    )
    assert "155 validation images, 4 looks, 3 of them at averages" in gate["says"]


def test_whatever_shows_the_weights_says_that_they_are_an_average(launched, tmp_path):
    store, recipe = launched
    one = results(store)["hpt"]
    words = f"{one['details']['kept_average']} of the way from the base to step 6"
    folder = store / "stages" / one["key"]
    with safe_open(folder / "weights.safetensors", "pt") as file:
        assert file.metadata()["average"] == words
    assert f"chose {words}" in hpt("status", str(recipe), store=str(store))
    to = tmp_path / "pulled"
    printed = hpt("pull", "averaged/hpt", str(to), "--format", "timm", store=str(store))
    assert f"hpt: its weights are an average, {words}" in printed
    assert f"an average, {words}: no step" in (to / "loading.md").read_text()
    card = " ".join((to / "model_card.md").read_text().split())
    assert f"it left an average, {words}" in card
    assert f"kept {words}" in card
    exported = torch.load(to / "test_efficientnet.pth", weights_only=True)
    kept = weights_of(store, one)
    assert all(torch.equal(exported[name], value) for name, value in kept.items())
    lines = (folder / "metrics.jsonl").read_text()
    assert f'"kept/average": {one["details"]["kept_average"]}' in lines
    assert all(f'"averages/{share}/knn/top1"' in lines for share in SHARES)
    hpt("report", str(recipe), "--out", str(tmp_path / "page"), store=str(store))
    text = " ".join((tmp_path / "page/report.md").read_text().split())
    assert f"hpt: it left an average, {words}" in text
    assert f"<td>{words}</td>" in (tmp_path / "page/report.html").read_text()


def test_what_is_forgotten_is_measured_on_the_kept_weights(launched):
    store, recipe = launched
    one = results(store)["hpt"]
    found = one["details"]["forgetting"]
    assert found["num_images"] == 155
    assert found["mean"] == pytest.approx(100 * (found["after"] - found["before"]))
    lines = (store / "stages" / one["key"] / "metrics.jsonl").read_text()
    assert f'"forgetting/kept/knn/top1": {found["after"]}' in lines
    assert f'"forgetting/start/knn/top1": {found["before"]}' in lines
    text = " ".join(hpt("report", str(recipe), store=str(store)).split())
    assert found["says"] in text


def without(store, other, trial):
    """Copy a store without what one of its trials left; return its key and its work folder."""
    shutil.copytree(store, other, symlinks=True)
    key = results(store)[trial]["key"]
    shutil.rmtree(other / "stages" / key)
    shutil.rmtree(other / "inputs", ignore_errors=True)
    work = other / "work/trials" / key
    shutil.rmtree(work)
    return key, work


class Boasting(MoCoV2):
    """The same gradients, and a loss that falls by a thousand with each step."""

    steps = 0

    def forward(self, inputs, phase):
        loss = super().forward(inputs, phase)
        Boasting.steps += 1
        less = 1000.0 * Boasting.steps
        metrics = {name: value - less for name, value in loss.metrics.items()}
        return Loss(loss.total - less, metrics)


def test_what_a_loss_says_chooses_nothing(launched, tmp_path, monkeypatch):
    store, recipe = launched
    key, work = without(store, tmp_path / "store", "hpt")
    monkeypatch.setitem(METHODS, "moco_v2", Boasting)
    launch(recipe, tmp_path / "store", "--only", "hpt")
    lines = map(json.loads, (work / "metrics.jsonl").read_text().splitlines())
    losses = [one["metrics"]["train/loss"] for one in lines if "train/loss" in one["metrics"]]
    assert min(losses) < -1000
    assert outcome(tmp_path / "store")[key] == outcome(store)[key]


def test_killed_between_two_averages_it_ends_with_the_same_bytes(launched, tmp_path):
    store, recipe = launched
    other = tmp_path / "store"
    key, work = without(store, other, "hpt")
    command = [sys.executable, "-m", "hpt_dist", "launch", str(recipe), "--only", "hpt"]
    process = subprocess.Popen(
        command, env=environment(str(other)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    points = work / "metrics.jsonl"
    wait_for(lambda: points.exists() and '"averages/0.1/' in points.read_text())
    psutil.Process(json.loads((other / "stages" / key / "lease.json").read_text())["pid"]).kill()
    process.communicate(timeout=300)
    assert process.returncode == 1
    assert not (other / "stages" / key / "DONE").exists()
    again = hpt("launch", str(recipe), "--only", "hpt", store=str(other))
    assert "after step 6" in again  # the training itself was not repeated
    assert outcome(other)[key] == outcome(store)[key]
    lines = points.read_text()
    assert lines.count('"averages/0.1/knn/top1"') == lines.count('"kept/knn/top1"') == 1


def test_what_follows_an_average_has_other_inputs_than_the_base(launched):
    store, _ = launched
    ours, theirs = (
        json.loads((store / "stages" / results(store)[name]["key"] / "run.json").read_text())
        for name in ("probe/init=hpt", "probe/init=base")
    )
    assert "same_as" not in ours
    assert ours["inputs"] != theirs["inputs"]
