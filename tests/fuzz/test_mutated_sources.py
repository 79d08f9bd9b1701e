"""Mutated lists, COCO files and VOC annotations."""

from __future__ import annotations

import json

import mutations
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hostile import Attempts, count
from pictures import encoded, picture
from webdataset import TarWriter

from hpt_dist.sources import open_source

NAMES = [f"{number}.png" for number in range(6)]
CSV = "path,label,split\n" + "".join(
    f"{name},{'cat' if number % 2 else 'dog'},{'train' if number < 3 else 'test'}\n"
    for number, name in enumerate(NAMES)
)
JSONL = "".join(
    json.dumps({"path": name, "labels": ["cat", "dog"][: 1 + number % 2], "split": "train"}) + "\n"
    for number, name in enumerate(NAMES)
)
COCO = {
    "info": {"description": "six images"},
    "licenses": [{"id": 1, "name": "CC0"}],
    "images": [
        {"id": number, "file_name": name, "width": 24, "height": 16}
        for number, name in enumerate(NAMES)
    ],
    "categories": [
        {"id": 1, "name": "cat", "supercategory": "animal"},
        {"id": 2, "name": "dog", "supercategory": "animal"},
    ],
    "annotations": [
        {
            "id": number,
            "image_id": number % 6,
            "category_id": 1 + number % 2,
            "bbox": [1, 2, 10, 8],
            "area": 80,
            "iscrowd": 0,
            "segmentation": [[1, 2, 11, 2, 11, 10]],
        }
        for number in range(8)
    ],
}
VOC = """\
<annotation>
  <filename>0.jpg</filename>
  <size><width>24</width><height>16</height><depth>3</depth></size>
  <object>
    <name>cat</name><difficult>0</difficult>
    <bndbox><xmin>1</xmin><ymin>2</ymin><xmax>11</xmax><ymax>10</ymax></bndbox>
  </object>
</annotation>
"""


@pytest.fixture
def folder(tmp_path):
    for number, name in enumerate(NAMES):
        (tmp_path / name).write_bytes(encoded(picture(number, (24, 16)), "PNG"))
    return tmp_path


def opened(path) -> None:
    for sample in open_source(str(path)).samples():
        assert sample.key


@pytest.mark.parametrize(("suffix", "original"), [("csv", CSV), ("jsonl", JSONL)])
def test_mutated_lists(request, folder, suffix, original):
    path = folder / f"list.{suffix}"
    with Attempts(rf"{path.name}") as attempt:
        for number in range(count(request, 120)):
            given = mutations.text(original, mutations.generator(suffix, number))
            path.write_bytes(given)
            attempt(lambda: opened(path), given)


def test_mutated_parquet(request, folder):
    path = folder / "list.parquet"
    pq.write_table(pa.table({"path": NAMES, "label": ["cat", "dog"] * 3}), path)
    original = path.read_bytes()
    with Attempts(rf"{path.name}") as attempt:
        for number in range(count(request, 60)):
            given = mutations.data(original, mutations.generator("parquet", number))
            path.write_bytes(given)
            attempt(lambda: opened(path), given)


def test_mutated_coco(request, folder):
    path = folder / "instances.json"
    with Attempts(rf"{path.name}") as attempt:
        for number in range(count(request, 200)):
            given = mutations.document(COCO, mutations.generator("coco", number))
            path.write_bytes(given)
            attempt(lambda: opened(path), given)


def test_mutated_voc(request, tmp_path):
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (tmp_path / "VOC" / name).mkdir(parents=True)
    for number in range(3):
        image = encoded(picture(number, (24, 16)))
        (tmp_path / f"VOC/JPEGImages/{number}.jpg").write_bytes(image)
        (tmp_path / f"VOC/Annotations/{number}.xml").write_text(VOC)
    sets = tmp_path / "VOC/ImageSets/Main/train.txt"
    with Attempts(r"0\.xml|train\.txt|VOC") as attempt:
        for number in range(count(request, 150)):
            numbers = mutations.generator("voc", number)
            sets.write_text("0\n1\n2\n")
            path = numbers.choice((tmp_path / "VOC/Annotations/0.xml", sets))
            original = VOC if path != sets else sets.read_text()
            given = mutations.text(original, numbers)
            path.write_bytes(given)
            attempt(lambda: opened(tmp_path / "VOC"), given)
            (tmp_path / "VOC/Annotations/0.xml").write_text(VOC)


def test_mutated_tars(request, tmp_path):
    path = tmp_path / "0.tar"
    with TarWriter(str(path), mtime=0) as writer:
        for number in range(4):
            image = encoded(picture(number, (24, 16)))
            writer.write({"__key__": f"{number}", "jpg": image, "json": {"label": number % 2}})
    original = path.read_bytes()
    with Attempts(r"0\.tar|labels in json:label of 0") as attempt:
        for number in range(count(request, 120)):
            given = mutations.data(original, mutations.generator("tar", number))
            path.write_bytes(given)
            attempt(lambda: opened(path), given)
