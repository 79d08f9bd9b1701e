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
  fresh: {kind: bn_refresh, init: base, data: [photos/train, photos/val], batch: 32, mix: 1.0}
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


def test_a_network_without_batch_norm_is_refused(inline, new_store, tmp_path):
    store = new_store("store")
    path = write_recipe(tmp_path, RECIPE.replace("test_efficientnet", "test_vit"))
    output = inline(path, store, *FRESH, code=1)
    assert "timm/test_vit has no batch-norm statistics to take anew" in output
