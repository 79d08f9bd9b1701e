"""The flagship in small: one pretraining for the whole sweep, and a trial lost in its middle."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from pictures import encoded, sample, write
from PIL import Image, ImageDraw
from small import document, environment, fill, hpt, outcome, saved_step, wait_for, write_recipe

from hpt_dist.store import open_store

BUDGETS, SEEDS = (3, 6), (0, 1)
# Long enough to be killed between a saved state and the end.
TWIN = """\
name: twin
extends: real_to_sketch
datasets: {real: shapes/real, sketch: shapes/sketch}
backbone: timm/test_efficientnet
image: {size: 32}
stages:
  base: {weights: random, seed: 1}
  hpt: {batch: 8, steps: 4, moco: {queue: 16}, monitor: {images: 9}}
  adapt:
    steps: 40
    batch_labelled: 3
    batch_unlabelled: 3
    eval_every: 20
    checkpoint_every: 10
    sweep: {labels: [3, 6], seed: [0, 1]}
  objectives:
    steps: 2
    eval_every: 2
    batch_labelled: 3
    batch_unlabelled: 3
    sweep: {objective: [s+t, consistency], labels: [3], seed: [0, 1]}
  ceiling: {steps: 2, eval_every: 2, batch_labelled: 3, sweep: {seed: [0, 1]}}
"""


def shape(label, number, *, sketched):
    """Return a disc, a square or a cross at a place of its own: coloured, or its outline alone."""
    generator = np.random.default_rng([label, number])
    ground, ink = ((255, 255, 255), (0, 0, 0)) if sketched else generator.integers(0, 256, (2, 3))
    image = Image.new("RGB", (40, 40), tuple(int(v) for v in ground))
    draw, ink = ImageDraw.Draw(image), tuple(int(v) for v in ink)
    x, y = (int(v) for v in generator.integers(4, 16, 2))
    box, fill_ = (x, y, x + 20, y + 20), None if sketched else ink
    if label == 2:
        draw.line(box, ink, 3)
        draw.line((x, y + 20, x + 20, y), ink, 3)
    else:
        (draw.ellipse if label else draw.rectangle)(box, fill=fill_, outline=ink, width=2)
    return image


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    """A folder with the two domains, which stores share."""
    folder = tmp_path_factory.mktemp("shapes")
    store, counts = open_store(str(folder)), {"train": 24, "val": 9, "test": 12}
    for domain in ("real", "sketch"):
        samples = [
            sample(
                f"{split}-{number:02}",
                encoded(shape(number % 3, 100 * at + number, sketched=domain == "sketch"), "PNG"),
                split,
                number % 3,
            )
            for at, (split, count) in enumerate(counts.items())
            for number in range(count)
        ]
        write(store, f"shapes/{domain}", samples)
    return folder


@pytest.fixture(scope="module")
def undisturbed(datasets, mlflow_tables, tmp_path_factory):
    """A store in which the twin went through at once, its recipe, and the folder of its report."""
    folder = tmp_path_factory.mktemp("undisturbed")
    store, recipe = fill(folder / "store", datasets, mlflow_tables), write_recipe(folder, TWIN)
    inline("launch", str(recipe), store=store)
    hpt("report", str(recipe), "--out", str(folder / "report"), store=str(store))
    return store, recipe, folder / "report"


def inline(*words, store):
    """Launch in this process, which computes with as many threads afterwards as before."""
    threads = torch.get_num_threads()
    hpt(*words, "--on", "inline", store=str(store), process=False)
    torch.set_num_threads(threads)


def planned(recipe, store):
    """Return what `plan` says of each trial by its name."""
    rows = document(hpt("plan", str(recipe), "--json", store=str(store)))
    return {row["trial"]: row for row in rows}


def record(store, key, name):
    return json.loads((store / f"stages/{key}/{name}.json").read_text())


def test_every_arm_of_the_sweep_starts_from_one_pretraining(undisturbed):
    store, recipe, _ = undisturbed
    trials = planned(recipe, store)
    assert {row["state"] for row in trials.values()} == {"cached"}
    kinds = [record(store, row["key"], "result")["kind"] for row in trials.values()]
    assert kinds.count("pretrain") == 1
    assert kinds.count("mme") == 2 * len(BUDGETS) * len(SEEDS) + 2 * 2 * len(SEEDS) + 2 * len(SEEDS)
    for init in ("base", "hpt"):
        ours = [row["key"] for name, row in trials.items() if f"init={init}" in name]
        assert {record(store, key, "spec")["init"] for key in ours} == {trials[init]["key"]}


def test_the_flagships_report_fills_all_of_its_tables(undisturbed):
    _, _, folder = undisturbed
    report = json.loads((folder / "report.json").read_text())
    table, helps, worth, ceiling = report["figures"]
    for figure in report["figures"]:
        for panel in figure["panels"]:
            assert None not in [cell["mean"] for cell in panel["table"]["cells"]]
            assert {len(cell["values"]) for cell in panel["table"]["cells"]} == {len(SEEDS)}
    assert [panel["name"] for panel in helps["panels"]] == ["s+t", "consistency"]
    assert [panel["name"] for panel in worth["panels"]] == ["base", "hpt"]
    for figure in (table, helps, ceiling):
        for panel in figure["panels"]:
            assert {one["row"] for one in panel["differences"]} == {"hpt"}
            assert panel["table"]["baseline"] == "base"
    assert {one["row"] for one in worth["panels"][0]["differences"]} == {"consistency"}
    [gains] = report["gains"]
    assert (gains["row"], gains["pairs"]) == ("hpt", len(BUDGETS) * len(SEEDS))
    total = sum(one["change"] * one["images"] for one in gains["classes"]) / 12
    over_all = max(table["panels"][0]["differences"], key=lambda one: one["columns"])
    assert 100 * total == pytest.approx(over_all["comparison"]["mean"])
    text = (folder / "report.md").read_text()
    assert "The paper's values beside ours" in text
    assert "MME+HPT" in text


def kill_a_trial(store, keys):
    """Kill the process of the first of some trials that has saved a state; return its key."""

    found = []

    def begun():
        folders = [store / "stages" / key for key in keys]
        found[:] = [one for one in folders if saved_step(one) and not (one / "DONE").exists()]
        return found

    wait_for(begun, timeout_s=400)
    [folder] = found
    os.kill(json.loads((folder / "lease.json").read_text())["pid"], signal.SIGKILL)
    return folder.name


def test_a_lost_trial_costs_no_other_and_ends_with_the_same_bytes(
    undisturbed, datasets, mlflow_tables, tmp_path
):
    calm, recipe, _ = undisturbed
    store = fill(tmp_path / "store", datasets, mlflow_tables)
    words = ("launch", str(recipe), "--only", "adapt")
    keys = {row["key"] for name, row in planned(recipe, calm).items() if "adapt" in name}
    launch = subprocess.Popen(
        [sys.executable, "-m", "hpt_dist", *words],
        env=environment(str(store)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    lost = kill_a_trial(store, keys)
    printed, _ = launch.communicate(timeout=400)
    assert launch.returncode == 1, printed
    assert "its process was killed" in printed
    assert f"1 of {2 + len(keys)} trials are not done" in printed
    before = outcome(store)
    assert set(before) == (keys | starts(calm)) - {lost}
    report = document(hpt("report", str(recipe), "--json", store=str(store)))
    counts = [len(cell["values"]) for cell in report["table"]["cells"]]
    assert sorted(counts) == [1, 2, 2, 2]
    costs = {key: (store / f"stages/{key}/run.json").read_bytes() for key in before}
    inline(*words, store=store)
    assert outcome(store) == {key: outcome(calm)[key] for key in {*before, lost}}
    # Nothing else ran again, the pretraining least of all.
    assert costs == {key: (store / f"stages/{key}/run.json").read_bytes() for key in before}
    assert record(store, lost, "run")["restarts"] == 1


def starts(store):
    """Return the keys of what trains or imports the weights that adaptations start from."""
    return {
        key
        for key in outcome(store)
        if record(store, key, "result")["kind"] in ("import", "pretrain")
    }
