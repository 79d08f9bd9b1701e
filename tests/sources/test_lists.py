"""Lists in other people's hands: one file has one name, one class one label, and nothing hangs."""

from __future__ import annotations

import json
import os
import unicodedata
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet as pq

from hpt_dist.errors import RequestError
from hpt_dist.sources import open_source
from hpt_dist.sources.sample import hash_split
from hpt_dist.sources.understood import in_words

CAFE_NFC, CAFE_NFD = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
SOUND = ["img/0.jpg,cat", "img/1.jpg,dog"]


@pytest.fixture
def folder(tmp_path):
    """A folder with images 0 to 5."""
    (tmp_path / "img").mkdir()
    for i in range(6):
        (tmp_path / f"img/{i}.jpg").write_bytes(str(i).encode())
    return tmp_path


def written(folder: Path, *rows: str, header: str = "path,label") -> str:
    path = folder / "list.csv"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return str(path)


def refusal(path: str, **options) -> str:
    with pytest.raises(RequestError) as caught:
        open_source(path, **options)
    return str(caught.value)


def described(source) -> set[tuple[str, str, str | None]]:
    return {
        (one.key, one.split, None if one.label is None else source.classes[one.label])
        for one in source.samples()
    }


# Paths


def test_every_spelling_of_a_path_gives_the_same_key_and_split(folder):
    (folder / "link").symlink_to(folder)
    spellings = [
        "{}",
        "./{}",
        "img/../{}",
        "img//../{}",
        f"{folder}/{{}}",
        f"{folder}/./img/../{{}}",
    ]
    found = [
        described(
            open_source(
                written(folder, *(f"{text.format(f'img/{i}.jpg')},{i % 2}" for i in range(6)))
            )
        )
        for text in spellings
    ]
    assert all(one == found[0] for one in found)
    other = folder / "link" / "list.csv"  # the same list by another way
    assert described(open_source(str(other))) == found[0]


def test_rows_that_name_a_file_again_count_once(folder):
    (folder / "img/link.jpg").symlink_to("0.jpg")
    os.link(folder / "img/0.jpg", folder / "img/hard.jpg")
    again = ["img/0.jpg", "./img/0.jpg", f"{folder}/img/0.jpg", "img/link.jpg", "img/hard.jpg"]
    source = open_source(written(folder, *SOUND, *(f"{path},cat" for path in again)))
    assert len(source.samples()) == 2
    assert any("rows that name an image again: 5" in line for line in in_words(source))
    for path in again:
        text = refusal(written(folder, *SOUND, f"{path},dog"))
        assert "list.csv:4: " in text
        assert "is already on line 2, with another label: 'cat' and 'dog'" in text


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("img\\0.jpg", "with / in place of \\ there is one"),
        ("img/a%20b.jpg", "without %-signs there is one"),
        (" img/0.jpg", "without spaces around it there is one"),
        ("img/0", "with .jpg at its end there is one"),
        ("img", "no such file"),
        ("", "the path is empty"),
        ("/etc/hostname", "is an absolute path outside of"),
        ("x" * 5000, "a path of 5,000 characters"),
        ("img/\0.jpg", "can be no path"),
        ("out/../0.jpg", "leads through a link and back"),
    ],
)
def test_paths_that_name_no_file_are_refused_with_a_hint(folder, path, message):
    (folder / "img/a b.jpg").touch()
    (folder / "out").symlink_to(folder / "img/deep")
    (folder / "img/deep").mkdir()
    text = refusal(written(folder, *SOUND, f"{path},cat"))
    assert "list.csv:4: " in text
    assert message in text


def test_absolute_paths_below_the_root_and_paths_beside_the_list_are_read(folder):
    (folder / "lists").mkdir()
    rows = [f"{folder}/img/{i}.jpg,{i % 2}" for i in range(4)]
    absolute = open_source(written(folder / "lists", *rows), folder)
    assert {one.origin for one in absolute.samples()} == {f"img/{i}.jpg" for i in range(4)}
    beside = open_source(written(folder / "lists", "../img/0.jpg,a", "../lists/../img/1.jpg,b"))
    assert {one.origin for one in beside.samples()} == {"../img/0.jpg", "../img/1.jpg"}
    assert "outside of the list's folder: 2, such as ../img/0.jpg" in in_words(beside)


def test_accents_may_be_written_in_either_form(folder):
    (folder / f"img/{CAFE_NFD}.jpg").touch()
    rows = [f"img/{CAFE_NFC}.jpg,{CAFE_NFC}", f"img/0.jpg,{CAFE_NFD} ", "img/1.jpg,dog"]
    source = open_source(written(folder, *rows))
    assert source.classes == [CAFE_NFC, "dog"]
    assert len(source.samples()) == 3


# Labels


@pytest.mark.parametrize(
    "label", ["nan", "NaN", "None", "NULL", "null", "N/A", "#N/A", "NA", "?", "<NA>", "\\N"]
)
def test_labels_that_programs_write_for_no_value_are_refused(folder, label):
    text = refusal(written(folder, *SOUND, f"img/2.jpg,{label}"))
    assert f"list.csv:4: the label is {label!r}, as programs write no value" in text


def test_classes_that_may_mean_no_class_are_reported(folder):
    words = in_words(open_source(written(folder, *SOUND, "img/2.jpg,none")))
    assert "3 classes: cat, dog, none; classes, as others: none" in words


@pytest.mark.parametrize("other", ["Cat", "CAT", "c at", "ca\u200bt"])
def test_labels_that_look_like_one_class_are_refused_with_both_lines(folder, other):
    text = refusal(written(folder, *SOUND, f"img/2.jpg,{other}"))
    assert f"list.csv:4: {other!r} and 'cat' (on line 2) look like one class" in text


def test_spaces_around_labels_are_no_part_of_them(folder):
    assert open_source(written(folder, *SOUND, "img/2.jpg, cat ")).classes == ["cat", "dog"]
    assert "no label" in refusal(written(folder, *SOUND, "img/2.jpg,  "))


@pytest.mark.parametrize("other", ["01", "1.0", "+1", "１"])
def test_numbers_are_one_class_however_they_are_written(folder, other):
    text = refusal(written(folder, "img/0.jpg,1", "img/1.jpg,2", f"img/2.jpg,{other}"))
    assert "'1' (on line 2) look like one class" in text


def test_whole_numbers_and_their_texts_are_one_label_in_json(folder):
    rows = [{"path": "img/0.jpg", "label": 1}, {"path": "img/1.jpg", "label": "1"}]
    rows.append({"path": "img/2.jpg", "label": 2})
    (folder / "list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert open_source(str(folder / "list.jsonl")).classes == ["1", "2"]


def test_a_single_class_is_refused(folder):
    assert "of one class, 'cat'" in refusal(written(folder, "img/0.jpg,cat", "img/1.jpg,cat"))
    assert open_source(written(folder, "img/0.jpg,", "img/1.jpg,")).classes == []


def test_splits_may_be_written_in_any_case(folder):
    rows = ["img/0.jpg,cat,Train", "img/1.jpg,dog,training", "img/2.jpg,dog, TEST"]
    source = open_source(written(folder, *rows, header="path,label,split"))
    assert [one.split for one in source.samples()] == ["train", "train", "test"]


# Forms


DEEP = "[" * 100_000


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", DEEP, "a.jsonl:1: too many brackets"),
        ("a.jsonl", '\n{"path": "img/0.jpg", "label": ' + DEEP, "a.jsonl:2: too many brackets"),
        ("a.jsonl", '{"path": "a", "label": ' + "1" * 5000 + "}", "a.jsonl:1: not JSON: Exceeds"),
        ("a.jsonl", '{"path": "a", "label": 1, "label": 2}', "a.jsonl:1: 'label' is there twice"),
        ("a.jsonl", '{"path": "img/0.jpg", "label": "\\ud800"}', "a.jsonl:1: a class name that is"),
        ("a.jsonl", '{"path": "\\ud800", "label": "a"}', r"a.jsonl:1: '\ud800' can be no path"),
        ("a.csv", "path,label\nimg/0.jpg," + "1" * 5000, "a.csv:2: a class name of 5,000 charact"),
        ("a.csv", "path,label\nimg/0.jpg," + "x" * 201, "a.csv:2: a class name of 201 characters"),
        ("a.csv", "path,label\nimg/0.jpg,c\0t", r"a.csv:2: a class name with a control character"),
        ("a.csv", "path,label\nimg/0.jpg," + "x" * 200_000, "a.csv:2: field larger than field"),
        ("a.csv", "path,label\nimg/0.jpg," + "x" * 2_000_000, "a.csv:2: the line is too long"),
        ("a.csv", 'path,label\nimg/0.jpg,"x\n' + "y\n" * 99_000, "quotation mark without its"),
        ("a.csv", b"path,label\nimg/0.jpg,a\nimg/1.jpg,\xf6\n", "a.csv:3: not UTF-8"),
        ("a.csv", "path,label\n".encode("utf-16"), "the list names no image"),
        ("a.csv", "path,label\na".encode("utf-16")[:-1], "not UTF-16, as its start says"),
        ("a.jsonl", b"{}\n\n\xff", "a.jsonl:3: not UTF-8"),
    ],
)
def test_absurd_lists_are_refused_with_their_line(folder, name, text, message):
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    assert message in refusal(str(folder / name))


@pytest.mark.parametrize("name", ["list.csv", "list.jsonl", "list.parquet"])
def test_pipes_and_devices_are_no_lists(tmp_path, name):
    os.mkfifo(tmp_path / name)
    assert "but a pipe or a device" in refusal(str(tmp_path / name))
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to("/dev/zero")
    assert "but a pipe or a device" in refusal(str(tmp_path / name))


@pytest.mark.parametrize("name", ["list.csv", "list.jsonl"])
def test_a_line_that_never_ends_is_not_read_to_its_end(tmp_path, name):
    with (tmp_path / name).open("wb") as file:
        file.truncate(2**40)
    assert "the line is too long" in refusal(str(tmp_path / name))


def test_damaged_parquet_is_refused_and_never_a_traceback(folder):
    path = folder / "list.parquet"
    rows = [{"path": f"img/{i}.jpg", "label": "ab"[i % 2]} for i in range(6)]
    pq.write_table(pa.Table.from_pylist(rows), path)
    sound = path.read_bytes()
    for place in range(len(sound) - 400, len(sound), 7):
        damaged = bytearray(sound)
        damaged[place] ^= 0x5A
        path.write_bytes(damaged)
        try:
            open_source(str(path))
        except RequestError as error:
            assert error.exit_code == 2


def test_parquet_files_of_a_folder_are_all_named_by_splits_or_none(folder):
    for name in ("Train-0", "testing-0"):
        pq.write_table(
            pa.table({"image": [b"1", b"2"], "label": ["a", "b"]}), folder / f"{name}.parquet"
        )
    for one in (folder / "img").iterdir():
        one.unlink()
    (folder / "img").rmdir()
    assert {one.split for one in open_source(str(folder)).samples()} == {"train", "test"}
    (folder / "testing-0.parquet").rename(folder / "more.parquet")
    assert "other files beside it are named by splits" in refusal(str(folder))


# Groups


GROUPED = [f"img/{i}.jpg,{'ab'[i % 2]},p{i // 2}" for i in range(6)]


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_images_of_a_group_share_their_split(folder, form):
    rows = [dict(zip(("path", "label", "group"), row.split(","), strict=True)) for row in GROUPED]
    path = folder / f"list.{form}"
    if form == "csv":
        written(folder, *GROUPED, header="path,label,group")
    elif form == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    source = open_source(str(path))
    assert [one.split for one in source.samples()] == [hash_split(f"p{i // 2}") for i in range(6)]
    assert "each image's group (the column group)" in source.rule
    without = open_source(str(path), group_by="")
    assert [one.split for one in without.samples()] == [
        hash_split(f"img/{i}.jpg") for i in range(6)
    ]


def test_an_image_without_a_group_is_split_by_its_path(folder):
    source = open_source(written(folder, *GROUPED, header="path,label,group"))
    (folder / "img/9.jpg").touch()
    more = open_source(written(folder, *GROUPED, "img/9.jpg,a,", header="path,label,group"))
    assert described(more) - described(source) == {
        (one.key, hash_split("img/9.jpg"), "a") for one in more.samples() if "9" in one.origin
    }


def test_a_group_in_two_splits_of_the_list_is_refused(folder):
    rows = ["img/0.jpg,a,train,p1", "img/1.jpg,b,train,p2", "img/2.jpg,a,test,p1"]
    path = written(folder, *rows, header="path,label,split,group")
    assert "group 'p1': is in train (img/0.jpg) and in test (img/2.jpg)" in refusal(path)
    assert open_source(path, group_by="").groups
    assert "a pattern is given too" in refusal(path, group_by="(p)")


def test_a_missing_group_is_left_empty(folder):
    path = written(folder, "img/0.jpg,a,nan", "img/1.jpg,b,p1", header="path,label,group")
    assert "list.csv:2: the group is 'nan'" in refusal(path)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (["p1", "P1"], "the groups 'P1' and 'p1' (on line 1) look like one"),
        (["1", "01"], "the groups '01' and '1' (on line 1) look like one"),
        (["\ud800", "b"], "a name of a group that is not UTF-8"),
        (["a\u0007", "b"], "a name of a group with a control character"),
    ],
)
def test_groups_that_look_alike_or_cannot_be_written_are_refused(folder, groups, message):
    lines = [
        json.dumps({"path": f"img/{i}.jpg", "label": label, "group": group})
        for i, (label, group) in enumerate(zip(["cat", "dog"], groups, strict=True))
    ]
    (folder / "list.jsonl").write_text("\n".join(lines) + "\n")
    assert message in refusal(str(folder / "list.jsonl"))
