"""Lists as people and other tools write them: columns, separators and encodings are understood."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet as pq

from hpt_dist.errors import RequestError
from hpt_dist.sources import open_source
from hpt_dist.sources.sample import hash_split
from hpt_dist.sources.understood import in_words

ROWS = [
    {"path": f"img/{i}.jpg", "label": ("cat", "dog")[i % 2], "split": ("train", "test")[i // 4]}
    for i in range(6)
]


@pytest.fixture
def folder(tmp_path):
    """A folder with images 0 to 5."""
    (tmp_path / "img").mkdir()
    for i in range(6):
        (tmp_path / f"img/{i}.jpg").write_bytes(str(i).encode())
    return tmp_path


def refusal(path: Path, **options) -> str:
    with pytest.raises(RequestError) as caught:
        open_source(str(path), **options)
    return str(caught.value)


def described(source) -> list[tuple[str, str, str | None]]:
    return [
        (one.key, one.split, None if one.label is None else source.classes[one.label])
        for one in source.samples()
    ]


def text_of(header: list[str], rows: list[list[str]], separator: str = ",") -> str:
    return "\n".join(separator.join(row) for row in [header, *rows]) + "\n"


def written(folder: Path, text: str | bytes, name: str = "list.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.fixture
def expected(folder):
    rows = [list(row.values()) for row in ROWS]
    return described(open_source(str(written(folder, text_of([*ROWS[0]], rows), "plain.csv"))))


# Names, order and separators


NAMES = [
    ("path", "label", "split"),
    ("image", "class", "subset"),
    ("file_name", "category", "Split"),
    ("File Name", "Target", "partition"),
    ("imagePath", "className", "fold"),
    ("img", "targetName", "set"),
    ("Image Index", "label_name", "usage"),
]


@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_columns_are_found_by_their_usual_names_in_any_order(folder, expected, names, form):
    order = [2, 0, 1]
    header = ["", "age", *(names[i] for i in order), "patient_id"]
    rows = [["7", "33", *([*row.values()][i] for i in order), "p1"] for row in ROWS]
    path = folder / f"list.{form}"
    objects = [dict(zip(header, row, strict=True)) for row in rows]
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist(objects), path)
    else:
        lines = "\n".join(map(json.dumps, objects))
        path.write_text(text_of(header, rows) if form == "csv" else lines)
    source = open_source(str(path))
    assert described(source) == expected
    words = "\n".join(in_words(source))
    assert "columns that are not read: (no name), age, patient_id" in words
    assert "--columns group=patient_id keeps them in one" in words
    if names != ("path", "label", "split"):
        assert f"label from {names[1]}" in words


@pytest.mark.parametrize(
    ("separator", "word"), [(",", "commas"), (";", "semicolons"), ("\t", "tabs"), ("|", "|")]
)
@pytest.mark.parametrize("name", ["list.csv", "list.tsv"])
def test_separators_are_detected_and_said(folder, expected, separator, word, name):
    rows = [[*row.values(), '"a,b;c|d\te"'] for row in ROWS]
    text = text_of([*ROWS[0], "notes"], rows, separator)
    source = open_source(str(written(folder, text, name)))
    assert described(source) == expected
    assert f"columns separated by {word}" in in_words(source)[0]


def test_excels_line_of_its_separator_is_no_header(folder, expected):
    text = "sep=;\r\n" + text_of([*ROWS[0]], [[*row.values()] for row in ROWS], ";")
    path = written(folder, text)
    assert described(open_source(str(path))) == expected
    path.write_text(text + "img/9.jpg;cat;train\n")
    assert "list.csv:9: no such file" in refusal(path)


def test_a_list_of_paths_alone_has_no_labels(folder):
    for name, text in {
        "list.csv": text_of(["image"], [[row["path"]] for row in ROWS]),
        "list.jsonl": "\n".join(json.dumps({"file_name": row["path"]}) for row in ROWS),
    }.items():
        source = open_source(str(written(folder, text, name)))
        assert (source.label, source.classes) == ("none", [])
        assert [one.split for one in source.samples()] == [hash_split(r["path"]) for r in ROWS]
        assert any("no labels" in line for line in in_words(source))


def test_folds_by_number_are_no_splits(folder):
    rows = [[row["path"], row["label"], str(i % 3)] for i, row in enumerate(ROWS)]
    source = open_source(str(written(folder, text_of(["path", "label", "fold"], rows))))
    assert [one.split for one in source.samples()] == [hash_split(row["path"]) for row in ROWS]
    assert "columns that are not read: fold" in in_words(source)
    rows = [[*row, "train"] for row in rows]
    source = open_source(str(written(folder, text_of(["path", "label", "fold", "split"], rows))))
    assert {one.split for one in source.samples()} == {"train"}


# What is asked about


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("path,label,class", "label and class may each be the labels"),
        ("path,label,labels", "label and labels in one list"),
        ("filename,image_path,label", "filename and image_path may each be the path"),
        ("path,subset,phase", "subset and phase may each be the split"),
        ("path,lable,x", "no column of labels, but 'lable'; did you mean label?"),
        ("path,fine_label,x", "no column of labels, but 'fine_label'"),
        ("path,species,x", "no column of labels, but 'species'"),
        ("path,label,spilt", "no column of splits, but 'spilt'; did you mean split?"),
        ("path,label,is_train", "no column of splits, but 'is_train'"),
        ("path,x,y", "no column of labels, but 'y'"),
        ("path,kind,x", "no column of labels, but kind may hold them (kind: cat, dog)"),
        ("photo_no,label,x", "no column path or image; its columns are photo_no, label, x"),
        ("img/9.jpg,cat,train", "the list has no header"),
        ("path,label,label", "two columns have one name"),
    ],
)
@pytest.mark.parametrize("separator", [",", ";"])
def test_two_readings_are_asked_about(folder, header, message, separator):
    values = [[f"img/{i}.jpg", ("cat", "dog")[i % 2], f"x{i}"] for i in range(6)]
    path = written(folder, text_of(header.split(","), values, separator))
    assert message in refusal(path)


@pytest.mark.parametrize("name", ["list.csv", "list.jsonl", "list.parquet"])
def test_the_columns_that_are_named_are_read(folder, expected, name):
    rows = [
        {"label": "x", "Photo file": one["path"], "class": one["label"], "s, t": one["split"]}
        for one in ROWS
    ]
    path = folder / name
    if name.endswith("csv"):
        path.write_text('label,Photo file,class,"s, t"\n')
        with path.open("a") as file:
            file.writelines(",".join(row.values()) + "\n" for row in rows)
    elif name.endswith("jsonl"):
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    chosen = 'path=photo_file,label=class,"split=s, t"'
    assert described(open_source(str(path), columns=chosen)) == expected
    none = open_source(
        str(path),
        columns='path=Photo file, label=, split="s, t"'.replace('split="s, t"', '"split=s, t"'),
    )
    assert (none.classes, none.label) == ([], "none")
    text = refusal(path, columns="path=photo,label=class")
    assert "no column is called 'photo'" in text
    assert "Photo file" in text


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ("file=x", "'file=x' names no column"),
        ("path", "'path' names no column"),
        ("path=a,path=b", "'path=b' is there twice"),
        ("label=a,labels=b", "label and labels in one list"),
    ],
)
def test_columns_that_mean_nothing_are_refused(folder, columns, message):
    assert message in refusal(written(folder, "path\nimg/0.jpg\n"), columns=columns)


def test_only_lists_have_columns(folder):
    assert "only a list has columns" in refusal(folder / "img", columns="path=x")
    assert "only a list has columns" in refusal(folder / "a.json", columns="path=x")


def test_images_inside_parquet_may_have_another_column(folder):
    image = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    values = [{"bytes": bytes([i]), "path": None} for i in range(4)]
    table = pa.table({"photo": pa.array(values, image), "kind": ["a", "b"] * 2, "mask": [b"m"] * 4})
    pq.write_table(table, folder / "list.parquet")
    source = open_source(str(folder / "list.parquet"), columns="path=photo,label=kind")
    assert [one.read() for one in source.samples()] == [bytes([i]) for i in range(4)]
    assert source.classes == ["a", "b"]
    assert "read as Parquet with images in photo" in in_words(source)
    pq.write_table(table.rename_columns(["pixels", "kind", "mask"]), folder / "list.parquet")
    found = open_source(str(folder / "list.parquet"), columns="label=kind")
    assert [one.key for one in found.samples()] == [one.key for one in source.samples()]
    two = table.append_column("image", [[b"x"] * 4])
    pq.write_table(two, folder / "list.parquet")
    assert "photo and image may each be the path" in refusal(folder / "list.parquet")


@pytest.mark.parametrize(
    ("header", "cells", "message"),
    [
        ("path,labels", ["cat;dog", "cat", "dog"], "'cat;dog' may be 2 classes, 'cat' and 'dog'"),
        ("path,labels", ['"cat, dog"', '"dog, owl"', "owl"], "'cat, dog' may be 2 classes"),
        ("path,labels", ["\"['cat', 'dog']\"", "cat", "dog"], "may be 2 classes, 'cat' and 'dog'"),
        ("path,label", ["cat|dog", "cat", "dog"], "say --columns labels=COLUMN"),
    ],
)
def test_names_that_are_joined_by_another_sign_are_asked_about(folder, header, cells, message):
    rows = [[f"img/{i}.jpg", cell] for i, cell in enumerate(cells)]
    assert message in refusal(written(folder, text_of(header.split(","), rows)))


# Encodings


UMLAUTS = [("möbel", "straße")[i % 2] for i in range(6)]


def in_umlauts(separator: str = ";") -> str:
    rows = [[row["path"], label] for row, label in zip(ROWS, UMLAUTS, strict=True)]
    return text_of(["path", "label"], rows, separator)


@pytest.mark.parametrize(
    ("encoding", "word"),
    [
        ("utf-8", "UTF-8"),
        ("utf-8-sig", "UTF-8"),
        ("utf-16", "UTF-16"),
        ("utf-16-le", "UTF-16"),
        ("utf-16-be", "UTF-16"),
        ("utf-32", "UTF-32"),
        ("cp1252", "Windows-1252, as it is not UTF-8 (möbel, straße: right?)"),
    ],
)
@pytest.mark.parametrize("name", ["list.csv", "list.jsonl"])
def test_encodings_are_detected_and_said(folder, encoding, word, name):
    text = in_umlauts()
    if name.endswith("jsonl"):
        lines = zip(ROWS, UMLAUTS, strict=True)
        objects = ({"path": row["path"], "label": one} for row, one in lines)
        text = "\n".join(json.dumps(one, ensure_ascii=False) for one in objects)
    source = open_source(str(written(folder, text.encode(encoding), name)))
    assert source.classes == ["möbel", "straße"]
    assert f"read as a list: {word}" in in_words(source)[0]


@pytest.mark.parametrize(
    ("encoding", "labels"),
    [
        ("cp1251", ["кошка", "собака"]),
        ("gbk", ["猫咪", "小狗"]),
        ("shift_jis", ["ネコ", "イヌ"]),
        ("cp850", ["möbel", "straße"]),
        ("mac_roman", ["möbel", "straße"]),
        ("cp1250", ["łódź", "kąt"]),
    ],
)
def test_an_encoding_that_may_be_another_is_refused_with_the_line(folder, encoding, labels):
    rows = [["img/0.jpg", "plain"], *([f"img/{i}.jpg", labels[i % 2]] for i in range(1, 6))]
    path = written(folder, text_of(["path", "label"], rows).encode(encoding))
    assert "list.csv:3: not UTF-8, and not plainly in another encoding" in refusal(path)


# Every mistake at once


def test_mistakes_of_every_kind_are_listed_together_in_the_order_of_the_lines(folder):
    lines = [
        "img/0.jpg,cat,train",
        "gone.jpg,cat,train",
        "img/1.jpg,,train",
        "img/2.jpg,Cat,val",
        "img/3.jpg,dog,tset",
        "img/4.jpg,owl,train,extra",
        "img/5.jpg",
        "./img/0.jpg,dog,train",
        ",cat,train",
        "img/2.jpg,nan,train",
    ]
    path = written(folder, "\n".join(["path,label,split", *lines]))
    text = refusal(path).splitlines()
    found = [
        (3, "no such file: 'gone.jpg'"),
        (4, "no label"),
        (5, "unknown label 'Cat': train has none; did you mean cat?"),
        (6, "unknown split 'tset'"),
        (7, "a row has 3 fields"),
        (8, "a row has 3 fields"),
        (9, "'./img/0.jpg' is already on line 2"),
        (10, "the path is empty"),
        (11, "the label is 'nan'"),
        (11, "'img/2.jpg' is already on line 5"),
    ]
    assert text[0] == f"{len(found)} problems in the list {path}"
    for line, (number, message) in zip(text[1:], found, strict=True):
        assert line.startswith(f"{path}:{number}: {message}")


def test_jsonl_and_parquet_list_their_mistakes_together_too(folder):
    objects = [
        '{"path": "img/0.jpg", "label": "cat"}',
        "{",
        '{"path": "gone.jpg", "label": "dog"}',
        '{"label": "dog"}',
        '{"path": "img/1.jpg", "label": true}',
        '{"path": "img/2.jpg", "label": "Cat"}',
    ]
    text = refusal(written(folder, "\n".join(objects), "list.jsonl"))
    assert "5 problems" in text
    assert [f"list.jsonl:{line}: " in text for line in range(1, 7)] == [False] + [True] * 5
    names = {"names": ["cat", "dog"], "_type": "ClassLabel"}
    metadata = json.dumps({"info": {"features": {"label": names}}}).encode()
    table = pa.table({"path": ["img/0.jpg", "gone.jpg", "img/1.jpg"], "label": [0, 1, 7]})
    pq.write_table(table.replace_schema_metadata({b"huggingface": metadata}), folder / "l.parquet")
    text = refusal(folder / "l.parquet")
    assert "l.parquet:row 1: no such file" in text
    assert "l.parquet:row 2: no class is 7" in text


# A folder with its list, as Hugging Face has it


def test_a_folder_with_metadata_is_read_by_it(folder):
    images = folder / "img"
    rows = [[f"{i}.jpg", ("cat", "dog")[i % 2]] for i in range(5)]
    written(images, text_of(["file_name", "label"], rows), "metadata.csv")
    source = open_source(str(images))
    assert [(one.origin, one.label) for one in source.samples()] == [
        (f"{i}.jpg", i % 2) for i in range(5)
    ]
    words = "\n".join(in_words(source))
    assert "read as an image folder with a list: metadata.csv" in words
    assert "images that the list does not name: 1 (5.jpg)" in words
    assert open_source(str(images), layout="flat").classes == []


def test_metadata_of_each_split_folder_is_joined(folder):
    for split, i in (("train", 0), ("train", 1), ("validation", 2), ("validation", 3)):
        (folder / "set" / split).mkdir(parents=True, exist_ok=True)
        (folder / f"img/{i}.jpg").rename(folder / f"set/{split}/{i}.jpg")
        with (folder / "set" / split / "metadata.jsonl").open("a") as file:
            label = ("cat", "dog")[i % 2]
            file.write(json.dumps({"file_name": f"{i}.jpg", "label": label, "text": "a"}) + "\n")
    source = open_source(str(folder / "set"))
    assert [(one.origin, one.split, one.label) for one in source.samples()] == [
        ("train/0.jpg", "train", 0),
        ("train/1.jpg", "train", 1),
        ("validation/2.jpg", "val", 0),
        ("validation/3.jpg", "val", 1),
    ]


def test_a_table_beside_class_folders_that_names_no_files_changes_nothing(folder):
    for i in range(6):
        (folder / f"img/{'ab'[i % 2]}").mkdir(exist_ok=True)
        (folder / f"img/{i}.jpg").rename(folder / f"img/{'ab'[i % 2]}/{i}.jpg")
    before = described(open_source(str(folder / "img")))
    written(folder / "img", "site,count\na,3\n", "metadata.csv")
    assert described(open_source(str(folder / "img"))) == before


def test_a_list_beside_class_folders_is_asked_about(folder):
    for i in range(4):
        (folder / f"img/{'ab'[i % 2]}").mkdir(exist_ok=True)
        (folder / f"img/{i}.jpg").rename(folder / f"img/{'ab'[i % 2]}/{i}.jpg")
    for i in (4, 5):
        (folder / f"img/{i}.jpg").unlink()
    for column, cells in {"text": ["words", "more", "and", "so on"], "label": "xyxy"}.items():
        rows = [[f"{'ab'[i % 2]}/{i}.jpg", cells[i]] for i in range(4)]
        path = written(folder / "img", text_of(["file_name", column], rows), "metadata.csv")
        text = refusal(folder / "img")
        assert "the folders of its images may be classes too: a, b" in text
        assert open_source(str(folder / "img"), layout="classes").classes == ["a", "b"]
        listed = open_source(str(path))
        assert listed.classes == (["x", "y"] if column == "label" else [])
        assert [one.split for one in listed.samples()] == [hash_split(row[0]) for row in rows]
