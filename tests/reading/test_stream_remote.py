"""Streams from a real S3 server: the same batches as from a folder, whatever the network does."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from birds import SETTINGS, encoded, same, take, write
from faulty_proxy import Cut, Damage, Delay, Every, FaultyProxy, Refuse, Reset

from hpt_dist.errors import DataError, HptError
from hpt_dist.reading.damage import Replacements
from hpt_dist.reading.stream import Pool, Stream, open_split
from hpt_dist.store import Store, open_store

pytestmark = pytest.mark.services

IMAGES = 120
STEPS = 40  # of 8 images: more than two epochs
OPTIONS = SETTINGS | {"streams": 2, "window": 20}


@pytest.fixture(scope="module")
def expected(tmp_path_factory) -> list:
    store = open_store(str(tmp_path_factory.mktemp("local")))
    write_birds(store)
    with Stream(opened(store), **OPTIONS) as stream:
        return take(stream, STEPS)


def write_birds(store: Store) -> None:
    images = [encoded(number, "JPEG", (60, 50)) for number in range(IMAGES)]
    write(store, "birds", images, shard_bytes=60_000)


def opened(store: Store) -> Pool:
    return Pool([open_split(store, "birds", "train", cache_bytes=0)])


@pytest.fixture
def remote(ceph, monkeypatch, tmp_path) -> Store:
    """The same images on the S3 server, and a node cache of their size."""
    for name, value in ceph.http.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HPT_CACHE_GB", "1")
    store = open_store(f"s3://{ceph.http.make_bucket()}/hpt")
    write_birds(store)
    return store


@pytest.mark.parametrize("cache_gb", ["0", "1"])
def test_batches_are_those_of_a_folder(remote, expected, monkeypatch, cache_gb):
    monkeypatch.setenv("HPT_CACHE_GB", cache_gb)
    with Stream(opened(remote), **OPTIONS) as stream:
        assert all(map(same, expected, take(stream, STEPS)))
    with Stream(opened(remote), **OPTIONS) as stream:  # what is cached now changes nothing
        stream.load_state_dict({"step": 30})
        assert all(map(same, expected[30:], take(stream, STEPS - 30)))


@pytest.mark.parametrize("cache_gb", ["0", "1"])
def test_a_faulty_network_changes_nothing(remote, expected, ceph, monkeypatch, cache_gb):
    monkeypatch.setenv("HPT_CACHE_GB", cache_gb)
    often = 2 if cache_gb == "1" else 4  # whole shards need fewer requests than single images
    faults = [
        Every(5 * often, Refuse(503)),
        Every(7 * often, Refuse(500)),
        Every(9 * often, Cut(1500), "GET"),
        Every(11 * often, Reset()),
        Every(13 * often, Delay(0.1)),
        Every(61, Damage(), "GET"),
    ]
    with FaultyProxy(ceph.http.endpoint, faults) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.endpoint)
        with Stream(opened(remote), **OPTIONS) as stream:
            assert all(map(same, expected, take(stream, STEPS)))
    assert {"Refuse", "Cut", "Reset", "Delay"} <= set(proxy.made)
    assert cache_gb == "1" or proxy.made["Damage"]


def test_a_shard_that_changes_while_it_is_read_is_named(remote, monkeypatch):
    monkeypatch.setenv("HPT_CACHE_GB", "0")
    with Stream(opened(remote), **OPTIONS) as stream:
        take(stream, 8)  # from every shard
        for info in list(remote.list("datasets/birds/train/")):
            if info.path.endswith(".tar"):
                remote.put(info.path, b"x" * info.bytes)
        with pytest.raises(DataError, match=r"train-00000\d\.tar"):
            take(stream, STEPS)


@pytest.mark.parametrize("cache_gb", ["0", "1"])
@pytest.mark.parametrize("damage", ["cut", "altered", "missing"])
def test_a_damaged_shard_is_an_error_that_names_it(remote, monkeypatch, cache_gb, damage):
    monkeypatch.setenv("HPT_CACHE_GB", cache_gb)
    path = "datasets/birds/train/birds-train-000001.tar"
    tar = remote.get(path)
    if damage == "missing":
        remote.delete(path)
    else:
        remote.put(path, tar[:-1000] if damage == "cut" else tar[:600] + bytes(len(tar) - 600))
    with (
        Stream(opened(remote), **OPTIONS, replacements=Replacements(2)) as stream,
        pytest.raises(HptError) as error,
    ):
        take(stream, STEPS)
    assert "birds-train-000001.tar" in str(error.value)


def test_the_node_cache_is_shared_and_holds_whole_shards(remote, expected, tmp_path, monkeypatch):
    with Stream(opened(remote), **OPTIONS) as stream:
        take(stream, STEPS)
    files = [path for path in Path(tmp_path / "cache").rglob("*") if path.stat().st_size > 10_000]
    pool = opened(remote)
    assert len(files) == len(pool.splits[0].shards)
    labels = pool.labels  # the indexes are small and are not kept on the disk
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")  # nobody listens
    assert [pool.label(i) for i in range(IMAGES)] == labels.tolist()
    assert all(pool.read(i) for i in range(IMAGES))


def test_a_server_that_is_killed_and_comes_back_is_not_noticed(remote, expected, ceph, monkeypatch):
    monkeypatch.setenv("HPT_CACHE_GB", "0")
    with Stream(opened(remote), **OPTIONS) as stream, ThreadPoolExecutor(1) as executor:
        got = take(stream, 10)
        ceph.kill_gateway()
        rest = executor.submit(take, stream, STEPS - 10)
        time.sleep(1.5)
        assert not rest.done()
        ceph.start_gateway()
        got += rest.result()
    assert all(map(same, expected, got))
