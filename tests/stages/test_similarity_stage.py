"""The similarity of launched evaluations: by the definitions, from what the store holds."""

import json
import shutil
import signal
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
from pictures import labelled, write
from small import environment, fill, hpt, outcome, write_recipe

from hpt_dist.evals import similarity
from hpt_dist.evals.features import extract
from hpt_dist.images.normalization import NORMALIZE
from hpt_dist.images.photometric import Normalize
from hpt_dist.networks import backbones
from hpt_dist.reading.stream import Pool, center_batches, open_split
from hpt_dist.stages import similarity as stage
from hpt_dist.store import open_store
from hpt_dist.store.committed import WEIGHTS
from hpt_dist.weights import files, head

RECIPE = """\
name: alike
store: ${HPT_STORE}
datasets: {photos: photos}
backbone: timm/test_efficientnet
image: {size: 32}
stages:
  base: {kind: import, weights: random, sweep: {seed: [0, 1]}}
  probe: {kind: linear, init: base, data: photos, views: 1, steps: 20, batch: 16}
  again: {kind: linear, init: base, data: photos, views: 1, steps: 9, batch: 16}
  alike:
    kind: similarity
    of: [probe, again]
    data: photos
    groups: [["*seed=0", "*seed=1"], ["probe*", "again*"]]
"""


@pytest.fixture(scope="module")
def evaluated(mlflow_tables, tmp_path_factory):
    """A store in which all that is compared is done."""
    folder = tmp_path_factory.mktemp("evaluated")
    samples = [
        one
        for split, n in (("train", 30), ("val", 12), ("test", 40))
        for one in labelled(n, split=split)
    ]
    write(open_store(str(folder)), "photos", samples)
    store = fill(folder / "store", folder, mlflow_tables)
    launch(write_recipe(folder, RECIPE), store, "--only", "probe", "--only", "again")
    return store


@pytest.fixture
def store(evaluated, tmp_path):
    return shutil.copytree(evaluated, tmp_path / "store", symlinks=True)


@pytest.fixture
def inline(store):
    return lambda path: launch(path, store)


def launch(path, store, *more):
    """Launch in this very process, which has imported torch already."""
    threads = torch.get_num_threads()
    printed = hpt("launch", str(path), "--on", "inline", *more, store=str(store), process=False)
    torch.set_num_threads(threads)
    return printed


def left_by(store):
    """Return the folder of each trial by its name, and its result."""
    found = {}
    for path in store.glob("stages/*/result.json"):
        result = json.loads(path.read_text())
        found[result["trial"]] = path.parent, result
    return found


def by_hand(store, images, names):
    """Return each trial's features and outputs of the test images, and whether it is wrong."""
    trials, labels, seen = left_by(store), np.arange(40) % 3, []
    for name in names:
        folder, _ = trials[name]
        base = store / "stages" / json.loads((folder / "spec.json").read_text())["init"]
        net = backbones.create("timm/test_efficientnet")
        (weights,) = (p for p in base.glob("*.safetensors"))
        net.load_state_dict(files.read(weights.read_bytes())[0])
        features = extract(net, [images], torch.device("cpu")).double()
        (kept,) = (p for p in folder.glob("*.safetensors"))
        state = head.read(kept.read_bytes(), name)[0].state
        outputs = features @ state["weight"].T.double() + state["bias"].double()
        seen.append((features.numpy(), outputs.numpy(), outputs.argmax(1).numpy() != labels))
    return seen


def rv2(x, y):
    s, t = ((z - z.mean(0)) @ (z - z.mean(0)).T for z in (x, y))
    np.fill_diagonal(s, 0)
    np.fill_diagonal(t, 0)
    return (s * t).sum() / np.sqrt((s * s).sum() * (t * t).sum())


def test_every_pair_is_compared_on_the_test_images(inline, store, tmp_path):
    path = write_recipe(tmp_path, RECIPE)
    inline(path)
    found = left_by(store)["alike"][1]["details"]
    names = found["trials"]
    assert [name.partition("/")[0] for name in names] == ["probe", "probe", "again", "again"]
    (batch,) = center_batches(
        Pool([open_split(open_store(str(store)), "photos", "test")]), batch=40, size=32
    )
    images = Normalize(*NORMALIZE["imagenet"], torch.device("cpu"))(batch.images[0])
    seen = by_hand(store, images, names)
    for matrix, part in (("features/rv2", 0), ("outputs/rv2", 1)):
        expected = [[rv2(one[part], other[part]) for other in seen] for one in seen]
        np.testing.assert_allclose(found["matrices"][matrix], expected, atol=1e-4)
    same_backbone = found["matrices"]["features/rv2"][0][2]
    assert same_backbone == pytest.approx(1, abs=1e-12)
    iou = [[(a[2] & b[2]).sum() / (a[2] | b[2]).sum() for b in seen] for a in seen]
    np.testing.assert_allclose(found["matrices"]["errors/iou"], iou)
    welch = found["welch"]["features/cka"]
    assert welch["pairs"] == [4, 4]
    assert "cached" in inline(path)
    report = hpt("report", str(path), store=str(store))
    assert "alike: how alike" in report
    assert "Misclassified images: intersection over union" in report
    assert f"Means of the groups: {welch['means'][0]:.3f} of 4 pairs" in report


def test_flattened_convolutions_are_compared_in_tiles(inline, store, tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "_AT_ONCE", 16)
    tiled = partial(similarity.matrices, tile=100)
    monkeypatch.setattr(similarity, "matrices", tiled)
    text = RECIPE.replace("    data: photos\n", "    data: photos\n    flattened: blocks.1\n")
    inline(write_recipe(tmp_path, text))
    trials = left_by(store)
    found = trials["alike"][1]["details"]
    (batch,) = center_batches(
        Pool([open_split(open_store(str(store)), "photos", "test")]), batch=40, size=32
    )
    images = Normalize(*NORMALIZE["imagenet"], torch.device("cpu"))(batch.images[0])
    seen = []
    for name in found["trials"]:
        base = json.loads((trials[name][0] / "spec.json").read_text())["init"]
        net = backbones.create("timm/test_efficientnet").eval()
        net.load_state_dict(files.read((store / f"stages/{base}/{WEIGHTS}").read_bytes())[0])
        maps = []
        net.blocks[1].register_forward_hook(lambda *given: maps.append(given[2]))  # noqa: B023
        with torch.no_grad():
            net(images)
        assert maps[0].ndim == 4
        seen.append(maps[0].double().flatten(1).numpy())
    assert seen[0].shape[1] > 100
    expected = [[rv2(one, other) for other in seen] for one in seen]
    np.testing.assert_allclose(found["matrices"]["flattened/rv2"], expected, atol=1e-4)
    assert set(found["welch"]) == set(found["matrices"])
    assert not list(trials["alike"][0].glob("**/tmp*"))
    report = hpt("report", str(tmp_path / "alike.yaml"), store=str(store))
    assert "Flattened convolutions: RV2" in report


def test_killed_while_it_compares_it_ends_with_the_same_bytes(inline, store, tmp_path):
    path = write_recipe(tmp_path, RECIPE)
    other = shutil.copytree(store, tmp_path / "undisturbed", symlinks=True)
    launch(path, other)
    code = "import os, sys; from hpt_dist.stages import similarity as stage; "
    code += "stage.similarity.matrices = lambda *_: os.kill(os.getpid(), 9); "
    code += "from hpt_dist.cli.main import main; main()"
    command = [sys.executable, "-c", code, "launch", str(path), "--on", "inline"]
    killed = subprocess.run(command, env=environment(str(store)), capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert outcome(store).keys() < outcome(other).keys()
    inline(path)
    assert outcome(store) == outcome(other)


def test_a_classifier_of_other_features_is_refused_with_the_plan(store, tmp_path):
    text = RECIPE.replace("again: {", "again: {features: blocks.2, ")
    output = hpt("plan", str(write_recipe(tmp_path, text)), store=str(store), code=2)
    assert "again/base.seed=0 judges features of blocks.2, not pooled ones" in output
    text = RECIPE.replace("    data: photos\n", "    data: photos\n    flattened: blocks.9\n")
    output = hpt("launch", str(write_recipe(tmp_path, text)), store=str(store), code=2)
    assert "stages.alike.flattened: this backbone has no part blocks.9" in output


def test_what_is_no_linear_evaluation_is_refused_with_the_plan(store, tmp_path):
    path = write_recipe(tmp_path, RECIPE.replace("[probe, again]", "[prob, base]"))
    output = hpt("plan", str(path), store=str(store), code=2)
    assert "prob is no linear evaluation" in output
    assert "base is no linear evaluation" in output
    path = write_recipe(tmp_path, RECIPE.replace('"probe*"', '"nothing*"'))
    output = hpt("plan", str(path), store=str(store), code=2)
    assert "nothing* and again* make 0 pairs of trials" in output
    assert "probe/base.seed=0, probe/base.seed=1" in output
