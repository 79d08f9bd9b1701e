"""A store that is away is an error, and nothing is made anew in its place."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from services import S3Server

from hpt_dist.errors import RequestError, StoreAwayError, StoreError
from hpt_dist.store import FolderStore, Store, lease, marker, open_store, presence

LEASE = "stages/key/lease.json"


@pytest.fixture(params=["folder", pytest.param("seaweedfs", marks=pytest.mark.services)])
def new(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store that nobody has written to."""
    if request.param == "folder":
        return open_store(str(tmp_path / "store"))
    server: S3Server = request.getfixturevalue("seaweedfs")
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return open_store(f"s3://{server.make_bucket()}/some/prefix")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "PATIENCE_S", 0.3)


def test_a_command_makes_a_new_store_and_a_job_does_not(new: Store) -> None:
    assert marker.is_new(new)
    with pytest.raises(StoreError, match="there is no store") as caught:
        marker.existing(new)
    # A folder may be mounted again; a bucket that answers has no store.
    assert isinstance(caught.value, StoreAwayError) == (new.folder is not None)
    assert list(new.list()) == []
    begun = marker.begin(new)
    assert not marker.is_new(new)
    assert [info.path for info in new.list()] == [marker.MARKER]
    assert begun == marker.existing(new) == marker.begin(new)
    begun.at("stages/key").put("spec.json", b"{}")
    assert new.get("stages/key/spec.json") == b"{}"


@pytest.mark.parametrize("part", ["launches", "stages", "datasets", "sharding"])
def test_a_store_of_before_has_content_and_gets_a_marker_from_a_command(
    new: Store, part: str
) -> None:
    new.put(f"{part}/some/object", b"1")
    assert not marker.is_new(new)
    marker.existing(new).put("stages/key/spec.json", b"{}")
    assert new.stat(marker.MARKER) is None
    marker.begin(new)
    assert new.stat(marker.MARKER)


def test_an_empty_folder_is_no_store_for_a_job(root: Path) -> None:
    (root / "work").mkdir(parents=True)
    with pytest.raises(StoreError, match="there is no store"):
        marker.existing(FolderStore(root))
    assert [path.name for path in root.iterdir()] == ["work"]


def test_a_folder_in_the_place_of_the_marker_is_named_with_a_way_out(root: Path) -> None:
    (root / "STORE").mkdir(parents=True)
    with pytest.raises(StoreError, match="Is a directory") as raised:
        marker.begin(FolderStore(root))
    assert "move that folder away" in raised.value.problem.fix


def uses(store: Store) -> list:
    """Return everything that can be done with a store."""
    return [
        lambda: store.put("stages/key/new.json", b"1"),
        lambda: store.swap(LEASE, b"1", None),
        lambda: store.get("stages/key/spec.json"),
        lambda: store.stat("stages/key/spec.json"),
        lambda: store.stat("stages/key/DONE"),
        lambda: store.delete("stages/key/spec.json"),
        lambda: list(store.list("stages/")),
    ]


@pytest.mark.parametrize("leaves", ["nothing", "an empty folder", "another's files"])
def test_a_store_that_is_away_is_an_error_and_is_not_made_anew(
    root: Path, leaves: str, impatient: None
) -> None:
    store = marker.begin(FolderStore(root))
    store.put("stages/key/spec.json", b"{}")
    root.rename(root.with_name("away"))
    if leaves != "nothing":
        root.mkdir()
    if leaves == "another's files":
        (root / "lost+found").mkdir()
    there = sorted(root.rglob("*"))
    for use in uses(store):
        with pytest.raises(StoreError, match="the store is gone") as raised:
            use()
        assert raised.value.problem.where == str(root)
    assert root.exists() is (leaves != "nothing")
    assert sorted(root.rglob("*")) == there
    for path in there:
        path.rmdir()
    if leaves != "nothing":
        root.rmdir()
    root.with_name("away").rename(root)
    for use in uses(store):
        use()


def test_the_patience_with_a_store_can_be_chosen(root: Path, monkeypatch) -> None:
    store = marker.begin(FolderStore(root))
    root.rename(root.with_name("away"))
    monkeypatch.setenv("HPT_STORE_PATIENCE_S", "0.1")
    with pytest.raises(StoreAwayError, match="the store is gone"):
        store.put("a", b"1")
    monkeypatch.setenv("HPT_STORE_PATIENCE_S", "long")
    with pytest.raises(RequestError, match="HPT_STORE_PATIENCE_S"):
        store.put("a", b"1")


def test_a_store_of_before_that_is_away_is_an_error_too(root: Path, impatient: None) -> None:
    FolderStore(root).put("stages/key/spec.json", b"{}")
    store = marker.existing(FolderStore(root))
    root.rename(root.with_name("away"))
    with pytest.raises(StoreError, match="the store is gone"):
        store.put("stages/key/new.json", b"1")
    assert not root.exists()


@pytest.mark.parametrize("number", range(7))
def test_whoever_uses_a_store_waits_while_it_is_away_for_a_moment(root: Path, number: int) -> None:
    store = marker.begin(FolderStore(root))
    store.put("stages/key/spec.json", b"{}")
    root.rename(root.with_name("away"))
    back = threading.Timer(0.1, root.with_name("away").rename, [root])
    back.start()
    uses(store)[number]()
    back.join()
    assert not root.with_name("away").exists()


def test_a_lease_outlives_a_moment_without_its_store(root: Path) -> None:
    store = marker.begin(FolderStore(root))
    with lease.hold(store, LEASE) as held:
        root.rename(root.with_name("away"))
        back = threading.Timer(0.1, root.with_name("away").rename, [root])
        back.start()
        held.check()
        back.join()
    assert store.stat(LEASE) is None


def test_nobody_is_blamed_for_a_lease_that_is_gone_with_its_store(
    root: Path, impatient: None
) -> None:
    store = marker.begin(FolderStore(root))
    with lease.hold(store, LEASE) as held:
        root.rename(root.with_name("away"))
        with pytest.raises(StoreError, match="the store is gone"):
            held.check()
        assert not held.is_lost
        assert not root.exists()


def test_nobody_is_blamed_for_a_lease_that_was_deleted(new: Store) -> None:
    with lease.hold(new, LEASE) as held:
        new.delete(LEASE)
        with pytest.raises(lease.LeaseLostError, match="was deleted, or another process"):
            held.check()
        assert new.stat(LEASE) is None
