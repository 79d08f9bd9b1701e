"""Shards on a node's disk: each is downloaded once, is right, and all together stay bounded."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import mmap
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from counting_store import Counting
from faulty_proxy import Damage, Every, FaultyProxy
from services import S3Server

from hpt_dist.errors import DataError, RequestError, StoreError
from hpt_dist.reading import node_cache
from hpt_dist.reading.node_cache import NodeCache, default_cache
from hpt_dist.store import Store, open_store

MB = 1 << 20
SHARD_BYTES = 3 * MB + 77


@dataclass(frozen=True)
class Shards:
    """Some shards in a store."""

    store: Store
    notes: Path
    contents: dict[str, bytes]

    @property
    def counting(self) -> Counting:
        return Counting(self.store, self.notes)

    @property
    def downloads(self) -> list[str]:
        return sorted(self.notes.read_text().split()) if self.notes.exists() else []

    def fetch(self, cache: NodeCache, path: str) -> Path | None:
        content = self.contents[path]
        return cache.fetch(self.counting, path, len(content), sha(content))


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def make_shards(store: Store, notes: Path, count: int = 5) -> Shards:
    contents = {f"s{i}.tar": os.urandom(SHARD_BYTES) for i in range(count)}
    for path, content in contents.items():
        store.put(path, content)
    return Shards(store, notes, contents)


@pytest.fixture
def shards(tmp_path: Path) -> Shards:
    return make_shards(open_store(str(tmp_path / "store")), tmp_path / "notes")


@pytest.fixture
def cache(tmp_path: Path) -> NodeCache:
    return NodeCache(tmp_path / "cache", 100 * MB)


def files_of(cache: NodeCache) -> list[str]:
    return sorted(file.name for file in cache.folder.iterdir() if file.name != "lock")


# ------------------------------------------------------------------ what it promises


def test_a_shard_is_downloaded_once_and_is_right(shards: Shards, cache: NodeCache) -> None:
    for path, content in shards.contents.items():
        assert cache.path(sha(content)) is None
        for _ in range(2):
            assert shards.fetch(cache, path).read_bytes() == content
        assert cache.path(sha(content)).read_bytes() == content
    assert shards.downloads == sorted(shards.contents)
    assert files_of(cache) == sorted(sha(content) for content in shards.contents.values())


def test_a_folder_is_for_its_user_alone(tmp_path: Path) -> None:
    assert NodeCache(tmp_path / "new/er", 1).folder.stat().st_mode & 0o777 == 0o700


def test_files_that_are_no_shards_are_left_alone(shards: Shards, tmp_path: Path) -> None:
    folder = tmp_path / "scratch"
    (folder / "work").mkdir(parents=True)
    folder.chmod(0o755)
    for name in ("thesis.zip", "movie.part", "work/notes"):
        (folder / name).write_bytes(bytes(SHARD_BYTES))
    cache = NodeCache(folder, SHARD_BYTES + 1)
    for path in shards.contents:
        assert shards.fetch(cache, path) is not None
    assert all(
        (folder / name).stat().st_size == SHARD_BYTES for name in ("thesis.zip", "movie.part")
    )
    assert len([file for file in folder.iterdir() if len(file.name) == 64]) == 1
    assert folder.stat().st_mode & 0o777 == 0o755


FETCH_ALL = """
import hashlib, sys, random
from pathlib import Path
sys.path.insert(0, {tests!r})
from counting_store import Counting
from hpt_dist.reading.node_cache import NodeCache
from hpt_dist.store import open_store
seed, limit_bytes, shard_bytes, uri, notes, folder, *digests = sys.argv[1:]
cache = NodeCache(Path(folder), int(limit_bytes))
store = Counting(open_store(uri), Path(notes))
jobs = list(enumerate(digests)) * 3
random.Random(int(seed)).shuffle(jobs)
kept = 0
for number, digest in jobs:
    file = cache.fetch(store, f"s{{number}}.tar", int(shard_bytes), digest)
    try:
        data = file.read_bytes() if file else None
    except FileNotFoundError:  # evicted before it was opened
        continue
    if data is not None:
        kept += 1
        assert hashlib.sha256(data).hexdigest() == digest
print(kept)
"""


def fetch_all(shards: Shards, cache: NodeCache, seed: int) -> subprocess.Popen[str]:
    """Fetch every shard three times, in an order of its own, in another process."""
    code = FETCH_ALL.format(tests=str(Path(__file__).parents[1] / "fixtures"))
    digests = [sha(content) for content in shards.contents.values()]
    numbers = [seed, cache.limit_bytes, SHARD_BYTES]
    places = [shards.store.uri, str(shards.notes), str(cache.folder)]
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, numbers), *places, *digests],
        stdout=subprocess.PIPE,
        text=True,
    )


@contextlib.contextmanager
def stores(kind: str, request: pytest.FixtureRequest, folder: Path) -> Iterator[Store]:
    if kind == "folder":
        yield open_store(str(folder / "store"))
        return
    server: S3Server = request.getfixturevalue("ceph").http
    with pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        yield open_store(f"s3://{server.make_bucket()}")


@pytest.mark.parametrize("kind", ["folder", pytest.param("ceph", marks=pytest.mark.services)])
def test_processes_download_each_shard_once(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, cache: NodeCache
) -> None:
    with stores(kind, request, tmp_path) as store:
        shards = make_shards(store, tmp_path / "notes")
        with contextlib.ExitStack() as stack:
            processes = [stack.enter_context(fetch_all(shards, cache, i)) for i in range(4)]
            assert [int(process.communicate()[0]) for process in processes] == [15] * 4
    assert shards.downloads == sorted(shards.contents)
    assert len(files_of(cache)) == 5


def test_processes_hold_the_bound_together(shards: Shards, tmp_path: Path) -> None:
    """A watcher sees no more bytes than allowed, finished and under way."""
    cache = NodeCache(tmp_path / "cache", 2 * SHARD_BYTES + 1000)
    processes = [fetch_all(shards, cache, seed) for seed in range(3)]
    most_bytes = 0
    with (cache.folder / "lock").open() as lock:
        while any(process.poll() is None for process in processes):
            # Under the lock no file grows or changes its name, so all were there at one time.
            fcntl.flock(lock, fcntl.LOCK_EX)
            sizes = []
            for entry in os.scandir(cache.folder):
                with contextlib.suppress(FileNotFoundError):
                    sizes.append(entry.stat().st_size)
            fcntl.flock(lock, fcntl.LOCK_UN)
            most_bytes = max(most_bytes, sum(sizes))
            time.sleep(0.001)
    kept = [int(process.communicate()[0]) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert sum(kept) > 0
    assert SHARD_BYTES < most_bytes <= cache.limit_bytes
    assert not [name for name in files_of(cache) if name.endswith(".part")]


def test_a_part_keeps_its_name_while_files_are_counted(shards: Shards, cache: NodeCache) -> None:
    """Who counts lists the folder first: a file renamed meanwhile would be missed."""
    content = shards.contents["s0.tar"]
    digest = sha(content)
    counting = threading.Event()
    with (cache.folder / "lock").open() as lock, ThreadPoolExecutor(1) as thread:

        def counted(_: mmap.mmap) -> bool:
            fcntl.flock(lock, fcntl.LOCK_EX)
            counting.set()
            return True

        fetched = thread.submit(
            cache.fetch, shards.store, "s0.tar", len(content), digest, intact=counted
        )
        counting.wait()
        with pytest.raises(TimeoutError):
            fetched.result(timeout=0.3)
        assert files_of(cache) == [f"{digest}.part"]
        fcntl.flock(lock, fcntl.LOCK_UN)
        assert fetched.result() == cache.folder / digest


# ------------------------------------------------------------------ making room


def test_the_least_recently_used_goes_first(shards: Shards, tmp_path: Path) -> None:
    cache = NodeCache(tmp_path / "cache", 3 * SHARD_BYTES)
    names = list(shards.contents)
    digests = {name: sha(content) for name, content in shards.contents.items()}
    for name in names[:3]:
        shards.fetch(cache, name)
        time.sleep(0.01)
    assert cache.path(digests["s0.tar"])  # used just now
    time.sleep(0.01)
    shards.fetch(cache, "s3.tar")
    assert files_of(cache) == sorted(digests[name] for name in ("s0.tar", "s2.tar", "s3.tar"))


def test_an_evicted_file_is_read_to_its_end(shards: Shards, tmp_path: Path) -> None:
    cache = NodeCache(tmp_path / "cache", SHARD_BYTES)
    with shards.fetch(cache, "s0.tar").open("rb") as first:
        assert shards.fetch(cache, "s1.tar")
        assert cache.path(sha(shards.contents["s0.tar"])) is None
        assert first.read() == shards.contents["s0.tar"]
    assert len(files_of(cache)) == 1


def test_a_shard_that_is_too_large_is_not_kept(shards: Shards, tmp_path: Path) -> None:
    cache = NodeCache(tmp_path / "cache", SHARD_BYTES - 1)
    assert shards.fetch(cache, "s0.tar") is None
    assert files_of(cache) == []
    assert shards.downloads == []


@contextlib.contextmanager
def held_by_another(cache: NodeCache, content: bytes, size_bytes: int) -> Iterator[None]:
    """Let another process download a shard, or rather hold its part, until it is killed."""
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom hpt_dist.reading import node_cache\n"
        "with node_cache._claimed(Path(sys.argv[1])) as claim:\n"
        "    import os\n    os.posix_fallocate(claim.descriptor, 0, int(sys.argv[2]))\n"
        "    print('held', flush=True)\n    time.sleep(60)\n"
    )
    part = cache.folder / f"{sha(content)}.part"
    arguments = [sys.executable, "-c", code, str(part), str(size_bytes)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        try:
            yield
        finally:
            process.kill()


def test_room_that_others_fill_is_theirs(shards: Shards, tmp_path: Path) -> None:
    cache = NodeCache(tmp_path / "cache", 2 * SHARD_BYTES - 1)
    shards.fetch(cache, "s2.tar")
    with held_by_another(cache, b"another", SHARD_BYTES):
        assert shards.fetch(cache, "s0.tar") is None
        # Nothing is evicted in vain.
        assert cache.path(sha(shards.contents["s2.tar"]))
    assert shards.fetch(cache, "s0.tar")
    assert files_of(cache) == [sha(shards.contents["s0.tar"])]


def test_a_download_goes_on_after_its_process_is_killed(shards: Shards, cache: NodeCache) -> None:
    content = shards.contents["s0.tar"]
    with ThreadPoolExecutor(1) as executor:
        with held_by_another(cache, content, SHARD_BYTES):
            waiting = executor.submit(shards.fetch, cache, "s0.tar")
            time.sleep(0.2)
            assert not waiting.done()
        assert waiting.result(timeout=10).read_bytes() == content
    assert files_of(cache) == [sha(content)]


def test_a_download_that_hangs_is_not_waited_for(
    shards: Shards, cache: NodeCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_cache, "_STUCK_S", 0.3)
    with held_by_another(cache, shards.contents["s0.tar"], SHARD_BYTES):
        assert shards.fetch(cache, "s0.tar") is None


KILLED = """
import sys, time
from pathlib import Path
from hpt_dist.reading.node_cache import NodeCache
from hpt_dist.store import open_store
uri, folder, size_bytes, digest = sys.argv[1:]
class Slow:
    def __init__(self, store):
        self.uri, self.stat, self.store = store.uri, store.stat, store
    def stream(self, info):
        for piece in self.store.stream(info):
            yield piece
            print("some", flush=True)
            time.sleep(60)
NodeCache(Path(folder), 100 << 20).fetch(Slow(open_store(uri)), "s0.tar", int(size_bytes), digest)
"""


def test_what_a_killed_download_left_is_cleared(shards: Shards, cache: NodeCache) -> None:
    digest = sha(shards.contents["s0.tar"])
    arguments = [shards.store.uri, str(cache.folder), str(SHARD_BYTES), digest]
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, *arguments], stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout.readline() == "some\n"
        process.kill()
    assert files_of(cache) == [f"{digest}.part"]
    assert shards.fetch(cache, "s1.tar")
    assert files_of(cache) == [sha(shards.contents["s1.tar"])]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system")
def test_a_full_disk_is_no_error(
    shards: Shards, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = tmp_path / "disk"
    place.mkdir()
    options = f"size={SHARD_BYTES + MB},mode=700"
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", place])
    if mounted.returncode:
        pytest.skip("file systems cannot be mounted here")
    try:
        cache = NodeCache(place, 100 * MB)
        assert shards.fetch(cache, "s0.tar").read_bytes() == shards.contents["s0.tar"]
        with caplog.at_level(logging.WARNING):
            assert shards.fetch(cache, "s1.tar") is None
        assert "No space left" in caplog.text
        assert files_of(cache) == [sha(shards.contents["s0.tar"])]
    finally:
        subprocess.run(["umount", place], check=True)


# ------------------------------------------------------------------ wrong content


def test_another_object_than_the_manifest_says(shards: Shards, cache: NodeCache) -> None:
    content = shards.contents["s0.tar"]
    wrong = bytearray(content)
    wrong[1000] ^= 1
    shards.store.put("s0.tar", bytes(wrong))
    with pytest.raises(DataError, match=r"s0\.tar: the shard differs from its manifest"):
        shards.fetch(cache, "s0.tar")
    assert shards.downloads == ["s0.tar", "s0.tar"]
    shards.store.put("s0.tar", content[:-1])
    with pytest.raises(DataError, match=f"it has {SHARD_BYTES - 1} bytes") as caught:
        shards.fetch(cache, "s0.tar")
    assert "hpt-dist shard" in caught.value.problem.fix
    shards.store.delete("s0.tar")
    with pytest.raises(StoreError, match=r"s0\.tar: there is no such object"):
        shards.fetch(cache, "s0.tar")
    assert files_of(cache) == []


@pytest.mark.services
def test_damage_in_transfer_is_repaired_by_another_download(
    request: pytest.FixtureRequest, tmp_path: Path, cache: NodeCache
) -> None:
    with stores("ceph", request, tmp_path) as store, pytest.MonkeyPatch.context() as patch:
        shards = make_shards(store, tmp_path / "notes", 1)
        server: S3Server = request.getfixturevalue("ceph").http
        with FaultyProxy(server.endpoint, [Every(1, Damage(), "GET")]) as proxy:
            patch.setenv("AWS_ENDPOINT_URL_S3", proxy.endpoint)
            with pytest.raises(DataError, match="its content differs"):
                shards.fetch(cache, "s0.tar")
            proxy.faults = [Every(2, Damage(), "GET", seen=1)]  # the next, not the one after
            assert shards.fetch(cache, "s0.tar").read_bytes() == shards.contents["s0.tar"]
            assert (proxy.requests["GET"], proxy.made["Damage"]) == (4, 3)


def test_who_knows_a_faster_check_is_asked_instead(shards: Shards, cache: NodeCache) -> None:
    seen: list[bytes] = []

    def intact(content: mmap.mmap) -> bool:
        seen.append(content[:])
        return len(seen) == 2

    found = cache.fetch(shards.store, "s0.tar", SHARD_BYTES, sha(shards.contents["s0.tar"]), intact)
    assert seen == 2 * [shards.contents["s0.tar"]]
    assert found is not None
    assert found.read_bytes() == shards.contents["s0.tar"]


def test_a_finished_file_of_another_length_is_replaced(shards: Shards, cache: NodeCache) -> None:
    file = shards.fetch(cache, "s0.tar")
    os.truncate(file, 1000)
    assert shards.fetch(cache, "s0.tar").read_bytes() == shards.contents["s0.tar"]


def test_files_from_before_a_crash_of_the_machine_are_checked(
    shards: Shards, cache: NodeCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad = shards.fetch(cache, "s0.tar"), shards.fetch(cache, "s1.tar")
    bad.write_bytes(bytes(SHARD_BYTES))
    monkeypatch.setattr(node_cache, "_booted_at_s", lambda: time.time() + 1)
    assert cache.path(good.name) == good
    assert cache.path(bad.name) is None
    assert shards.fetch(cache, "s1.tar").read_bytes() == shards.contents["s1.tar"]


# ------------------------------------------------------------------ the settings


def test_the_default_folder_and_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HPT_CACHE", "HPT_CACHE_GB", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    expected = tmp_path / ".cache" / "hpt-dist" / "shards"
    assert default_cache() == NodeCache(expected, 20_000_000_000)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_cache().folder == tmp_path / "xdg" / "hpt-dist" / "shards"
    monkeypatch.setenv("HPT_CACHE", str(tmp_path / "mine"))
    monkeypatch.setenv("HPT_CACHE_GB", "0.5")
    mine = tmp_path / "mine" / f"hpt-dist-{os.geteuid()}"
    assert default_cache() == NodeCache(mine, 500_000_000)
    monkeypatch.setenv("HPT_CACHE_GB", "0")
    assert default_cache() is None
    for wrong in ("much", "-1", "nan", "inf"):
        monkeypatch.setenv("HPT_CACHE_GB", wrong)
        with pytest.raises(RequestError, match="HPT_CACHE_GB"):
            default_cache()


def test_a_folder_that_cannot_be_used_is_warned_of_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HPT_CACHE", str(tmp_path / "file"))
    for _ in range(2):
        assert default_cache() is None
    assert len(caplog.records) == 1
    assert "HPT_CACHE_GB=0" in caplog.text


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a folder to another user")
def test_a_folder_of_another_user_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    theirs = tmp_path / f"hpt-dist-{os.geteuid()}"
    theirs.mkdir(mode=0o755)
    os.chown(theirs, 12_345, 12_345)
    monkeypatch.setenv("HPT_CACHE", str(tmp_path))
    assert default_cache() is None
    assert "belongs to another user" in caplog.text
    assert theirs.stat().st_mode & 0o777 == 0o755
    assert list(theirs.iterdir()) == []
