"""Predictions that evaluations of real drawings leave: those of their metrics, image by image."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet as pq
from shapes import SHAPES, write_shapes
from small import fill, hpt, outcome, write_recipe

from hpt_dist.reading.pool import Pool
from hpt_dist.reading.split import open_split
from hpt_dist.store import open_store

RECIPE = """\
name: left
store: ${HPT_STORE}
datasets: {line: openmoji/line, shapes: shapes}
backbone: timm/test_efficientnet
image: {size: 32}
stages:
  base: {kind: import, weights: random}
  near: {kind: knn, init: base, data: line, k: [5]}
  rates: {kind: linear, init: base, data: line, views: 0, steps: 20, batch: 64}
  several: {kind: linear, init: base, data: shapes, solver: lbfgs, metric: map}
  decide: {kind: knn, init: base, data: shapes, k: [3], choose: {temperature: [0.05, 0.5]}}
  tune: {kind: finetune, init: base, data: line, labels: 40, steps: 6, batch: 8, eval_every: 3}
  adapt: {kind: mme, init: base, source: line/train, target: line, shots: 1, steps: 6,
          batch_labelled: 4, batch_unlabelled: 8, eval_every: 3, checkpoint_every: 2}
"""
OF_ONE_LABEL = ("near", "rates", "tune", "adapt")
FILES = {f"predictions.{split}.parquet" for split in ("val", "test")}


def inline(recipe, store):
    threads = torch.get_num_threads()
    hpt("launch", str(recipe), "--on", "inline", store=str(store), process=False)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def left(drawings, mlflow_tables, tmp_path_factory):
    """A store in which all kinds of evaluations went through, and their results by trial."""
    folder = tmp_path_factory.mktemp("left")
    store = fill(folder / "store", drawings, mlflow_tables)
    (store / "datasets").unlink()
    (store / "datasets").mkdir()
    (store / "datasets/openmoji").symlink_to(drawings / "datasets/openmoji")
    write_shapes(open_store(str(store)))
    inline(write_recipe(folder, RECIPE), store)
    return store, results(store)


def results(store):
    found = (json.loads(path.read_text()) for path in store.glob("stages/*/result.json"))
    return {one["trial"]: one for one in found}


def table_of(store, result, split):
    path = store / f"stages/{result['key']}/predictions.{split}.parquet"
    return pq.read_table(pa.BufferReader(path.read_bytes()))


def left_by(store, result):
    """Return the names of the predictions that a trial's `DONE` names."""
    done = json.loads((store / f"stages/{result['key']}/DONE").read_text())
    return set(done["objects"]) & FILES


@pytest.mark.parametrize("split", ["val", "test"])
@pytest.mark.parametrize("trial", OF_ONE_LABEL)
def test_each_image_is_there_once_in_the_splits_order_and_as_its_metric_read_it(left, trial, split):
    store, found = left
    table = table_of(store, found[trial], split)
    opened = open_split(open_store(str(store)), "openmoji/line", split)
    pool = Pool([opened])
    assert table["key"].to_pylist() == pool.keys
    assert table["label"].to_pylist() == pool.labels.tolist()
    assert table["class"].to_pylist() == [pool.classes[c] for c in pool.labels]
    assert table["file"].to_pylist() == [opened.files()[key] for key in pool.keys]
    right = np.array(table["correct"].to_pylist())
    assert right.mean() == pytest.approx(found[trial]["metrics"][f"{split}/top1"], abs=1e-12)
    tops = table["top_label"].to_pylist()
    assert [top[0] == label for top, label in zip(tops, pool.labels, strict=True)] == right.tolist()
    if "test/top5" in found[trial]["metrics"]:
        among = [label in top for top, label in zip(tops, pool.labels, strict=True)]
        expected = found[trial]["metrics"][f"{split}/top5"]
        assert np.mean(among) == pytest.approx(expected, abs=1e-12)
    scores = np.array(table["top_score"].to_pylist())
    assert scores.shape == (len(pool), 5)
    assert (np.diff(scores, axis=1) <= 0).all()
    assert (scores.sum(axis=1) <= 1 + 1e-5).all()


def test_of_several_labels_all_that_is_answered_is_there(left):
    store, found = left
    result = found["several"]
    for split in ("val", "test"):
        table = table_of(store, result, split)
        pool = Pool([open_split(open_store(str(store)), "shapes", split)])
        its = [np.flatnonzero(row).tolist() for row in pool.members]
        assert table["label"].to_pylist() == its
        facts = json.loads(table.schema.metadata[b"hpt_dist"])
        each = facts["average_precisions"]
        excluded = result["details"]["excluded"][split]["map"]
        assert [SHAPES[c] for c, one in enumerate(each) if one is None] == excluded
        mean = np.mean([one for one in each if one is not None])
        assert mean == pytest.approx(result["metrics"][f"{split}/map"], abs=1e-12)


def test_done_names_them_with_their_digests_and_pull_copies_them(left, tmp_path):
    store, found = left
    for trial, result in found.items():
        if ".candidates" not in trial:
            assert left_by(store, result) == (FILES if trial != "base" else set())
    hpt("pull", "left/rates", str(tmp_path), store=str(store))
    for name in FILES:
        kept = store / f"stages/{found['rates']['key']}/{name}"
        assert (tmp_path / name).read_bytes() == kept.read_bytes()
    lines = (tmp_path / "loading.md").read_text()
    assert "parquet" not in lines  # it says how to load weights


def test_candidates_leave_those_of_val_and_what_is_chosen_those_of_test_too(left):
    store, found = left
    candidates = {name: one for name, one in found.items() if ".candidates" in name}
    assert len(candidates) == 2
    assert [left_by(store, one) for one in candidates.values()] == [{"predictions.val.parquet"}] * 2
    decided = found["decide"]
    best = max(one["metrics"]["val/auroc"] for one in candidates.values())
    on_val = [
        table_of(store, one, "val")
        for one in candidates.values()
        if one["metrics"]["val/auroc"] == best
    ]
    assert table_of(store, decided, "val") in on_val
    assert table_of(store, decided, "test").num_rows == decided["details"]["n_test"]


def test_a_trial_that_read_the_same_takes_the_same_bytes(left, tmp_path):
    done, found = left
    store = shutil.copytree(done, tmp_path / "store", symlinks=True)
    weights = tmp_path / "same.safetensors"
    shutil.copy(store / f"stages/{found['base']['key']}/weights.safetensors", weights)
    stages = ("near", "several", "tune")
    lines = [line for line in RECIPE.splitlines(True) if not line.startswith("  ")]
    lines += [f"  base: {{kind: import, weights: {weights}}}\n"]
    begins = tuple(f"  {stage}:" for stage in stages)
    lines += [line for line in RECIPE.splitlines(True) if line.startswith(begins)]
    text = "".join(lines).replace("name: left", "name: same")
    inline(write_recipe(tmp_path, text), store)
    digests = outcome(store)
    for trial in stages:
        first = found[trial]["key"]
        [other] = [
            key
            for key in digests.keys() - outcome(done).keys()
            if json.loads((store / f"stages/{key}/result.json").read_text())["trial"] == trial
        ]
        assert json.loads((store / f"stages/{other}/DONE").read_text())["same_as"] == first
        assert {name: digests[other][name] for name in FILES} == {
            name: digests[first][name] for name in FILES
        }


def test_two_ranks_answer_each_image_once_and_as_one_does(left, tmp_path):
    done, found = left
    store = shutil.copytree(done, tmp_path / "store", symlinks=True)
    for trial in ("tune", "adapt"):
        shutil.rmtree(store / f"stages/{found[trial]['key']}")
    shutil.rmtree(store / "inputs")
    path = write_recipe(tmp_path, RECIPE)
    hpt("launch", str(path), "--ranks", "2", store=str(store))
    for trial in ("tune", "adapt"):
        key = found[trial]["key"]
        assert json.loads((store / f"stages/{key}/run.json").read_text())["ranks"] == 2
        for split in ("val", "test"):
            one, two = (table_of(at, found[trial], split) for at in (done, store))
            for name in ("key", "file", "label", "class"):
                assert two[name] == one[name], (trial, split, name)
            its = [np.array(at["label_score"].to_pylist()) for at in (one, two)]
            np.testing.assert_allclose(*its, atol=1e-4)
            for before, after in zip(tops(one), tops(two), strict=True):
                # Nearly equal ones may change places, at the end of the five with others.
                for c in before | after:
                    first, second = (at.get(c, min(at.values())) for at in (before, after))
                    assert first == pytest.approx(second, abs=1e-4)


def tops(table):
    """Return the probabilities of each image's likeliest classes, by class."""
    columns = (table[name].to_pylist() for name in ("top_label", "top_score"))
    return [dict(zip(*one, strict=True)) for one in zip(*columns, strict=True)]
