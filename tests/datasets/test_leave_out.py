"""From a leak to its file, and to a dataset without it."""

from __future__ import annotations

import csv
import json
import shutil
import tarfile
from pathlib import Path

import pytest
from pictures import encoded, picture
from small import hpt

from hpt_dist.datasets import leave_out, origins
from hpt_dist.datasets.leave_out import REASON
from hpt_dist.datasets.shards import read_manifest, verify, write_dataset
from hpt_dist.datasets.verify import strays
from hpt_dist.errors import RequestError
from hpt_dist.sources import open_source
from hpt_dist.store import open_store

COPIES = 3


def photos(root: Path, count: int = 12) -> Path:
    """Write photographs in train, val and test; some of test are in train too."""
    for number in range(count):
        split = ("train", "val", "test")[number % 3]
        file = root / split / ("cat", "dog")[number % 2] / f"{number} of Zoë.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encoded(picture(number, (40, 30))))
    for number in range(2, 2 + 3 * COPIES, 3):
        source = next((root / "test").rglob(f"{number} of*"))
        shutil.copy(source, root / "train" / source.parent.name / f"copy {number}.jpg")
    return root


def shard(source: Path, dataset: str, *options: str, code: int = 0) -> str:
    return hpt("shard", str(source), dataset, "--workers", "1", *options, store="", code=code,
               process=False)  # fmt: skip


@pytest.fixture
def leaked(tmp_path):
    """Return a folder of photographs, the dataset made of it, and the list of its leaks."""
    source, dataset = photos(tmp_path / "photos"), f"{tmp_path}/store/datasets/photos"
    shard(source, dataset)
    listed = tmp_path / "leaks.csv"
    arguments = ("data", "leaks", dataset, "--workers", "1", "--write-list", str(listed))
    printed = hpt(*arguments, store="", code=1)
    assert "train/cat/copy 2.jpg  test/cat/2 of Zoë.jpg" in printed
    return source, dataset, listed


def rows_of(listed: Path) -> list[dict[str, str]]:
    with listed.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_list_of_leaks_leads_to_files_and_to_a_dataset_without_them(leaked, tmp_path):
    source, dataset, listed = leaked
    files = {row["file"] for row in rows_of(listed)}
    assert len(files) == COPIES
    assert all((source / file).is_file() for file in files)
    assert "a dataset of 15 images" in shard(source, dataset, "--leave-out", str(listed), code=2)
    printed = shard(source, dataset, "--leave-out", str(listed), "--replace")
    assert f"left out by {listed}: train {COPIES} (train/" in printed
    assert f"left out: {COPIES} of 15 images" in printed
    assert "no leaks" in hpt("data", "leaks", dataset, "--workers", "1", store="")
    shown = json.loads(hpt("data", "show", dataset, "--json", store=""))
    assert {one["origin"] for one in shown["quarantined"]} == files
    assert {one["reason"] for one in shown["quarantined"]} == {REASON}
    store = open_store(f"{tmp_path}/store")
    assert (verify(store, "photos"), strays(store, "photos")) == ([], [])
    # The list is part of the dataset, and its place is not.
    moved = listed.rename(tmp_path / "elsewhere.csv")
    shard(source, dataset, "--leave-out", str(moved))
    assert json.loads(hpt("data", "show", dataset, "--json", store=""))["digest"] == shown["digest"]
    assert "a dataset of 15 images" in shard(source, dataset, code=2)


def test_other_shards_keep_their_bytes(leaked, tmp_path):
    source, _, listed = leaked
    store = open_store(f"{tmp_path}/store")
    opened = open_source(str(source))
    keys = leave_out.read(listed, "photos", "", opened)
    whole = read_manifest(store, "photos")
    less = write_dataset(opened, store, "less", leave_out=keys.keys())
    for split in ("val", "test"):
        assert [s.sha256 for s in less.splits[split].shards] == [
            s.sha256 for s in whole.splits[split].shards
        ]
    assert less.splits["train"].images == whole.splits["train"].images - COPIES
    # Left-out images are no bad ones.
    write_dataset(opened, store, "strict", leave_out=keys.keys(), max_bad=0)
    # Nothing changes for who leaves nothing out.
    same = write_dataset(opened, open_store(f"{tmp_path}/other"), "photos")
    assert same.digest == whole.digest


def test_the_list_may_be_used_under_another_name(leaked, tmp_path):
    source, _, listed = leaked
    printed = shard(source, f"{tmp_path}/store/datasets/clean", "--leave-out", str(listed))
    assert f"clean: {15 - COPIES} images" in printed
    # Two datasets of one name are told apart by their URIs.
    there = f"{tmp_path}/store/datasets/photos"
    text = listed.read_text().replace("photos,", f"{there},")
    listed.write_text(text + "elsewhere/datasets/photos,train,other,\n")
    assert "photos: 12 images" in shard(source, there, "--leave-out", str(listed), "--replace")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("dataset,split,key\nphotos,train,nobody\n", "{0}:2: photos holds no image of the key"),
        ("dataset,split,key\na,train,x\nb,train,y\n", "none of them is photos"),
        ("", "has no column key"),
        ("file\ntrain/cat/a.jpg\n", "has no column key"),
        ("key\n\n,\n", "{0}:3: a line without a key"),
        ('key\n"a\n', "{0}:2: this is no CSV"),
        ("\xff", "it is no UTF-8"),
        (None, "No such file"),
    ],
)
def test_what_is_no_such_list_is_refused(tmp_path, text, says):
    source, listed = photos(tmp_path / "photos"), tmp_path / "list.csv"
    if text is not None:
        listed.write_bytes(text.encode("latin-1"))
    printed = shard(source, f"{tmp_path}/s/datasets/photos", "--leave-out", str(listed), code=2)
    assert says.format(listed) in printed
    assert not (tmp_path / "s").exists()


def test_a_list_without_an_image_leaves_nothing_out(tmp_path):
    source, listed = photos(tmp_path / "photos"), tmp_path / "list.csv"
    listed.write_text(leave_out.text_of([]))
    printed = shard(source, f"{tmp_path}/s/datasets/photos", "--leave-out", str(listed))
    assert f"{listed} lists no image" in printed
    assert "photos: 15 images" in printed


def test_a_list_of_a_whole_split_is_refused(tmp_path):
    opened = open_source(str(photos(tmp_path / "photos")))
    rows = [("photos", one.split, one.key, "") for one in opened.samples() if one.split == "val"]
    listed = tmp_path / "list.csv"
    listed.write_text(leave_out.text_of(rows))
    with pytest.raises(RequestError, match="lists every image of val"):
        leave_out.read(listed, "photos", "", opened)


def test_a_key_and_a_file_lead_to_each_other(leaked):
    _, dataset, listed = leaked
    row = rows_of(listed)[0]
    for name in (row["key"], row["file"]):
        (found,) = json.loads(hpt("data", "show", dataset, name, "--json", store=""))
        assert (found["key"], found["file"], found["split"]) == (row["key"], row["file"], "train")
        assert found["classes"] == [row["file"].split("/")[1]]
    assert row["file"] in hpt("data", "show", dataset, row["key"], store="")
    printed = hpt("data", "show", dataset, row["key"][:-1], store="", code=2)
    assert f"did you mean {row['key']}?" in printed


def sources_of(root: Path) -> dict[str, Path]:
    """Return one source of each kind, over the same images."""
    images = photos(root / "folder")
    paths = sorted(path.relative_to(images) for path in images.rglob("*.jpg"))
    with (root / "list.csv").open("w", newline="") as file:
        lines = [("path", "label"), *((f"folder/{path}", path.parts[1]) for path in paths)]
        csv.writer(file).writerows(lines)
    plain = root / "plain"
    for path in paths:
        (plain / path.parts[0]).mkdir(parents=True, exist_ok=True)
        shutil.copy(images / path, plain / path.parts[0])
    coco = {
        "images": [
            {"id": n, "file_name": f"folder/{path}", "width": 40, "height": 30}
            for n, path in enumerate(paths)
        ],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [
            {"id": n, "image_id": n, "category_id": 1, "bbox": [1, 1, 9, 9], "area": 81}
            for n in range(len(paths))
        ],
    }
    (root / "coco.json").write_text(json.dumps(coco))
    with tarfile.open(root / "photos-train.tar", "w") as archive:
        for number, path in enumerate(paths):
            archive.add(images / path, f"{number:03}.jpg")
    (root / "flat").mkdir()
    for path in paths:
        shutil.copy(images / path, root / "flat")
    names = ("folder", "list.csv", "plain", "flat", "coco.json", "photos-train.tar")
    return {name: root / name for name in names}


@pytest.mark.parametrize(
    "kind", ["folder", "list.csv", "plain", "flat", "coco.json", "photos-train.tar"]
)
def test_every_key_of_every_source_leads_to_its_file(tmp_path, kind):
    path = sources_of(tmp_path)[kind]
    source = open_source(str(path))
    store = open_store(str(tmp_path / "store"))
    manifest = write_dataset(source, store, "photos")
    root = path if path.is_dir() else tmp_path
    samples = {sample.key: sample for sample in source.samples()}
    found = origins.trace(store.at("datasets/photos"), manifest, sorted(samples))
    assert len(found) == len(samples) > 0
    for image in found:
        if kind.endswith(".tar"):  # the tar and the member
            name, _, member = image.file.partition("/")
            with tarfile.open(root / name) as archive:
                data = archive.extractfile(member).read()
        else:
            data = (root / image.file).read_bytes()
        assert data == samples[image.key].read()
        assert image.split == samples[image.key].split


def test_a_dataset_of_before_gets_its_notes_from_the_same_command(leaked, tmp_path):
    source, dataset, listed = leaked
    folder = Path(dataset)
    notes = sorted(folder.rglob("*.origins.json"))
    before = {note: note.read_bytes() for note in notes}
    others = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}
    for note in notes:
        note.unlink()
    key = rows_of(listed)[0]["key"]
    assert "run the same hpt-dist shard again" in hpt("data", "show", dataset, key, store="")
    assert "all digests" in hpt("data", "verify", dataset, store="")
    shard(source, dataset)
    assert {note: note.read_bytes() for note in notes} == before
    assert all(p.stat().st_mtime_ns == t for p, t in others.items() if p not in before)


def test_damage_names_the_file(leaked, tmp_path):
    _, dataset, listed = leaked
    row = rows_of(listed)[0]
    store = open_store(f"{tmp_path}/store")
    manifest = read_manifest(store, "photos")
    folder = store.at("datasets/photos")
    (shard_,) = manifest.splits["train"].shards
    index = json.loads(folder.get(shard_.index))
    offset = index["offsets"][index["keys"].index(row["key"])]
    data = bytearray(folder.get(shard_.path))
    data[offset] ^= 1
    folder.put(shard_.path, data)
    named = f"image {row['key']} (file {row['file']}) "
    assert named in hpt("data", "verify", dataset, store="", code=1)
    assert named in hpt("data", "leaks", dataset, "--workers", "1", store="", code=1)
    note = next(Path(dataset).rglob("train/*.origins.json"))
    note.write_text("{}}")
    assert "the record is damaged" in hpt("data", "verify", dataset, store="", code=1)
    note.write_text(json.dumps({"other": "a.jpg"}))
    assert "it names no file of 7 images" in hpt("data", "verify", dataset, store="", code=1)
