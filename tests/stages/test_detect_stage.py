"""Detectors launched on drawings composed on backgrounds: resumed, on two ranks, judged, pulled."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small import hpt, kill_once_saved, outcome, write_recipe

from hpt_dist.evals import detection
from hpt_dist.evals.detection import Detections
from hpt_dist.reading.split import open_split
from hpt_dist.stages import detect_inputs, detect_scores
from hpt_dist.store import open_store
from hpt_dist.train import optim
from hpt_dist.trial import detections_file

RECIPE = """\
name: found
store: ${HPT_STORE}
datasets: {things: composed}
backbone: timm/test_efficientnet
image: {size: 32}
stages:
  base: {kind: import, weights: random}
  detector:
    kind: detect
    init: base
    data: things
    steps: 8
    batch: 4
    warmup_steps: 2
    optimizer: {lr: 0.01}
    sizes: [96, 128]
    test_size: 96
    max_size: 160
    anchor_sizes: [32, 64]
    regions: 16
    before_nms: [200, 100]
    after_nms: [60, 30]
    jitter: 0.5
    checkpoint_every: 2
"""
MASKS = RECIPE + "    masks: true\n    precise_batch_norm: 2\n    eval_every: 4\n    keep: best\n"


@pytest.fixture
def inline():
    """Launch a recipe in this very process, which has imported torch already."""
    threads = torch.get_num_threads()
    yield lambda recipe, store, *more: hpt(
        *("launch", str(recipe), "--on", "inline", *more), store=str(store), process=False
    )
    torch.set_num_threads(threads)


def copied(composed, folder):
    """Return a store with the composed images that only its test changes."""
    store = folder / "store"
    store.mkdir()
    shutil.copy(composed / "STORE", store)
    (store / "datasets").symlink_to(composed / "datasets")
    return store


@pytest.fixture(scope="module")
def trained(composed, tmp_path_factory):
    """A store in which a detector with masks was trained undisturbed, and its recipe."""
    folder = tmp_path_factory.mktemp("detector")
    store, recipe = copied(composed, folder), write_recipe(folder, MASKS)
    threads = torch.get_num_threads()
    hpt("launch", str(recipe), "--on", "inline", store=str(store), process=False)
    torch.set_num_threads(threads)
    return store, recipe


def result_of(store, stage="detector"):
    found = [json.loads(path.read_text()) for path in store.glob("stages/*/result.json")]
    return next(one for one in found if one["stage"] == stage)


def test_the_last_weights_alone_read_test_and_nothing_reads_val(
    inline, composed, monkeypatch, tmp_path
):
    store, opened = copied(composed, tmp_path), []
    for module in (detect_inputs, detect_scores):
        pool_of = module.pool_of
        monkeypatch.setattr(
            module, "pool_of", lambda *a, of=pool_of: opened.append(a[1][0]) or of(*a)
        )
    build, decayed = optim.build, []
    monkeypatch.setattr(
        optim, "build", lambda *a, **more: decayed.append(more["decay_norms"]) or build(*a, **more)
    )
    inline(write_recipe(tmp_path, RECIPE), store)
    result = result_of(store)
    assert decayed == [False]
    assert opened == ["things/train", "things/test"]
    assert {name for name in result["metrics"] if name.startswith("val/")} == set()
    assert result["details"]["n_train"] == 32
    assert result["details"]["selected"] == {"step": 8}
    assert 0 <= result["metrics"]["test/AP50"] <= 1


def test_what_is_found_lies_beside_the_result_and_has_its_scores(trained):
    store, _ = trained
    result = result_of(store)
    folder = store / "stages" / result["key"]
    split = open_split(open_store(str(store)), "composed", "test")
    rows = detections_file.read((folder / "detections.test.parquet").read_bytes(), "test")
    assert [row.key for row in rows] == split.keys
    found = {
        row.key: Detections(
            np.array(row.boxes, np.float32).reshape(-1, 4),
            np.array(row.scores, np.float32),
            np.array(row.labels, np.int64),
            tuple(one.encode() for one in row.masks),
        )
        for row in rows
    }
    truth = [(key, split.boxes(i)) for i, key in enumerate(split.keys)]
    for kind, rule in (("boxes", ""), ("masks", "mask_")):
        scores = detection.score(truth, found, split.classes, kind=kind)
        for name, value in scores.metrics.items():
            if value is not None:
                assert result["metrics"][f"test/{rule}{name}"] == pytest.approx(value / 100)
        assert set(result["details"]["classes"][kind]) == set(split.classes)
    looked = result["details"]["val/AP_by_step"]
    assert sorted(map(int, looked)) == [4, 8]
    for key, boxes in truth:
        height, width = boxes.size
        limits = np.array([width, height, width, height], np.float32)
        assert (found[key].boxes <= limits + 1e-3).all()


def test_the_page_of_the_launch_shows_what_was_found(trained):
    store, _ = trained
    [page] = store.glob("work/reports/found/report.html")
    assert "Objects and positions" in page.read_text()


def test_killed_by_kill_9_it_goes_on_to_the_same_bits(trained, composed, inline, tmp_path):
    done, recipe = trained
    store = copied(composed, tmp_path)
    kill_once_saved(recipe, store, 2)
    assert outcome(store).keys() != outcome(done).keys(), "it ended before it was killed"
    assert "resumes after step" in inline(recipe, store)
    assert outcome(store) == outcome(done)


def test_two_ranks_begin_like_one(trained, composed, tmp_path):
    """Later on, rounding decides which of two proposals with equal scores is dropped."""
    done, recipe = trained
    store = copied(composed, tmp_path)
    hpt("launch", str(recipe), "--ranks", "2", store=str(store))
    one, two = result_of(done), result_of(store)
    losses = [first_losses(at / f"stages/{one['key']}/metrics.jsonl") for at in (done, store)]
    assert len(losses[0]) == 6
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert two["metrics"].keys() == one["metrics"].keys()
    assert two["details"]["n_test"] == one["details"]["n_test"]


def first_losses(file):
    """Return the losses of the first two steps."""
    for line in map(json.loads, file.read_text().splitlines()):
        found = {k: v for k, v in line["metrics"].items() if k.startswith("train/loss")}
        if found:
            return found
    return {}


def test_precise_statistics_are_those_of_training_batches(trained):
    """Running ones would have moved by a tenth a step, eight times."""
    store, _ = trained
    model = load_file(store / f"stages/{result_of(store)['key']}/model.safetensors")
    mean = model["roi_heads.box_head.norm.running_mean"]
    assert mean.abs().max() > 0
    assert all(value.isfinite().all() for value in model.values())


def test_a_detector_is_pulled_with_what_it_found(trained, tmp_path):
    store, _ = trained
    printed = hpt("pull", "found/detector", str(tmp_path / "out"), store=str(store))
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"model.safetensors", "detections.test.parquet", "loading.md"} <= names
    assert "Class 0 of its\npredictors" in (tmp_path / "out/loading.md").read_text()
    assert "how to load it" in printed
    command = ("pull", "found/detector", str(tmp_path / "d2"), "--format", "detectron2")
    assert "its detectors are those of ResNets" in hpt(*command, store=str(store), code=2)
