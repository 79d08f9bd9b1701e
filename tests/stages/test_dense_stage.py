"""Features of positions judged in a launch: of drawings on backgrounds, before and after."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from small import fill, hpt, write_recipe

from hpt_dist.datasets import manifest
from hpt_dist.errors import RecipeError
from hpt_dist.launch import lookup
from hpt_dist.recipe import file as recipe_file
from hpt_dist.recipe import plan
from hpt_dist.store import open_store

RECIPE = """\
name: positions
store: ${HPT_STORE}
datasets: {scenes: composed}
backbone: timm/test_efficientnet
image: {size: 64}
stages:
  base: {kind: import, weights: random}
  fresh: {kind: bn_refresh, init: base, data: [scenes/train], batch: 16}
  patches:
    {kind: dense, data: scenes, features: blocks.1, patches: 640, k: [1, 5], l2: [1.0, 0.01],
     sweep: {init: [base, fresh]}}
report: {table: patches, rows: init}
"""


@pytest.fixture
def store(composed, mlflow_tables, tmp_path):
    return fill(tmp_path / "store", composed, mlflow_tables)


def finished(store):
    folders = (path.parent for path in store.glob("stages/*/result.json"))
    return {json.loads((one / "result.json").read_text())["trial"]: one for one in folders}


def test_positions_are_judged_and_shown_before_and_after(store, tmp_path):
    threads = torch.get_num_threads()
    path = write_recipe(tmp_path, RECIPE)
    hpt("launch", str(path), "--on", "inline", store=str(store), process=False)
    torch.set_num_threads(threads)
    folders = finished(store)
    result = json.loads((folders["patches/init=fresh"] / "result.json").read_text())
    assert set(result["metrics"]) == {"val/miou", "test/miou", "val/knn_miou", "test/knn_miou"}
    details = result["details"]
    assert details["metric"] == "miou"
    assert details["grid"][0] == details["grid"][1] > 2
    assert details["n_train"] <= 640
    assert (details["n_val"], details["n_test"]) == (16, 16)
    classes = details["iou"]["test/miou"]
    assert next(iter(classes)) == "background"
    # Random weights see colours and edges: positions of the background are told from others.
    assert classes["background"] > 0.5
    low, high = details["intervals"]["test/miou"]
    assert low < result["metrics"]["test/miou"] < high
    assert details["before"] == folders["base"].name
    before = json.loads((folders["patches/init=base"] / "result.json").read_text())["details"]
    assert before["before"] == ""
    with Image.open(folders["patches/init=fresh"] / "patches.webp") as both:
        with Image.open(folders["patches/init=base"] / "patches.webp") as one:
            assert both.height == one.height
            assert both.width > one.width
        assert np.asarray(both.convert("RGB")).std() > 10
    hpt("report", str(path), "--out", str(tmp_path / "out"), store=str(store))
    page = (tmp_path / "out/report.html").read_text()
    assert "Objects and positions" in page
    assert "patches/init=fresh: classes of positions" in page
    table = json.loads((tmp_path / "out/report.json").read_text())["table"]
    assert table["metric"] == "test/miou"
    again = hpt("launch", str(path), "--on", "inline", store=str(store), process=False)
    assert "cached" in again


def planned(text, place):
    recipe = recipe_file.parse(text.replace("${HPT_STORE}", str(place)), environment={})
    trials = plan.make(recipe, lookup.facts(recipe, open_store(str(place))))
    return {one.name: one for one in trials}


def test_a_plan_knows_what_it_reads_and_refuses_what_it_cannot_read(
    composed, drawings, monkeypatch
):
    trial = planned(RECIPE, composed)["patches/init=fresh"]
    assert trial.spec.judged_on(trial.datasets) == 32 + 16 + 16 + 24
    assert "compare backbones" in trial.spec.remark()
    with pytest.raises(RecipeError, match="val chooses"):
        planned(RECIPE.replace("dense, data: scenes", "dense, data: scenes/val"), composed)
    monkeypatch.setattr(
        lookup, "read_manifest", lambda *one: replace(manifest.read_manifest(*one), masks=False)
    )
    with pytest.raises(RecipeError, match=r"patches.data: the objects of composed have no masks"):
        planned(RECIPE, composed)
    monkeypatch.undo()
    with pytest.raises(RecipeError, match="features"):
        planned(RECIPE.replace("blocks.1", "a..b"), composed)
    with pytest.raises(RecipeError, match="needs boxes"):
        planned(RECIPE.replace("scenes: composed", "scenes: openmoji/line"), drawings)
