"""What a reader holds on to, with a folder that is seen as a remote store.

`test_stream_remote.py` reads from a real S3 server.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from birds import encoded, write

from hpt_dist.datasets.manifest import read_manifest
from hpt_dist.reading.node_cache import NodeCache
from hpt_dist.reading.split import ReadableSplit
from hpt_dist.store import FolderStore, ObjectInfo, open_store


@dataclass(frozen=True)
class Remote(FolderStore):
    """A folder without local files, which sends one piece of a shard after the other."""

    piece_bytes: int = 1 << 20
    pause_s: float = 0.0
    sent: list[int] = field(default_factory=list)

    @property
    def folder(self) -> None:  # type: ignore[override]
        return None

    def local(self, path: str) -> None:  # type: ignore[override]
        return None

    def stream(self, info: ObjectInfo) -> Iterator[bytes]:
        for start in range(0, info.bytes, self.piece_bytes):
            time.sleep(self.pause_s)
            self.sent.append(start)
            yield self.get(info.path, start, self.piece_bytes)


def opened(tmp_path, limit_shards: int, **slowness) -> ReadableSplit:
    store = open_store(str(tmp_path / "store"))
    write(store, "birds", [encoded(n, "PNG", (60, 50)) for n in range(40)], shard_bytes=60_000)
    manifest = read_manifest(store, "birds")
    largest = max(shard.bytes for shard in manifest.splits["train"].shards)
    cache = NodeCache(tmp_path / "cache", limit_shards * largest)
    remote = Remote(tmp_path / "store" / "datasets" / "birds", **slowness)
    return ReadableSplit(remote, manifest, "train", cache_bytes=0, node_cache=cache)


def deleted_files() -> int:
    """Return how many files this process holds open that no folder has any more."""
    count = 0
    for descriptor in list(Path("/proc/self/fd").iterdir()):
        try:
            count += str(descriptor.readlink()).endswith("(deleted)")
        except FileNotFoundError:
            continue
    return count


def test_shards_that_the_cache_evicted_are_not_held_open(tmp_path):
    split = opened(tmp_path, limit_shards=2)
    assert len(split.shards) > 6
    before, held = deleted_files(), []
    for i in range(len(split)):
        split.prefetch([i])
        for download in list(split.reader._downloads.values()):
            download.result()
        split.read(i)
        held.append(deleted_files() - before)
    assert max(held) <= 2
    split.close()
    assert deleted_files() == before


def test_a_slow_download_is_waited_for_once_and_given_up_on_closing(tmp_path):
    split = opened(tmp_path, limit_shards=9, piece_bytes=1000, pause_s=0.2)  # 10 s a shard
    in_first = [i for i in range(len(split)) if split.locate(i)[0] == 0]
    assert len(in_first) > 3
    split.prefetch(in_first)
    while not any(download.running() for download in split.reader._downloads.values()):
        time.sleep(0.01)
    times_s = []
    for i in in_first:
        began = time.monotonic()
        assert split.read(i)
        times_s.append(time.monotonic() - began)
    assert times_s[0] > 2 * max(times_s[1:])  # were it waited for again, as long as the first time
    sent = split.reader._store.sent
    before = len(sent)
    assert before < 25
    split.close()
    assert len(sent) - before <= 1  # of fifty
    assert not [file for file in (tmp_path / "cache").iterdir() if file.name != "lock"]


@pytest.mark.parametrize("limit_shards", [1, 9])
def test_what_is_read_is_the_same_with_any_cache(tmp_path, limit_shards):
    split = opened(tmp_path, limit_shards)
    local = ReadableSplit(
        open_store(str(tmp_path / "store" / "datasets" / "birds")),
        read_manifest(open_store(str(tmp_path / "store")), "birds"),
        "train",
    )
    for i in range(len(split)):
        split.prefetch([i, (7 * i) % len(split)])
        assert split.read(i) == local.read(i)
    split.close()
