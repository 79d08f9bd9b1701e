"""`init` writes a recipe for what it finds, which plans once the data are sharded."""

from __future__ import annotations

import json
import shlex
import shutil
from itertools import chain
from pathlib import Path

import pytest
import yaml
from pictures import encoded, labelled, picture, sample, write
from PIL import Image
from shapes import SHAPES, drawn, write_shapes
from small import hpt

from hpt_dist.datasets.shards import write_dataset
from hpt_dist.launch import first_recipe
from hpt_dist.launch.first_recipe import Domain
from hpt_dist.sources.sample import FileSource
from hpt_dist.store import open_store


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    """Work in a folder of one's own, on a machine without a GPU."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def images(*folders: str, each: int = 10) -> None:
    for number, folder in enumerate(folders):
        Path(folder).mkdir(parents=True)
        for i in range(each):
            pixel = (20 * number, 20 * i, 99)
            Image.new("RGB", (8, 8), pixel).save(Path(folder) / f"{number}-{i}.png")


def followed(printed: str, store: str = "") -> str:
    """Run the commands that were printed, without the launch; return what the plan says."""
    commands = [line.strip() for line in printed.splitlines() if line.startswith("  hpt-dist")]
    assert commands[-1].startswith("hpt-dist launch ")
    said = ""
    for command in commands[:-1]:
        words = shlex.split(command)[1:]
        more = ("--workers", "1") if words[0] == "shard" else ()
        said = hpt(*words, *more, store=store, process=False)
    return said


def test_images_with_labels_get_a_recipe_that_plans():
    images("my photos/cat", "my photos/dog", each=30)
    printed = hpt("init", "my photos", store="./hpt-store")
    assert "wrote my_photos.yaml: with labels" in printed
    assert not Path("hpt-store").exists()
    text = Path("my_photos.yaml").read_text()
    assert "2 classes: cat, dog" in text
    assert "A ridge probe measures the features on val" in text
    assert "photos/train" in text
    planned = followed(printed, "./hpt-store")
    assert "features/init=hpt,seed=2" in planned
    recipe = yaml.safe_load(text)
    assert recipe["datasets"] == {"my_photos": "my_photos"}
    assert recipe["stages"]["hpt"]["batch"] == 32
    assert recipe["stages"]["hpt"]["moco"]["queue"] == 32


@pytest.mark.parametrize("folder", ["pile/train", "pile"])
def test_images_without_labels_get_pretraining_alone(folder):
    images(folder, each=5)
    printed = hpt("init", "pile", store="./hpt-store")
    assert "wrote pile.yaml: no evaluation, pile has no labels" in printed
    recipe = yaml.safe_load(Path("pile.yaml").read_text())
    assert list(recipe["stages"]) == ["base", "hpt"]
    assert "report" not in recipe
    assert recipe["stages"]["hpt"]["keep"] == "last"
    assert recipe["stages"]["hpt"]["data"] == ["pile/train"]
    assert "hpt" in followed(printed, "./hpt-store")


def test_several_domains_are_pretrained_on_in_order(tmp_path):
    store = open_store(str(tmp_path / "hpt-store"))
    splits = [*labelled(70), *labelled(8, split="val"), *labelled(8, split="test")]
    write(store, "art/line", splits)
    pool = [
        sample(f"u{n}", encoded(picture(n, (9, 9)), "PNG"), "unlabeled", None) for n in range(8)
    ]
    write(store, "crowd", [*labelled(70, classes=0), *pool], classes="")
    printed = hpt("init", "crowd", "art/line", "--out", "two.yaml", store="./hpt-store")
    assert "hpt-dist shard" not in printed
    recipe = yaml.safe_load(Path("two.yaml").read_text())
    stages = recipe["stages"]
    assert list(stages) == ["base", "hpt_crowd", "hpt_line", "features"]
    assert stages["hpt_line"]["init"] == "hpt_crowd"
    assert stages["hpt_crowd"]["data"] == ["crowd/train", "crowd/unlabeled"]
    assert stages["hpt_crowd"]["monitor"]["data"] == "line"
    assert stages["features"]["sweep"]["init"] == ["base", "hpt_crowd", "hpt_line"]
    assert recipe["datasets"] == {"crowd": "crowd", "line": "art/line"}
    assert "features/init=hpt_line,seed=0" in followed(printed, "./hpt-store")


def test_a_dataset_of_another_store_is_named_by_its_uri(tmp_path):
    store = open_store(str(tmp_path / "elsewhere"))
    write(store, "birds", [*labelled(9), *labelled(3, split="val"), *labelled(3, split="test")])
    printed = hpt("init", f"{tmp_path}/elsewhere/datasets/birds", store="./hpt-store")
    recipe = yaml.safe_load(Path("birds.yaml").read_text())
    assert recipe["datasets"] == {"birds": f"{tmp_path}/elsewhere/datasets/birds"}
    assert recipe["stages"]["hpt"]["monitor"]["data"] == "birds"
    assert "features/init=hpt" in followed(printed, "./hpt-store")


def test_nothing_is_overwritten_and_names_of_two_meanings_ask(tmp_path):
    images("photos/cat", "photos/dog")
    Path("photos.yaml").write_text("mine")
    printed = hpt("init", "photos", store="./hpt-store", code=2)
    assert "photos.yaml is there already" in printed
    assert Path("photos.yaml").read_text() == "mine"
    write(open_store(str(tmp_path / "hpt-store")), "photos", labelled(6))
    assert "write ./photos for the images" in hpt("init", "photos", store="./hpt-store", code=2)
    assert "nothing is at fotos" in hpt("init", "fotos", store="./hpt-store", code=2)
    assert sorted(map(str, Path().iterdir())) == ["hpt-store", "photos", "photos.yaml"]


def test_what_cannot_be_judged_says_why(tmp_path):
    store = open_store(str(tmp_path / "hpt-store"))
    write(store, "bare", labelled(6))
    assert "bare has no split val and no test" in hpt("init", "bare", store="./hpt-store")
    data = encoded(picture(1, (9, 9)), "PNG")
    several = [
        sample(f"s{split}{n}", data, split, (0, 1))
        for split in ("train", "val", "test")
        for n in range(4)
    ]
    write_dataset(FileSource("s", "none", ["a", "b"], several, multi_label=True), store, "several")
    assert "auroc cannot be computed on several/val: each class has all of its images or none" in (
        hpt("init", "several", store="./hpt-store")
    )
    write(store, "only", labelled(4, split="test"))
    assert "nothing to pretrain on" in hpt("init", "only", store="./hpt-store", code=2)
    assert "Nothing is evaluated: bare has no" in Path("bare.yaml").read_text()


def check_several(printed):
    assert "several labels an image, judged by AUROC, mean over classes" in printed
    recipe = yaml.safe_load(Path("shapes.yaml").read_text())
    assert recipe["stages"]["features"]["metric"] == "auroc"
    assert recipe["stages"]["hpt"]["monitor"] == {"every": 50}  # its neighbours read one label
    assert "features/init=hpt,seed=2" in followed(printed, "./hpt-store")


def test_a_list_of_several_labels_gets_an_evaluation_by_their_metric(tmp_path):
    rows = ["path,labels,split"]
    for one in drawn():
        (tmp_path / f"{one.key}.png").write_bytes(one.read())
        rows.append(f"{one.key}.png,{'|'.join(SHAPES[c] for c in one.label)},{one.split}")
    Path("shapes.csv").write_text("\n".join(rows))
    check_several(hpt("init", "shapes.csv", store="./hpt-store"))


def test_the_recipe_for_several_labels_runs_to_a_verdict(mlflow_tables, tmp_path):
    write_shapes(open_store(str(tmp_path / "hpt-store")))
    Path("hpt-store/work").mkdir()
    shutil.copy(mlflow_tables, "hpt-store/work/mlflow.db")
    check_several(hpt("init", "shapes", store="./hpt-store"))
    smaller = {
        "image.size": 32,
        "stages.hpt.steps": 4,
        "stages.hpt.head_warmup_steps": 1,
        "stages.features.steps": 40,
        "stages.features.views": 1,
        "stages.features.sweep.seed": [0, 1],
    }
    sets = chain.from_iterable(("--set", f"{key}={value}") for key, value in smaller.items())
    printed = hpt("launch", "shapes.yaml", "--on", "inline", *sets, store="./hpt-store")
    assert "test/auroc (AUROC, mean over classes)" in printed
    assert "Against base" in printed
    found = [json.loads(p.read_text()) for p in Path("hpt-store").glob("stages/*/result.json")]
    judged = [one["details"] for one in found if one["kind"] == "linear"]
    assert [(one["metric"], one["n_test"]) for one in judged] == [("auroc", 36)] * 4


@pytest.mark.parametrize("labels", [True, False])
def test_sizes_follow_the_device(labels):
    splits = {"train": 9000, "val": 500, "test": 500}
    counts = {split: (images - 100, 100) for split, images in splits.items()}
    domain = Domain("on", splits, counts, "single" if labels else "none", ("a", "b"))
    recipe = yaml.safe_load(first_recipe.text("r", [domain], "s3://b/h", "gpu", []))
    stage = recipe["stages"]["hpt"]
    assert recipe["image"]["size"] == 224
    assert (stage["steps"], stage["batch"], stage["checkpoint_every"]) == (5000, 256, 500)
    assert stage["monitor"]["every"] == 500
    assert recipe["datasets"] == {"on": "on"}
    assert recipe["store"] == "${HPT_STORE:-s3://b/h}"
    small = yaml.safe_load(first_recipe.text("r", [domain], "s3://b/h", "cpu", []))
    assert (small["image"]["size"], small["stages"]["hpt"]["batch"]) == (64, 64)


def test_the_options_by_which_images_are_read_are_in_the_command_that_shards_them(tmp_path):
    images("birds", each=24)
    rows = [f"0-{i}.png,{'ab'[i % 2]},p{i}" for i in range(24)]
    Path("birds/list.csv").write_text("\n".join(["file,bird species,patient", *rows]))
    assert "--columns" in hpt("init", "birds/list.csv", store="./hpt-store", code=2)
    how = ["--columns", "label=bird species", "--group-by", "0-([0-9]+)"]
    printed = hpt("init", "birds/list.csv", *how, store="./hpt-store")
    assert "--columns 'label=bird species' --group-by '0-([0-9]+)'" in printed
    assert "list" in followed(printed, "./hpt-store")
    assert "2 classes: a, b" in Path("birds/list.yaml").read_text()
    dataset = ["init", str(tmp_path / "hpt-store/datasets/list"), "--layout", "flat"]
    assert "is read as it was sharded" in hpt(*dataset, store="./hpt-store", code=2)
