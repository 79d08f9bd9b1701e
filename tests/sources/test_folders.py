"""Folders: what each layout becomes, and when another reading is asked about instead."""

from __future__ import annotations

import json
import os
import re
import unicodedata
from pathlib import Path

import pytest

from hpt_dist.datasets.shard_plan import plan
from hpt_dist.errors import DataError, RequestError
from hpt_dist.sources import open_source
from hpt_dist.sources.sample import hash_split
from hpt_dist.sources.split_names import split_of, split_within
from hpt_dist.sources.understood import in_words

CAFE_NFC, CAFE_NFD = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


def write(root: Path, *names: str) -> Path:
    for name in names:
        path = os.fsencode(root / name)
        Path(os.fsdecode(path)).parent.mkdir(parents=True, exist_ok=True)
        Path(os.fsdecode(path)).write_bytes(os.fsencode(name))
    return root


def two_classes(*folders: str) -> list[str]:
    return [
        f"{folder}/{name}/{i}.jpg" for folder in folders for name in ("cat", "dog") for i in "12"
    ]


def by_split(source) -> dict[str, set[str | None]]:
    found: dict[str, set[str | None]] = {}
    for one in source.samples():
        label = None if one.label is None else source.classes[one.label]
        found.setdefault(one.split, set()).add(label)
    return found


def refusal(root: Path, **options) -> str:
    with pytest.raises(RequestError) as caught:
        open_source(str(root), **options)
    assert caught.value.problem.fix or caught.value.problem.allowed, caught.value
    return str(caught.value)


BOTH = {"cat", "dog"}


# Names of splits


@pytest.mark.parametrize(
    ("split", "names"),
    [
        (
            "train",
            "train Train TRAINING train2017 train_images train-set trainset Train_Data trainval",
        ),
        ("val", "val Valid validation dev val2017 val_256 Validation-Set"),
        ("test", "test TEST Testing test-std test_images test2015 test-dev2017 testset"),
        ("unlabeled", "unlabeled Unlabelled unlabeled2017"),
        ("", "trainer trains cat test_tube retrain training_shoes intrain eval extra 2017 data"),
    ],
)
def test_splits_are_found_by_name_in_any_case_with_usual_suffixes(split, names):
    assert {name: split_of(name) for name in names.split()} == dict.fromkeys(names.split(), split)


def test_parts_of_names_may_mean_splits():
    assert [
        split_within(name) for name in ("seg_train", "CubTest", "my-val", "cat", "train_test")
    ] == [*("train", "test", "val", "", "")]


@pytest.mark.parametrize(
    "folders", [("Train", "Test"), ("TRAINING", "Validation"), ("train2017", "test-std")]
)
def test_split_folders_may_be_called_so(tmp_path, folders):
    source = open_source(str(write(tmp_path, *two_classes(*folders))))
    assert by_split(source) == {split_of(folder): BOTH for folder in folders}
    assert f"{folders[0]} (train)" in in_words(source)[0]


# Folders around the layout


@pytest.mark.parametrize("around", ["photos", "a/b/c", "train_test"])
def test_a_single_folder_inside_is_entered(tmp_path, around):
    inner = write(tmp_path / "x" / around, *two_classes("train", "test"))
    write(tmp_path / "x", "__MACOSX/._a.jpg", "README.md")
    source, direct = open_source(str(tmp_path / "x")), open_source(str(inner))
    assert [one.key for one in source.samples()] == [one.key for one in direct.samples()]
    assert source.name == direct.name
    assert in_words(source)[0].startswith(f"entered {Path(around).parts[0]}, the only folder in")
    assert "set aside beside it: README.md, __MACOSX (2)" in in_words(source)[0]


def test_a_parquet_or_annotated_folder_inside_is_entered_too(tmp_path):
    for name in ("Annotations", "JPEGImages"):
        (tmp_path / "VOC2007" / name).mkdir(parents=True)
    with pytest.raises(RequestError, match="no images"):
        open_source(str(tmp_path))


def test_a_split_folder_may_hold_its_name_again(tmp_path):
    write(tmp_path, *two_classes("train/train", "test/Test"))
    assert by_split(open_source(str(tmp_path))) == {"train": BOTH, "test": BOTH}


# Two readings


def test_top_folders_that_may_be_splits_are_asked_about(tmp_path):
    write(tmp_path, *two_classes("seg_train", "seg_test"))
    assert "say --layout splits or --layout classes" in refusal(tmp_path)
    splits = open_source(str(tmp_path), layout="splits")
    classes = open_source(str(tmp_path), layout="classes")
    assert by_split(splits) == {"train": BOTH, "test": BOTH}
    assert classes.classes == ["seg_test", "seg_train"]


def test_a_few_such_names_among_many_classes_are_classes(tmp_path):
    write(tmp_path, "bullet train/1.jpg", "test tube/1.jpg", *(f"c{i}/1.jpg" for i in range(5)))
    assert len(open_source(str(tmp_path)).classes) == 7


def test_names_of_splits_beside_others_are_asked_about(tmp_path):
    write(tmp_path, "train/1.jpg", "car/1.jpg", "bus/1.jpg")
    assert "train are names of splits, but bus, car are not" in refusal(tmp_path)
    assert open_source(str(tmp_path), layout="classes").classes == ["bus", "car", "train"]
    assert "bus, car name no split" in refusal(tmp_path, layout="splits")
    assert "only a folder of images" in refusal(tmp_path, layout="photos")


@pytest.mark.parametrize("folders", [("train", "Train"), ("val", "validation"), ("test1", "test2")])
def test_two_folders_of_one_split_are_refused(tmp_path, folders):
    assert "name the same split" in refusal(write(tmp_path, *two_classes(*folders)))


def test_splits_below_the_classes_are_refused_with_the_layout_that_fits(tmp_path):
    write(tmp_path, *(f"{name}/{split}/1.jpg" for name in BOTH for split in ("Train", "test")))
    assert "move the splits to the top, as Train/cat/image" in refusal(tmp_path)
    assert by_split(open_source(str(tmp_path), layout="classes"))
    write(tmp_path / "other", "cat/train/1.jpg", "dog/1.jpg")  # a train of a cat is no split
    assert open_source(str(tmp_path / "other")).classes == ["cat", "dog"]


@pytest.mark.parametrize(
    "names",
    [
        ["images/train/1.jpg", "images/val/1.jpg", "labels/train/1.txt"],
        ["train/images/1.jpg", "train/labels/1.txt", "val/images/1.jpg"],
        ["Images/1.jpg", "Masks/1.png"],
        ["train2017/1.jpg", "annotations/instances.json"],
    ],
)
def test_folders_of_boxes_or_masks_are_no_classes(tmp_path, names):
    assert "as COCO or Pascal VOC" in refusal(write(tmp_path, *names))


def test_the_folder_to_name_is_reported_where_others_lie_beside_it(tmp_path):
    write(tmp_path, "models/a.pt", "data/cat/1.jpg", "data/dog/1.jpg")
    assert f"do: name {tmp_path}/data if it holds the classes" in refusal(tmp_path)
    (tmp_path / "data/cat").rename(tmp_path / "data/train")
    assert f"do: name the folder {tmp_path}/data" in refusal(tmp_path)
    write(tmp_path / "export", "images/1.jpg", "result.json")
    assert "annotation file that lies in it, result.json" in refusal(tmp_path / "export")


def test_a_single_class_is_refused(tmp_path):
    assert "of one class, 'cat'" in refusal(write(tmp_path / "a", "cat/1.jpg", "cat/2.jpg"))
    assert "of one class, 'cat'" in refusal(
        write(tmp_path / "b", "train/cat/1.jpg", "val/cat/2.jpg")
    )


# Classes


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train/cat/1.jpg", "train/dog/1.jpg", "val/Cat/1.jpg"], "unknown class 'Cat'.*mean cat"),
        (["train/cat/1.jpg", "train/dog/1.jpg", "test/unknown/1.jpg"], "unknown class 'unknown'"),
        (["train/cat/1.jpg", "train/Cat/1.jpg"], "'Cat' and 'cat' look like one class"),
        (["polar bear/1.jpg", "polar  bear/1.jpg"], "look like one class"),
        (["01/1.jpg", "1/1.jpg", "2/1.jpg"], "'01' and '1' look like one class"),
        ([f"{CAFE_NFC}/1.jpg", f"{CAFE_NFD}/2.jpg", "dog/1.jpg"], "names the same class as"),
        (["caf\udce9/1.jpg", "dog/1.jpg"], r"not UTF-8: 'caf\\udce9'"),
        (["x" * 201 + "/1.jpg", "dog/1.jpg"], "a class name of 201 characters"),
        (["a\x1b[31m/1.jpg", "dog/1.jpg"], r"/a\\x1b\[31m: .* character: 'a\\x1b\[31m'"),
        (["train/cat/1.jpg", "train/dog/1.jpg", "train/2.jpg"], "in no class folder: 1, such as"),
        (["train/cat/1.jpg", "train/dog/1.jpg", "test/2.jpg"], "in no class folder: 1, such as"),
        (
            ["train/cat/1.jpg", "train/dog/1.jpg", "unlabeled/cat/2.jpg", "unlabeled/x/3.jpg"],
            "but not unlabeled/x",
        ),
    ],
)
def test_classes_that_contradict_each_other_are_refused(tmp_path, names, message):
    assert re.search(message, refusal(write(tmp_path, *names)), re.DOTALL)


def test_one_class_may_be_written_in_two_forms_of_unicode_and_with_spaces(tmp_path):
    write(tmp_path, f"train/{CAFE_NFC}/1.jpg", "train/dog/1.jpg", f"test/{CAFE_NFD} /1.jpg")
    source = open_source(str(tmp_path))
    assert source.classes == [CAFE_NFC, "dog"]
    assert by_split(source)["test"] == {CAFE_NFC}


def test_letters_may_differ_by_case(tmp_path):
    assert open_source(str(write(tmp_path, "A/1.jpg", "a/1.jpg"))).classes == ["A", "a"]


def test_accents_do_not_decide_splits_and_keys(tmp_path):
    sources = [
        open_source(str(write(tmp_path / form, f"cat/{name}.jpg", f"dog/{name}.jpg")))
        for form, name in (("nfc", CAFE_NFC), ("nfd", CAFE_NFD))
    ]
    one, other = ([(s.key, s.split) for s in source.samples()] for source in sources)
    assert one == other
    both = open_source(str(write(tmp_path / "nfc", f"cat/{CAFE_NFD}.jpg")))
    with pytest.raises(DataError, match="have the same key"):
        plan(both, "both", 1000)


def test_folders_in_unlabeled_are_no_classes(tmp_path):
    write(tmp_path, *two_classes("train"), "unlabeled/batch1/1.jpg", "unlabeled/batch2/1.jpg")
    source = open_source(str(tmp_path))
    assert (source.classes, by_split(source)["unlabeled"]) == (["cat", "dog"], {None})
    assert any("unlabeled/batch1" in line for line in in_words(source))


# What is set aside


def test_litter_is_set_aside_and_counted(tmp_path):
    litter = [
        *("train/cat/@eaDir/1.jpg/SYNOPHOTO_THUMB_M.jpg", "train/cat/@eaDir/2.jpg"),
        *("train/.thumbnails/1.png", "train/dog/Thumbs.db", "train/cat/desktop.ini"),
        *("train/cat/._1.jpg", "train/.DS_Store", "__MACOSX/train/cat/._1.jpg", "lost+found/1.jpg"),
        *("$RECYCLE.BIN/1.jpg", "train/dog/.ipynb_checkpoints/1-checkpoint.jpg"),
        *(".AppleDouble/1.jpg", "train/.bird/1.jpg"),
    ]
    source = open_source(str(write(tmp_path, *two_classes("train"), *litter)))
    assert {one.origin for one in source.samples()} == set(two_classes("train"))
    words = "\n".join(in_words(source))
    for line in (
        "thumbnails: 4 (train/.thumbnails, train/dog/Thumbs.db, train/cat/@eaDir, ...)",
        "hidden files: 3",
        "macOS's copies: 2",
        "deleted files: 1 ($RECYCLE.BIN)",
        "copies of a notebook: 1",
    ):
        assert f"set aside: {line}" in words


def test_what_holds_no_image_is_set_aside_and_reported(tmp_path):
    write(tmp_path, *two_classes("train"), "docs/a.md", "train/notes/a.txt", "extra.jpg", "LICENSE")
    for empty in ("val", "train/bird"):
        (tmp_path / empty).mkdir()
    source = open_source(str(tmp_path))
    assert source.classes == ["cat", "dog"]
    words = "\n".join(in_words(source))
    assert "folders without images: 3 (docs/ (files: 1), val/ (files: 0), train/notes/" in words
    assert "images outside of the top folders: 1 (extra.jpg)" in words
    assert "empty folders: 1 (train/bird)" in words
    assert "val has no image" in words
    (tmp_path / "train").rename(tmp_path / "test")
    (tmp_path / "train").mkdir()
    assert "train holds no image, unlike test" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a/b/c/d/e.tar"], "it holds 1 tar file.*name the folder of the tars"),
        (
            ["photos.zip"],
            "it holds 1 zip file.*unzip -q .*/photos.zip -d .*/photos && hpt-dist shard",
        ),
        (["default/test/0.parquet", "default/train/0.parquet"], "Parquet files lie in test, train"),
        (["manifest.json", "train/a.index.json"], "this is a dataset already"),
        ([], "it holds no files"),
    ],
)
def test_a_folder_without_images_in_folders_says_what_is_there(tmp_path, names, message):
    text = refusal(write(tmp_path, *names))
    assert re.search(f"no images.*{message}", text, re.DOTALL), text


# Links and files of one name


def test_images_of_one_stem_are_both_kept(tmp_path):
    samples = open_source(str(write(tmp_path, "cat/a.jpg", "cat/a.png", "dog/a.jpg"))).samples()
    assert len({one.key for one in samples}) == 3


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_links_to_one_image_count_once_or_are_refused(tmp_path, link):
    names = write(tmp_path, *two_classes("train", "test"))
    link(tmp_path / "train/cat/1.jpg", tmp_path / "train/cat/9.jpg")
    source = open_source(str(names))
    assert len(source.samples()) == 8
    assert any("links to images that are there already: 1" in line for line in in_words(source))
    link(tmp_path / "train/cat/1.jpg", tmp_path / "train/dog/8.jpg")
    assert "of another class: 'cat' and 'dog'" in refusal(tmp_path)
    (tmp_path / "train/dog/8.jpg").unlink()
    link(tmp_path / "train/cat/1.jpg", tmp_path / "test/cat/8.jpg")
    assert "in another split: test and train" in refusal(tmp_path)


def test_links_that_lead_to_themselves_end(tmp_path):
    write(tmp_path, *two_classes("train"))
    (tmp_path / "train/cat/self.jpg").symlink_to("self.jpg")
    assert len(open_source(str(tmp_path)).samples()) == 5
    (tmp_path / "train/cat/up").symlink_to(tmp_path)
    assert "leads to a folder above it" in refusal(tmp_path)
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone/again").symlink_to(tmp_path / "alone")
    assert "leads to a folder above it" in refusal(tmp_path / "alone")


# Groups


def test_no_group_is_separated_where_the_paths_decide(tmp_path):
    names = [f"{'cat' if i % 2 else 'dog'}/p{i // 4}_{i}.jpg" for i in range(80)]
    source = open_source(str(write(tmp_path, *names)), group_by=r"/(p\d+)_")
    assert {(one.origin, one.split) for one in source.samples()} == {
        (name, hash_split(name.split("/")[1].split("_")[0])) for name in names
    }
    assert "20 groups by" in "\n".join(in_words(source))
    assert "each image's group" in source.rule
    assert open_source(str(tmp_path)).rule.endswith("each file's path")


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (r"(p1)", "names no group for 1 of 2 images, such as dog/p2.jpg"),
        (r"p", "has no group in brackets"),
        (r"(p", "is no pattern"),
    ],
)
def test_patterns_that_name_no_groups_are_refused(tmp_path, pattern, message):
    with pytest.raises(RequestError) as caught:
        open_source(str(write(tmp_path, "cat/p1.jpg", "dog/p2.jpg")), group_by=pattern)
    assert message in str(caught.value)


def test_groups_hold_for_annotation_files_too(tmp_path):
    names = [f"p{i // 2}_{i}.jpg" for i in range(12)]
    images = [{"id": i, "file_name": name, "width": 8, "height": 8} for i, name in enumerate(names)]
    categories = [{"id": 1, "name": CAFE_NFD}]
    boxes = [{"id": 1, "image_id": 0, "category_id": 1, "bbox": [0, 0, 4, 4]}]
    contents = {"images": images, "categories": categories, "annotations": boxes}
    (write(tmp_path, *names) / "coco.json").write_text(json.dumps(contents))
    source = open_source(str(tmp_path / "coco.json"), group_by=r"(p\d)_")
    assert [one.split for one in source.samples()] == [hash_split(f"p{i // 2}") for i in range(12)]
    assert "each image's group" in source.rule
    assert source.classes == [CAFE_NFC]


def test_groups_that_the_folders_separate_are_refused(tmp_path):
    write(tmp_path, "train/cat/p1_1.jpg", "train/dog/p2_1.jpg", "test/cat/p1_2.jpg")
    text = refusal(tmp_path, group_by=r"/(p\d)_")
    assert "group 'p1': is in test (test/cat/p1_2.jpg) and in train (train/cat/p1_1.jpg)" in text
    (tmp_path / "test").rename(tmp_path / "unlabeled")  # both are trained on
    assert by_split(open_source(str(tmp_path), group_by=r"/(p\d)_"))


@pytest.mark.parametrize(
    "tops", [("fold1", "fold2"), ("photo", "sketch"), ("Trainingsdaten", "Testdaten")]
)
def test_top_folders_that_hold_the_same_folders_are_asked_about(tmp_path, tops):
    write(tmp_path, *two_classes(*tops))
    assert "hold folders of the same names (cat, dog)" in refusal(tmp_path)
    assert open_source(str(tmp_path), layout="classes").classes == sorted(tops)


def test_more_classes_than_folders_in_them_are_classes(tmp_path):
    tops = [f"part{i}" for i in range(3)]
    write(tmp_path, *(f"{top}/{side}/{i}.jpg" for top in tops for side in "lr" for i in "12"))
    assert open_source(str(tmp_path)).classes == tops


@pytest.mark.parametrize(
    ("suffix", "boxes", "other"),
    [
        ("xml", "<annotation><object><name>cat</name></object></annotation>", "<metadata/>"),
        ("json", '{"shapes": [{"label": "cat", "points": []}]}', '{"photoTakenTime": 1}'),
        ("txt", "0 0.5 0.5 0.1 0.1\n3 0.2 0.2 1e-2 0.1\n", "a photo of 2 cats\n"),
    ],
)
@pytest.mark.parametrize("top", ["", "train/"])
def test_boxes_beside_their_images_are_not_passed_over(tmp_path, suffix, boxes, other, top):
    write(tmp_path, f"{top}1.jpg", f"{top}2.jpg")
    for content in (boxes, other):
        for i in (1, 2):
            (tmp_path / f"{top}{i}.{suffix}").write_text(content)
        if content == boxes:
            assert "2 images have a file of boxes or labels beside them" in refusal(tmp_path)
    assert len(open_source(str(tmp_path)).samples()) == 2


def test_a_split_without_any_class_is_reported(tmp_path):
    rows = ["a.jpg,cat,train", "b.jpg,dog,train"]
    write(tmp_path, "a.jpg", "b.jpg", "c.jpg", "d.jpg")
    listed = tmp_path / "list.csv"
    header = "path,labels,split"
    listed.write_text("\n".join([header, *rows, "c.jpg,,test", "d.jpg,,test"]) + "\n")
    assert "test has no image of any class" in in_words(open_source(str(listed)))
