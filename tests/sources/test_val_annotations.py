"""Tiny ImageNet's folder, in miniature: its val has its classes in a table."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from pictures import encoded, picture
from small import hpt

from hpt_dist.datasets.manifest import read_manifest
from hpt_dist.errors import RequestError
from hpt_dist.sources import open_source
from hpt_dist.store import open_store

CLASSES = ["n01443537", "n01629819", "n01641577"]


@pytest.fixture
def tiny(tmp_path) -> Path:
    root = tmp_path / "tiny-imagenet-200"
    number = 0

    def write(file: Path) -> None:
        nonlocal number
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encoded(picture(number, (16, 16))))
        number += 1

    for name in CLASSES:
        for k in range(20):
            write(root / f"train/{name}/images/{name}_{k}.JPEG")
        boxes = "".join(f"{name}_{k}.JPEG\t0\t0\t9\t9\n" for k in range(20))
        (root / f"train/{name}/{name}_boxes.txt").write_text(boxes)
    for k in range(9):
        write(root / f"val/images/val_{k}.JPEG")
        write(root / f"test/images/test_{k}.JPEG")
    rows = (f"val_{k}.JPEG\t{CLASSES[k % 3]}\t0\t3\t9\t12\n" for k in range(9))
    (root / "val/val_annotations.txt").write_text("".join(rows))
    (root / "wnids.txt").write_text("\n".join(CLASSES))
    return root


def test_it_is_sharded_with_the_labels_of_its_table(tiny, tmp_path):
    place = f"{tmp_path}/s/datasets/tiny"
    printed = hpt("shard", str(tiny), place, "--workers", "1", store="", process=False)
    assert "read as Tiny ImageNet" in printed
    assert (
        "its val, on which others report, is test, and 10 % of train, by class, are val" in printed
    )
    assert "images without a label, such as those of test: 9" in printed
    manifest = read_manifest(open_store(f"{tmp_path}/s"), "tiny")
    assert list(manifest.classes) == CLASSES
    counts = {name: list(split.class_counts) for name, split in manifest.splits.items()}
    assert counts == {"train": [18] * 3, "val": [2] * 3, "test": [3] * 3}


def test_each_image_of_val_has_the_class_of_its_line(tiny):
    samples = open_source(str(tiny)).samples()
    for one in samples:
        name = one.origin.rpartition("/")[2]
        if one.split == "test":
            assert one.label == int(name.removeprefix("val_").removesuffix(".JPEG")) % 3
        else:
            assert CLASSES[one.label] == name.partition("_")[0]
    again = Counter(one.split for one in open_source(str(tiny.parent)).samples())
    assert again == {"train": 54, "val": 6, "test": 9}  # the only folder is entered


def test_every_mistake_of_the_table_comes_at_once_with_its_line(tiny):
    table = tiny / "val/val_annotations.txt"
    rows = table.read_text().splitlines()
    rows[1] = rows[1].replace("n01629819", "n0162981")
    rows[3] = rows[0]
    table.write_text("\n".join([*rows, "val_99.JPEG\tn01443537\t0\t0\t1\t1"]))
    with pytest.raises(RequestError) as caught:
        open_source(str(tiny))
    text = str(caught.value)
    assert f"{table}:2: unknown class 'n0162981': train has none; did you mean n01629819?" in text
    assert f"{table}:4: val_0.JPEG has a line already" in text
    assert f"{table}:10: no file val/images/val_99.JPEG" in text
    table.write_text("\n".join(rows[:1]))
    with pytest.raises(RequestError, match=r"no line for val_1\.JPEG"):
        open_source(str(tiny))
