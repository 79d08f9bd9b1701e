"""Fine-tuning launched on drawings and on drawn images of several labels."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from shapes import SHAPES, write_shapes
from sklearn.metrics import roc_auc_score
from small import fill, hpt, kill_once_saved, outcome, write_recipe

from hpt_dist.datasets.fewshot import n_labels
from hpt_dist.datasets.manifest import read_manifest
from hpt_dist.datasets.subset import Chooser, SubsetRule, write_subset
from hpt_dist.images.normalization import NORMALIZE
from hpt_dist.images.photometric import Normalize
from hpt_dist.networks import backbones
from hpt_dist.reading.pool import Pool
from hpt_dist.reading.split import open_split
from hpt_dist.reading.stream import center_batches
from hpt_dist.stages import finetune
from hpt_dist.store import open_store

HEAD = """\
name: tuned
store: ${HPT_STORE}
datasets: {line: openmoji/line, shapes: shapes}
backbone: timm/test_efficientnet
image: {size: 32}
stages:
  base: {kind: import, weights: random}
"""
DRAWINGS = (
    HEAD
    + """\
  tune:
    kind: finetune
    init: base
    data: line
    batch: 12
    schedule: 12 steps
    eval_every: 4
    head_lr_scale: 10
    sweep: {labels: [40, 10%]}
"""
)
SEVERAL = (
    HEAD
    + """\
  tune: {kind: finetune, init: base, data: shapes, labels: 50%, batch: 10, epochs: 4, lr: 0.1,
         bn_group: 5, linear_first_steps: 3, eval_every: 3, checkpoint_every: 4}
"""
)


@pytest.fixture
def inline():
    """Launch a recipe in this very process, which has imported torch already."""
    threads = torch.get_num_threads()
    yield lambda recipe, store, *more, code=0: hpt(
        *("launch", str(recipe), "--on", "inline", *more),
        store=str(store),
        process=False,
        code=code,
    )
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def made(drawings, mlflow_tables, tmp_path_factory):
    """A store with both datasets, which nobody changes."""
    store = fill(tmp_path_factory.mktemp("made") / "store", drawings, mlflow_tables)
    (store / "datasets").unlink()
    (store / "datasets").mkdir()
    (store / "datasets/openmoji").symlink_to(drawings / "datasets/openmoji")
    write_shapes(open_store(str(store)))
    return store


@pytest.fixture
def store(made, tmp_path):
    return shutil.copytree(made, tmp_path / "store", symlinks=True)


def results(store):
    found = (json.loads(path.read_text()) for path in store.glob("stages/*/result.json"))
    return {one["trial"]: one for one in found}


def logits(store, result, split, data):
    """Return what the model that a trial left answers, computed apart from its stage."""
    state = load_file(store / f"stages/{result['key']}/model.safetensors")
    backbone = backbones.create("timm/test_efficientnet")
    backbone.load_state_dict(
        {n.removeprefix("backbone."): v for n, v in state.items() if n.startswith("backbone.")}
    )
    backbone.eval()
    pool = Pool([open_split(open_store(str(store)), data, split)])
    normalize = Normalize(*NORMALIZE["imagenet"])
    with torch.inference_mode():
        batches = center_batches(pool, batch=64, size=32)
        found = torch.cat([backbone(normalize(batch.images[0])) for batch in batches])
    return pool, (found.double() @ state["head.weight"].T.double() + state["head.bias"].double())


def test_val_chooses_a_step_whose_weights_alone_read_test(inline, store, tmp_path):
    printed = inline(write_recipe(tmp_path, DRAWINGS), store)
    assert (
        "tune: 40 labelled images of line/train, 12 steps of 12; learning rate 0.01, of" in printed
    )
    found = results(store)
    pool = Pool([open_split(open_store(str(store)), "openmoji/line", "train")])
    for labels, count in ((40, 40), ("10%", round(len(pool) / 10))):
        result = found[f"tune/labels={labels}"]
        metrics, details = result["metrics"], result["details"]
        assert (details["n_train"], details["steps"]) == (count, 12)
        by_step = {int(s): value for s, value in details["val/top1_by_step"].items()}
        assert sorted(by_step) == [4, 8, 12]
        best = max(sorted(by_step), key=lambda step: by_step[step])
        assert details["selected"] == {"step": best}
        assert metrics["val/top1"] == by_step[best]
        test, answers = logits(store, result, "test", "openmoji/line")
        right = (answers.argmax(1).numpy() == test.labels).mean()
        assert metrics["test/top1"] == pytest.approx(right, abs=1e-8)
        assert details["n_test"] == len(test)
    num_classes = len(pool.classes)
    assert set(pool.labels[n_labels(pool.labels, num_classes, 40, 0)]) == set(range(num_classes))


def test_some_images_of_val_may_choose_the_step_and_all_of_them_judge(inline, store, tmp_path):
    text = DRAWINGS.replace("sweep: {labels: [40, 10%]}", "labels: 40\n    eval_images: 32")
    inline(write_recipe(tmp_path, text), store)
    (result,) = (one for name, one in results(store).items() if name == "tune")
    by_step = result["details"]["val/top1_by_step"]
    assert all((32 * value) % 1 == 0 for value in by_step.values())
    val, answers = logits(store, result, "val", "openmoji/line")
    right = (answers.argmax(1).numpy() == val.labels).mean()
    assert result["metrics"]["val/top1"] == pytest.approx(right, abs=1e-8)
    assert result["details"]["n_val"] == len(val)


def test_looks_at_all_of_val_have_the_key_that_they_had(store, tmp_path):
    keys, decoded = {}, {}
    for number in ("", 32, 155, 5000):
        more = f"    eval_images: {number}\n" if number else ""
        text = DRAWINGS.replace("sweep: {labels: [40, 10%]}\n", f"labels: 40\n{more}")
        path = write_recipe(tmp_path, text)
        *_, row = json.loads(hpt("plan", str(path), "--json", store=str(store)))
        keys[number] = row["key"]
        printed = hpt("plan", str(path), store=str(store))
        decoded[number] = next(one for one in printed.splitlines() if "evaluations decode" in one)
    assert keys[155] == keys[5000] == keys[""] != keys[32]
    assert decoded[155] == decoded[5000] == decoded[""] == "evaluations decode: 912 images at most"
    assert decoded[32] == "evaluations decode: 698 images at most"


def test_weights_that_answer_one_class_are_warned_of(caplog):
    """A learning rate that is too high ends so, and the launch with exit 0."""
    scores = np.zeros((5, 3))
    scores[:, 1] = 1
    assert finetune._one_answer(scores, ("a", "b", "c")) == {"answers_only": "b"}
    assert "b is the answer to every image of val" in caplog.text
    scores[0, 2] = 2
    assert finetune._one_answer(scores, ("a", "b", "c")) == {}


def test_a_share_of_labels_is_that_share_of_train_and_the_stored_list(inline, store, tmp_path):
    """Three ways to say it: the same images and the same bits."""
    opened = open_store(str(store))
    tenth = SubsetRule("percent", 50)
    chosen = Chooser(opened, read_manifest(opened, "shapes"), "train").choose("half", tenth)
    write_subset(opened, "shapes", chosen)
    short = SEVERAL.replace("epochs: 4", "steps: 2").replace("linear_first_steps: 3, ", "")
    stage = short.partition("  tune: ")[2]
    text = (
        short
        + "  share: "
        + stage.replace("data: shapes, labels: 50%", "data: shapes/train@50%")
        + "  list: "
        + stage.replace("data: shapes, labels: 50%", "data: shapes/train@half")
    )
    inline(write_recipe(tmp_path, text), store)
    keys = [results(store)[stage]["key"] for stage in ("tune", "share", "list")]
    assert len(set(keys)) == 3
    first, *others = (load_file(store / f"stages/{key}/model.safetensors") for key in keys)
    for other in others:
        assert all(torch.equal(value, other[name]) for name, value in first.items())


def test_features_are_learned_from_a_share_and_judged_on_all(inline, store, tmp_path):
    text = (
        HEAD
        + """\
  near: {kind: knn, init: base, data: shapes/train@50%, k: [3], sweep: {seed: [0, 1]}}
  few: {kind: linear, init: base, data: shapes/train@50%, solver: lbfgs, l2: [1]}
"""
    )
    inline(write_recipe(tmp_path, text), store)
    found = results(store)
    for name in ("near/seed=0", "near/seed=1", "few"):
        sizes = [found[name]["details"][f"n_{split}"] for split in ("train", "val", "test")]
        assert sizes == [30, 30, 36]
    zero, one = (found[f"near/seed={seed}"]["metrics"]["test/auroc"] for seed in (0, 1))
    assert zero != one  # each seed has its own images


@pytest.fixture(scope="module")
def several(made, tmp_path_factory):
    """A store in which fine-tuning on several labels went through undisturbed, and its recipe."""
    folder = tmp_path_factory.mktemp("several")
    store = shutil.copytree(made, folder / "store", symlinks=True)
    recipe = write_recipe(folder, SEVERAL)
    threads = torch.get_num_threads()
    hpt("launch", str(recipe), "--on", "inline", store=str(store), process=False)
    torch.set_num_threads(threads)
    return store, recipe


def test_of_several_labels_the_metric_is_the_datasets(several):
    store, _ = several
    result = results(store)["tune"]
    metrics, details = result["metrics"], result["details"]
    assert details["metric"] == "auroc"
    assert details["excluded"]["test"]["auroc"] == ["frame"]
    assert details["steps"] == 3 + 4 * 30 // 10
    assert metrics["val/auroc"] == max(details["val/auroc_by_step"].values())
    test, answers = logits(store, result, "test", "shapes")
    judged = [c for c, name in enumerate(SHAPES) if name != "frame"]
    each = [roc_auc_score(test.members[:, c], answers[:, c]) for c in judged]
    assert metrics["test/auroc"] == pytest.approx(np.mean(each), abs=1e-8)


def test_killed_by_kill_9_it_goes_on_to_the_same_bits(several, made, inline, tmp_path):
    done, recipe = several
    store = shutil.copytree(made, tmp_path / "store", symlinks=True)
    kill_once_saved(recipe, store, 4)
    assert outcome(store).keys() != outcome(done).keys(), "it ended before it was killed"
    assert "resumes after step" in inline(recipe, store)
    assert outcome(store) == outcome(done)


def test_two_ranks_are_one(several, made, tmp_path):
    done, recipe = several
    store = shutil.copytree(made, tmp_path / "store", symlinks=True)
    hpt("launch", str(recipe), "--ranks", "2", store=str(store))
    one, two = results(done)["tune"], results(store)["tune"]
    assert one["details"]["selected"] == two["details"]["selected"]
    for name, value in one["metrics"].items():
        assert two["metrics"][name] == pytest.approx(value, abs=1e-4)
    models = [load_file(at / f"stages/{one['key']}/model.safetensors") for at in (done, store)]
    for name, value in models[0].items():
        torch.testing.assert_close(models[1][name], value, rtol=1e-4, atol=1e-4, msg=name)


def test_test_is_read_once_when_all_is_chosen(several, made, inline, monkeypatch, tmp_path):
    """A planted leak, labels of test that are all wrong, changes nothing but metrics on test."""
    done, recipe = several
    store = shutil.copytree(made, tmp_path / "store", symlinks=True)
    opened, true = [], finetune._Judge._true
    monkeypatch.setattr(
        finetune._Judge,
        "_true",
        lambda self, pool: ~true(self, pool) if "test" in pool.splits[0].name else true(self, pool),
    )
    pool_of = finetune.pool_of
    monkeypatch.setattr(
        finetune, "pool_of", lambda *args: opened.append(args[1][0]) or pool_of(*args)
    )
    inline(recipe, store)
    before, after = (results(at)["tune"] for at in (done, store))
    looks = len(before["details"]["val/auroc_by_step"])
    assert opened == ["shapes/train", *["shapes/val"] * looks, "shapes/val", "shapes/test"]
    assert after["details"]["selected"] == before["details"]["selected"]
    for name, value in before["metrics"].items():
        assert (after["metrics"][name] == value) is not name.startswith("test/"), name
    key = before["key"]
    assert outcome(store)[key]["model.safetensors"] == outcome(done)[key]["model.safetensors"]


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("labels: 3", ["3 labels of openmoji/line/train", "(one of each class)"]),
        ("labels: ten", ["ten is no share of the images"]),
        ("labels: 40, shots: 1", ["both shots and labels are given"]),
        ("shots: 99", ["99 shots, but the rarest class of openmoji/line/train has"]),
        ("steps: 5", ["schedule and steps are given"]),
        ("metric: map", ["map cannot be computed on openmoji/line"]),
        ("bn_group: 5", ["bn_group 5 does not divide batch 12"]),
        ("head_warmup_steps: 2", ["head_warmup_steps is linear_first_steps"]),
        ("optimizer: {lr: 0.1}, lr: 0.1", ["lr stands in the stage and in its optimizer"]),
    ],
)
def test_what_cannot_be_tuned_is_refused_by_plan(store, tmp_path, written, says):
    lines = "".join(f"    {one}\n" for one in written.split(", "))
    text = DRAWINGS.replace("    sweep: {labels: [40, 10%]}\n", lines)
    output = hpt("plan", str(write_recipe(tmp_path, text)), store=str(store), code=2)
    assert all(one in output for one in says), output
    assert "tuned.yaml:" in output


def test_what_judges_cannot_be_learned_from(store, tmp_path):
    text = DRAWINGS.replace("data: line", "data: line/val")
    output = hpt("plan", str(write_recipe(tmp_path, text)), store=str(store), code=2)
    assert "line/val cannot be learned from: val chooses" in output


def test_the_plan_counts_what_epochs_and_shots_come_to(store, tmp_path):
    classes = len(read_manifest(open_store(str(store)), "openmoji/line").classes)
    text = DRAWINGS.replace("sweep: {labels: [40, 10%]}", "shots: 1")
    text = text.replace("12 steps", "90 epochs")
    path = write_recipe(tmp_path, text)
    (_, row) = json.loads(hpt("plan", str(path), "--json", store=str(store)))
    steps = -(-90 * classes // 12)
    assert row["views"] == steps * 12
    printed = hpt("plan", str(path), store=str(store))
    assert f"{classes} labelled images of line/train, {steps} steps of 12 (90 epochs)" in printed
    path.write_text(text.replace("batch: 12", f"batch: {2 * classes}"))
    printed = hpt("plan", str(path), store=str(store))
    assert f"a batch of {2 * classes} holds {classes} labelled images several times" in printed
