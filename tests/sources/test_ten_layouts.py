"""docs/own_images.md opens with ten layouts: the command of each row shards real images of it."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import webdataset
from pictures import encoded, picture
from PIL import Image
from pyarrow import parquet as pq
from typer.testing import CliRunner

from hpt_dist.cli.main import app
from hpt_dist.datasets.manifest import Manifest, read_manifest
from hpt_dist.datasets.shards import verify
from hpt_dist.store import open_store

PAGE = (Path(__file__).parents[2] / "docs/own_images.md").read_text()
ROW = re.compile(r"^\| (?P<have>.+?) \| `(?P<command>hpt-dist shard .+?)` \|$", re.MULTILINE)
ROWS = [match.groupdict() for match in ROW.finditer(PAGE.partition("\n\n`hpt-dist shard`")[0])]
CLASSES = ("cat", "dog")
COUNT = 12


def images(folder: str, *, suffix: str = "jpg") -> list[Path]:
    """Write images of real files, and return their paths."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    paths = [Path(folder) / f"{number}.{suffix}" for number in range(COUNT)]
    for number, path in enumerate(paths):
        path.write_bytes(encoded(picture(number, (48, 32)), {"jpg": "JPEG", "png": "PNG"}[suffix]))
    return paths


def flat() -> None:
    images("photos")


def class_folders() -> None:
    for path in images("birds"):
        folder = Path("birds") / ("owl", "jay")[int(path.stem) % 2]
        folder.mkdir(exist_ok=True)
        path.rename(folder / path.name)


def split_folders() -> None:
    for path in images("pets"):
        number = int(path.stem)
        folder = Path("pets") / ("train", "val", "test")[number // 4] / CLASSES[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        path.rename(folder / path.name)


def rows(folder: str) -> list[dict[str, str]]:
    return [
        {"filename": str(path), "class": CLASSES[number % 2], "camera": f"c{number}"}
        for number, path in enumerate(images(folder))
    ]


def table() -> None:
    lines = [";".join(row.values()) for row in rows("petals")]
    Path("flowers.csv").write_text("\n".join(["filename;class;camera", *lines]), encoding="cp1252")


def jsonl() -> None:
    Path("leaves.jsonl").write_text("\n".join(map(json.dumps, rows("leaf"))))


def parquet() -> None:
    names = {"names": list(CLASSES), "_type": "ClassLabel"}
    features = {"image": {"_type": "Image"}, "label": names}
    metadata = json.dumps({"info": {"features": features}}).encode()
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    values = [{"bytes": path.read_bytes(), "path": path.name} for path in images("raw")]
    found = pa.table({"image": pa.array(values, kind), "label": [i % 2 for i in range(COUNT)]})
    Path("scans/data").mkdir(parents=True)
    pq.write_table(
        found.replace_schema_metadata({b"huggingface": metadata}),
        "scans/data/train-00000-of-00001.parquet",
    )


def image_folder() -> None:
    lines = [f"{path.name},{CLASSES[i % 2]}" for i, path in enumerate(images("cells"))]
    Path("cells/metadata.csv").write_text("\n".join(["file_name,label", *lines]))


def coco() -> None:
    paths = images("cars/images")
    Path("cars/instances.json").write_text(
        json.dumps(
            {
                "images": [
                    {"id": i, "file_name": path.name, "width": 48, "height": 32}
                    for i, path in enumerate(paths)
                ],
                "categories": [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)],
                "annotations": [
                    {"id": i, "image_id": i, "category_id": i % 2 + 1, "bbox": [2, 3, 20, 10]}
                    for i in range(COUNT)
                ],
            }
        )
    )


def voc() -> None:
    Path("signs/Annotations").mkdir(parents=True)
    for i, path in enumerate(images("signs/JPEGImages")):
        box = "<xmin>2</xmin><ymin>3</ymin><xmax>9</xmax><ymax>9</ymax>"
        Path(f"signs/Annotations/{path.stem}.xml").write_text(
            "<annotation><size><width>48</width><height>32</height></size><object>"
            f"<name>{CLASSES[i % 2]}</name><bndbox>{box}</bndbox></object></annotation>"
        )


def tars() -> None:
    Path("shards").mkdir()
    with webdataset.TarWriter("shards/train-000000.tar") as tar:
        for i, path in enumerate(images("loose")):
            tar.write({"__key__": path.stem, "jpg": path.read_bytes(), "cls": i % 2})


# By the source that the command names, with the labels of the dataset.
LAYOUTS: dict[str, tuple[Callable[[], None], str, int]] = {
    "photos": (flat, "none", 0),
    "birds": (class_folders, "single", 2),
    "pets": (split_folders, "single", 2),
    "flowers.csv": (table, "single", 2),
    "leaves.jsonl": (jsonl, "single", 2),
    "scans": (parquet, "single", 2),
    "cells": (image_folder, "single", 2),
    "cars/instances.json": (coco, "multi", 2),
    "signs": (voc, "multi", 2),
    "shards": (tars, "single", 2),
}


def sharded(command: str) -> tuple[Manifest, str]:
    """Run a command in the current folder; return its dataset and what was printed."""
    _, *arguments = shlex.split(command)
    done = CliRunner().invoke(app, [*arguments, "--workers", "1"])
    assert done.exit_code == 0, (command, done.output, done.exception)
    store, name = open_store("hpt-store"), Path(arguments[2]).name
    assert verify(store, name) == []
    return read_manifest(store, name), done.stderr


def test_the_page_opens_with_ten_layouts():
    assert len(ROWS) == 10
    assert PAGE.index(ROWS[0]["have"]) < PAGE.index("## ")


@pytest.mark.parametrize("source", LAYOUTS)
def test_the_command_of_each_layout_shards_its_images(tmp_path, monkeypatch, source):
    commands = [row["command"] for row in ROWS if shlex.split(row["command"])[2] == source]
    assert len(commands) == 1, "the row of this layout"
    build, label, classes = LAYOUTS[source]
    monkeypatch.chdir(tmp_path)
    build()
    [path] = [path for path in re.findall(r"`([^`]+)`", PAGE) if path.startswith(source)][:1]
    assert Path(path.replace("a.jpg", "")).exists() or list(tmp_path.rglob("*.jpg"))
    manifest, printed = sharded(commands[0])
    assert sum(split.images for split in manifest.splits.values()) == COUNT
    assert (manifest.label, len(manifest.classes)) == (label, classes)
    assert manifest.quarantined == ()
    assert "read as" in printed


def test_every_row_of_the_page_is_a_layout_of_these_tests():
    named = {shlex.split(row["command"])[2] for row in ROWS}
    assert named == set(LAYOUTS)


def test_a_folder_as_people_have_it_is_sharded_without_a_damaged_image(tmp_path, monkeypatch):
    """AVIF, JPEG 2000 and TIFF among JPEGs, with what lies beside them; nothing is bad."""
    monkeypatch.chdir(tmp_path)
    images("photos")
    for kind, suffix in (("AVIF", "avif"), ("JPEG2000", "jp2"), ("TIFF", "tif"), ("WEBP", "webp")):
        data = encoded(picture(99, (48, 32)), kind)
        Path(f"photos/other.{suffix}").write_bytes(data)
    for name in ("Thumbs.db", ".DS_Store", "notes.txt", "paper.pdf", "clip.mp4", "1.xmp", "1.json"):
        Path("photos", name).write_bytes(b"no image")
    command = f"{ROWS[0]['command']} --max-bad 0"
    manifest, printed = sharded(command)
    assert {name: split.images for name, split in manifest.splits.items()} == {"train": COUNT + 4}
    assert manifest.quarantined == ()
    for line in ("videos: 1 (clip.mp4)", "documents: 1 (paper.pdf)", "texts: 1 (notes.txt)"):
        assert f"set aside: {line}" in printed
    with Image.open("photos/other.avif") as image:
        assert np.asarray(image).shape == (32, 48, 3)
    assert sharded(command)[0].digest == manifest.digest
