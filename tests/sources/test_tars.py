"""Existing tars as a source: what is read, what is asked about, and damage that is named."""

from __future__ import annotations

import gzip
import io
import json
import re
import shutil
import tarfile
from collections import Counter
from pathlib import Path

import boto3
import pytest
import webdataset
from pictures import encoded, labelled, picture, sample, write

from hpt_dist.datasets.shards import read_manifest, write_dataset
from hpt_dist.errors import RequestError
from hpt_dist.sources import TarOptions, open_source
from hpt_dist.sources.sample import HASH_SPLIT_RULE
from hpt_dist.sources.understood import in_words
from hpt_dist.store import open_store

JPEG = [encoded(picture(number, (24, 16))) for number in range(8)]


def pack(file: Path, *members: tuple[str, bytes | str], **options) -> Path:
    """Write a tar of files; a text is the target of a link."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w", **options) as archive:
        for name, content in members:
            one = tarfile.TarInfo(name)
            if isinstance(content, str):
                one.type, one.linkname = tarfile.SYMTYPE, content
            else:
                one.size = len(content)
            archive.addfile(one, io.BytesIO(content) if isinstance(content, bytes) else None)
    return file


def samples_of(*labels: object, field: str = "cls", start: int = 0, first: int = 0):
    """Yield the members of samples with a label each, their images from the `first` on."""
    for number, label in enumerate(labels, start=start):
        yield f"{number:04}.jpg", JPEG[(number + first) % len(JPEG)]
        if label is not None:
            text = json.dumps(label) if field == "json" else str(label)
            yield f"{number:04}.{field}", text.encode()


def nested(depth: int) -> list:
    return [nested(depth - 1)] if depth else []


def read(where: Path | str, group_by: str | None = None, **options):
    return open_source(
        str(where), group_by=group_by, tar_options=TarOptions(**options) if options else None
    )


def refusal(where: Path | str, **options) -> str:
    with pytest.raises(RequestError) as refused:
        read(where, **options)
    return str(refused.value)


def table(source) -> list[tuple[str, str, str | None]]:
    """Return path, split and class name of each image, in order."""
    return [
        (one.origin, one.split, None if one.label is None else source.classes[one.label])
        for one in source.samples()
    ]


# What is read


def test_webdatasets_own_tars_are_read_whole(tmp_path):
    names = ("crow", "owl", "wren")
    for split, count in (("train", 6), ("val", 3)):
        pattern = str(tmp_path / f"birds-{split}-%06d.tar")
        with webdataset.ShardWriter(pattern, maxcount=2, verbose=0) as sink:
            for i in range(count):
                sink.write({"__key__": f"{split}{i}", "jpg": JPEG[i], "cls": i % 3})
    (tmp_path / "classes.txt").write_text("\n".join(names) + "\n")
    for where in (tmp_path, tmp_path / "birds-{train-{000000..000002},val-{000000..000001}}.tar"):
        source = read(where, **({} if where == tmp_path else {"classes": tmp_path / "classes.txt"}))
        assert [(one.split, one.label, one.read()) for one in source.samples()] == [
            (split, i % 3, JPEG[i])
            for split, count in (("train", 6), ("val", 3))
            for i in range(count)
        ]
        assert (source.classes, source.rule) == ([*names], "splits by the names of the tars")
        words = in_words(source)
        assert "read as WebDataset: 5 tars, 9 samples" in words
        assert "labels: whole numbers in cls, with names from classes.txt" in words
    assert read(tmp_path).name == tmp_path.name


def test_the_output_of_img2dataset_is_unlabelled_and_its_texts_are_asked_about(tmp_path):
    def shard(number: int, *captions: str) -> None:
        members = []
        for i, caption in enumerate(captions):
            key = f"{number:05}{i:04}"
            facts = {"url": "http://a/b.jpg", "key": key, "caption": caption, "status": "success"}
            members += [(f"{key}.jpg", JPEG[i]), (f"{key}.txt", caption.encode())]
            members += [(f"{key}.json", json.dumps(facts).encode())]
        pack(tmp_path / f"{number:05}.tar", *members)
        for name in (f"{number:05}.parquet", f"{number:05}_stats.json"):
            (tmp_path / name).write_text("{}")

    shard(0, "a dog runs", "two cats")
    shard(1, "a boat", "a hill")
    source = read(tmp_path)
    assert (source.label, {one.split for one in source.samples()}) == ("none", {"train"})
    words = "\n".join(in_words(source))
    assert "labels: none; txt is not read (--label txt takes it as the label); json holds" in words
    assert "json holds url, key, caption, status" in words
    assert "other files beside the tars: 4 (00000.parquet" in words
    assert Counter(one.split for one in read(tmp_path, split="val").samples()) == {"val": 4}
    assert read(tmp_path, label="txt").classes == ["a boat", "a dog runs", "a hill", "two cats"]
    shard(1, "a dog runs", "two cats")
    assert "--label txt or --label none" in refusal(tmp_path)
    assert read(tmp_path, label="txt").classes == ["a dog runs", "two cats"]
    assert read(tmp_path, label="none").classes == []


@pytest.mark.parametrize(
    ("facts", "classes", "labels"),
    [
        ([{"label": 7}, {"label": 3.0}, {"label": "07"}], ["3", "7"], [1, 0, 1]),
        ([{"label": "cat "}, {"label": "dog"}, {"label": "cat"}], ["cat", "dog"], [0, 1, 0]),
        (
            [{"labels": ["cat", "dog"]}, {"labels": []}, {"labels": ["cat"]}],
            None,
            [(0, 1), (), (0,)],
        ),
        ([{"class_name": "b", "w": 3}, {"class_name": "a"}, {"class_name": "b"}], None, [1, 0, 1]),
    ],
)
def test_a_label_in_json_is_a_number_a_name_or_several(tmp_path, facts, classes, labels):
    pack(tmp_path / "a.tar", *samples_of(*facts, field="json"))
    source = read(tmp_path)
    assert [one.label for one in source.samples()] == labels
    assert source.multi_label == isinstance(labels[0], tuple)
    assert classes is None or source.classes == classes


def test_names_in_cls_and_other_fields_are_labels_too(tmp_path):
    pack(tmp_path / "a.tar", *samples_of("dog", "cat", "dog"))
    assert [name for _, _, name in table(read(tmp_path))] == ["dog", "cat", "dog"]
    pack(tmp_path / "a.tar", *samples_of("3", "5", "3", field="species"))
    assert read(tmp_path).classes == []
    assert read(tmp_path, label="species").classes == ["3", "5"]
    pack(tmp_path / "a.tar", *samples_of({"kind": "x"}, {"kind": "y"}, field="json"))
    assert "--label json:NAME takes one" in "\n".join(in_words(read(tmp_path)))
    assert read(tmp_path, label="json:kind").classes == ["x", "y"]
    assert "a .json holds kind" in refusal(tmp_path, label="json:kinds")


def test_splits_come_from_folders_names_of_tars_or_folders_in_them(tmp_path):
    for first, split in enumerate(("Train", "validation")):
        pack(tmp_path / "one" / split / "0000.tar", *samples_of(0, 1, first=first))
    assert Counter(one.split for one in read(tmp_path / "one").samples()) == {"train": 2, "val": 2}
    members = [
        (f"{split}/{name}", data) for split in ("train", "test") for name, data in samples_of(0, 1)
    ]
    pack(tmp_path / "two" / "all.tar", *members)
    source = read(tmp_path / "two")
    assert source.rule == "splits by the folders in the tars"
    assert [one[:2] for one in table(source)] == [
        (f"all.tar/{split}/000{i}.jpg", split) for split in ("train", "test") for i in range(2)
    ]
    facts = [{"label": i % 2, "split": "test" if i > 2 else "train"} for i in range(5)]
    source = read(pack(tmp_path / "a-0.tar", *samples_of(*facts, field="json")))
    assert source.rule == "splits by json:split"
    assert Counter(one.split for one in source.samples()) == {"train": 3, "test": 2}
    pack(tmp_path / "three" / "a-0.tar", *samples_of(*range(8), *range(8)))
    source = read(tmp_path / "three")
    assert source.rule == HASH_SPLIT_RULE
    assert table(source) == table(read(tmp_path / "three", split="hash"))
    grouped = read(tmp_path / "three", group_by=r"/(\d\d\d)")
    assert len({one.split for one in grouped.samples()}) == 1 + (
        grouped.samples()[0].split != grouped.samples()[10].split
    )


def test_equal_keys_in_two_tars_are_two_images(tmp_path):
    for number in range(2):
        pack(tmp_path / f"a-{number}.tar", *samples_of(0, 1, first=number))
    source = read(tmp_path)
    assert len({one.key for one in source.samples()}) == 4
    note = "keys that are in several tars: 2, such as 0000; each is a sample of its own"
    assert note in in_words(source)
    shutil.copy(tmp_path / "a-0.tar", tmp_path / "a-2.tar")
    assert "a-2.tar: it holds the same samples as a-0.tar" in refusal(tmp_path)


# webdataset leaves the tars it has read open.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_names_with_folders_dots_and_capitals_are_read_as_webdataset_does(tmp_path):
    long = "x" * 160
    members = [
        ("./a/b/1.JPG", JPEG[0]),
        ("./a/b/1.CLS", b" 0\n"),
        ("a/b/2.jpg", JPEG[1]),
        ("a/b/2.cls", b"1"),
        (f"a/b/{long}.jpeg", JPEG[2]),
        (f"a/b/{long}.cls", b"0"),
    ]
    expected = {
        one["__key__"]
        for one in webdataset.WebDataset(
            str(pack(tmp_path / "a.tar", *members, format=tarfile.PAX_FORMAT)), shardshuffle=False
        )
    }
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        source = read(pack(tmp_path / "a.tar", *members, format=form))
        assert [one.read() for one in source.samples()] == JPEG[:3]
        assert [one.label for one in source.samples()] == [0, 1, 0]
    keys = [re.sub(r"^a\.tar/|\.\w*\.?jpe?g$", "", one.origin) for one in source.samples()]
    assert {key.removeprefix("./") for key in expected} == {*keys}


def test_what_is_no_sample_is_set_aside_and_counted(tmp_path):
    members = [
        *samples_of(0, 1),
        ("._0000.jpg", b"mac"),
        ("__MACOSX/0000.jpg", b"mac"),
        ("README", b"hello"),
        ("__meta__/x.json", b"{}"),
        ("0100.txt", b"a text alone"),
        ("0101.jpg", "0000.jpg"),
    ]
    words = "\n".join(in_words(read(pack(tmp_path / "a.tar", *members))))
    assert "read as WebDataset: 1 tar, 2 samples" in words
    for line in (
        "hidden files in the tars: 2 (a.tar/._0000.jpg, a.tar/__MACOSX/0000.jpg)",
        "files without a field in their name: 1 (a.tar/README)",
        "webdataset's own files in the tars: 1",
        "samples without an image: 1 (a.tar/0100.txt)",
        "links in the tars: 1 (a.tar/0101.jpg)",
    ):
        assert f"set aside: {line}" in words


def test_links_to_one_tar_count_once(tmp_path):
    pack(tmp_path / "a-0.tar", *samples_of(0, 1))
    (tmp_path / "a-1.tar").symlink_to("a-0.tar")
    source = read(tmp_path)
    assert len(source.samples()) == 2
    assert "tars that are there already: 1 (a-1.tar is a-0.tar)" in "\n".join(in_words(source))
    (tmp_path / "a-1.tar").rename(tmp_path / "val.tar")
    (tmp_path / "a-0.tar").rename(tmp_path / "train.tar")
    (tmp_path / "val.tar").unlink()
    (tmp_path / "val.tar").symlink_to("train.tar")
    assert "val.tar: is a link to train.tar, which is in another split" in refusal(tmp_path)
    assert len(read(tmp_path, split="train").samples()) == 2


def test_our_datasets_keep_keys_labels_boxes_and_licence(tmp_path):
    store = open_store(str(tmp_path))
    box = {"width": 24, "height": 16, "objects": [{"class": 1, "box": [1, 2, 3, 4], "crowd": 0}]}
    several = [sample(f"m{i}", JPEG[i], "train", (i % 2, 2), box) for i in range(3)]
    for name, images in (("one", labelled(6) + labelled(3, split="test")), ("two", several)):
        first = write(store, name, images, shard_bytes=4000)
        again = write_dataset(
            read(tmp_path / "datasets" / name), store, f"{name}-again", shard_bytes=4000
        )
        assert (again.classes, again.label, again.source) == (
            first.classes,
            first.label,
            first.source,
        )
        assert {s: v.class_counts for s, v in again.splits.items()} == {
            s: v.class_counts for s, v in first.splits.items()
        }
        for split in first.splits:
            pairs = zip(first.splits[split].shards, again.splits[split].shards, strict=True)
            assert all(one.sha256 == other.sha256 for one, other in pairs)
    replaced = write_dataset(read(tmp_path / "datasets/one"), store, "two", replace=True)
    assert replaced.folder
    assert len(read(tmp_path / "datasets/two").samples()) == 9
    next((tmp_path / "datasets/one/train").glob("*.tar")).unlink()
    assert "this shard is missing" in refusal(tmp_path / "datasets/one")
    # Without its manifest, its tars are those of anybody.
    shutil.copytree(tmp_path / "datasets/two-again/train", tmp_path / "moved/train")
    assert [one.label for one in read(tmp_path / "moved").samples()] == [
        one.label for one in read(tmp_path / "datasets/two-again").samples()
    ]


# What is asked about


@pytest.mark.parametrize(
    ("members", "asks", "answer"),
    [
        (
            [("0.left.jpg", JPEG[0]), ("0.right.jpg", JPEG[1])],
            "the sample 0 has 2 images: left.jpg, right.jpg.*--image left.jpg",
            {"image": "right"},
        ),
        (
            [("0.jpg", JPEG[1]), ("0.cls", b"1"), ("0.json", b'{"label": 2}')],
            "cls, json:label may hold the label.*--label cls or --label json:label or --label none",
            {"label": "none"},
        ),
        (
            [("0.jpg", JPEG[1]), ("0.json", b'{"label": 2, "class_name": "cat"}')],
            "json:label, json:class_name may hold",
            {"label": "none"},
        ),
        (
            [("cat/0.jpg", JPEG[1]), ("dog/0.jpg", JPEG[1])],
            r"lie in 2 folders \(cat, dog\): these may be classes.*--label none",
            {"label": "none"},
        ),
    ],
)
def test_two_readings_of_a_tar_are_asked_about(tmp_path, members, asks, answer):
    pack(tmp_path / "0.tar", *members)
    assert re.search(asks, refusal(tmp_path), re.DOTALL)
    assert JPEG[1] in [one.read() for one in read(tmp_path, **answer).samples()]


def test_names_that_may_be_labels_are_asked_about(tmp_path):
    pack(tmp_path / "0.tar", *samples_of({"species": "a"}, {"species": "b"}, field="json"))
    assert "say which is meant: --label json:species or --label none" in refusal(tmp_path)
    assert read(tmp_path, label="json:species").classes == ["a", "b"]
    pack(tmp_path / "0.tar", *samples_of("a", "b", field="class.txt"))
    assert read(tmp_path).classes == ["a", "b"]
    members = [
        (f"{split}/{name}", data) for split in ("train", "val") for name, data in samples_of(None)
    ]
    pack(tmp_path / "0.tar", *members)
    assert [split for _, split, _ in table(read(tmp_path))] == ["train", "val"]


def test_labels_that_say_the_same_twice_are_one(tmp_path):
    members = [("0.jpg", JPEG[0]), ("0.cls", b"1"), ("0.json", b'{"label": 1}')]
    pack(
        tmp_path / "0.tar",
        *members,
        ("1.jpg", JPEG[0]),
        ("1.cls", b"2"),
        ("1.json", b'{"label": 2}'),
    )
    assert "labels: whole numbers in cls" in in_words(read(tmp_path))


def test_doubtful_splits_and_folders_are_asked_about(tmp_path):
    pack(tmp_path / "a/train-0.tar", *samples_of(0, 1))
    pack(tmp_path / "a/extra-0.tar", *samples_of(0, 1, first=3))
    assert "do not, such as extra-0.tar" in refusal(tmp_path / "a")
    assert Counter(one.split for one in read(tmp_path / "a", split="val").samples()) == {"val": 4}
    pack(tmp_path / "b/train/val-0.tar", *samples_of(0, 1))
    assert "means several splits: train, val" in refusal(tmp_path / "b")
    pack(tmp_path / "train/0.tar", *samples_of(0, 1))
    assert "no tar names a split, but their folder may" in refusal(tmp_path / "train")
    assert "unknown split 'tran'" in refusal(tmp_path / "train", split="tran")
    for name in ("n01440764", "n01443537"):
        pack(tmp_path / f"c/{name}.tar", (f"{name}_1.jpg", JPEG[0]), (f"{name}_2.jpg", JPEG[1]))
    assert "2 tars have names of their own (n01440764, n01443537)" in refusal(tmp_path / "c")
    pack(tmp_path / "d/0.tar", *samples_of(None, None))
    (tmp_path / "d/labels.csv").touch()
    assert "labels.csv beside them may hold some" in refusal(tmp_path / "d")
    assert len(read(tmp_path / "d", label="none").samples()) == 2


def test_tars_beside_images_are_asked_about_unless_they_are_unpacked(tmp_path):
    pack(tmp_path / "train-0.tar", *samples_of(0, 1))
    (tmp_path / "assets").mkdir()
    for place in ("logo.png", "assets/logo.png"):
        (tmp_path / place).write_bytes(JPEG[0])
        what = f"it holds tars, such as train-0.tar, and images, such as {place}"
        assert what in refusal(tmp_path)
        (tmp_path / place).unlink()
    (tmp_path / "assets").rmdir()
    assert len(read(tmp_path).samples()) == 2
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        (tmp_path / "pets" / name / "0.jpg").write_bytes(JPEG[0])
    assert "say --layout" in refusal(tmp_path)
    (tmp_path / "train-0.tar").rename(tmp_path / "pets.tar")
    assert read(tmp_path).classes == ["cat", "dog"]


@pytest.mark.parametrize(
    ("labels", "field", "what"),
    [
        ((0, 1, None), "cls", "0002: no label, unlike others"),
        ((0, 1, "2 3"), "cls", "unknown label|several numbers"),
        ((0, 1, -3), "cls", "below zero"),
        (("Cat", "cat"), "cls", "look like one"),
        (("nan", "cat"), "cls", "as programs write no value"),
        ((4, 4, 4), "cls", "of one class, '4'"),
        (({"label": 1}, {"label": [2]}, {"label": {"a": 1}}), "json", "neither a name nor"),
        (({"label": 1}, {"label": nested(400)}), "json", "a list of other things"),
        (({"label": 1}, {"label": "\ud800"}), "json", "not UTF-8"),
    ],
)
def test_labels_that_contradict_are_refused(tmp_path, labels, field, what):
    pack(tmp_path / "0.tar", *samples_of(*labels, field=field))
    assert re.search(what, refusal(tmp_path)), refusal(tmp_path)


def test_classes_have_names_of_a_file_or_are_refused(tmp_path):
    pack(tmp_path / "train-0.tar", *samples_of(0, 1, 2))
    pack(tmp_path / "val-0.tar", *samples_of(0, 3))
    assert "unknown label '3': train has none" in refusal(tmp_path)
    names = tmp_path / "names.json"
    names.write_text('{"0": "a", "1": "b", "2": "c", "3": "d", "4": "e"}')
    source = read(tmp_path, classes=str(names))
    assert (source.classes, source.samples()[4].label) == (["a", "b", "c", "d", "e"], 3)
    (tmp_path / "classes.txt").write_text("a\nb\nc\n")
    assert "unknown label '3': there are 3 classes" in refusal(tmp_path)
    (tmp_path / "labels.txt").write_text("a\nb\nc\nd")
    assert "say which: --classes FILE" in refusal(tmp_path)
    names.write_text('{"a": 1, "b": 0, "c": 2, "d": 3}')
    assert read(tmp_path, classes=str(names)).classes == ["b", "a", "c", "d"]
    names.write_text("[1, 2")
    assert "it names no classes" in refusal(tmp_path, classes=str(names))
    assert "cannot be read" in refusal(tmp_path, classes=str(tmp_path / "none.txt"))
    assert "no labels to name" in refusal(tmp_path, classes=str(names), label="none")


def test_the_image_may_be_one_of_several_fields(tmp_path):
    members = [
        ("0.jpg", JPEG[0]),
        ("0.mask.png", JPEG[1]),
        ("1.png", JPEG[2]),
        ("1.mask.png", JPEG[3]),
    ]
    pack(tmp_path / "0.tar", *members, ("2.webp", JPEG[4]))
    assert "--image jpg" in refusal(tmp_path)
    assert [one.read() for one in read(tmp_path, image=".JPG;png").samples()] == [JPEG[0], JPEG[2]]
    source = read(tmp_path, image="mask")
    assert [one.read() for one in source.samples()] == [JPEG[1], JPEG[3]]
    assert "set aside: samples without mask: 1 (0.tar/2.webp)" in in_words(source)
    pack(tmp_path / "0.tar", ("0.jpg", JPEG[0]), ("1.mask.png", JPEG[1]))
    assert "in different fields: jpg, mask.png" in refusal(tmp_path)
    assert len(read(tmp_path, image="jpg;mask").samples()) == 2
    assert "no images in the tars (1); they hold samples without left: 2" in refusal(
        tmp_path, image="left"
    )


def test_dotted_names_are_not_taken_for_several_images(tmp_path):
    pack(tmp_path / "0.tar", ("day.1.jpg", JPEG[0]), ("day.2.jpg", JPEG[1]))
    assert "cuts names at the first dot" in refusal(tmp_path)


# Damage


def damaged(file: Path) -> dict[str, bytes]:
    sound = file.read_bytes()
    with tarfile.open(file) as archive:
        third = archive.getmembers()[2].offset
    garbage = bytearray(sound)
    garbage[third : third + 512] = b"\x07" * 512
    size = bytearray(sound)
    size[124:136] = b"00077777777\0"
    return {
        "garbage": bytes(garbage),
        "wrong-size": bytes(size),
        "cut-in-data": sound[:700],
        "cut-in-header": sound[: third + 200],
        "cut-at-header": sound[:third],
        "joined": sound + sound,
        "empty": b"",
        "gzip": gzip.compress(sound),
        "lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n",
        "page": b"<!DOCTYPE html><html></html>" * 40,
    }


def test_every_damage_of_every_tar_is_named_at_once(tmp_path):
    sound = pack(tmp_path / "sound.tar", *samples_of(0, 1, 2))
    for name, content in damaged(sound).items():
        (tmp_path / f"{name}.tar").write_bytes(content)
    text = refusal(tmp_path)
    assert "10 problems in the tars of" in text
    for name, what in (
        ("garbage", r"at byte \d,\d+: no header of a tar"),
        ("wrong-size", "at byte 0: no header of a tar"),
        ("cut-in-data", "0000.jpg does not end in it"),
        ("cut-in-header", r"at byte \d,\d+: it is cut off"),
        ("cut-at-header", r"at byte \d,\d+: it is cut off"),
        ("joined", "other content follows the end of the tar"),
        ("empty", "an empty file"),
        ("gzip", "a gzip file"),
        ("lfs", "a pointer of Git LFS"),
        ("page", "a page of a web server"),
    ):
        assert re.search(rf"/{name}\.tar: (at byte [\d,]+: )?.*{what}", text), (name, text)
    assert "sound.tar" not in text
    for fix in ("gunzip FILE", "git lfs pull", "get it again, or move it away"):
        assert fix in text


def test_compressed_tars_must_be_unpacked(tmp_path):
    for number in range(2):
        sound = pack(tmp_path / "0.tar", *samples_of(0, 1, first=number)).read_bytes()
        (tmp_path / f"{number}.tar.gz").write_bytes(gzip.compress(sound))
    (tmp_path / "0.tar").unlink()
    for where in (tmp_path, tmp_path / "{0..1}.tar.gz"):
        text = refusal(where)
        assert "2 problems in the tars" in text
        assert "gunzip FILE" in text
    # A single one is looked into: unpacked, samples would lose their labels.
    assert "gunzip -k" in refusal(tmp_path / "0.tar.gz")


def test_files_of_a_sample_that_are_twice_or_apart_are_named(tmp_path):
    image, label = ("0.jpg", JPEG[0]), ("0.cls", b"0")
    pack(tmp_path / "a-0.tar", image, label, ("1.jpg", JPEG[0]), ("0.txt", b"x"))
    pack(tmp_path / "a-1.tar", image, ("0.JPG", JPEG[1]), label)
    text = refusal(tmp_path)
    assert "a-0.tar: the files of 0 are in two places" in text
    assert "a-1.tar: 0.JPG is there twice" in text


def test_sources_that_name_no_tars_say_what_is_missing(tmp_path):
    pack(tmp_path / "a-0.tar", *samples_of(0, 1))
    text = refusal(f"{tmp_path}/a-{{0..3}}.tar")
    assert "3 problems in the tars" in text
    assert f"{tmp_path}/a-3.tar: there is no such file" in text
    assert "no list of tars" in refusal(f"{tmp_path}/a-{{0..1}}-{{x.tar}}}}")
    many = "::".join(f"{tmp_path}/{number:0200}.tar" for number in range(99))
    assert "99 problems in the tars" in refusal(many)
    assert "too many tars" in refusal(f"{tmp_path}/a-{{0..999999999}}.tar")
    assert "tars are not read by https:" in refusal("https://host/a-{0..1}.tar")
    assert "tars are not read by pipe:" in refusal("pipe:cat a.tar")
    pack(tmp_path / "none/0.tar", ("a.npy", b"1"))
    assert "no images in the tars (1); they hold samples without an image" in refusal(
        tmp_path / "none"
    )
    pack(tmp_path / "none/0.tar", ("a.raw", JPEG[0]), ("b.raw", JPEG[1]))
    assert [one.read() for one in read(tmp_path / "none", image="raw").samples()] == JPEG[:2]
    with pytest.raises(RequestError, match="names no tars"):
        read("openmoji/line", split="train")


# S3


def test_tars_on_s3_are_the_same_source(tmp_path, ceph, monkeypatch):
    for name, value in ceph.http.environment.items():
        monkeypatch.setenv(name, value)
    bucket = ceph.http.make_bucket()
    client = boto3.client("s3", endpoint_url=ceph.http.endpoint)
    for i in range(2):
        pack(tmp_path / f"train-{i}.tar", *samples_of(0, 1, 2, start=3 * i))
    (tmp_path / "classes.txt").write_text("a\nb\nc")
    for file in tmp_path.iterdir():
        client.upload_file(str(file), bucket, f"birds/{file.name}")
    here = read(tmp_path)
    for uri in (f"s3://{bucket}/birds/", f"s3://{bucket}/birds/train-{{0..1}}.tar"):
        there = read(
            uri, **({} if uri.endswith("/") else {"classes": str(tmp_path / "classes.txt")})
        )
        assert [one.read() for one in there.samples()] == [one.read() for one in here.samples()]
        assert (table(there), there.name) == (table(here), "birds")
    remote = open_store(f"s3://{bucket}/store")
    first = write_dataset(there, remote, "birds")
    ours = read(f"s3://{bucket}/store/datasets/birds")
    assert (ours.classes, len(ours.samples())) == ([*first.classes], 6)
    store = open_store(str(tmp_path / "store"))
    assert write_dataset(there, store, "birds", workers=2).images("train") == 6
    assert read_manifest(store, "birds").classes == ("a", "b", "c")
    assert "birds/train-2.tar: there is no such object" in refusal(
        f"s3://{bucket}/birds/train-{{1..2}}.tar"
    )
    assert "nothing is there" in refusal(f"s3://{bucket}/none")
    client.put_object(
        Bucket=bucket, Key="bad/a.tar", Body=damaged(tmp_path / "train-0.tar")["garbage"]
    )
    assert "no header of a tar" in refusal(f"s3://{bucket}/bad")
    client.close()
