from __future__ import annotations

import csv
import io
import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pictures import encoded, picture, sample, write
from PIL import Image, ImageEnhance
from small import environment, hpt

from hpt_dist.cli.main import app
from hpt_dist.datasets import inventory, leaks
from hpt_dist.datasets.inventory import SplitName, StoredDataset
from hpt_dist.datasets.leaks import find
from hpt_dist.datasets.manifest import read_manifest
from hpt_dist.errors import DataError, RequestError
from hpt_dist.images import lookalikes
from hpt_dist.store import open_store

MASK = 2**64 - 1


def close_by_all_pairs(words, distance: int) -> list[tuple[int, int]]:
    values = words.tolist()
    return [
        (i, j)
        for i in range(len(values))
        for j in range(i + 1, len(values))
        if (values[i] ^ values[j]).bit_count() <= distance
    ]


@given(
    st.lists(st.integers(0, MASK), max_size=12),
    st.lists(st.tuples(st.integers(0, 11), st.lists(st.integers(0, 63), max_size=10)), max_size=30),
    st.integers(0, 12),
)
def test_matching_finds_all_pairs_and_no_other(words, flips, distance):
    """Random words and such as differ from them in a few bits, against comparing all pairs."""
    everything = set(words)
    for number, bits in flips:
        if number < len(words):
            everything.add(words[number] ^ sum(1 << bit for bit in set(bits)))
    values = np.array(sorted(everything), np.uint64)
    pairs = zip(*(side.tolist() for side in lookalikes.near_pairs(values, distance)), strict=True)
    assert list(pairs) == close_by_all_pairs(values, distance)


@pytest.mark.parametrize("count", [10**3, 10**6, 10**8])
@pytest.mark.parametrize("distance", [1, 4, 12])
def test_any_few_bits_leave_one_set_of_blocks_whole(count, distance):
    """Whatever blocks are chosen for a number of hashes: pigeons and holes, on random flips."""
    masks = [int(mask) for mask in lookalikes._masks(distance, count)]
    rng = np.random.default_rng(0)
    for _ in range(2000):
        flipped = sum(1 << int(bit) for bit in rng.choice(64, distance, replace=False))
        assert any(flipped & mask == 0 for mask in masks)


def hash_of(data: bytes) -> int:
    return int(lookalikes.hashes(lookalikes.greys(data)[None])[0])


def copies(image: Image.Image) -> dict[str, bytes]:
    turned = image.transpose(Image.Transpose.ROTATE_90)
    exif = turned.getexif()
    exif[0x0112] = 6  # shown after a quarter turn, which turns it back
    return {
        "recompressed": encoded(image, quality=40),
        "smaller": encoded(image.resize((80, 60), Image.Resampling.BILINEAR)),
        "larger": encoded(image.resize((640, 480), Image.Resampling.BICUBIC)),
        "squashed": encoded(image.resize((128, 128), Image.Resampling.BILINEAR)),
        "brighter": encoded(ImageEnhance.Brightness(image).enhance(1.1)),
        "grey": encoded(image.convert("L")),
        "png": encoded(image, "PNG"),
        "turned by EXIF": encoded(turned, quality=90, exif=exif),
    }


def test_copies_are_near_and_others_are_far():
    originals = [picture(number) for number in range(30)]
    words = [hash_of(encoded(image, quality=90)) for image in originals]
    near = [
        (words[number] ^ hash_of(data)).bit_count()
        for number, image in enumerate(originals)
        for data in copies(image).values()
    ]
    assert np.mean(np.array(near) <= lookalikes.DISTANCE) > 0.95
    assert max(near) <= 8
    far = [(a ^ b).bit_count() for i, a in enumerate(words) for b in words[:i]]
    assert min(far) > 10


def test_the_hash_is_the_signs_of_low_frequencies():
    """Against the transform by its definition, in one go for each frequency."""
    grey = lookalikes.greys(encoded(picture(1)))
    places = np.pi / 32 * (np.arange(32) + 0.5)
    low = np.array(
        [
            [(grey * np.outer(np.cos(v * places), np.cos(u * places))).sum() for u in range(8)]
            for v in range(8)
        ]
    )
    signs = "".join("1" if value > np.median(low) else "0" for value in low.ravel())
    assert int(lookalikes.hashes(grey[None])[0]) == int(signs, 2)


def two_datasets(store) -> tuple[StoredDataset, StoredDataset]:
    """A pool, and a target some of whose test and val images are in it."""
    shots = [picture(number) for number in range(12)]
    raw = [encoded(shot, quality=90) for shot in shots]
    blank = Image.new("RGB", (40, 40), "white")
    pool = [sample(f"p{i}", data, "train", None) for i, data in enumerate(raw[:8])]
    pool += [sample("blank", encoded(blank, "PNG"), "train", None)]
    target = [
        sample("same", raw[0], "test", 0),
        sample("small", copies(shots[1])["smaller"], "test", 1),
        sample("val", raw[2], "val", 1),
        sample("again", raw[8], "train", 1),
        sample("again2", raw[8], "train", 1),
        sample("trained", raw[3], "train", 2),
        sample("new", raw[9], "test", 2),
        sample("empty", encoded(blank.resize((50, 50)), "PNG"), "test", 2),
    ]
    for name, samples, classes in [("pool", pool, ""), ("target", target, "abc")]:
        write(store, name, samples, classes=classes, shard_bytes=10_000)
    return tuple(StoredDataset(store, read_manifest(store, name)) for name in ("pool", "target"))


POOL, TRAIN = SplitName("pool", "train"), SplitName("target", "train")
VAL, TEST = SplitName("target", "val"), SplitName("target", "test")


def simple(pairs) -> set:
    return {(pair.kind, pair.a, pair.a_key, pair.b, pair.b_key) for pair in pairs}


LEAKS = {
    ("exact", POOL, "p0", TEST, "same"),
    ("near", POOL, "p1", TEST, "small"),
    ("exact", POOL, "p2", VAL, "val"),
}
OTHERS = {
    ("exact", TRAIN, "again", TRAIN, "again2"),
    ("exact", POOL, "p3", TRAIN, "trained"),
}


def test_leaks_and_other_copies_are_found(tmp_path):
    pool, target = two_datasets(open_store(str(tmp_path)))
    found = find([pool, target])
    assert simple(found.leaks) == LEAKS
    assert simple(found.pairs) == LEAKS | OTHERS
    assert (found.images, found.flat) == (17, 2)
    assert found.leave_out() == [(POOL, "p0"), (POOL, "p1"), (POOL, "p2")]
    kinds = [(a, b, kind) for a, b, kind in found.groups()]
    assert kinds[:3] == [(POOL, TEST, "exact"), (POOL, TEST, "near"), (POOL, VAL, "exact")]
    across = find([pool], [target])
    assert simple(across.pairs) == LEAKS | {("exact", POOL, "p3", TRAIN, "trained")}
    exact = find([pool, target], distance=None)
    assert simple(exact.pairs) == {one for one in LEAKS | OTHERS if one[0] == "exact"}


def test_workers_find_the_same(tmp_path, monkeypatch):
    pool, target = two_datasets(open_store(str(tmp_path)))
    monkeypatch.setattr(inventory, "_PARTS_A_WORKER", 1)
    monkeypatch.setattr(inventory, "_PART_IMAGES", 2)
    seen = []
    found = find([pool, target], workers=2, progress=lambda *reported: seen.append(reported))
    assert found == find([pool, target])
    assert seen[-1] == ("hash images", 13, 13)  # of 17 images 4 are copies


@pytest.mark.services
def test_leaks_are_found_on_s3(ceph, monkeypatch):
    for name, value in ceph.https.environment.items():
        monkeypatch.setenv(name, value)
    pool, target = two_datasets(open_store(f"s3://{ceph.https.make_bucket()}/hpt"))
    assert simple(find([pool], [target]).leaks) == LEAKS


def test_every_image_of_many_copies_is_in_a_pair_but_not_in_all(tmp_path):
    data, other = encoded(picture(0)), encoded(picture(0), quality=50)
    samples = [sample(f"a{i}", data, "train", 0) for i in range(30)]
    samples += [sample(f"n{i}", other, "train", 0) for i in range(5)]
    samples += [sample(f"t{i}", data, "test", 0) for i in range(20)]
    store = open_store(str(tmp_path))
    found = find([StoredDataset(store, write(store, "many", samples, classes="a"))])
    assert {key for _, key in found.leave_out()} == {one.key for one in samples[:35]}
    assert {pair.b_key for pair in found.leaks} == {one.key for one in samples[35:]}
    assert len(found.pairs) < 200  # of 1,485


def test_what_cannot_be_compared_is_named(tmp_path, monkeypatch):
    store = open_store(str(tmp_path))
    pool, target = two_datasets(store)
    with pytest.raises(RequestError, match="named twice"):
        find([pool], [pool])
    monkeypatch.setattr(leaks, "MAX_PAIRS", 3)
    with pytest.raises(DataError, match="more than 3 pairs"):
        find([pool, target])
    path = f"datasets/pool/{pool.manifest.splits['train'].shards[0].path}"
    shard = bytearray(store.get(path))
    shard[600] ^= 1
    store.put(path, shard)
    with pytest.raises(DataError, match="its bytes are not those that were written") as error:
        find([pool])
    assert path in error.value.problem.where


def test_datasets_of_one_name_are_distinguished(tmp_path):
    first, second = (open_store(str(tmp_path / name)) for name in "ab")
    pool, _ = two_datasets(first)
    again, _ = two_datasets(second)
    found = find([pool], [again], distance=None)
    assert {str(pair.a) for pair in found.pairs} == {f"{tmp_path}/a/datasets/pool/train"}


def test_the_command(tmp_path, capsys):
    two_datasets(open_store(str(tmp_path)))
    pool, target = (f"{tmp_path}/datasets/{name}" for name in ("pool", "target"))
    listed = tmp_path / "out" / "leave-out.csv"
    command = ["data", "leaks", pool, "--against", target]
    printed = hpt(*command, "--workers", "1", "--write-list", str(listed), store="", code=1)
    assert "3 images to leave out" in printed
    assert "2 are nearly blank" in printed
    rows = list(csv.DictReader(io.StringIO(listed.read_text())))
    assert [(row["dataset"], row["split"], row["key"]) for row in rows] == [
        ("pool", "train", f"p{i}") for i in range(3)
    ]
    arguments = [sys.executable, "-m", "hpt_dist", *command, "--json"]
    done = subprocess.run(arguments, capture_output=True, env=environment(""), text=True)
    reported = json.loads(done.stdout)
    assert done.returncode == 1
    assert [one["leak"] for one in reported["pairs"]].count(True) == reported["leaks"] == 3
    assert not app(["data", "leaks", pool, "--workers", "1"], standalone_mode=False)
    assert "no leaks" in capsys.readouterr().out
