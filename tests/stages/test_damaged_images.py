"""Trials with damaged images: they stop and go on, or replace and name them under another key."""

import json
import random
import shutil

import pytest
import torch
from PIL import Image
from small import fill, hpt, outcome, write_recipe

from hpt_dist.reading.pool import Pool
from hpt_dist.reading.split import open_split
from hpt_dist.reading.stream import batch_keys
from hpt_dist.store import open_store

RECIPE = """\
name: noisy
store: ${HPT_STORE}
datasets: {noise: noise}
backbone: timm/test_efficientnet
image: {size: 32}
stages:
  base: {kind: import, weights: random}
  hpt:
    kind: pretrain
    init: base
    data: [noise/train]
    steps: 12
    batch: 8
    moco: {queue: 16, momentum: 0.9}
    batch_norm: frozen
    checkpoint_every: 4
    monitor: null
  probe: {kind: knn, data: noise, k: [5], init: hpt}
"""
REPLACING = RECIPE.replace("batch: 8", "batch: 8\n    max_bad: 1")
STEPS = 12


@pytest.fixture
def inline():
    threads = torch.get_num_threads()
    yield lambda *arguments, store, code=0: hpt(
        "launch", *arguments, "--on", "inline", store=store, code=code, process=False
    )
    torch.set_num_threads(threads)


def shard(folder, store):
    options = ("--shard-mb", "0.05", "--workers", "1")
    hpt("shard", str(folder), f"{store}/datasets/noise", *options, store=store, process=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder of 120 images of noise, and a store with its shards."""
    folder = tmp_path_factory.mktemp("noise")
    for split, count in (("train", 96), ("val", 12), ("test", 12)):
        for number in range(count):
            path = folder / "noise" / split / "ab"[number % 2] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = random.Random(f"{split}{number}").randbytes(32 * 32 * 3)
            Image.frombytes("RGB", (32, 32), pixels).save(path)
    shard(folder / "noise", str(folder / "store"))
    return folder


@pytest.fixture
def store(made, mlflow_tables, tmp_path):
    store = fill(tmp_path / "store", tmp_path, mlflow_tables)
    (store / "datasets").unlink()
    shutil.copytree(made / "store/datasets", store / "datasets")
    return store


def images_of_step(store, step):
    """Return the images of a step of hpt in order: (key, file of its tar, its first byte)."""
    pool = Pool([open_split(open_store(str(store)), "noise", "train")])
    wanted = [name.rpartition("/")[2] for name in batch_keys(pool, step, batch=8, seed=0)]
    found = []
    for index in sorted(store.glob("datasets/noise/train/*.index.json")):
        columns = json.loads(index.read_text())
        tar = index.with_name(index.name.replace(".index.json", ".tar"))
        pairs = zip(columns["keys"], columns["offsets"], strict=True)
        found += [(key, tar, offset) for key, offset in pairs if key in wanted]
    return sorted(found, key=lambda image: wanted.index(image[0]))


def damage(image):
    _, tar, offset = image
    with tar.open("r+b") as file:
        file.seek(offset + 200)
        file.write(b"\0\0\0")


def the(store, kind):
    (folder,) = (
        path.parent
        for path in store.glob("stages/*/spec.json")
        if json.loads(path.read_text())["spec"]["kind"] == kind
    )
    return folder


def test_damage_stops_a_trial_which_goes_on_once_the_shard_is_made_anew(
    inline, made, store, tmp_path
):
    undisturbed = tmp_path / "undisturbed"
    shutil.copytree(store, undisturbed, symlinks=True)
    recipe = str(write_recipe(tmp_path, RECIPE))
    inline(recipe, store=str(undisturbed))

    first, second = images_of_step(store, 6)[:2]
    damage(first)
    damage(second)
    printed = inline(recipe, store=str(store), code=1)
    assert "2 images are damaged" in printed
    for key, tar, _ in (first, second):
        assert f"{tar}: image {key} of dataset noise, split train" in printed
    dataset = f"{store}/datasets/noise"
    assert f"hpt-dist shard SOURCE {dataset}` (SOURCE was called noise)" in printed
    assert f"hpt-dist data verify {dataset}" in printed
    assert not (the(store, "pretrain") / "DONE").exists()

    verified = hpt("data", "verify", dataset, store=str(store), code=1)
    damaged = {tar for _, tar, _ in (first, second)}
    assert all(str(tar) in verified for tar in damaged)
    tars = {path: path.stat().st_mtime_ns for path in store.glob("datasets/noise/*/*.tar")}
    for tar in damaged:
        tar.unlink()
    shard(made / "noise", str(store))
    assert {p for p in tars if p.stat().st_mtime_ns != tars[p]} == damaged, "no other is written"
    for path in (made / "store").rglob("datasets/noise/*/noise-*"):
        assert (store / path.relative_to(made / "store")).read_bytes() == path.read_bytes()

    assert "resumes after step 6" in inline(recipe, store=str(store))
    assert outcome(store) == outcome(undisturbed)
    lines = (the(store, "pretrain") / "metrics.jsonl").read_text().splitlines()
    # The last line has the values of what is kept.
    assert [json.loads(line)["step"] for line in lines] == [4, 6, 8, 10, STEPS, STEPS]


@pytest.mark.parametrize("split", ["val", "test"])
def test_what_judges_is_never_replaced(inline, store, tmp_path, split):
    tar = next(store.glob(f"datasets/noise/{split}/*.tar"))
    index = json.loads(tar.with_suffix(".index.json").read_text())
    damage((index["keys"][0], tar, index["offsets"][0]))
    path = str(write_recipe(tmp_path, RECIPE.replace("init: hpt}", "init: base, max_bad: 9}")))
    printed = inline(path, "--only", "probe", store=str(store), code=1)
    assert f"{tar}: image {index['keys'][0]} of dataset noise, split {split}" in printed


def test_what_was_replaced_stays_so_and_is_reported(inline, made, store, tmp_path):
    """The second damaged image stops the trial; by the relaunch all shards are whole again."""
    recipe = str(write_recipe(tmp_path, REPLACING))
    once = tmp_path / "once"
    first, later = images_of_step(store, 2)[0], images_of_step(store, 9)[0]
    damage(first)
    shutil.copytree(store, once, symlinks=True)
    inline(recipe, "--only", "hpt", store=str(once))
    damage(later)
    printed = inline(recipe, "--only", "hpt", store=str(store), code=1)
    assert "more than 1 image is damaged, among them" in printed
    assert later[0] in printed
    shutil.rmtree(store / "datasets")
    shutil.copytree(made / "store/datasets", store / "datasets")
    printed = inline(recipe, "--only", "hpt", store=str(store))
    assert "resumes after step 9" in printed
    assert outcome(store) == outcome(once)
    name = f"noise/train/{first[0]}"
    assert json.loads((the(store, "pretrain") / "DONE").read_text())["replaced"] == [name]
    assert json.loads((the(store, "pretrain") / "result.json").read_text())["replaced"] == [name]
    assert f"1 image replaced: {name}" in printed
    assert "1 image replaced" in hpt("plan", recipe, store=str(store))


def test_watched_training_images_are_replaced_too(inline, store, tmp_path):
    image = images_of_step(store, 11)[0]
    damage(image)
    recipe = str(write_recipe(tmp_path, REPLACING.replace("monitor: null", "monitor: {every: 6}")))
    printed = inline(recipe, "--only", "hpt", store=str(store))
    assert f"1 image replaced: noise/train/{image[0]}; hpt found them damaged" in printed


def test_an_image_of_another_rank_is_named_by_the_trial_and_replaced_alike(store, tmp_path):
    image = images_of_step(store, 5)[-1]  # of the second rank's share
    damage(image)
    recipe = write_recipe(tmp_path, RECIPE)
    command = ("launch", str(recipe), "--only", "hpt", "--ranks", "2")
    printed = hpt(*command, store=str(store), code=1)
    assert f"hpt: {image[1]}: image {image[0]} of dataset noise, split train" in printed
    failure = json.loads((the(store, "pretrain") / "failure.json").read_text())["error"]
    assert image[0] in failure
    assert "hpt-dist data verify" in failure
    shutil.rmtree(the(store, "pretrain"))
    recipe.write_text(REPLACING)
    printed = hpt(*command, store=str(store))
    assert f"1 image replaced: noise/train/{image[0]}" in printed


def test_an_evaluation_replaces_images_of_train_where_it_may(inline, store, tmp_path):
    image = images_of_step(store, 0)[0]
    damage(image)
    recipe = RECIPE.replace("init: hpt}", "init: base, max_bad: 1}")
    recipe += "  line: {kind: linear, data: noise, init: base, views: 2, steps: 5, max_bad: 1}\n"
    path = str(write_recipe(tmp_path, recipe))
    inline(path, "--only", "probe", "--only", "line", store=str(store))
    for kind in ("knn", "linear"):
        result = json.loads((the(store, kind) / "result.json").read_text())
        assert result["replaced"] == [f"noise/train/{image[0]}"]


def test_fine_tuning_replaces_images_of_train_with_their_labels(inline, store, tmp_path):
    image = images_of_step(store, 3)[2]
    damage(image)
    recipe = RECIPE.replace("  probe:", "  tune:").replace("kind: knn", "kind: finetune")
    recipe = recipe.replace("k: [5], init: hpt", "steps: 12, batch: 8, init: base")
    path = write_recipe(tmp_path, recipe)
    printed = inline(str(path), "--only", "tune", store=str(store), code=1)
    assert f"{image[1]}: image {image[0]} of dataset noise, split train" in printed
    path.write_text(recipe.replace("batch: 8, init", "batch: 8, max_bad: 1, init"))
    inline(str(path), "--only", "tune", store=str(store))
    done = [json.loads(one.read_text()) for one in store.glob("stages/*/DONE")]
    assert [f"noise/train/{image[0]}"] in [one.get("replaced") for one in done]
