"""Mutated shards, indexes and manifests, as somebody else may have written them."""

from __future__ import annotations

import shutil

import mutations
import pytest
from hostile import Attempts, count
from pictures import encoded, picture, sample, write

from hpt_dist.datasets.manifest import read_manifest
from hpt_dist.datasets.preview import preview
from hpt_dist.datasets.verify import strays, verify
from hpt_dist.store import open_store

BOX = {"class": 0, "box": [2, 2, 10, 10]}


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A dataset with boxes, which nobody changes."""
    folder = tmp_path_factory.mktemp("sound")
    samples = [
        sample(
            f"s-{number}",
            encoded(picture(number, (24, 16)), "PNG"),
            "train",
            (number % 3,),
            {"width": 24, "height": 16, "objects": [BOX]},
        )
        for number in range(6)
    ]
    write(open_store(str(folder)), "boxes", samples)
    return folder


def looked(store) -> None:
    manifest = read_manifest(store, "boxes")
    assert len(preview(store, manifest, "train", 4).png()) > 0


def checked(store) -> None:
    for problem in verify(store, "boxes"):
        assert problem.where or "boxes" in problem.what, problem
    strays(store, "boxes")


def test_mutated_shards_indexes_and_manifests(request, sound, tmp_path):
    store = open_store(str(tmp_path))
    with Attempts(r"boxes") as attempt:
        for number in range(count(request, 200)):
            numbers = mutations.generator("shard", number)
            shutil.rmtree(tmp_path / "datasets", ignore_errors=True)
            shutil.copytree(sound / "datasets", tmp_path / "datasets")
            files = sorted(p for p in (tmp_path / "datasets").rglob("*") if p.is_file())
            path = numbers.choice(files)
            change = mutations.data if path.suffix == ".tar" else _text
            given = change(path.read_bytes(), numbers)
            path.write_bytes(given)
            attempt(lambda: checked(store), given)
            attempt(lambda: looked(store), given)


def _text(original: bytes, numbers) -> bytes:
    return mutations.text(original.decode(), numbers)
