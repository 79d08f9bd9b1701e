"""Detectors learn what is in 32 pictures from random weights; aerial photographs get scores."""

import json

import pytest
import torch
import yaml
from composed import NAME
from forest import SETS
from small import fill, hpt, write_recipe

from hpt_dist.stages import detect_scores

# Without flips, at one size: a detector is asked to learn pictures, not to find others.
SMALL = {
    "steps": 180,
    "batch": 4,
    "optimizer": {"lr": 0.02},
    "warmup_steps": 20,
    "milestones": [0.75, 0.92],
    "sizes": [224],  # pictures are enlarged: conv4 has a place for 16 pixels
    "test_size": 224,
    "max_size": 320,
    "flip": 0,
    "anchor_sizes": [64, 128],
    "regions": 8,
    "before_nms": [400, 200],
    "after_nms": [60, 30],
    "precise_batch_norm": 8,
}
LONGER = {
    "r50_c4": {"steps": 300},
    "masks": {"steps": 300, "masks": True},
    "fpn": {"steps": 300, "architecture": "fpn", "anchor_sizes": [32, 64, 96, 128, 192]},
}


@pytest.fixture
def launched(mlflow_tables, tmp_path):
    """Launch a detector in this very process; return its result."""
    threads = torch.get_num_threads()

    def of(images, data, backbone, settings):
        detector = {"kind": "detect", "init": "base", "data": "things", **settings}
        recipe = {
            "name": "learned",
            "store": "${HPT_STORE}",
            "datasets": {"things": data},
            "backbone": backbone,
            "image": {"size": 32},
            "stages": {"base": {"kind": "import", "weights": "random"}, "detector": detector},
        }
        store = fill(tmp_path / "store", images, mlflow_tables)
        file = write_recipe(tmp_path, yaml.safe_dump(recipe, sort_keys=False))
        hpt("launch", str(file), "--on", "inline", store=str(store), process=False)
        found = [json.loads(path.read_text()) for path in store.glob("stages/*/result.json")]
        return next(one for one in found if one["stage"] == "detector")

    yield of
    torch.set_num_threads(threads)


@pytest.fixture
def of_train(monkeypatch):
    """The pictures that were learned from judge."""
    pool_of = detect_scores.pool_of

    def opened(context, names):
        return pool_of(context, tuple(one.replace("/test", "/train") for one in names))

    monkeypatch.setattr(detect_scores, "pool_of", opened)


@pytest.mark.timeout(1500)  # five minutes of one core
def test_a_small_c4_learns_32_pictures(composed, launched, of_train):
    found = launched(composed, NAME, "torchvision/resnet18", SMALL)
    assert found["details"]["n_test"] == 32
    assert found["metrics"]["test/AP50"] > 0.9


@pytest.mark.deep
@pytest.mark.timeout(5400)
@pytest.mark.parametrize("variant", LONGER)
def test_larger_detectors_learn_them_too(composed, launched, of_train, variant):
    backbone = "torchvision/resnet50" if variant == "r50_c4" else "torchvision/resnet18"
    metrics = launched(composed, NAME, backbone, SMALL | LONGER[variant])["metrics"]
    assert metrics["test/AP50"] > 0.9
    assert metrics.get("test/mask_AP50", 1) > 0.9
    assert ("test/mask_AP50" in metrics) == (variant == "masks")


@pytest.mark.services
def test_aerial_photographs_go_from_a_folder_of_voc_to_scores(forest, launched, tmp_path):
    images = tmp_path / "sharded"
    hpt("shard", str(forest), f"{images}/datasets/trees", "--boxes", store=str(images))
    settings = {"steps": 4, "batch": 2, "warmup_steps": 1, "sizes": [320, 400], "test_size": 400}
    more = {"max_size": 512, "by_shape": False, "voc_recalls": "all"}
    found = launched(images, "trees", "timm/test_efficientnet", settings | more)
    metrics, details = found["metrics"], found["details"]
    assert {"test/AP", "test/AP50", "test/voc_AP", "test/voc_AP50"} <= metrics.keys()
    assert (details["n_train"], details["n_test"]) == (len(SETS["train"]), len(SETS["test"]))
    assert set(details["classes"]["boxes"]) == {"Alive", "Dead", "Tree"}
