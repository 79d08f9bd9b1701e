"""Features that trials share: whole or absent, whoever else writes, and never a reason to fail."""

from __future__ import annotations

import json

import pytest

from hpt_dist.store import features as shared
from hpt_dist.store import open_store

OF = {"backbone": "b", "size": 32}


@pytest.fixture(params=["folder", pytest.param("seaweedfs", marks=pytest.mark.services)])
def store(request, tmp_path, monkeypatch):
    if request.param == "folder":
        return open_store(str(tmp_path))
    server = request.getfixturevalue("seaweedfs")
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return open_store(f"s3://{server.make_bucket()}/hpt")


class Late:
    """A store whose user looked before another one had finished."""

    def __init__(self, store):
        self._store = store

    def __getattr__(self, name):
        return getattr(self._store, name)

    def at(self, prefix):
        return Late(self._store.at(prefix))

    def stat(self, path):
        return None if path == "DONE" else self._store.stat(path)


def objects(store):
    return {info.path.rpartition("/")[2] for info in store.list("features/")}


def test_the_first_to_finish_shares_its_features(store):
    assert shared.find(store, OF) is None
    shared.commit(store, OF, b"of one machine")
    assert shared.find(store, OF) == b"of one machine"
    kept = objects(store)
    shared.commit(Late(store), OF, b"of another")
    assert shared.find(store, OF) == b"of one machine"
    assert objects(store) == kept
    assert len(kept) == 2
    assert shared.find(store, OF | {"size": 64}) is None


def test_what_is_damaged_is_absent_and_replaced(store, caplog):
    shared.commit(store, OF, b"features")
    root = store.at(f"features/{shared.key_of(OF)}")
    name = json.loads(root.get("DONE"))["name"]
    for path, damage in ((name, b"featureS"), ("DONE", b"{"), ("DONE", b""), (name, None)):
        root.put(path, damage) if damage is not None else root.delete(path)
        assert shared.find(store, OF) is None
        shared.commit(store, OF, b"features")
        assert shared.find(store, OF) == b"features"
    assert caplog.text.count("features are computed again") == 4


def test_a_store_that_refuses_features_costs_time_alone(tmp_path, caplog):
    store = open_store(str(tmp_path))
    (tmp_path / "features").write_text("a file in the place of the folder")
    shared.commit(store, OF, b"x")
    assert "features are not shared" in caplog.text
    assert shared.find(store, OF) is None
