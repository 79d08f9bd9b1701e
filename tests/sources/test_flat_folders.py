"""A folder of images alone is one unlabelled split; what may mean labels is asked about."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hpt_dist.errors import RequestError
from hpt_dist.images import file_kinds
from hpt_dist.sources import open_source
from hpt_dist.sources.understood import in_words


def write(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return root


def refusal(root: Path, **options) -> str:
    with pytest.raises(RequestError) as caught:
        open_source(str(root), **options)
    return str(caught.value)


def origins(source) -> set[str]:
    return {one.origin for one in source.samples()}


FLAT = ["a.jpg", "b.PNG", "c"]


def test_a_folder_of_images_is_one_split_without_labels(tmp_path):
    source = open_source(str(write(tmp_path, *FLAT)))
    assert {(one.split, one.label) for one in source.samples()} == {("train", None)}
    assert (source.classes, source.metric, source.label) == ([], "", "none")
    assert origins(source) == set(FLAT)
    words = "\n".join(in_words(source))
    assert (
        "read as a flat folder (the images lie directly in it): 3 images, one split train" in words
    )
    assert "no labels" in words.splitlines()
    assert "has no image" not in words


def test_nested_folders_are_flat_when_asked(tmp_path):
    names = ["cat/1.jpg", "dog/deep/1.jpg", "train/2.jpg", "3.jpg"]
    write(tmp_path, *names, "notes/a.txt")
    source = open_source(str(tmp_path), layout="flat")
    assert origins(source) == set(names)
    assert {(one.split, one.label) for one in source.samples()} == {("train", None)}
    words = "\n".join(in_words(source))
    assert "the option --layout): 4 images" in words
    assert "3 of them in folders, whose names mean nothing" in words
    assert "folders without images: 1 (notes/)" in words


def test_one_folder_inside_is_flat_when_asked_and_asked_about_else(tmp_path):
    write(tmp_path, "owls/1.jpg", "owls/2.jpg")
    assert "say --layout flat" in refusal(tmp_path)
    assert origins(open_source(str(tmp_path), layout="flat")) == {"owls/1.jpg", "owls/2.jpg"}
    assert origins(open_source(str(tmp_path / "owls"))) == {"1.jpg", "2.jpg"}


@pytest.mark.parametrize("name", ["images", "Photos", "imgs"])
def test_a_folder_of_a_name_for_images_is_entered_unless_a_list_lies_beside_it(tmp_path, name):
    write(tmp_path, f"{name}/1.jpg", f"{name}/2.jpg", "README.md")
    source = open_source(str(tmp_path))
    assert (origins(source), source.classes) == ({"1.jpg", "2.jpg"}, [])
    assert in_words(source)[0].startswith(f"entered {name}, the only folder in")
    write(tmp_path, "labels.csv")
    assert "name the list or annotation file that lies in it, labels.csv" in refusal(tmp_path)


@pytest.mark.parametrize(
    "tops",
    [
        ("100CANON", "101CANON"),
        ("2019", "2020"),
        ("2023-01", "2023-02"),
        ("20230105", "20230106"),
        ("2023_01_05", "2023.02.10"),
        ("DCIM/100APPLE",),
        tuple(f"scan_{i}" for i in range(11)),
    ],
)
def test_folders_of_cameras_and_dates_and_of_one_image_each_are_asked_about(tmp_path, tops):
    numbers = "1" if len(tops) > 10 else "12"
    write(tmp_path, *(f"{top}/{i}.jpg" for top in tops for i in numbers))
    assert "say --layout flat" in refusal(tmp_path)
    assert open_source(str(tmp_path), layout="flat").classes == []
    if len(tops) > 1:
        assert len(open_source(str(tmp_path), layout="classes").classes) == len(tops)


def test_names_like_numbers_and_letters_are_classes(tmp_path):
    write(tmp_path, *(f"{top}/{i}.jpg" for top in ("0", "1", "a", "n01440764") for i in "12"))
    assert len(open_source(str(tmp_path)).classes) == 4


def test_as_many_images_beside_the_folders_as_in_them_are_asked_about(tmp_path):
    write(tmp_path, "cat/1.jpg", "dog/1.jpg", "a.jpg", "b.jpg")
    assert "2 images lie directly in it, such as a.jpg, and 2 in its folders cat, dog" in (
        refusal(tmp_path)
    )
    classes = open_source(str(tmp_path), layout="classes")
    assert classes.classes == ["cat", "dog"]
    assert "images outside of the top folders: 2 (a.jpg, b.jpg)" in "\n".join(in_words(classes))
    assert len(open_source(str(tmp_path), layout="flat").samples()) == 4


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("labels.csv", "path,label"),
        ("facts.xlsx", ""),
        ("result.json", json.dumps({"images": [], "annotations": []})),
        ("labels/a.txt", "0 1 1 1 1"),
        ("masks/a.npy", ""),
    ],
)
def test_what_may_hold_the_labels_of_a_flat_folder_is_asked_about(tmp_path, name, content):
    path = write(tmp_path, *FLAT, name) / name
    path.write_text(content)
    text = refusal(tmp_path)
    assert f"{name.partition('/')[0]}" in text
    assert "may hold their labels" in text
    assert "--layout flat" in text
    assert len(open_source(str(tmp_path), layout="flat").samples()) == len(FLAT)


def test_files_of_photo_programs_beside_images_hold_no_labels(tmp_path):
    names = ["a.json", "a.jpg.json", "a.jpg.supplemental-metadata.json", "a.xmp", "album.json"]
    source = open_source(str(write(tmp_path, *FLAT, *names)))
    assert origins(source) == set(FLAT)
    assert "set aside: tables and lists: 4" in "\n".join(in_words(source))


OTHERS = {
    "texts": ["notes.txt", "README"],
    "documents": ["paper.PDF"],
    "videos": ["clip.mp4", "clip.MOV"],
    "files beside photos": ["a.xmp", "a.aae"],
    "archives": ["all.zip"],
    "thumbnails": ["Thumbs.db"],
    "hidden files": [".DS_Store"],
    "files of programs": ["run.py"],
}


@pytest.mark.parametrize("layout", ["", "classes", "splits"])
def test_what_is_no_image_is_set_aside_and_counted_by_kind(tmp_path, layout):
    folders = {"": [""], "classes": ["cat/", "dog/"], "splits": ["train/cat/", "train/dog/"]}
    for folder in folders[layout]:
        write(tmp_path, f"{folder}1.jpg", f"{folder}2.jpg")
    names = [f"{folders[layout][0]}{name}" for names in OTHERS.values() for name in names]
    source = open_source(str(write(tmp_path, *names)))
    assert all(one.origin.endswith(".jpg") for one in source.samples())
    words = "\n".join(in_words(source))
    for kind, there in OTHERS.items():
        assert f"set aside: {kind}: {len(there)} (" in words


def test_text_files_beside_class_folders_belong_to_no_class(tmp_path):
    write(tmp_path, "train/cat/1.jpg", "train/dog/1.jpg", "train/README.txt", "train/cat/x.pdf")
    assert len(open_source(str(tmp_path)).samples()) == 2


def test_heic_images_are_refused_at_once_where_pillow_heif_is_missing(tmp_path, monkeypatch):
    write(tmp_path, "a.jpg", "IMG_1.HEIC", "IMG_2.heif")
    monkeypatch.setattr(file_kinds, "reads_heif", lambda: False)
    text = refusal(tmp_path)
    assert "2 of its images are HEIC, such as IMG_1.HEIC" in text
    assert "pip install 'hpt-dist[heic]'" in text


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("photos.zip", "unzip -q {path} -d {folder}"),
        ("my photos.tar.gz", "mkdir -p '{folder}' && tar -xf '{path}' -C '{folder}'"),
        ("photos.7z", "7z x {path} -o{folder}"),
    ],
)
def test_an_archive_is_refused_with_the_commands_that_read_it(tmp_path, name, command):
    path = write(tmp_path, name) / name
    folder = tmp_path / name.partition(".")[0]
    expected = command.format(path=path, folder=folder)
    assert f"do: unpack it, and name the folder: {expected} && hpt-dist shard" in refusal(path)


@pytest.mark.parametrize(
    ("name", "way"),
    [
        ("labels.xlsx", "save the sheet as .csv"),
        ("train.txt", "call it .csv, with a first line of the names of its columns"),
        ("data.yaml", "labels of YOLO are converted to COCO first"),
        ("data-00000-of-00001.arrow", "write it as Parquet"),
    ],
)
def test_other_files_are_refused_with_what_to_do(tmp_path, name, way):
    assert way in refusal(write(tmp_path, name) / name)
