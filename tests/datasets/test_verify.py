from __future__ import annotations

import io
import json
import tarfile
import time
import zlib

import pytest
from pictures import encoded, labelled, picture, sample, write
from small import hpt

from hpt_dist.datasets.manifest import canonical_json, read_manifest, sha256
from hpt_dist.datasets.subset import Chooser, SubsetRule, write_subset
from hpt_dist.datasets.verify import strays, verify
from hpt_dist.store import open_store

TAR, INDEX = "train/birds-train-000000.tar", "train/birds-train-000000.index.json"
FOLDER = "datasets/birds"


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path))


def rewritten(store, change_tar=None, change_index=None) -> None:
    """Change the first shard, and let the manifest have its new digests."""
    document = json.loads(store.get(f"{FOLDER}/manifest.json"))
    shard = document["splits"]["train"]["shards"][0]
    if change_tar:
        store.put(f"{FOLDER}/{TAR}", data := change_tar(store.get(f"{FOLDER}/{TAR}")))
        shard |= {"sha256": sha256(data), "bytes": len(data)}
    if change_index:
        index = json.loads(store.get(f"{FOLDER}/{INDEX}"))
        change_index(index)
        store.put(f"{FOLDER}/{INDEX}", data := canonical_json(index))
        shard["index_sha256"] = sha256(data)
    store.put(f"{FOLDER}/manifest.json", canonical_json(document))


def printed(store) -> str:
    return "\n".join(map(str, verify(store, "birds")))


def changed_member(extension: str, new: bytes):
    """Return a change of a tar that overwrites the first member of a kind in its place."""

    def change(data: bytes) -> bytes:
        start = start_of(data, extension)
        return data[:start] + new + data[start + len(new) :]

    return change


def without_the_first_label(data: bytes) -> bytes:
    start = start_of(data, ".cls")
    return data[: start - 512] + data[start + 512 :]


def start_of(data: bytes, extension: str) -> int:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return next(one.offset_data for one in archive if one.name.endswith(extension))


def test_sound_datasets_of_every_kind_of_label(store):
    data = encoded(picture(0, (20, 20)))
    facts = {"width": 20, "height": 20, "objects": [{"class": 0, "box": [1, 1, 5, 5]}]}
    write(store, "birds", labelled(20) + labelled(5, split="test"), shard_bytes=5_000)
    write(store, "bare", labelled(20, classes=0), classes="")
    write(store, "boxes", [sample(f"x{i}", data, "train", i, facts) for i in range(3)])
    several = [(), (0, 2), (1,)]
    write(store, "many", [sample(f"x{i}", data, "train", several[i], facts) for i in range(3)])
    for name, count in [("birds", 25), ("bare", 20), ("boxes", 3), ("many", 3)]:
        seen = []
        assert verify(store, name, lambda *reported: seen.append(reported)) == []  # noqa: B023
        assert seen[-1] == (count, count)
        assert strays(store, name) == []


@pytest.mark.services
def test_a_dataset_on_s3(ceph, monkeypatch):
    for name, value in ceph.https.environment.items():
        monkeypatch.setenv(name, value)
    store = open_store(f"s3://{ceph.https.make_bucket()}/hpt")
    write(store, "birds", labelled(20), shard_bytes=5_000)
    assert verify(store, "birds") == []
    store.put(f"{FOLDER}/{TAR}", store.get(f"{FOLDER}/{TAR}")[:-512])
    assert "and so does its size" in printed(store)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (changed_member(".png", b"\x00"), "is damaged: its CRC-32 differs from that in the index"),
        (changed_member(".cls", b"9"), "says label 9; the index"),
        (changed_member(".cls", b"x"), "says label -1; the index"),
        (without_the_first_label, "is not where the index says"),
        (lambda data: data[: 512 * 4], "of the index is not in it"),
        (lambda data: b"x" * len(data), "not a sound tar"),
    ],
)
def test_a_tar_that_is_not_as_its_index_says(store, change, words):
    """Even where all digests are right."""
    write(store, "birds", labelled(20))
    rewritten(store, change_tar=change)
    problems = printed(store)
    assert words in problems
    assert TAR in problems
    assert "SHA-256" not in problems


def test_members_that_the_index_does_not_know(store):
    write(store, "birds", labelled(20))
    gone = []

    def change(index):
        gone.append(index["keys"][0])
        for column in index.values():
            del column[0]

    rewritten(store, change_index=change)
    problems = printed(store)
    assert f"{gone[0]}.png belongs to no image of the index" in problems
    assert "19 images are in it; the manifest says 20" in problems
    assert "its shards hold 19 images; the manifest says 20" in problems
    assert "class counts other than the manifest's in 1 classes: " in problems


def test_labels_out_of_range_and_of_another_kind(store):
    write(store, "birds", labelled(20))

    def change(index):
        index["labels"][0] = 3
        index["labels"][1] = [0, 1]

    rewritten(store, change_index=change)
    assert "is 3\n  allowed: ids of 3 classes, label kind single" in printed(store)
    assert "is (0, 1)\n" in printed(store)


def test_all_problems_are_listed(store):
    write(store, "birds", labelled(60), shard_bytes=5_000)
    shards = read_manifest(store, "birds").splits["train"].shards
    assert len(shards) > 4
    store.delete(f"{FOLDER}/{shards[0].path}")
    store.delete(f"{FOLDER}/{shards[1].index}")
    for shard, byte in ((shards[2], 600), (shards[3], 700)):
        data = bytearray(store.get(f"{FOLDER}/{shard.path}"))
        data[byte] ^= 1
        store.put(f"{FOLDER}/{shard.path}", data)
    problems = verify(store, "birds")
    text = "\n".join(map(str, problems))
    assert [problem.what for problem in problems].count("missing") == 2
    assert text.count("its SHA-256 differs from that in the manifest") == 2
    assert text.count("is damaged: its CRC-32") == 2
    assert all(shard.path.removesuffix(".tar") in text for shard in shards[:4])


def test_subsets_are_checked_and_strangers_noted(store):
    manifest = write(store, "birds", labelled(20))
    chooser = Chooser(store, manifest, "train")
    write_subset(store, "birds", chooser.choose("five", SubsetRule("labels", 5)))
    write(store, "birds/photos", labelled(4))  # a dataset below another one
    assert verify(store, "birds") == []
    assert strays(store, "birds") == []
    store.put(f"{FOLDER}/notes.txt", b"x")
    store.put(f"{FOLDER}/train/old.tar", b"x")
    assert strays(store, "birds") == ["notes.txt", "train/old.tar"]
    write(store, "birds", labelled(21), replace=True)
    [problem] = verify(store, "birds")
    assert "another version of birds" in problem.what


def test_the_command(store, tmp_path):
    write(store, "birds", labelled(20))
    uri = f"{tmp_path}/{FOLDER}"
    store.put(f"{FOLDER}/notes.txt", b"x")
    text = hpt("data", "verify", uri, store="")
    assert "all digests, counts and labels are correct" in text
    assert "note: notes.txt belongs to no shard" in text
    store.delete(f"{FOLDER}/{INDEX}")
    text = hpt("data", "verify", uri, store="", code=1)
    assert f"{INDEX}: missing" in text
    assert "1 problem" in text


def test_show_prints_what_is_in_the_manifest(store, tmp_path):
    bad = sample("bad", b"no image", "train", 0)
    classes = [f"bird {number}" for number in range(12)]
    manifest = write(store, "birds", [*labelled(40, classes=12), bad], classes=classes)
    text = hpt("data", "show", f"{tmp_path}/{FOLDER}", store="")
    assert f"birds  digest {manifest.digest[:12]}" in text
    assert "one class per image, 12 classes; metric top1" in text
    assert "licence: not stated; credit: not stated" in text
    assert "most bird 0 4, bird 1 4," in text
    assert text.splitlines()[-2] == "left out: 1 of 41 images"
    assert "bad: none of the formats" in text
    reported = json.loads(hpt("data", "show", f"{tmp_path}/{FOLDER}", "--json", store=""))
    assert reported["digest"] == manifest.digest
    assert reported["splits"]["train"]["images"] == 40


def test_a_manifest_of_100_000_shards_opens_in_a_moment(store, tmp_path):
    """Against what Python itself takes to parse the JSON."""
    write(store, "birds", labelled(20))
    path = f"{FOLDER}/manifest.json"
    document = json.loads(store.get(path))
    shard = document["splits"]["train"]["shards"][0]
    document["splits"]["train"]["shards"] = [
        shard | {"path": f"train/x-{i:06}.tar", "sha256": f"{zlib.crc32(b'%d' % i):064x}"}
        for i in range(100_000)
    ]
    document["splits"]["train"]["images"] = 2_000_000
    store.put(path, data := canonical_json(document))
    began_s = time.process_time()
    json.loads(data)
    parsed_s = time.process_time()
    assert len(read_manifest(store, "birds").splits["train"].shards) == 100_000
    opened_s = time.process_time()
    assert "100,000" in hpt("data", "show", f"{tmp_path}/{FOLDER}", store="")
    shown_s = time.process_time()
    # 1.6 to 2.2 times, and about as long again to show it.
    assert opened_s - parsed_s < 8 * (parsed_s - began_s)
    assert shown_s - opened_s < 20 * (parsed_s - began_s)


def test_a_stray_file_among_the_subsets_is_no_fault(tmp_path):
    opened = open_store(str(tmp_path))
    write(opened, "toy", labelled(3))
    opened.put("datasets/toy/subsets/README.txt", b"mine")
    assert verify(opened, "toy") == []
    assert strays(opened, "toy") == ["subsets/README.txt"]
