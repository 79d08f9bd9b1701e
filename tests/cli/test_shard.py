"""`shard` says what it understood before it writes, and asks where two readings are plausible."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from hpt_dist.cli.main import app
from hpt_dist.errors import RequestError


def write_images(root: Path, *folders: str) -> Path:
    for number, folder in enumerate(folders):
        (root / folder).mkdir(parents=True, exist_ok=True)
        for i in range(2):
            image = Image.new("RGB", (8, 8), (40 * number, 100 * i, 0))
            image.save(root / folder / f"p{i}_{number}.png")
    return root


def shard(source: Path, *options: str):
    dataset = str(source.parent / "store" / "datasets" / "pets")
    return CliRunner().invoke(app, ["shard", str(source), dataset, "--workers", "1", *options])


def test_the_reading_is_printed_apart_from_the_result(tmp_path):
    write_images(tmp_path / "zip/pets", "Train/cat", "Train/dog", "Test/cat", "Test/dog")
    (tmp_path / "zip/pets/Train/cat/Thumbs.db").touch()
    done = shard(tmp_path / "zip", "--json")
    assert done.exit_code == 0, done.output
    written = json.loads(done.stdout)
    for line in (
        f"entered pets, the only folder in {tmp_path}/zip",
        "read as split/class/image: the top folders are splits: Test (test), Train (train)",
        "set aside: thumbnails: 1 (Train/cat/Thumbs.db)",
        "2 classes: cat, dog",
        "train: 4 images (cat 2, dog 2)",
        "test: 4 images (cat 2, dog 2)",
        "val has no image",
    ):
        assert line in done.stderr.splitlines()
    assert (written["images"], written["quarantined"]) == (8, [])
    direct = json.loads(shard(tmp_path / "zip/pets", "--json").stdout)
    assert direct["digest"] == written["digest"]


def test_the_layout_and_groups_are_options(tmp_path):
    source = write_images(tmp_path / "vehicles", "train", "bus")
    assert "say --layout classes" in str(shard(source).exception)
    assert not (tmp_path / "store").exists()
    done = shard(source, "--layout", "classes", "--group-by", r"(p\d)_")
    assert done.exit_code == 0, done.output
    assert "2 classes: bus, train" in done.stderr
    assert "2 groups by" in done.stderr
    manifest = json.loads((tmp_path / "store/datasets/pets/manifest.json").read_text())
    assert r"each image's group ('(p\\d)_' in its path)" in manifest["source"]["rule"]
    assert isinstance(shard(source, "--layout", "photos").exception, RequestError)


def test_columns_are_an_option_and_what_is_read_is_printed(tmp_path):
    write_images(tmp_path / "images", "a", "b")
    rows = [f"{i};a/p{i}_0.png;{'ox' if i else 'cow'}" for i in range(2)]
    listed = tmp_path / "list.csv"
    listed.write_text("\n".join(["id;shot;species", *rows]))
    assert "no column path or image" in str(shard(listed).exception)
    options = ["--root", str(tmp_path / "images"), "--columns", "path=shot,label=species"]
    done = shard(listed, *options)
    assert done.exit_code == 0, done.output
    for line in (
        "read as a list: UTF-8, columns separated by semicolons",
        "columns: path from shot, label from species",
        "columns that are not read: id",
        "2 classes: cow, ox",
    ):
        assert line in done.stderr.splitlines()


def test_a_flat_folder_is_sharded_and_says_what_follows(tmp_path):
    source = write_images(tmp_path, "photos") / "photos"
    (source / "notes.txt").touch()
    done = shard(source, "--max-bad", "0", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["images"] == 2
    said = done.stderr.splitlines()
    assert "no labels" in said
    assert said[-1] == "recipes/unlabeled.yaml trains on images without labels"


@pytest.mark.parametrize(
    ("destination", "proper"), [("pets", "pets"), ("store/datasets/my pets", "my_pets")]
)
def test_a_place_for_no_dataset_is_refused_before_the_source_is_read(destination, proper):
    error = CliRunner().invoke(app, ["shard", "nowhere", destination]).exception
    assert isinstance(error, RequestError)
    assert f"a dataset cannot lie at {destination}" in str(error)
    assert f"datasets/{proper}" in str(error)
