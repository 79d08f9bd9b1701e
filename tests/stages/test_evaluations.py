"""Evaluations launched on drawn images of several labels: metrics, features that are shared."""

import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from pictures import encoded, picture, sample, write
from safetensors.numpy import load_file
from shapes import SHAPES, drawn
from sklearn.metrics import roc_auc_score
from small import environment, fill, hpt, outcome, wait_for

from hpt_dist.reading.split import open_split
from hpt_dist.recipe import Knn, Linear, plan, result_fields
from hpt_dist.stages import frozen
from hpt_dist.store import open_store

RECIPE = """\
name: several
store: ${HPT_STORE}
datasets: {shapes: shapes}
backbone: timm/test_efficientnet
image: {size: 32}
stages:
  base: {kind: import, weights: random}
  near: {kind: knn, init: base, data: shapes, k: [3, 10], sweep: {seed: [0, 1]}}
  rates: {kind: linear, init: base, data: shapes, views: 0, steps: 40, batch: 20,
          sweep: {seed: [0, 1]}}
  regression: {kind: linear, init: base, data: shapes, solver: lbfgs, metric: map}
"""


@pytest.fixture
def inline():
    """Launch a recipe in this very process, which has imported torch already."""
    threads = torch.get_num_threads()
    yield lambda recipe, store, *more, **options: hpt(
        *("launch", str(recipe), "--on", "inline", *more),
        store=str(store),
        process=False,
        **options,
    )
    torch.set_num_threads(threads)


@pytest.fixture
def store(shapes, mlflow_tables, tmp_path):
    return fill(tmp_path / "store", shapes, mlflow_tables)


def recipe(folder, text=RECIPE, **changed):
    for old, new in changed.items():
        text = text.replace(f"{old}:", new)
    path = folder / "several.yaml"
    path.write_text(text)
    return path


def results(store):
    found = (json.loads(path.read_text()) for path in store.glob("stages/*/result.json"))
    return {one["trial"]: one for one in found}


def kept(store):
    """Return the features of each split that the store shares, and what they are of."""
    found = {}
    for done in store.glob("features/*/DONE"):
        facts = json.loads(done.read_text())
        found[facts["of"]["split"]] = load_file(done.parent / facts["name"])["features"]
    return found


def test_five_evaluations_compute_the_features_once(inline, store, tmp_path, monkeypatch):
    computed = []
    real = frozen.Frozen.computed
    monkeypatch.setattr(
        frozen.Frozen,
        "computed",
        lambda self, pool, *more: computed.append(pool.splits[0].name) or real(self, pool, *more),
    )
    inline(recipe(tmp_path), store)
    assert computed == ["shapes/train", "shapes/val", "shapes/test"]
    found = results(store)
    assert len(found) == 6
    for name, one in found.items():
        if name == "base":
            continue
        metrics, details = one["metrics"], one["details"]
        chooses = "map" if name == "regression" else "auroc"
        assert details["metric"] == chooses
        assert set(metrics) == {
            f"{s}/{m}" for s in ("val", "test") for m in ("auroc", "map", "ece")
        }
        excluded = {"val": ["bar"], "test": ["frame"]}
        assert details["excluded"] == {s: {"auroc": c, "map": c} for s, c in excluded.items()}
        (choices,) = (v for k, v in details.items() if k.startswith(f"val/{chooses}_by_"))
        assert metrics[f"val/{chooses}"] == max(choices.values())
    assert found["near/seed=0"]["metrics"] == found["near/seed=1"]["metrics"]
    check_by_hand(store, found["near/seed=0"])


def test_killed_while_it_computes_features_it_ends_with_the_same_bytes(
    inline, store, shapes, mlflow_tables, tmp_path
):
    text = RECIPE.replace("views: 0, steps: 40", "views: 24, steps: 40")
    path = recipe(tmp_path, text.replace("seed: [0, 1]}}", "seed: [0]}}"))
    with subprocess.Popen(
        [sys.executable, "-m", "hpt_dist", "launch", str(path), "--on", "inline"],
        env=environment(str(store)),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        # After the three of the neighbours, in the middle of the augmented copies.
        wait_for(lambda: len(list(store.glob("features/*/DONE"))) > 5)
        os.killpg(process.pid, signal.SIGKILL)
    names = {json.loads(p.read_text())["trial"] for p in store.glob("stages/*/result.json")}
    assert names == {"base", "near/seed=0"}
    inline(path, store)
    other = fill(tmp_path / "undisturbed", shapes, mlflow_tables)
    inline(path, other)
    assert outcome(store) == outcome(other)
    assert len(outcome(store)) == 4


def check_by_hand(store, result):
    """Compute the neighbours' macro AUROC on test from the shared features, in float64."""
    label = {one.key: one.label for one in drawn()}
    unit, has = {}, {}
    for split, features in kept(store).items():
        wide = features.astype(np.float64)
        unit[split] = wide / np.linalg.norm(wide, axis=1, keepdims=True)
        keys = open_split(open_store(str(store)), "shapes", split).keys
        has[split] = np.array([[c in label[key] for c in range(len(SHAPES))] for key in keys])
    similar = unit["test"] @ unit["train"].T
    nearest = np.argsort(-similar, axis=1)[:, : result["details"]["selected"]["k"]]
    weights = np.exp(np.take_along_axis(similar, nearest, 1) / 0.07)
    votes = (weights[..., None] * has["train"][nearest]).sum(1) / weights.sum(1, keepdims=True)
    judged = [c for c, name in enumerate(SHAPES) if name != "frame"]
    expected = np.mean([roc_auc_score(has["test"][:, c], votes[:, c].round(9)) for c in judged])
    assert result["metrics"]["test/auroc"] == pytest.approx(expected, abs=1e-8)


def test_shared_features_that_are_damaged_or_half_written_are_computed_again(
    inline, store, tmp_path
):
    path = recipe(tmp_path)
    inline(path, store, "--only", "near")
    first, names = outcome(store), {p.name for p in store.glob("features/*/*.safetensors")}
    train, val, test = sorted(store.glob("features/*"))
    (train / "DONE").unlink()  # killed between the two
    (train / "0123456789abcdef.safetensors").write_bytes(b"of a writer that lost")
    (held,) = val.glob("*.safetensors")
    held.write_bytes(held.read_bytes()[:-4] + b"\1\2\3\4")
    (held,) = test.glob("*.safetensors")
    held.unlink()
    for done in store.glob("stages/*/DONE"):
        if json.loads((done.parent / "result.json").read_text())["kind"] == "knn":
            done.unlink()
    shutil.rmtree(store / "inputs")
    inline(path, store, "--only", "near")
    assert outcome(store) == first
    assert {p.name for p in store.glob("features/*/*.safetensors")} == names


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("metric: top1", ["several.yaml:8", "shapes, which has several labels", "auroc, map, ece"]),
        ("metric: mAP", ["'mAP' is not known", "top1, top5, balanced_accuracy, auroc, map or ece"]),
        ("features: cls", ["timm/test_efficientnet has no tokens"]),
        ("features: layer4/0", ["features"]),
    ],
)
def test_what_cannot_be_evaluated_is_refused_by_plan(store, tmp_path, written, says):
    text = RECIPE.replace("k: [3, 10]", f"k: [3, 10], {written}")
    output = hpt("plan", str(recipe(tmp_path, text)), store=str(store), code=2)
    assert all(one in output for one in says), output


def test_a_part_that_the_network_has_not_is_refused_before_anything_starts(store, tmp_path):
    text = RECIPE.replace("k: [3, 10]", "k: [3, 10], features: blocks.9")
    output = hpt("launch", str(recipe(tmp_path, text)), store=str(store), code=2)
    assert "several.yaml:8 stages.near.features: this backbone has no part blocks.9" in output
    assert "conv_stem" in output
    assert not list(store.glob("stages/*"))


def test_settings_of_another_solver_are_refused(store, tmp_path):
    for text in (
        "solver: lbfgs, steps: 10",
        "solver: lbfgs, preset: authors-code, batch: 9",
        "l2: [1]",
    ):
        path = recipe(tmp_path, RECIPE.replace("solver: lbfgs, metric: map", text))
        output = hpt("plan", str(path), store=str(store), code=2)
        assert "is of solver" in output
    path = recipe(tmp_path, RECIPE.replace("metric: map", "preset: authors-code"))
    output = " ".join(hpt("plan", str(path), store=str(store)).split())
    assert "6 trials: 6 runs" in output
    assert "1 of 5 classes have all or none of the images of shapes/val, so that auroc" in output


def test_one_label_has_its_own_metrics_and_a_stage_of_the_network(inline, tmp_path, mlflow_tables):
    """The manifest's top1 chooses; classes that a split lacks are left out of means."""
    store = tmp_path / "store"
    (store / "work").mkdir(parents=True)
    (store / "work/mlflow.db").write_bytes(mlflow_tables.read_bytes())
    samples = [
        sample(
            f"{split}-{at}", encoded(picture(100 * n + at, (32, 32)), "PNG"), split, at % classes
        )
        for n, (split, classes) in enumerate({"train": 7, "val": 7, "test": 6}.items())
        for at in range(21)
    ]
    write(open_store(str(store)), "shapes", samples, "abcdefg")
    text = "".join(
        line for line in RECIPE.splitlines(True) if "20" not in line and "]}}" not in line
    )
    text += "  near: {kind: knn, init: base, data: shapes, k: [3], features: blocks.2}\n"
    inline(recipe(tmp_path, text.replace("metric: map", "metric: balanced_accuracy")), store)
    found = results(store)
    near, regression = found["near"], found["regression"]
    assert near["details"]["metric"] == "top1"
    assert {"test/top1", "test/top5", "test/balanced_accuracy", "test/auroc", "test/ece"} <= set(
        near["metrics"]
    )
    assert "test/map" not in near["metrics"]
    assert near["details"]["excluded"] == {"test": {"balanced_accuracy": ["g"], "auroc": ["g"]}}
    assert "val/balanced_accuracy_by_l2" in regression["details"]
    dims = {
        f.shape[1]
        for f in (load_file(p)["features"] for p in store.glob("features/*/*.safetensors"))
    }
    assert len(dims) == 2


def test_keys_of_before_stay(tmp_path):
    """Settings that came later are in no key at their default."""
    knn = Knn(kind="knn", init="base", data="a")
    linear = Linear(kind="linear", init="base", data="a")
    assert plan.key_of(result_fields(knn)).startswith("955027391ec3")
    assert plan.key_of(result_fields(linear)).startswith("b2691373dadb")
