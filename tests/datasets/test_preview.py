from __future__ import annotations

import base64
import io
import re

import pytest
from pictures import encoded, labelled, picture, sample, write
from PIL import Image, ImageFont
from small import hpt

from hpt_dist.cli.main import app
from hpt_dist.datasets.manifest import read_manifest
from hpt_dist.datasets.preview import THUMBNAIL_PX, preview, truncated
from hpt_dist.errors import DataError, RequestError
from hpt_dist.store import open_store

RED, BLUE = (255, 0, 0), (0, 0, 255)


def looked(store, name: str, split: str = "train", count: int = 64, **options):
    return preview(store, read_manifest(store, name), split, count, **options)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    store = open_store(str(tmp_path_factory.mktemp("store")))
    unlabelled = [
        sample(one.key, one.read(), "unlabeled", None)
        for one in labelled(4, classes=0, split="unlabeled")
    ]
    write(store, "birds", labelled(40) + unlabelled, shard_bytes=10_000)
    return store


def captions(shown) -> list[str]:
    return [thumbnail.caption for thumbnail in shown.thumbnails]


def test_classes_are_shown_evenly_and_in_order(store):
    shown = looked(store, "birds", count=8)
    assert captions(shown) == sorted(captions(shown))
    assert sorted(captions(shown).count(name) for name in "abc") == [2, 3, 3]
    again = looked(store, "birds", count=8)
    assert [one.key for one in again.thumbnails] == [one.key for one in shown.thumbnails]
    other = looked(store, "birds", count=8, seed=1)
    assert [one.key for one in other.thumbnails] != [one.key for one in shown.thumbnails]
    assert len(looked(store, "birds", count=100).thumbnails) == 40


def test_one_class_alone(store):
    shown = looked(store, "birds", class_name="b")
    assert captions(shown) == ["b"] * 13
    assert "13 of 13 images of class b" in shown.subtitle
    with pytest.raises(RequestError, match="no class bb"):
        looked(store, "birds", class_name="bb")
    with pytest.raises(RequestError, match="no split tests"):
        looked(store, "birds", split="tests")


def test_images_without_a_label_are_shown_as_such(store):
    shown = looked(store, "birds", split="unlabeled")
    assert captions(shown) == [""] * 4
    assert b"no label" in shown.html()
    with Image.open(io.BytesIO(shown.png())) as sheet:
        assert sheet.format == "PNG"


def close_to(pixel, colour) -> bool:
    return all(abs(a - b) < 40 for a, b in zip(pixel, colour, strict=True))


def test_pictures_keep_their_shape_and_stand_inside_the_sheet(tmp_path):
    store = open_store(str(tmp_path))
    wide = encoded(Image.new("RGB", (300, 100), RED), "PNG")
    tall = encoded(Image.new("RGB", (10, 40), BLUE), "PNG")
    write(store, "two", [sample("w", wide, "train", 0), sample("z", tall, "train", 1)])
    shown = looked(store, "two")
    assert [one.picture.size for one in shown.thumbnails] == [
        (THUMBNAIL_PX, THUMBNAIL_PX // 3),
        (THUMBNAIL_PX // 4, THUMBNAIL_PX),
    ]
    sheet = Image.open(io.BytesIO(shown.png())).convert("RGB")
    pixels = {colour: count for count, colour in sheet.getcolors(1 << 20)}
    assert pixels[RED] == THUMBNAIL_PX * THUMBNAIL_PX // 3
    assert pixels[BLUE] == THUMBNAIL_PX * THUMBNAIL_PX // 4
    border = [sheet.crop(box).getcolors() for box in edges(sheet, 12)]
    assert all(colours == [(colours[0][0], (255, 255, 255))] for colours in border)


def edges(sheet, margin: int):
    width, height = sheet.size
    yield 0, 0, width, margin
    yield 0, height - margin, width, height
    yield 0, 0, margin, height
    yield width - margin, 0, width, height


@pytest.mark.parametrize("kind", ["single", "multi"])
def test_boxes_are_drawn_where_the_annotation_says(tmp_path, kind):
    """The frame is twice as large as the picture: boxes are scaled."""
    store = open_store(str(tmp_path))
    data = encoded(Image.new("RGB", (100, 100), "white"), "PNG")
    thing = {"class": 0, "box": [50, 50, 100, 100], "crowd": False}
    facts = {"width": 200, "height": 200, "objects": [thing]}
    label = 1 if kind == "single" else (0, 1)
    samples = [sample(f"x{i}", data, "train", label, facts) for i in range(3)]
    write(store, "boxes", samples)
    quarter = THUMBNAIL_PX // 4
    for thumbnail in looked(store, "boxes").thumbnails:
        assert thumbnail.caption == ("b" if kind == "single" else "a, b")
        at = thumbnail.picture.getpixel
        assert at((quarter, quarter)) == at((3 * quarter, 2 * quarter)) != (255, 255, 255)
        assert at((2 * quarter, 2 * quarter)) == at((quarter - 3, quarter)) == (255, 255, 255)


def test_a_page_holds_its_pictures_and_escapes_names(tmp_path):
    store = open_store(str(tmp_path))
    samples = [sample(f"x{i}", encoded(picture(i)), "train", i) for i in range(2)]
    write(store, "odd", samples, classes=["<b>&", "naïve 猫"])
    page = looked(store, "odd").html().decode()
    assert "<b>" not in page
    assert "&lt;b&gt;&amp;" in page
    assert "naïve 猫" in page
    assert "src=" in page
    assert not re.search(r'(src|href)="(?!data:)', page)
    sources = re.findall(r"base64,([^\"]+)", page)
    sizes = [Image.open(io.BytesIO(base64.b64decode(one))).size for one in sources]
    assert sizes == [(THUMBNAIL_PX, 108)] * 2


def test_long_names_end_in_an_ellipsis():
    font = ImageFont.load_default(12)
    assert truncated("short", font, 100) == "short"
    cut = truncated("a very long name of a class", font, 80)
    assert cut.endswith("…")
    assert font.getlength(cut) <= 80 < font.getlength(f"{cut[:-1]}of c…")
    assert truncated("wide", font, 1) == ""


@pytest.mark.services
def test_a_preview_from_s3_is_the_same(store, ceph, monkeypatch):
    for name, value in ceph.https.environment.items():
        monkeypatch.setenv(name, value)
    remote = open_store(f"s3://{ceph.https.make_bucket()}/hpt")
    for info in store.list():
        remote.put(info.path, store.get(info.path))
    assert looked(remote, "birds").png() == looked(store, "birds").png()


def test_a_damaged_image_is_named(tmp_path):
    store = open_store(str(tmp_path))
    manifest = write(store, "one", [sample("x", encoded(picture(0)), "train", 0)])
    path = f"datasets/one/{manifest.splits['train'].shards[0].path}"
    store.put(path, store.get(path)[:512] + bytes(manifest.splits["train"].shards[0].bytes - 512))
    with pytest.raises(DataError, match="the image x is damaged") as error:
        looked(store, "one")
    assert path in error.value.problem.where


def test_the_command_writes_a_file_whole(store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    uri = f"{store.uri}/datasets/birds"
    assert "birds-train.png" in hpt("data", "preview", uri, "--images", "9", store="")
    with Image.open(tmp_path / "birds-train.png") as sheet:
        assert sheet.width > 3 * THUMBNAIL_PX
    app(["data", "preview", uri, "--out", "new/x.html"], standalone_mode=False)
    assert (tmp_path / "new/x.html").read_bytes() == looked(store, "birds").html()
    with pytest.raises(RequestError, match="wrong ending for a preview"):
        app(["data", "preview", uri, "--out", "x.jpg"], standalone_mode=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["birds-train.png", "new"]


def test_a_class_that_the_split_lacks_is_refused(tmp_path):
    opened = open_store(str(tmp_path))
    write(opened, "toy", labelled(4, 2) + labelled(3, 1, "val"), classes="ab")
    with pytest.raises(RequestError, match="val of toy has no image of class b") as error:
        looked(opened, "toy", "val", class_name="b")
    assert error.value.problem.allowed == "a"


def test_a_shard_that_lost_all_its_images_is_passed_over(tmp_path):
    opened = open_store(str(tmp_path))
    write(
        opened, "toy", [*labelled(4, 2), sample("bad", b"x" * 4000, "train", 0)], shard_bytes=3000
    )
    assert any(shard.images == 0 for shard in read_manifest(opened, "toy").splits["train"].shards)
    assert len(looked(opened, "toy").thumbnails) == 4
