"""Datasets of Debian's packages: the real files, and small damaged copies of them."""

from __future__ import annotations

import csv
import dataclasses
import gzip
import io
import pickle
import shutil
import struct
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from services import unavailable
from small import REFUSED, hpt

from hpt_dist.datasets import leaks, shards
from hpt_dist.datasets.inventory import StoredDataset
from hpt_dist.errors import DataError, RequestError
from hpt_dist.images.formats import decode
from hpt_dist.sources import families, open_source, svg
from hpt_dist.sources.named import fashion_mnist, installed, openclipart, table
from hpt_dist.store import open_store

pytestmark = pytest.mark.services

EVALUATED = ("train", "val", "test")
BY_TABLE = ("openclipart", "tuxpaint")


def packaged(name):
    """Return the folder that a package has installed, or end the test: see services.need."""
    found = installed.DATASETS[name]
    if not found.folder.is_dir():
        unavailable(f"{found.package} is not installed; .ci/install brings it")
    if name == "openclipart":
        pytest.importorskip("resvg_py")
    return found.folder


@pytest.fixture(scope="module")
def opened():
    """Open each dataset once."""
    sources = {}

    def get(name):
        packaged(name)
        if name not in sources:
            sources[name] = open_source(name)
        return sources[name]

    return get


# All of them


@pytest.mark.parametrize("name", installed.DATASETS)
def test_a_dataset_is_read_alike_each_time(opened, name):
    source, again = opened(name), open_source(name, packaged(name))
    facts = [(one.key, one.split, one.label, one.version) for one in source.samples()]
    assert facts == [(one.key, one.split, one.label, one.version) for one in again.samples()]
    assert len({key for key, *_ in facts}) == len(facts)
    described = installed.DATASETS[name]
    assert (source.name, source.licence, source.credit) == (
        name,
        described.licence,
        described.credit,
    )
    for sample in source.samples()[:: len(facts) // 5]:
        first = pickle.loads(pickle.dumps(sample))
        assert decode(first.read())[0].size == decode(sample.read())[0].size


@pytest.mark.parametrize("name", installed.DATASETS)
def test_each_class_is_in_each_split(opened, name):
    source = opened(name)
    found = Counter((one.split, one.label) for one in source.samples())
    assert all(found[split, i] for split in EVALUATED for i in range(len(source.classes)))
    assert {label for split, label in found if split == "unlabeled"} <= {None}


@pytest.mark.parametrize("name", installed.DATASETS)
def test_a_package_that_is_not_there_is_named_with_its_command(monkeypatch, tmp_path, name):
    described = installed.DATASETS[name]
    gone = dataclasses.replace(described, folder=tmp_path / "gone")
    monkeypatch.setitem(installed.DATASETS, name, gone)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RequestError) as caught:
        open_source(name)
    problem = caught.value.problem
    assert f"Debian's package {described.package}, which is not installed" in problem.what
    assert problem.where == str(gone.folder)
    assert problem.fix.startswith(f"apt-get install {described.package};")


@pytest.mark.parametrize("name", installed.DATASETS)
def test_another_folder_is_refused_with_what_is_in_it(tmp_path, name):
    (tmp_path / "holidays").mkdir()
    with pytest.raises(RequestError, match="holds holidays") as caught:
        open_source(name, tmp_path)
    assert caught.value.problem.where == "--root"


def test_the_command_refuses_a_folder_and_writes_the_licence(tmp_path):
    """Refused with the status of a wrong request; a manifest of real files has licence and rule."""
    destination = tmp_path / "store/datasets/tuxpaint"
    (tmp_path / "holidays").mkdir()
    arguments = ("shard", "tuxpaint", str(destination))
    hpt(*arguments, "--root", str(tmp_path / "holidays"), store="", code=REFUSED)
    packaged("tuxpaint")
    printed = hpt(*arguments, "--workers", "1", store="")
    assert "13 classes: bird, fish, flower, fruit, insect, ... vehicle" in printed
    assert "tuxpaint: 382 images" in printed
    store = open_store(str(tmp_path / "store"))
    assert shards.verify(store, "tuxpaint") == []
    manifest = shards.read_manifest(store, "tuxpaint")
    assert manifest.quarantined == ()
    assert manifest.source.licence.startswith("GPL-2")
    assert "Tux Paint" in manifest.source.credit
    assert "by family" in manifest.source.rule
    found = leaks.find([StoredDataset(store, manifest)])
    assert found.leaks == []
    assert found.images == 382


# Fashion-MNIST


def test_fashion_mnist_has_its_official_splits_and_a_val_of_train(opened):
    found = Counter((one.split, one.label) for one in opened("fashion-mnist").samples())
    expected = {"train": 5_000, "val": 1_000, "test": 1_000}
    assert found == {(split, i): n for split, n in expected.items() for i in range(10)}
    of_val = {one.origin for one in opened("fashion-mnist").samples() if one.split == "val"}
    assert all(origin.startswith("train/") for origin in of_val)


def test_an_image_has_the_pixels_and_the_label_of_the_files(opened):
    """Compared with what numpy reads after the headers, which have fixed sizes."""
    folder = packaged("fashion-mnist")
    with gzip.open(folder / "t10k-images-idx3-ubyte.gz") as file:
        pixels = np.frombuffer(file.read(), np.uint8)[16:].reshape(10_000, 28, 28)
    with gzip.open(folder / "t10k-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), np.uint8)[8:]
    by_origin = {one.origin: one for one in opened("fashion-mnist").samples()}
    for number in (0, 1, 4_321, 9_999):
        sample = by_origin[f"test/{number:05}"]
        with Image.open(io.BytesIO(sample.read())) as image:
            assert image.mode == "L"
            assert np.array_equal(np.asarray(image), pixels[number])
        assert sample.label == labels[number]


def test_files_that_are_unpacked_are_read_alike(opened, tmp_path):
    folder = tmp_path / "FashionMNIST/raw"
    folder.mkdir(parents=True)
    for name in fashion_mnist.SHA256:
        packed = packaged("fashion-mnist") / f"{name}.gz"
        (folder / name).write_bytes(gzip.decompress(packed.read_bytes()))
    facts = [(one.key, one.split, one.label, one.version) for one in opened("fashion-mnist").files]
    plain = open_source("fashion-mnist", tmp_path)
    assert facts == [(one.key, one.split, one.label, one.version) for one in plain.samples()]
    (folder / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(RequestError, match="no t10k-labels-idx1-ubyte in"):
        open_source("fashion-mnist", tmp_path)


def test_a_damaged_file_is_named(tmp_path):
    """One bit of a pixel; and a header of another size that holds as many."""
    for name in fashion_mnist.SHA256:
        shutil.copy(packaged("fashion-mnist") / f"{name}.gz", tmp_path)
    file = tmp_path / "t10k-images-idx3-ubyte.gz"
    content = gzip.decompress(file.read_bytes())
    changed = bytearray(content)
    changed[5_000_000] ^= 1
    file.write_bytes(gzip.compress(bytes(changed), 1))
    with pytest.raises(DataError, match="damaged, or not of Fashion-MNIST") as caught:
        open_source("fashion-mnist", tmp_path)
    assert caught.value.problem.where == str(file)
    assert caught.value.problem.fix == "apt-get install --reinstall dataset-fashion-mnist"
    other = bytes((0, 0, 8, 3)) + struct.pack(">3I", 10_000, 14, 56) + content[16:]
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(other)
    with pytest.raises(DataError, match="damaged, or not of Fashion-MNIST"):
        fashion_mnist._array(tmp_path / "t10k-images-idx3-ubyte")


# Datasets by table


@pytest.mark.parametrize("name", BY_TABLE)
def test_families_never_cross_splits(opened, name):
    family = {row.path: row.family for row in table.rows(name)}
    found = defaultdict(set)
    for sample in opened(name).samples():
        found[family[sample.origin]].add(sample.split)
    together = [splits for splits in found.values() if splits & {"val", "test"}]
    assert together
    assert all(len(splits) == 1 for splits in together)


@pytest.mark.parametrize("name", BY_TABLE)
def test_the_splits_are_about_their_shares(opened, name):
    labelled = Counter(one.split for one in opened(name).samples() if one.label is not None)
    shares = {split: labelled[split] / labelled.total() for split in families.SHARES}
    assert shares == pytest.approx(families.SHARES, abs=0.02)


@pytest.mark.parametrize("name", BY_TABLE)
def test_a_table_is_as_it_should_be(name):
    """Each file once; family names are not paths; all classes and reasons are known."""
    text = (Path(table.__file__).parent / f"{name}.csv").read_text()
    lines = list(csv.DictReader(io.StringIO(text)))
    assert [line["path"] for line in lines] == sorted({line["path"] for line in lines})
    assert {line["class"] for line in lines} - {"", *table.UNUSABLE} == set(table.CLASSES)
    members = Counter(line["family"] for line in lines if line["family"])
    assert all("/" not in family and count > 1 for family, count in members.items())
    assert all(len(line["sha256"]) == 16 for line in lines)


TWINS = {
    "openclipart": [
        *("food/fruit/{}.svg", "apple apple_bw", "grapes_simple grapes_simple_bw"),
        *("food/vegetables/{}.svg", "corn_cob corn_cob_bw"),
        *("recreation/music/{}.svg", "violin_colour_ganson violin_ganson"),
        *("animals/birds/{}.svg", "seagull_contour_nicu_buc_01 seagull_nicu_buculei_01"),
    ],
    "tuxpaint": [
        *("town/roadsigns/{}.png", "xing_school xing_school_mirror"),
        *("vehicles/construction/{}.png", "dumper dumper_mirror"),
        *("animals/mammals/bovines/{}.png", "gnu-baby gnu-sitting gnu-stand"),
    ],
}


@pytest.mark.parametrize("name", BY_TABLE)
def test_twins_are_one_family(name):
    """Colour and outline of one drawing, mirrored stamps, one animal twice."""
    family = {row.path: row.family for row in table.rows(name)}
    pattern = ""
    for entry in TWINS[name]:
        if "{}" in entry:
            pattern = entry
        else:
            assert len({family[pattern.format(one)] for one in entry.split()}) == 1, entry


def test_missing_and_damaged_files_come_in_one_error(tmp_path):
    copy = tmp_path / "stamps"
    shutil.copytree(packaged("tuxpaint"), copy, ignore=shutil.ignore_patterns("*.ogg", "*.txt"))
    assert len(open_source("tuxpaint", tmp_path).files) == 382
    (copy / "animals/birds/owl.png").unlink()
    stamp = copy / "food/fruit/kiwi.png"
    stamp.write_bytes(stamp.read_bytes()[:-1])
    with pytest.raises(RequestError) as caught:
        open_source("tuxpaint", tmp_path)
    message = str(caught.value)
    assert message.startswith("2 problems in the files of tuxpaint")
    assert "owl.png: No such file or directory" in message
    assert "kiwi.png: its SHA-256 begins with" in message
    assert caught.value.problem.fix == "apt-get install --reinstall tuxpaint-stamps-default"


def test_a_file_that_changes_after_the_look_is_not_read(tmp_path):
    copy = tmp_path / "stamps"
    shutil.copytree(packaged("tuxpaint"), copy, ignore=shutil.ignore_patterns("*.ogg", "*.txt"))
    sample = open_source("tuxpaint", copy).files[0]
    (copy / sample.origin).write_bytes(b"")
    with pytest.raises(DataError, match="damaged, or of another version"):
        sample.read()


def test_photographs_keep_their_bytes(opened):
    for sample in opened("tuxpaint").samples()[::50]:
        assert sample.read() == (packaged("tuxpaint") / sample.origin).read_bytes()


def test_both_tables_have_the_same_classes(opened):
    """So that one may be the source of the other."""
    assert opened("tuxpaint").classes == opened("openclipart").classes
    assert len(opened("tuxpaint").classes) == 13


def test_drawings_become_pictures_of_one_size_on_white(opened):
    drawings = opened("openclipart").samples()
    for sample in drawings[:: len(drawings) // 25]:
        picture = decode(sample.read())[0]
        assert max(picture.size) == openclipart.LONG_SIDE_PX, sample.origin
        assert picture.convert("L").getextrema()[0] < 250, sample.origin


def test_a_missing_renderer_is_named_with_its_extra(monkeypatch):
    folder = packaged("openclipart")
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(RequestError, match="openclipart need resvg_py") as caught:
        open_source("openclipart", folder)
    assert caught.value.problem.fix == "pip install hpt-dist[demo]"


def test_what_is_set_aside_cannot_be_rendered(opened):
    aside = [row for row in table.rows("openclipart") if row.name in table.UNUSABLE]
    notes = " ".join(opened("openclipart").notes)
    listed = {sample.origin for sample in opened("openclipart").samples()}
    assert aside
    for row in aside:
        assert row.path in notes
        assert row.path not in listed
        with pytest.raises(DataError, match=r"nothing is drawn|neither a viewBox nor"):
            svg.fitted((packaged("openclipart") / row.path).read_bytes(), 64)


def test_a_part_of_the_clip_arts_becomes_shards_without_leaks(opened, tmp_path, request):
    """Two classes and some of the others; with --deep everything."""
    source = opened("openclipart")
    if not request.config.getoption("--deep"):
        wanted = {source.classes.index("vegetable"), source.classes.index("tableware")}
        others = [one for one in source.files if one.label is None][::100]
        part = [one for one in source.files if one.label in wanted]
        source = dataclasses.replace(source, files=[*part, *others])
    store = open_store(str(tmp_path))
    manifest = shards.write_dataset(source, store, "openclipart", workers=2)
    assert manifest.quarantined == ()
    assert manifest.source.licence == "public domain"
    assert shards.verify(store, "openclipart") == []
    assert leaks.find([StoredDataset(store, manifest)], workers=2).leaks == []


# The page


def test_the_page_has_each_package_its_licence_and_its_counts(opened):
    page = (Path(__file__).parents[2] / "docs/datasets.md").read_text()
    rows = {line.split("`")[1]: line for line in page.splitlines() if line.startswith("| `")}
    for name, described in installed.DATASETS.items():
        packaged(name)
        count = Counter(one.split for one in opened(name).samples())
        splits = " / ".join(f"{count[split]:,}" for split in EVALUATED)
        row = rows[name]
        assert f"| {splits}" in row
        assert f"{count['unlabeled']:,}" in row or not count["unlabeled"]
        assert described.package in row
        assert described.licence.partition(";")[0] in row
    for label, name in enumerate(table.CLASSES):
        found = [
            Counter(s.split for s in opened(one).samples() if s.label == label)
            for one in ("tuxpaint", "openclipart")
        ]
        cells = " | ".join(" / ".join(str(one[split]) for split in EVALUATED) for one in found)
        assert f"| {name} | {cells} |" in page
