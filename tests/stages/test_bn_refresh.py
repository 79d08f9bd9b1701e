"""Batch-norm statistics taken anew in a launch: by hand, on two ranks, and after a kill."""

import json
import os
import signal
import subprocess
import sys

import pytest
import torch
from pictures import labelled, write
from safetensors.torch import load_file
from small import environment, fill, hpt, outcome, wait_for, write_recipe

from hpt_dist.images.normalization import NORMALIZE
from hpt_dist.images.photometric import Normalize
from hpt_dist.networks import backbones, refresh
from hpt_dist.reading.stream import Pool, center_batches, open_split
from hpt_dist.recipe import catalogue
from hpt_dist.store import open_store
from hpt_dist.store.committed import WEIGHTS

RECIPE = """\
name: fresh
store: ${HPT_STORE}
datasets: {photos: photos}
backbone: timm/test_efficientnet
image: {size: 32}
stages:
  base: {kind: import, weights: random}
  fresh: {kind: bn_refresh, init: base, data: [photos/train, photos/val], batch: 32, mix: 1.0,
          judge: {data: photos}}
  probe: {kind: knn, init: fresh, data: photos, k: [5]}
"""
IMAGES = {"train": 120, "val": 25, "test": 25}
FRESH = ("--only", "fresh")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    samples = [one for split, count in IMAGES.items() for one in labelled(count, split=split)]
    write(open_store(str(folder)), "photos", samples)
    return folder


@pytest.fixture
def new_store(photos, mlflow_tables, tmp_path):
    return lambda name: fill(tmp_path / name, photos, mlflow_tables)


@pytest.fixture
def inline():
    threads = torch.get_num_threads()
    yield lambda path, store, *more, **options: hpt(
        *("launch", str(path), "--on", "inline", *more), store=str(store), process=False, **options
    )
    torch.set_num_threads(threads)


def results(store):
    found = (json.loads(path.read_text()) for path in store.glob("stages/*/result.json"))
    return {one["trial"]: one for one in found}


def weights(store, trial):
    (folder,) = (p.parent for p in store.glob("stages/*/result.json") if _is_of(p, trial))
    return load_file(folder / WEIGHTS)


def _is_of(path, trial):
    return json.loads(path.read_text())["trial"] == trial


def test_every_image_counts_once_and_an_evaluation_starts_from_what_is_left(
    inline, new_store, tmp_path
):
    store = new_store("store")
    # One batch of all images, which a hand-made pass over them in any order is too.
    path = write_recipe(tmp_path, RECIPE.replace("32,", "145,").replace("1.0", "0.3"))
    output = inline(path, store)
    assert "batch norm: 30% statistics of its images, 70% the old ones" in output
    found = results(store)["fresh"]["details"]
    assert (found["images"], found["batches"]) == (145, 1)
    base, fresh = weights(store, "base"), weights(store, "fresh")
    net = backbones.create("timm/test_efficientnet")
    net.load_state_dict(base)
    folder = open_store(str(store))
    pool = Pool([open_split(folder, "photos", split) for split in ("train", "val")])
    normalize = Normalize(*NORMALIZE["imagenet"], torch.device("cpu"))
    (batch,) = center_batches(pool, batch=145, size=32)
    moments = refresh.moments_of(net, normalize(batch.images[0]))
    expected = refresh.refreshed(base, moments, 0.3)
    assert list(fresh) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(fresh[name], value, rtol=1e-4, atol=1e-5)
    assert results(store)["probe"]["metrics"]["test/top1"] >= 0
    assert "cached" in inline(path, store)


@pytest.fixture(scope="module")
def undisturbed(photos, mlflow_tables, tmp_path_factory):
    """A store in which one rank has gone through at once."""
    folder = tmp_path_factory.mktemp("undisturbed")
    store, threads = fill(folder / "store", photos, mlflow_tables), torch.get_num_threads()
    path = write_recipe(folder, RECIPE)
    hpt("launch", str(path), *FRESH, "--on", "inline", store=str(store), process=False)
    torch.set_num_threads(threads)
    assert results(store)["fresh"]["details"]["batches"] == 5  # the last of 17 images
    return store


def test_two_ranks_leave_the_bits_of_one(undisturbed, new_store, tmp_path):
    store = new_store("two")
    hpt("launch", str(write_recipe(tmp_path, RECIPE)), *FRESH, "--ranks", "2", store=str(store))
    assert outcome(store) == outcome(undisturbed)


def test_killed_it_ends_with_the_same_bits(inline, undisturbed, new_store, tmp_path):
    path, killed = write_recipe(tmp_path, RECIPE), new_store("killed")
    with subprocess.Popen(
        [sys.executable, "-m", "hpt_dist", "launch", str(path), *FRESH, "--on", "inline"],
        env=environment(str(killed)),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        wait_for(
            lambda: len(list(killed.glob("stages/*/lease*"))) > 0 and len(outcome(killed)) == 1
        )
        os.killpg(process.pid, signal.SIGKILL)
    inline(path, killed, *FRESH)
    assert outcome(killed) == outcome(undisturbed)


JUDGED = """\
  chosen: {kind: bn_refresh, init: base, data: [photos/train], judge: JUDGE,
           choose: {mix: [0, 0.1, 0.3, 1]}}
  by_hand: {kind: bn_refresh, init: base, data: [photos/train], judge: JUDGE,
            sweep: {mix: [0, 0.1, 0.3, 1]}}
  after: {kind: KIND, init: by_hand, data: photosMORE}
  probe: {kind: knn, init: chosen, data: photos, k: [5]}
"""


@pytest.mark.parametrize(
    ("judge", "kind", "more"),
    [
        ("{kind: knn, data: photos}", "knn", ""),
        ("{kind: linear, data: photos, metric: ece}", "linear", ", solver: lbfgs, metric: ece"),
    ],
    ids=["knn", "linear"],
)
def test_val_chooses_how_much_is_replaced(inline, new_store, tmp_path, judge, kind, more):
    head = RECIPE.partition("  fresh:")[0]
    text = JUDGED.replace("JUDGE", judge).replace("KIND", kind).replace("MORE", more)
    store = new_store("store")
    printed = inline(write_recipe(tmp_path, head + text), store)
    assert "chosen: validation chooses among mix=0; mix=0.1; mix=0.3; mix=1; later" in printed
    found = results(store)
    metric = "val/ece" if more else "val/top1"
    mixes = ("0", "0.1", "0.3", "1")
    on_val = {mix: found[f"by_hand/mix={mix}"]["metrics"][metric] for mix in mixes}
    for mix, value in on_val.items():  # the evaluation is that of its kind
        assert found[f"after/by_hand.mix={mix}"]["metrics"][metric] == pytest.approx(value)
        assert found[f"chosen.candidates/mix={mix}"]["metrics"][metric] == value
    best = (min if more else max)(on_val, key=lambda mix: on_val[mix])
    chosen = found["chosen"]
    assert chosen["details"]["choice"]["chosen"] == f"mix={best}"
    assert chosen["metrics"][metric] == on_val[best]
    for name, one in found.items():
        if not name.startswith(("after", "probe")):
            assert not any(metric.startswith("test/") for metric in one["metrics"])
    by_hand = weights(store, f"by_hand/mix={best}")
    torch.testing.assert_close(weights(store, "chosen"), by_hand, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("stage", "printed"),
    [
        ("choose: {mix: [0, 1]}", "bn_refresh has no result on val for choose to go by"),
        ("judge: {data: photo}", "no dataset photo"),
        ("judge: {data: photos/val}", "photos/val cannot be learned from"),
        ("judge: {data: photos, metric: map}", "map cannot be computed on photos"),
        (
            "judge: {data: photos}, data: [photos/test], choose: {mix: [0, 1]}",
            "photos/test is what the chosen is judged by in the end",
        ),
    ],
)
def test_what_cannot_be_judged_is_refused_by_plan(new_store, tmp_path, stage, printed):
    data = "" if "data: [" in stage else ", data: [photos/train]"
    text = RECIPE.partition("  fresh:")[0]
    text += f"  fresh: {{kind: bn_refresh, init: base{data}, {stage}}}\n"
    output = hpt("plan", str(write_recipe(tmp_path, text)), store=str(new_store("store")), code=2)
    assert printed in output
    assert "fresh.yaml:8 stages.fresh" in output


def test_a_network_without_batch_norm_is_refused_by_plan(new_store, tmp_path):
    store = new_store("store")
    path = write_recipe(tmp_path, RECIPE.replace("test_efficientnet", "test_vit"))
    output = hpt("plan", str(path), store=str(store), code=2)
    assert "timm/test_vit has no batch-norm statistics to take anew" in output


def test_so_is_one_that_no_plan_knows(inline, new_store, tmp_path, monkeypatch):
    monkeypatch.setattr(catalogue, "has_batch_norm", lambda _: True)
    path = write_recipe(tmp_path, RECIPE.replace("test_efficientnet", "test_vit"))
    output = inline(path, new_store("store"), *FRESH, code=1)
    assert "timm/test_vit has no batch-norm statistics to take anew" in output
