"""What `pull` copies is loaded by the lines beside it, and does what was measured."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from pictures import encoded, picture
from PIL import ImageEnhance
from shapes import SHAPES, drawn, write_shapes
from small import environment, fill, hpt, write_recipe

import hpt_dist
from hpt_dist.evals import metrics
from hpt_dist.store import open_store
from hpt_dist.store.paths import DONE
from hpt_dist.trial import predictions_file
from hpt_dist.weights import head as heads

RECIPE = """\
name: judged
store: ${HPT_STORE}
datasets: {pets: pets, shapes: shapes}
backbone: timm/test_efficientnet
image: {size: 32, normalize: dataset}
stages:
  base: {kind: import, weights: random}
  plain: {kind: import, weights: random, seed: 1}
  line: {kind: linear, data: pets, views: 2, steps: 60, batch: 32, init: base}
  near: {kind: knn, data: pets, k: [3], init: base}
  regression: {kind: linear, data: pets, solver: lbfgs, init: base}
  inner: {kind: linear, data: pets, solver: lbfgs, features: blocks.2, init: base}
  several: {kind: linear, data: shapes, solver: lbfgs, init: base}
  within: {kind: linear, data: shapes, views: 1, steps: 40, batch: 20, features: blocks.3,
           init: base}
  tune: {kind: finetune, data: pets, init: base, batch: 10, schedule: 12 steps, lr: 0.02}
  adapt:
    kind: mme
    init: base
    source: pets/train
    target: pets
    shots: 2
    steps: 12
    eval_every: 4
    batch_labelled: 4
    batch_unlabelled: 8
    head_dim: 16
    optimizer: {lr: 0.05}
    sweep: {squash: [false, true]}
  tune_several: {kind: finetune, data: shapes, init: base, batch: 10, schedule: 8 steps, lr: 0.05}
"""
TOKENS = """\
name: tokens
store: ${HPT_STORE}
datasets: {pets: pets, shapes: shapes}
backbone: timm/test_vit
image: {size: 64}
stages:
  base: {kind: import, weights: random}
  both: {kind: linear, data: pets, solver: lbfgs, features: cls+mean, init: base}
  mean: {kind: linear, data: shapes, solver: lbfgs, features: mean, init: base}
"""
CLASSES = ('a "quoted" cat', "dog", "Ünbekannt")


def write_images(folder: Path) -> Path:
    """Write images whose classes differ in brightness, so that random features tell them apart."""
    for number in range(60):
        split = ("train", "train", "val", "test")[number % 4]
        label = (number // 4) % len(CLASSES)
        image = ImageEnhance.Brightness(picture(number, (60, 40))).enhance(0.3 + 0.6 * label)
        file = folder / split / CLASSES[label] / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encoded(image))
    return folder


@pytest.fixture(scope="module")
def judged(tmp_path_factory, mlflow_tables):
    """A folder with images of pets and shapes, and a store with their evaluations."""
    folder = tmp_path_factory.mktemp("judged")
    (folder / "made/datasets").mkdir(parents=True)
    store = fill(folder / "store", folder / "made", mlflow_tables)
    images = write_images(folder / "pets")
    where = {"store": str(store), "process": False}
    hpt("shard", str(images), f"{store}/datasets/pets", "--workers", "1", **where)
    write_shapes(open_store(str(store)))
    for one in drawn():
        if one.split == "test":
            (folder / "shapes").mkdir(exist_ok=True)
            (folder / "shapes" / f"{one.key}.png").write_bytes(one.read())
    threads = torch.get_num_threads()
    for recipe in (RECIPE, TOKENS):
        hpt("launch", str(write_recipe(folder, recipe)), "--on", "inline", **where)
    torch.set_num_threads(threads)
    return folder


def pull(judged: Path, name: str, *options: str, out: str = "out") -> tuple[Path, str]:
    shutil.rmtree(judged / out, ignore_errors=True)
    printed = hpt("pull", name, str(judged / out), *options, store=str(judged / "store"))
    return judged / out, printed


def blocks(folder: Path) -> list[str]:
    """Return the blocks of Python that a page of `pull` shows."""
    return re.findall(r"```python\n(.*?)```", (folder / "loading.md").read_text(), re.DOTALL)


def cut_as_on_the_page(page: str, image: PIL.Image.Image) -> np.ndarray:
    """Return an image as the lines of a page of `pull` cut it, uint8 [h, w, 3]."""
    lines = re.findall(r"^    (.*)", page.partition("## Images")[2], re.MULTILINE)
    names = {"PIL": PIL, "image": image}
    exec("\n".join(lines), names)
    return np.array(names["pixels"])


def key_of(judged: Path, stage: str) -> str:
    (launch,) = (judged / "store/launches").glob("judged-*.json")
    return json.loads(launch.read_text())["trials"][stage]


def test_three_lines_give_the_class_of_an_image(judged, tmp_path):
    folder, printed = pull(judged, "judged/line")
    assert f"how to load it: {folder}/loading.md" in printed
    card = (folder / "model_card.md").read_text()
    assert card.startswith("# judged/line\n")
    assert "## Data, weights and licences" in card
    [three, *_] = blocks(folder)
    assert len([line for line in three.splitlines() if line]) == 3
    image = next((judged / "pets/test/dog").iterdir())
    shutil.copy(image, tmp_path / "image.jpg")
    done = subprocess.run(
        [sys.executable, "-c", three],
        cwd=tmp_path, env=environment(""), capture_output=True, text=True,
    )  # fmt: skip
    assert done.stderr == ""
    classifier = hpt_dist.load_classifier(folder)
    assert done.stdout.splitlines() == [str(classifier.classify(image))]
    assert set(classifier.classes) == set(CLASSES)


def test_a_pulled_classifier_is_the_one_that_was_measured(judged):
    folder, _ = pull(judged, "judged/line")
    classifier = hpt_dist.load_classifier(folder)
    files = sorted((judged / "pets/test").rglob("*.jpg"))
    found = classifier.classify(*files)
    right = sum(name == file.parent.name for name, file in zip(found, files, strict=True))
    measured = json.loads((folder / "result.json").read_text())["metrics"]["test/top1"]
    assert right / len(files) == measured
    assert measured > 0.5, "random answers would prove little"
    # Without a line of ours, by timm and the numbers on the page.
    plain: dict = {}
    source = blocks(folder)
    exec(next(block for block in source if "safe_open" in block), plain)
    exec(next(block for block in source if "import timm" in block), plain)
    with torch.inference_mode():
        assert plain["classify"](plain["backbone"](classifier.prepared(files))) == found
    assert "those of the datasets" in (folder / "loading.md").read_text()


def answers(judged: Path, folder: Path) -> tuple[hpt_dist.Classifier, list[Path], np.ndarray]:
    """Return a pulled classifier, the test images it was measured on, and their true labels."""
    classifier = hpt_dist.load_classifier(folder)
    if not classifier.several:
        files = sorted((judged / "pets/test").rglob("*.jpg"))
        return classifier, files, np.array([CLASSES.index(one.parent.name) for one in files])
    labels = {one.key: one.label for one in drawn()}
    files = sorted((judged / "shapes").glob("*.png"))
    has = [[c in labels[file.stem] for c in range(len(SHAPES))] for file in files]
    return classifier, files, np.array(has)


@pytest.mark.parametrize(
    "name",
    ["regression", "inner", "several", "within", "tune", "tune_several", "both", "mean"],
)
def test_what_every_kind_leaves_answers_as_it_was_measured(judged, name):
    run = "tokens" if name in ("both", "mean") else "judged"
    folder, printed = pull(judged, f"{run}/{name}")
    assert "kept no classifier" not in printed
    classifier, files, true = answers(judged, folder)
    result = json.loads((folder / "result.json").read_text())["metrics"]
    with torch.inference_mode():
        scores = classifier(classifier.prepared(files))
    odds = metrics.log_odds(scores.numpy(), several=classifier.several)
    expected = ("auroc", "map", "ece") if classifier.several else ("top1", "auroc", "ece")
    for metric in expected:
        found = metrics.compute(metric, odds, true)
        assert found == pytest.approx(result[f"test/{metric}"], abs=1e-5), metric
    probable = metrics.probabilities(odds)
    np.testing.assert_allclose(classifier.probabilities(*files).numpy(), probable, atol=1e-5)
    [three, plain, *backbones] = blocks(folder)
    if classifier.several:
        own = classifier.labels(*files, threshold=0.4)
        assert own == [
            [c for c, p in zip(SHAPES, row, strict=True) if p >= 0.4] for row in probable
        ]
        with pytest.raises(hpt_dist.HptError, match="several labels here"):
            classifier.classify(files[0])
        assert "classifier.labels(" in three
    else:
        own = classifier.classify(*files)
        assert "classifier.classify(" in three
    # By the lines of the page alone, where the features are the backbone's own.
    if name not in ("inner", "within", "both", "mean"):
        names: dict = {}
        exec(plain, names)
        exec(next(block for block in backbones if "import timm" in block), names)
        with torch.inference_mode():
            features = names["backbone"](classifier.prepared(files))
        if classifier.several:
            assert names["labels"](features, 0.4) == own
        else:
            assert names["classify"](features) == own


ADAPTED = {"cut": "adapt/squash=false", "squashed": "adapt/squash=true"}


@pytest.mark.parametrize("name", ADAPTED.values(), ids=ADAPTED)
def test_an_adapted_classifier_gives_the_answers_that_the_stage_computed(judged, name):
    folder, printed = pull(judged, f"judged/{name}")
    [three, plain, *backbones] = blocks(folder)
    assert "\n".join(line for line in three.splitlines() if line) in printed
    classifier = hpt_dist.load_classifier(folder)
    kept = (folder / "predictions.test.parquet").read_bytes()
    facts, found = predictions_file.read(kept, name)
    files = [judged / "pets" / one.file for one in found]
    assert classifier.classes == facts.classes
    probable = classifier.probabilities(*files).numpy()
    expected = np.zeros_like(probable)
    for row, one in zip(expected, found, strict=True):
        row[list(one.top)] = one.top_scores
    np.testing.assert_allclose(probable, expected, atol=1e-5)
    own = classifier.classify(*files)
    right = np.mean([name == file.parent.name for name, file in zip(own, files, strict=True)])
    result = json.loads((folder / "result.json").read_text())["metrics"]
    assert right == pytest.approx(result["test/top1"], abs=1e-12)
    # By the lines of the page alone.
    names: dict = {}
    exec(plain, names)
    exec(next(block for block in backbones if "import timm" in block), names)
    with torch.inference_mode():
        assert names["classify"](names["backbone"](classifier.prepared(files))) == own


def test_squashed_images_are_prepared_so_by_the_classifier_and_by_its_page(judged):
    file = next((judged / "pets/test/dog").iterdir())
    images = {}
    for name, trial in ADAPTED.items():
        folder, _ = pull(judged, f"judged/{trial}")
        images[name] = hpt_dist.load_classifier(folder).prepared([file])
        with PIL.Image.open(file) as image:
            page = cut_as_on_the_page((folder / "loading.md").read_text(), image.convert("RGB"))
        head, _ = heads.read((folder / "head.safetensors").read_bytes(), name)
        mean, std = (torch.tensor(one)[:, None, None] for one in (head.mean, head.std))
        shown = (images[name][0] * std + mean) * 255
        assert (shown - torch.from_numpy(page).permute(2, 0, 1)).abs().max() <= 1.01
    assert not torch.equal(images["cut"], images["squashed"])


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("judged/inner", "The output of the part `blocks.2` of the backbone below, its mean over"),
        (
            "tokens/both",
            "The last class tokens of the backbone below, then the means of the others",
        ),
    ],
)
def test_the_page_names_features_inside_a_backbone(judged, name, says):
    folder, _ = pull(judged, name)
    assert says in (folder / "loading.md").read_text()


def test_a_head_beside_another_model_is_refused(judged, tmp_path):
    for name in ("tune", "tune_several"):
        shutil.copytree(pull(judged, f"judged/{name}")[0], tmp_path / name)
    shutil.copy(tmp_path / "tune/head.safetensors", tmp_path / "tune_several/head.safetensors")
    with pytest.raises(hpt_dist.HptError, match="is not the head of model"):
        hpt_dist.load_classifier(tmp_path / "tune_several")


@pytest.mark.parametrize("file_format", ["safetensors", "timm"])
def test_lines_beside_a_backbone_give_its_features(judged, file_format):
    folder, _ = pull(judged, "judged/base", "--format", file_format)
    key = key_of(judged, "base")
    expected = hpt_dist.load_backbone(
        "timm/test_efficientnet", f"trial/{key}", store=str(judged / "store")
    ).eval()
    images = torch.rand(2, 3, 32, 32)
    source = blocks(folder)
    assert len(source) == {"safetensors": 2, "timm": 1}[file_format]
    for block in source:
        names: dict = {}
        exec(block, names)
        with torch.inference_mode():
            assert torch.equal(names["backbone"](images), expected(images))


def test_several_trials_and_other_formats_keep_their_classifiers(judged):
    folder, printed = pull(judged, "judged/line", "--format", "timm")
    assert (folder / "test_efficientnet.pth").exists()
    assert hpt_dist.load_classifier(folder).image_size == 32
    assert str(folder / "backbone.safetensors") in printed


def test_neighbours_have_no_classifier(judged):
    folder, printed = pull(judged, "judged/near")
    assert "near: neighbours have no classifier to load; a linear stage leaves one" in printed
    assert not (folder / "loading.md").exists()


def test_an_evaluation_of_an_earlier_version_says_how_to_get_its_classifier(judged, tmp_path):
    store = tmp_path / "store"
    shutil.copytree(judged / "store", store, symlinks=True)
    folder = store / "stages" / key_of(judged, "line")
    before = {name: (folder / name).read_bytes() for name in ("head.safetensors", "result.json")}
    done = json.loads((folder / DONE).read_text())
    del done["objects"]["head.safetensors"]
    (folder / DONE).write_text(json.dumps(done))
    (folder / "head.safetensors").unlink()
    printed = hpt("pull", "judged/line", str(tmp_path / "out"), store=str(store))
    assert f"kept no classifier; delete {folder}/DONE and launch again" in printed
    (folder / DONE).unlink()
    threads = torch.get_num_threads()
    recipe = str(judged / "judged.yaml")
    hpt("launch", recipe, "--on", "inline", store=str(store), process=False)
    torch.set_num_threads(threads)
    assert {name: (folder / name).read_bytes() for name in before} == before


def test_what_is_no_classifier_is_refused(judged, tmp_path):
    folder, _ = pull(judged, "judged/line")
    with pytest.raises(hpt_dist.HptError, match=r"head\.safetensors cannot be read"):
        hpt_dist.load_classifier(tmp_path)
    for name, other in (
        ("head.safetensors", "backbone.safetensors"),
        ("backbone.safetensors", "head.safetensors"),
    ):
        broken = tmp_path / name
        shutil.copytree(folder, broken)
        shutil.copy(broken / other, broken / name)
        with pytest.raises(hpt_dist.HptError, match=r"this is no head of|these are no weights of"):
            hpt_dist.load_classifier(broken)


@pytest.mark.parametrize("size", [(96, 80), (61, 173)])
def test_the_page_says_how_images_are_cut(tmp_path, size):
    from hpt_dist.images.crops import center_box
    from hpt_dist.images.pixels import resize_box
    from hpt_dist.weights import loading_note

    spec = {"backbone": "torchvision/resnet18", "image": {"size": 32, "normalize": "imagenet"}}
    page = loading_note.text("hpt", "l", spec, tmp_path, ("weights.safetensors",), "safetensors")
    image = picture(3, size)
    cut = torch.empty((32, 32, 3), dtype=torch.uint8)
    resize_box(torch.from_numpy(np.array(image)), center_box(0, *size), cut)
    apart = np.abs(cut_as_on_the_page(page, image).astype(int) - cut.numpy())
    assert apart.max() <= 1, "a level of 255, by the order of float sums"


def test_lines_for_torchvision_give_features(tmp_path):
    """The page for a backbone of torchvision, whose classifier the weights do not have."""
    from safetensors.torch import save_file

    from hpt_dist.networks import backbones
    from hpt_dist.weights import loading_note

    backbone = backbones.create("torchvision/resnet18").eval()
    save_file(backbone.state_dict(), tmp_path / "weights.safetensors")
    spec = {"backbone": "torchvision/resnet18", "image": {"size": 64, "normalize": "imagenet"}}
    page = loading_note.text("hpt", "l", spec, tmp_path, ("weights.safetensors",), "safetensors")
    images = torch.rand(1, 3, 64, 64)
    (tmp_path / "loading.md").write_text(page)
    assert "(0.485, 0.456, 0.406)" in page
    for block in blocks(tmp_path):
        names: dict = {}
        exec(block, names)
        with torch.inference_mode():
            assert torch.equal(names["backbone"](images), backbone(images))
