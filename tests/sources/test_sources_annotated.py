"""Sources with boxes: COCO's JSON and the folders of Pascal VOC, in miniature."""

from __future__ import annotations

import io
import json
import math
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from hpt_dist.datasets import shards
from hpt_dist.datasets.manifest import canonical_json
from hpt_dist.errors import RequestError
from hpt_dist.sources import annotated, coco, open_source, voc
from hpt_dist.sources.sample import hash_split
from hpt_dist.store import open_store

POLYGON = [[1.5, 1, 9, 1, 9.25, 8]]
RUN_LENGTHS = {"counts": [10, 20, 18], "size": [8, 6]}


def jpeg(path: Path, size=(40, 30)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = io.BytesIO()
    Image.new("RGB", size, (len(path.name), 90, 40)).save(data, "JPEG")
    path.write_bytes(data.getvalue())


def label_names(source) -> dict[str, tuple[str, ...] | None]:
    return {
        one.origin: None if one.label is None else tuple(source.classes[i] for i in one.label)
        for one in source.samples()
    }


# COCO


def contents() -> dict:
    """Three images; ids have gaps as COCO's have, and come in no order."""

    def box(number, image, category, bbox, **more):
        return {"id": number, "image_id": image, "category_id": category, "bbox": bbox} | more

    return {
        "info": {"year": 2014},
        "images": [
            {"id": 9, "file_name": "b.jpg", "width": 40, "height": 30, "license": 3},
            {"id": 4, "file_name": "a.jpg", "width": 40, "height": 30},
            {"id": 7, "file_name": "c.jpg", "width": 40, "height": 30},
        ],
        "annotations": [
            box(1, 4, 90, [1, 2, 8.5, 7], segmentation=POLYGON, iscrowd=0, area=28.1),
            box(2, 4, 90, [5, 5, 5, 5], segmentation=[]),
            box(3, 4, 3, [0, 0, 6, 8], segmentation=RUN_LENGTHS, iscrowd=1),
            box(4, 9, 3, [-1, 0, 6, 8]),
            box(5, 9, 18, [3, 3, 0, 4]),
            box(6, 9, 18, [40, 3, 5, 4]),
        ],
        "categories": [
            {"id": 90, "name": "toothbrush", "supercategory": "indoor"},
            {"id": 3, "name": "car"},
            {"id": 18, "name": "dog"},
        ],
    }


def write_coco(file: Path, folder: Path, value=None) -> Path:
    value = value or contents()
    for image in value["images"]:
        jpeg(folder / image["file_name"])
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value))
    return file


def test_coco_becomes_classes_boxes_and_masks(tmp_path):
    file = write_coco(tmp_path / "annotations/instances_train.json", tmp_path / "train2014")
    splits = {"train": (file, tmp_path / "train2014")}
    source = coco.open_coco(splits, name="coco", rule="all", licence="CC", root=tmp_path)
    assert (source.name, source.licence, source.metric) == ("coco", "CC", "auroc")
    assert source.classes == ["car", "dog", "toothbrush"]
    assert label_names(source) == {
        "train2014/b.jpg": ("car",),
        "train2014/a.jpg": ("toothbrush",),  # its car is a crowd
        "train2014/c.jpg": (),
    }
    assert source.rule == "all; labels: the classes with a box; 2 boxes without area left out"
    samples = {one.origin: one for one in source.samples()}
    assert {one.split for one in samples.values()} == {"train"}
    assert samples["train2014/a.jpg"].annotation == {
        "width": 40,
        "height": 30,
        "objects": [
            {"class": 2, "box": [1, 2, 8.5, 7], "crowd": False, "segmentation": POLYGON},
            {"class": 2, "box": [5, 5, 5, 5], "crowd": False},
            {"class": 0, "box": [0, 0, 6, 8], "crowd": True, "segmentation": RUN_LENGTHS},
        ],
    }
    assert samples["train2014/c.jpg"].annotation["objects"] == []
    assert samples["train2014/c.jpg"].read().startswith(b"\xff\xd8")


def test_coco_without_annotations_is_unlabelled(tmp_path):
    value = contents()
    del value["annotations"]
    train = write_coco(tmp_path / "train.json", tmp_path / "train")
    test = write_coco(tmp_path / "test.json", tmp_path / "test", value)
    splits = {"train": (train, tmp_path / "train"), "unlabeled": (test, tmp_path / "test")}
    source = coco.open_coco(splits, name="coco", rule="all", root=tmp_path)
    unlabelled = [one for one in source.samples() if one.split == "unlabeled"]
    assert [one.label for one in unlabelled] == [None] * 3
    assert unlabelled[0].annotation == {"width": 40, "height": 30}


@pytest.mark.parametrize(
    ("file", "images"),
    [
        ("instances.json", "."),
        ("result.json", "images"),  # Label Studio
        ("annotations/instances_default.json", "images"),  # CVAT
    ],
)
def test_a_coco_file_finds_its_images_where_exports_put_them(tmp_path, file, images):
    source = open_source(str(write_coco(tmp_path / file, tmp_path / images)))
    assert {one.origin: one.split for one in source.samples()} == {
        name: hash_split(name) for name in ("a.jpg", "b.jpg", "c.jpg")
    }


def with_categories(*parents: tuple[str, str | None]) -> dict:
    """Return a file of the categories 3, 4 and so on, with boxes of the first two alone."""
    value = contents()
    value["categories"] = [
        {"id": 3 + i, "name": name, "supercategory": parent}
        for i, (name, parent) in enumerate(parents)
    ]
    for number, box in enumerate(value["annotations"]):
        box.update(category_id=3 + number % 2, bbox=[1, 1, 5, 5])
    return value


@pytest.mark.parametrize(
    ("parents", "classes"),
    [
        ([("cat", "pets"), ("dog", "pets"), ("pets", "none")], ["cat", "dog"]),  # Roboflow
        ([("cat", "pets"), ("dog", "pets"), ("pets", "pets")], ["cat", "dog"]),
        ([("pets", None), ("dog", "pets"), ("cat", "pets")], ["pets", "dog", "cat"]),  # has boxes
        ([("cat", "cat"), ("dog", "dog"), ("bird", "bird")], ["cat", "dog", "bird"]),
        ([("cat", None), ("dog", ["a"]), ("bird", {"a": 1})], ["cat", "dog", "bird"]),
    ],
)
def test_a_super_category_without_a_box_is_no_class(tmp_path, parents, classes):
    source = open_source(str(write_coco(tmp_path / "a.json", tmp_path, with_categories(*parents))))
    assert source.classes == classes
    assert {label for labels in label_names(source).values() for label in labels} <= set(classes)
    reported = "pets is a super-category without a box, no class"
    assert (reported in source.rule) == ("pets" not in classes and len(classes) == 2)


def test_a_super_category_with_a_box_in_another_split_is_a_class(tmp_path):
    first = with_categories(("cat", "pets"), ("dog", "pets"), ("pets", None))
    second = with_categories(("cat", "pets"), ("dog", "pets"), ("pets", None))
    second["annotations"][0]["category_id"] = 5
    for folder, value in (("train", first), ("valid", second)):
        write_coco(tmp_path / folder / "_annotations.coco.json", tmp_path / folder, value)
    assert open_source(str(tmp_path)).classes == ["cat", "dog", "pets"]


def test_images_that_lose_all_their_boxes_have_no_label(tmp_path):
    value = contents()
    value["annotations"] = [one for one in value["annotations"] if one["id"] != 4]
    source = open_source(str(write_coco(tmp_path / "a.json", tmp_path, value)))
    assert label_names(source) == {"b.jpg": None, "a.jpg": ("toothbrush",), "c.jpg": ()}
    assert "2 boxes without area left out; 1 image without a label" in source.rule


def test_boxes_of_which_none_covers_anything_are_refused(tmp_path):
    value = contents()
    for box in value["annotations"]:
        box["bbox"] = [4, 4, 0, 0]
    file = write_coco(tmp_path / "a.json", tmp_path, value)
    with pytest.raises(RequestError, match="none of its 6 boxes covers any of its image") as caught:
        open_source(str(file))
    assert caught.value.problem.where == str(file)


def test_a_coco_file_finds_its_images_below_the_root(tmp_path):
    file = write_coco(tmp_path / "some.json", tmp_path / "elsewhere")
    with pytest.raises(RequestError, match=r"no such image: 'b\.jpg'") as caught:
        open_source(str(file))
    assert caught.value.problem.fix == "name their folder with --root"
    assert len(list(open_source(str(file), tmp_path / "elsewhere").samples())) == 3


def test_splits_as_roboflow_exports_them(tmp_path):
    for name in ("train", "valid"):
        write_coco(tmp_path / "pets" / name / "_annotations.coco.json", tmp_path / "pets" / name)
    source = open_source(str(tmp_path / "pets"))
    assert source.name == "pets"
    assert {one.origin: one.split for one in source.samples()} == {
        f"{folder}/{name}.jpg": split
        for folder, split in [("train", "train"), ("valid", "val")]
        for name in "abc"
    }


def test_a_coco_dataset_can_be_written(tmp_path):
    """Workers get pickled samples, and annotations become canonical JSON."""
    file = write_coco(tmp_path / "here/instances.json", tmp_path / "here")
    store = open_store(str(tmp_path / "store"))
    manifest = shards.write_dataset(open_source(str(file)), store, "boxes", workers=2)
    assert sum(split.images for split in manifest.splits.values()) == 3
    assert manifest.label == "multi"
    assert shards.verify(store, "boxes") == []


def changed(change) -> dict:
    value = contents()
    change(value)
    return value


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v["annotations"][0].update(image_id=5), "annotation 1: no image has the id 5"),
        (lambda v: v["annotations"][1].update(category_id=5), "annotation 2: no category has the"),
        (lambda v: v["annotations"][1].update(bbox=[1, 2, 3]), "annotations[1].bbox: List should"),
        (lambda v: v["annotations"][1].update(bbox=[1, 2, "x", 3]), "annotations[1].bbox[2]: Inp"),
        (lambda v: v["annotations"][1].update(bbox=[1, 2, math.nan, 3]), "a finite number"),
        (lambda v: v["annotations"][1].update(segmentation=[[math.inf]]), "a finite number"),
        (lambda v: v["annotations"][0].pop("bbox"), "annotations[0].bbox: Field required"),
        (lambda v: v["images"][0].update(width=0), "images[0].width: Input should be greater"),
        (lambda v: v["images"][0].update(id=4), "two images have the same id"),
        (lambda v: v["images"][0].update(file_name="a.jpg"), "image 4: 'a.jpg' is listed twice"),
        (lambda v: v["images"][1].update(file_name="no.jpg"), "image 4: no such file: "),
        (lambda v: v["categories"][0].update(name="car"), "two categories have the same id or nam"),
        (lambda v: v["categories"][0].update(id=3), "two categories have the same id or name"),
        (lambda v: v.pop("categories"), "categories: Field required"),
        (lambda v: v["images"].clear(), "the file names no image"),
    ],
)
def test_faults_of_a_coco_file_are_reported_with_the_id(tmp_path, change, message):
    file = write_coco(tmp_path / "instances.json", tmp_path)
    file.write_text(json.dumps(changed(change)))
    with pytest.raises(RequestError) as caught:
        open_source(str(file))
    assert message in str(caught.value)
    assert str(file) in str(caught.value)


def test_every_fault_of_a_coco_file_comes_at_once(tmp_path):
    value = contents()
    for box in value["annotations"]:
        box["image_id"] += 100
    value["images"][2]["file_name"] = "gone.jpg"
    file = write_coco(tmp_path / "instances.json", tmp_path)
    file.write_text(json.dumps(value))
    with pytest.raises(RequestError, match="7 problems in"):
        open_source(str(file))


def test_wrong_entries_and_wrong_ids_of_a_coco_file_come_together_by_their_place(tmp_path):
    value = contents()
    del value["annotations"][2]["bbox"]
    value["annotations"][3].update(image_id=1.5, bbox=[1, 2, "x", 4])
    value["annotations"][0]["category_id"] = 99
    value["images"][1]["width"] = 0
    value["images"][0]["file_name"] = "gone.jpg"
    value["categories"][0]["name"], value["categories"][1]["name"] = "cat", "Cat"
    file = write_coco(tmp_path / "instances.json", tmp_path)
    file.write_text(json.dumps(value))
    with pytest.raises(RequestError) as caught:
        open_source(str(file))
    lines = str(caught.value).splitlines()
    for place, message in [
        ("images[1].width", "Input should be greater than 0"),
        ("annotations[2].bbox", "Field required"),
        ("annotations[3].image_id", "Input should be a valid integer"),
        ("annotations[3].bbox[2]", "Input should be a valid number"),
        ("annotations[0]", "annotation 1: no category has the id 99"),
        ("images[0]", "no such file"),
    ]:
        there = [one for one in lines if one.startswith(f"{file}: {place}: ")]
        assert any(message in one for one in there), (place, lines)
    assert any("classes that look like one: 'Cat' and 'cat'" in one for one in lines)
    assert lines[0] == f"{len(lines) - 1} problems in {file}"
    assert len(lines) == 8


def test_a_list_of_images_in_json_is_named_with_the_form_that_is_read(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps([{"path": "a.jpg", "label": "cat"}]))
    with pytest.raises(RequestError, match=r"\.jsonl, with one object a line"):
        open_source(str(tmp_path / "a.json"))


@pytest.mark.parametrize("text", ["{", "[1, 2", "", "\xff"])
def test_broken_json_is_refused(tmp_path, text):
    (tmp_path / "a.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(RequestError, match="not JSON"):
        open_source(str(tmp_path / "a.json"))


def test_json_of_another_kind_is_refused(tmp_path):
    (tmp_path / "a.json").write_text("[1, 2]")
    with pytest.raises(RequestError, match="the COCO file"):
        open_source(str(tmp_path / "a.json"))


def test_categories_must_agree_between_splits(tmp_path):
    splits = {}
    for name, value in [("train", contents()), ("val", contents())]:
        if name == "val":
            value["categories"][2]["name"] = "cat"
        file = write_coco(tmp_path / f"{name}.json", tmp_path / name, value)
        splits[name] = (file, tmp_path / name)
    with pytest.raises(RequestError, match="18 cat, 18 dog") as caught:
        coco.open_coco(splits, name="coco", rule="all", root=tmp_path)
    assert all(str(file) in str(caught.value) for file, _ in splits.values())


# Boxes


@given(st.tuples(*[st.integers(-20, 60)] * 4), st.integers(1, 40), st.integers(1, 30))
def test_a_box_has_area_if_it_covers_a_pixel(box, width, height):
    left, top, box_width, box_height = box
    columns = set(range(width)) & set(range(left, left + box_width))
    rows = set(range(height)) & set(range(top, top + box_height))
    assert annotated.has_area(box, width, height) == bool(columns and rows)


# Pascal VOC


def objects(*described: tuple) -> str:
    return "".join(
        f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmax>{right}</xmax>"
        f"<xmin>{left}</xmin><ymin>{top}</ymin><ymax>{bottom}</ymax></bndbox>"
        "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part></object>"
        for name, difficult, left, top, right, bottom in described
    )


def xml(inner: str, size="<size><width>40</width><height>30</height><depth>3</depth></size>"):
    return f"<annotation><filename>x.jpg</filename>{size}{inner}</annotation>"


def write_voc(folder: Path, annotations: dict[str, str | None], **sets: str) -> Path:
    for image, text in annotations.items():
        jpeg(folder / "JPEGImages" / f"{image}.jpg")
        (folder / "Annotations").mkdir(exist_ok=True)
        if text is not None:
            (folder / "Annotations" / f"{image}.xml").write_text(text)
    for name, text in sets.items():
        path = folder / "ImageSets/Main" / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


DOG, CAT = ("dog", 0, 1, 1, 40, 30), ("cat", 0, 5.5, 2, 9, 30)
HARD_CAT, HARD_DOG = ("cat", 1, 2, 2, 3, 3), ("dog", 1, 2, 2, 3, 3)


def test_voc_becomes_classes_and_boxes_from_zero(tmp_path):
    first = write_voc(
        tmp_path / "VOC2007",
        {"000001": xml(objects(DOG, HARD_CAT)), "000002": xml(""), "000003": xml("")},
        trainval="000001\n000002  1\n",
    )
    second = write_voc(
        tmp_path / "VOC2012",
        {"000001": xml(objects(CAT, DOG, HARD_DOG, ("cat", 0, 9, 9, 8, 9)))},
        test="000001\n",
    )
    splits = {"train": [(first, "trainval")], "test": [(second, "test")]}
    source = voc.open_voc(splits, name="pascal", rule="as published", root=tmp_path)
    assert (source.classes, source.metric) == (["cat", "dog"], "auroc")
    assert source.rule == (
        "as published; labels: the classes with a box; 1 box without area left out"
    )
    assert label_names(source) == {
        "VOC2007/JPEGImages/000001.jpg": ("dog",),  # its cat is difficult
        "VOC2007/JPEGImages/000002.jpg": (),
        "VOC2012/JPEGImages/000001.jpg": ("cat", "dog"),
    }
    assert [one.split for one in source.samples()] == ["train", "train", "test"]
    assert source.samples()[0].annotation == {
        "width": 40,
        "height": 30,
        "objects": [
            {"class": 1, "box": [0, 0, 40, 30], "crowd": False},
            {"class": 0, "box": [1, 1, 2, 2], "crowd": False, "difficult": True},
        ],
    }
    assert source.samples()[2].annotation["objects"][0]["box"] == [4.5, 1, 4.5, 29]
    canonical_json(source.samples()[0].annotation)


def test_voc_classes_can_be_given_and_must_cover_all(tmp_path):
    folder = write_voc(tmp_path, {"1": xml(objects(DOG))}, train="1")
    splits = {"train": [(folder, "train")]}
    given_classes = ["dog", "cat"]
    source = voc.open_voc(splits, name="v", rule="r", classes=given_classes, root=tmp_path)
    assert source.classes == given_classes
    with pytest.raises(RequestError, match=r"1\.xml: unknown class 'dog'; did you mean dogs\?"):
        voc.open_voc(splits, name="v", rule="r", classes=["dogs"], root=tmp_path)


@pytest.mark.parametrize(
    ("sets", "expected"),
    [
        ({"train": "1", "val": "2", "trainval": "1\n2"}, {"1": "train", "2": "val"}),
        ({"trainval": "1", "test": "2", "dog_test": "2 1"}, {"1": "train", "2": "test"}),
        ({"train": "1\n2\n", "unlabeled": "3"}, {"1": "train", "2": "train", "3": "unlabeled"}),
        ({"default": "1\n2"}, None),  # CVAT
        ({}, None),
    ],
)
def test_a_voc_folder_is_split_by_its_image_sets_or_by_path(tmp_path, sets, expected):
    both = xml(objects(DOG, CAT))
    annotations = {"1": both, "2": both, "3": None}
    source = open_source(str(write_voc(tmp_path / "pets", annotations, **sets)))
    by_path = {i: hash_split(f"JPEGImages/{i}.jpg") for i in "12"} | {"3": "unlabeled"}
    assert {Path(one.origin).stem: one.split for one in source.samples()} == expected or by_path
    assert source.name == "pets"
    unlabelled = [one for one in source.samples() if one.split == "unlabeled"]
    assert all((one.label, one.annotation) == (None, None) for one in unlabelled)


def test_images_and_sets_may_have_names_with_spaces_and_folders(tmp_path):
    folder = write_voc(tmp_path, {"my pet": xml(objects(DOG))}, train="my pet\n")
    jpeg(folder / "JPEGImages/deep/2.jpg")
    (folder / "Annotations/deep").mkdir()
    (folder / "Annotations/deep/2.xml").write_text(xml(objects(DOG)))
    (folder / "ImageSets/Main/val.txt").write_text("deep/2\n")
    assert label_names(open_source(str(folder))) == {
        "JPEGImages/my pet.jpg": ("dog",),
        "JPEGImages/deep/2.jpg": ("dog",),
    }


def test_files_that_are_no_images_are_left_out_of_a_voc_folder_and_named(tmp_path):
    folder = write_voc(tmp_path / "pets", {"1": xml(objects(DOG)), "2": None})
    for name in (
        "Thumbs.db",
        "desktop.ini",
        "notes.txt",
        "list.csv",
        ".hidden",
        "@eaDir/1.jpg/T.jpg",
    ):
        path = folder / "JPEGImages" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    source = open_source(str(folder))
    assert label_names(source) == {"JPEGImages/1.jpg": ("dog",), "JPEGImages/2.jpg": None}
    assert "left out as no images: Thumbs.db, desktop.ini, list.csv and 1 more" in source.rule


@pytest.mark.parametrize("sets", [{}, {"train": "1"}])
def test_two_images_of_one_annotation_are_refused(tmp_path, sets):
    folder = write_voc(tmp_path, {"1": xml(objects(DOG))}, **sets)
    jpeg(folder / "JPEGImages/1.JPG")
    with pytest.raises(RequestError, match=r"1\.xml: 1\.JPG and 1\.jpg have the same name"):
        open_source(str(folder))


def test_two_images_of_one_name_without_an_annotation_are_two_images(tmp_path):
    folder = write_voc(tmp_path, {"1": xml(objects(DOG)), "2": None})
    jpeg(folder / "JPEGImages/2.jpeg")
    assert label_names(open_source(str(folder))) == {
        "JPEGImages/1.jpg": ("dog",),
        "JPEGImages/2.jpg": None,
        "JPEGImages/2.jpeg": None,
    }


def test_a_class_that_only_val_or_test_has_is_refused(tmp_path):
    upper = ("Dog", 0, 1, 1, 9, 9)
    folder = write_voc(tmp_path, {"1": xml(objects(DOG)), "2": xml(objects(upper))})
    for split in ("val", "test"):
        write_voc(folder, {}, train="1", **{split: "2"})
        with pytest.raises(RequestError, match=r"2\.xml: unknown class 'Dog': train has none; did"):
            open_source(str(folder))


def test_voc_boxes_of_which_none_covers_anything_are_refused(tmp_path):
    nothing = ("dog", 0, 20, 20, 5, 5)
    folder = write_voc(tmp_path / "pets", {"1": xml(objects(nothing)), "2": xml(objects(nothing))})
    with pytest.raises(RequestError, match="none of its 2 boxes covers any of its image"):
        open_source(str(folder))
    (folder / "Annotations/2.xml").write_text(xml(objects(DOG)))
    source = open_source(str(folder))
    assert label_names(source) == {"JPEGImages/1.jpg": None, "JPEGImages/2.jpg": ("dog",)}


BILLION_LAUGHS = '<!DOCTYPE a [<!ENTITY b "bb"><!ENTITY c "&b;&b;">]><annotation>&c;</annotation>'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotation>", "no element found"),
        (BILLION_LAUGHS, "<!DOCTYPE is not allowed"),
        (BILLION_LAUGHS.encode("utf-16"), "<!DOCTYPE is not allowed"),
        ("<annotation>&c;</annotation>", "undefined entity"),
        (xml("", size=""), "annotation has no size/width"),
        (xml("", size="<size><width>0</width><height>0</height></size>"), "the size is 0 x 0"),
        (xml(objects(("", 0, 1, 1, 2, 2))), "an object has no name"),
        (xml(objects(("dog", 0, "one", 1, 2, 2))), "bndbox/xmin is 'one', no number"),
        (xml(objects(("dog", 0, "nan", 1, 2, 2))), "bndbox/xmin is 'nan', no number"),
        (xml("<object><name>dog</name></object>"), "object[1] has no bndbox/xmin"),
    ],
)
def test_faults_of_an_annotation_are_reported_with_its_file(tmp_path, text, message):
    folder = write_voc(tmp_path, {"1": ""})
    data = text if isinstance(text, bytes) else text.encode()
    (folder / "Annotations/1.xml").write_bytes(data)
    with pytest.raises(RequestError) as caught:
        open_source(str(folder))
    assert f"{folder / 'Annotations/1.xml'}: " in str(caught.value)
    assert message in str(caught.value)


def test_every_fault_of_a_voc_folder_comes_at_once(tmp_path):
    write_voc(tmp_path, {"1": None, "2": "<", "3": xml("")}, train="1\n2\n4\n3\n3\n")
    with pytest.raises(RequestError) as caught:
        open_source(str(tmp_path))
    message = str(caught.value)
    assert message.startswith("4 problems in the annotations")
    for image, what in [
        ("1", "No such file"),
        ("2", "unclosed token: line 1"),
        ("3", "'JPEGImages/3.jpg' is listed twice"),
        ("4", "no image 4 in"),
    ]:
        assert any(f"{image}.xml: {what}" in line for line in message.splitlines()), image


def test_every_fault_of_one_annotation_comes_at_once_with_its_place(tmp_path):
    bad = "<object><bndbox><xmin>1</xmin><ymin>x</ymin><xmax>9</xmax></bndbox></object>"
    text = xml(f"<object><name>dog</name></object>{bad}", size="<size><width>9</width></size>")
    folder = write_voc(tmp_path, {"1": text, "2": xml(objects(DOG))})
    with pytest.raises(RequestError) as caught:
        open_source(str(folder))
    message = str(caught.value)
    assert message.startswith("8 problems in the annotations")
    for fault in (
        "annotation has no size/height",
        *(f"object[1] has no bndbox/{corner}" for corner in ("xmin", "ymin", "xmax", "ymax")),
        "object[2]: an object has no name",
        "object[2]: bndbox/ymin is 'x', no number",
        "object[2] has no bndbox/ymax",
    ):
        assert f"1.xml: {fault}" in message


def test_an_image_set_that_is_not_there_is_reported_with_those_that_are(tmp_path):
    folder = write_voc(tmp_path, {"1": xml("")}, train="1", val="1")
    with pytest.raises(RequestError, match=r"test\.txt: cannot be read") as caught:
        voc.open_voc({"test": [(folder, "test")]}, name="v", rule="r", root=tmp_path)
    assert caught.value.problem.allowed == "train, val"


def test_classes_of_annotations_that_look_alike_are_refused(tmp_path):
    folder = write_voc(
        tmp_path / "voc",
        {"1": xml(objects(DOG)), "2": xml(objects(("Dog", 0, 1, 1, 9, 9)))},
    )
    with pytest.raises(RequestError, match="classes that look like one: 'Dog' and 'dog'"):
        open_source(str(folder))
    value = contents()
    value["categories"][0]["name"], value["categories"][1]["name"] = "cat", "cat "
    file = write_coco(tmp_path / "coco/a.json", tmp_path / "coco/images", value)
    with pytest.raises(RequestError, match="classes that look like one: 'cat ' and 'cat'"):
        open_source(str(file))


def test_a_coco_image_has_one_name_however_its_path_is_written(tmp_path):
    folder = tmp_path / "images"
    value = contents()
    names = [one["file_name"] for one in value["images"]]
    value["images"][0]["file_name"] = str(folder / names[0])
    file = write_coco(tmp_path / "a.json", folder, contents())
    before = {one.key for one in open_source(str(file), folder).samples()}
    file.write_text(json.dumps(value))
    assert {one.key for one in open_source(str(file), folder).samples()} == before
    value["images"][1]["file_name"] = f"../images/{names[0]}"
    file.write_text(json.dumps(value))
    with pytest.raises(RequestError, match="is listed twice"):
        open_source(str(file), folder)
    value["images"][1]["file_name"] = str(jpeg_outside(tmp_path))
    file.write_text(json.dumps(value))
    with pytest.raises(RequestError, match="an absolute path outside of"):
        open_source(str(file), folder)


def jpeg_outside(folder: Path) -> Path:
    path = folder / "outside.jpg"
    jpeg(path)
    return path


def test_image_sets_are_found_in_any_case_and_what_they_leave_out_is_counted(tmp_path):
    folder = write_voc(tmp_path, {name: xml(objects(DOG)) for name in "1234"})
    write_voc(folder, {}, Train="\ufeff1\n2", test2007="3")
    source = open_source(str(folder))
    assert {one.origin[-5]: one.split for one in source.samples()} == {
        "1": "train",
        "2": "train",
        "3": "test",
    }
    assert "set aside: files of JPEGImages in none of the image sets: 1" in source.notes


def test_voc_files_that_cannot_be_read_are_named(tmp_path):
    folder = write_voc(tmp_path, {"1": xml(objects(DOG)), "2": None, "3": None})
    jpeg(folder / "JPEGImages/_thumbs/1.jpg")
    assert len(list(open_source(str(folder)).samples())) == 3
    (folder / "Annotations/2.xml").write_text('<?xml version="1.0" encoding="klingon"?><a/>')
    with pytest.raises(RequestError, match=r"2\.xml: unknown encoding: klingon"):
        open_source(str(folder))
    (folder / "Annotations/2.xml").unlink()
    os.mkfifo(folder / "Annotations/2.xml")
    with pytest.raises(RequestError, match=r"2\.xml: (not a regular file|Invalid argument)"):
        open_source(str(folder))
