"""Every store keeps the same promises: a folder, Ceph with and without TLS, and SeaweedFS."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from botocore.awsrequest import AWSRequest
from botocore.exceptions import ConnectionClosedError
from botocore.httpsession import URLLib3Session
from hypothesis import given
from hypothesis import strategies as st
from services import S3Server, free_ports

from hpt_dist.errors import RequestError, StoreError
from hpt_dist.store import FolderStore, Store, open_store

MULTIPART_BYTES = (8 << 20) + 12_345


def use(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Point the AWS settings of this process, and of those that it starts, at a server."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(
    params=[
        "folder",
        pytest.param("ceph-http", marks=pytest.mark.services),
        pytest.param("ceph-https", marks=pytest.mark.services),
        pytest.param("seaweedfs", marks=pytest.mark.services),
    ]
)
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """An empty store of each kind."""
    if request.param == "folder":
        return open_store(str(tmp_path / "store"))
    if request.param == "seaweedfs":
        server: S3Server = request.getfixturevalue("seaweedfs")
    else:
        ceph = request.getfixturevalue("ceph")
        server = ceph.http if request.param == "ceph-http" else ceph.https
    use(server, monkeypatch)
    return open_store(f"s3://{server.make_bucket()}/some/prefix")


@pytest.fixture
def folder(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "store")


def run(code: str, *arguments: str) -> subprocess.Popen[str]:
    """Start another process that runs `code` with `store` open."""
    opened = "import sys\nfrom hpt_dist.store import open_store\nstore = open_store(sys.argv[1])\n"
    return subprocess.Popen(
        [sys.executable, "-c", opened + code, *arguments], stdout=subprocess.PIPE, text=True
    )


def files_of(store: FolderStore) -> list[Path]:
    return [path for path in store.root.rglob("*") if path.is_file()]


# ------------------------------------------------------------------ what every store promises


def test_written_is_read(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "file"
    for data in (b"", b"x", bytes(range(256)) * 300):
        file.write_bytes(data)
        for path, content in (("a", data), ("deep/er/b", data), ("c.bin", file)):
            info = store.put(path, content)
            assert (info.path, info.bytes) == (path, len(data))
            assert store.get(path) == data
            assert store.stat(path) == info


def test_an_etag_distinguishes_content(store: Store) -> None:
    etags = {store.put("a", bytes([i])).etag for i in range(5)}
    assert len(etags) == 5
    [listed] = store.list()
    assert listed == store.stat("a")


@pytest.mark.parametrize("as_file", [False, True])
def test_a_big_object_goes_in_parts(store: Store, tmp_path: Path, as_file: bool) -> None:
    data = os.urandom(MULTIPART_BYTES)
    file = tmp_path / "big"
    file.write_bytes(data)
    info = store.put("big", file if as_file else data)
    assert (info, info.bytes) == (store.stat("big"), len(data))
    assert store.get("big") == data
    assert store.get("big", 8 << 20, 100) == data[8 << 20 :][:100]


def test_a_ranged_read_is_a_slice(store: Store) -> None:
    data = bytes(range(10))
    store.put("a", data)
    store.put("empty", b"")
    for start, length in itertools.product((0, 1, 9, 10, 11), (None, 0, 1, 9, 10, 100)):
        expected = data[start:] if length is None else data[start : start + length]
        assert store.get("a", start, length) == expected, (start, length)
        assert store.get("empty", start, length) == b""


def test_listing_is_sorted_and_below_the_prefix(store: Store) -> None:
    paths = ["a", "b-x", "b.y", "b/A", "b/a-b", "b/a/b", "b/é", "ba", "c/d/e"]
    for path in reversed(paths):
        store.put(path, path.encode())
    for prefix in ("", "b", "b/", "b/a", "b/a/", "c/", "z", "z/"):
        expected = [path for path in paths if path.startswith(prefix)]
        assert [info.path for info in store.list(prefix)] == expected, prefix
    assert [info.bytes for info in store.list()] == [len(path.encode()) for path in paths]


def test_a_store_below_a_prefix_is_the_same_store(store: Store) -> None:
    store.at("x").at("y/").put("a", b"1")
    assert store.get("x/y/a") == b"1"
    assert [info.path for info in store.at("x").list()] == ["y/a"]
    assert open_store(store.at("x/y").uri).get("a") == b"1"
    assert pickle.loads(pickle.dumps(store)).get("x/y/a") == b"1"
    assert store.at("") == store


def test_absent_objects(store: Store) -> None:
    store.delete("a")
    assert store.stat("a") is None
    assert list(store.list()) == []
    with pytest.raises(StoreError, match="no such object") as caught:
        store.get("a/b")
    assert f"{store.uri}/a/b" in str(caught.value)
    store.put("a", b"1")
    store.delete("a")
    assert store.stat("a") is None
    assert list(store.list()) == []


@pytest.mark.parametrize(
    "path", ["", "/a", "a/", "a//b", "..", "../a", "a/../b", "./a", "a/..", ".tmp/a", "a\0"]
)
def test_a_path_cannot_leave_the_store(store: Store, path: str) -> None:
    for call in (
        store.get,
        store.stat,
        store.delete,
        store.local,
        lambda path: store.put(path, b""),
        lambda path: store.swap(path, b"", None),
    ):
        with pytest.raises(StoreError, match="cannot be the path"):
            call(path)
    with pytest.raises(StoreError, match="cannot be the path"):
        store.at(f"x/../{path}")
    with pytest.raises(StoreError, match="cannot be the path"):
        list(store.list(f"../{path}"))


def test_readers_never_see_a_part(store: Store) -> None:
    contents = {bytes([65 + i]) * (100_000 + i) for i in range(2)}
    done = threading.Event()
    store.put("a", min(contents))

    def read() -> int:
        count = 0
        while not done.is_set():
            assert store.get("a") in contents
            assert [info.path for info in store.list()] == ["a"]
            count += 1
        return count

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        try:
            for data in sorted(contents) * 8:
                store.put("a", data)
        finally:
            done.set()
        assert all(reader.result() for reader in readers)


def test_a_killed_put_leaves_nothing_listed(store: Store) -> None:
    """The child is killed at moments spread over a put of 24 MB in parts."""
    code = "data = bytes(24 << 20)\nprint('go', flush=True)\nstore.put('big', data)\n"
    for delay_s in (0.005, 0.02, 0.05):
        with run(code, store.uri) as process:
            assert process.stdout.readline() == "go\n"
            time.sleep(delay_s)
            process.kill()
        assert process.returncode == -signal.SIGKILL
        # Even the kill of a put that just ended leaves all of it or nothing.
        assert {info.bytes for info in store.list()} <= {24 << 20}
        store.delete("big")


# ------------------------------------------------------------------ compare and swap


def test_swap_needs_the_expected_etag(store: Store) -> None:
    assert store.swap("a", b"0", "0" * 32) is None
    assert store.stat("a") is None
    first = store.swap("a", b"1", None)
    assert first
    assert store.swap("a", b"2", None) is None
    second = store.swap("a", b"2", first)
    assert second
    assert second != first
    assert store.swap("a", b"3", first) is None
    assert store.get("a") == b"2"
    assert store.stat("a").etag == second
    written = store.put("a", b"4").etag
    assert store.swap("a", b"5", second) is None
    assert store.swap("a", b"5", written)


def test_one_thread_wins_every_swap(store: Store) -> None:
    """SeaweedFS takes seconds to sort out racing writers, hence few rounds."""
    writers, etag = 6, None
    with ThreadPoolExecutor(writers) as pool:
        for round_ in range(4):
            expected = etag
            data = [b"%d/%d" % (round_, i) for i in range(writers)]
            start = threading.Barrier(writers)

            def attempt(
                content: bytes,
                start: threading.Barrier = start,
                expected: str | None = expected,
            ) -> str | None:
                start.wait()
                return store.swap("a", content, expected)

            etags = list(pool.map(attempt, data))
            [(etag, content)] = [pair for pair in zip(etags, data, strict=True) if pair[0]]
            assert store.get("a") == content
            assert store.stat("a").etag == etag


COUNT_UP = """
for _ in range(int(sys.argv[2])):
    while True:
        info = store.stat("count")
        count = int(store.get("count")) if info else 0
        if store.swap("count", b"%d" % (count + 1), info.etag if info else None):
            break
"""


def test_no_swap_is_lost_between_processes(store: Store) -> None:
    """A counter that several processes count up counts them all."""
    processes, times = 3, 40 if isinstance(store, FolderStore) else 4
    with contextlib.ExitStack() as stack:
        counting = [run(COUNT_UP, store.uri, str(times)) for _ in range(processes)]
        for process in counting:
            stack.enter_context(process)
    assert [process.returncode for process in counting] == [0] * processes
    assert int(store.get("count")) == processes * times


# ------------------------------------------------------------------ the folder


@given(data=st.lists(st.binary(max_size=40), min_size=1, max_size=5), start=st.integers(0, 50))
def test_a_folder_reads_what_was_written_last(
    tmp_path_factory: pytest.TempPathFactory, data: list[bytes], start: int
) -> None:
    store = FolderStore(tmp_path_factory.mktemp("store"))
    etags = [store.put("a", content).etag for content in data]
    assert len(set(etags)) == len(etags)
    assert store.get("a", start, 7) == data[-1][start : start + 7]


def test_every_quick_write_has_its_own_etag(folder: FolderStore) -> None:
    """Equal sizes, an inode used again and one tick of the kernel's clock: still distinguished."""
    etags = [folder.put("a", b"same").etag for _ in range(300)]
    assert len(set(etags)) == len(etags)


def test_a_killed_holder_does_not_block_swap(folder: FolderStore) -> None:
    code = (
        "from pathlib import Path\nimport hpt_dist.store.folder as s, time\n"
        "with s._locked(store.root):\n    print('held', flush=True)\n    time.sleep(60)\n"
    )
    folder.put("a", b"")
    with run(code, folder.uri) as process:
        assert process.stdout.readline() == "held\n"
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(folder.swap, "new", b"1", None)
            time.sleep(0.1)
            assert not waiting.done()
            process.kill()
            assert waiting.result(timeout=10)


def test_a_holder_that_stands_still_is_an_error_and_not_a_hang(
    folder: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpt_dist.store.folder._LOCK_WAIT_S", 0.2)
    folder.swap("a", b"1", None)
    with (folder.root / ".tmp/lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(StoreError, match="has been writing here"):
            folder.swap("b", b"1", None)
    assert folder.swap("b", b"1", None)


def test_what_a_dead_writer_left_is_cleared(folder: FolderStore) -> None:
    folder.swap("a", b"1", None)
    fresh, old = (folder.root / ".tmp" / name for name in ("fresh", "old"))
    for path in (fresh, old):
        path.write_bytes(b"part")
    os.utime(old, (0, 0))
    os.utime(folder.root / ".tmp" / "lock", (0, 0))
    assert [info.path for info in folder.list()] == ["a"]
    folder.put("b", b"2")
    assert sorted(path.name for path in files_of(folder)) == ["a", "b", "fresh", "lock"]


def test_a_sweep_deletes_drafts_of_any_age_and_no_object(folder: FolderStore) -> None:
    folder.sweep()  # before anything is there
    folder.swap("a", b"1", None)
    folder.put("state/b", b"2")
    for draft in (".tmp/x", "state/.tmp/y"):
        (folder.root / draft).write_bytes(b"part")
    folder.sweep()
    names = {path.relative_to(folder.root).as_posix() for path in folder.root.rglob("*")}
    assert names == {"a", ".tmp", ".tmp/lock", "state", "state/b"}
    folder.put("state/b", b"3")


def test_a_failed_put_changes_nothing(folder: FolderStore, tmp_path: Path) -> None:
    folder.put("a", b"old")
    with pytest.raises(StoreError, match="No such file"):
        folder.put("a", tmp_path / "nowhere")
    assert files_of(folder) == [folder.local("a")]
    assert folder.get("a") == b"old"


def test_a_folder_where_an_object_should_be(folder: FolderStore) -> None:
    folder.put("a/b", b"1")
    assert folder.stat("a") is None
    assert folder.stat("a/b/c") is None
    with pytest.raises(StoreError, match="no such object"):
        folder.get("a")
    with pytest.raises(StoreError, match="directory"):
        folder.put("a", b"2")
    with pytest.raises(StoreError, match=r"exists|directory"):
        folder.put("a/b/c", b"3")


def test_others_may_read_what_one_wrote(folder: FolderStore) -> None:
    mask = os.umask(0o022)
    try:
        folder.put("a", b"1")
    finally:
        os.umask(mask)
    assert folder.local("a").stat().st_mode & 0o777 == 0o644


def test_every_name_of_a_folder_opens_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    spaced = tmp_path / "a b"
    for uri in (str(spaced), "a b", "./a b", spaced.as_uri(), f"file://{tmp_path}/a%20b"):
        store = open_store(uri)
        assert store.folder == spaced
        assert store.local("x") == spaced / "x"
        assert store.at("a/b/").folder == spaced / "a" / "b"
        with pytest.raises(StoreError, match="cannot be the path"):
            store.local("../x")
        assert open_store(store.uri) == store


@pytest.mark.parametrize(
    "uri", ["", "gs://bucket", "s3://", "s3:///prefix", "file://host/a", "s3:/b/p"]
)
def test_another_uri_is_refused(uri: str) -> None:
    with pytest.raises(RequestError, match="allowed: s3://bucket/prefix"):
        open_store(uri)


# ------------------------------------------------------------------ S3


def test_s3_uris(tmp_path: Path) -> None:
    assert open_store("s3://bucket").uri == "s3://bucket"
    assert open_store("s3://bucket/").uri == "s3://bucket"
    assert open_store("s3://bucket/a/b/").uri == "s3://bucket/a/b"
    assert open_store("s3://bucket/a").folder is None
    assert open_store("s3://bucket/a").local("x") is None
    with pytest.raises(StoreError):
        open_store("s3://bucket/a/../b")


def test_opening_a_folder_imports_no_boto3(tmp_path: Path) -> None:
    code = "store.put('a', b'')\nprint('boto3' in sys.modules)\n"
    with run(code, str(tmp_path)) as process:
        assert process.stdout.read() == "False\n"


@pytest.mark.services
def test_a_fork_uses_its_own_connections(
    seaweedfs: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(seaweedfs, monkeypatch)
    uri = f"s3://{seaweedfs.make_bucket()}"
    code = (
        "import os\nstore.put('a', bytes(1000))\npid = os.fork()\n"
        "for i in range(20):\n    assert len(store.get('a', i)) == 1000 - i\n"
        "if pid == 0:\n    os._exit(0)\nassert os.waitpid(pid, 0)[1] == 0\n"
    )
    with run(code, uri) as process:
        pass
    assert process.returncode == 0


def every_call(store: Store) -> list[Callable[[], object]]:
    return [
        lambda: store.put("a", b"1"),
        lambda: store.put("a", bytes(MULTIPART_BYTES)),
        lambda: store.get("a"),
        lambda: store.stat("a"),
        lambda: list(store.list()),
        lambda: store.swap("a", b"1", None),
    ]


@pytest.mark.services
@pytest.mark.parametrize("kind", ["ceph", "seaweedfs"])
def test_s3_errors_say_what_where_and_what_to_do(
    kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = request.getfixturevalue(kind)
    server: S3Server = service.http if kind == "ceph" else service
    use(server, monkeypatch)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    bucket = server.make_bucket()

    def expect(store: Store, where: str, fix: str) -> None:
        for call in every_call(store):
            with pytest.raises(StoreError) as caught:
                call()
            assert where in str(caught.value)
            assert fix in caught.value.problem.fix

    expect(open_store("s3://no-such-bucket/p"), "s3://no-such-bucket", "create the bucket")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    expect(open_store(f"s3://{bucket}/p"), f"s3://{bucket}/p", "AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    expect(open_store(f"s3://{bucket}/p"), f"s3://{bucket}/p", "AWS_ACCESS_KEY_ID")


def test_a_server_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    [port] = free_ports(1)
    use(S3Server(f"http://127.0.0.1:{port}"), monkeypatch)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    store = open_store("s3://bucket")
    for call in every_call(store):
        with pytest.raises(StoreError, match=f"127.0.0.1:{port}") as caught:
            call()
        assert "AWS_ENDPOINT_URL_S3" in caught.value.problem.fix


@pytest.mark.services
def test_a_certificate_that_nobody_vouches_for(ceph, monkeypatch: pytest.MonkeyPatch) -> None:
    use(S3Server(ceph.https.endpoint), monkeypatch)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(StoreError) as caught:
        open_store("s3://bucket").put("a", b"")
    assert "AWS_CA_BUNDLE" in caught.value.problem.fix


@pytest.mark.services
@pytest.mark.parametrize("kind", ["ceph", "seaweedfs"])
def test_a_swap_whose_answer_is_lost_is_won(
    kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The retry meets the object of its own first attempt, not of somebody else."""
    service = request.getfixturevalue(kind)
    server: S3Server = service.http if kind == "ceph" else service
    use(server, monkeypatch)
    store = open_store(f"s3://{server.make_bucket()}")
    send, sent = URLLib3Session.send, []

    def lose_the_first_answer(session: URLLib3Session, request: AWSRequest) -> object:
        answer = send(session, request)
        sent.append(request.method)
        if sent == ["PUT"]:
            raise ConnectionClosedError(endpoint_url=request.url)
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(URLLib3Session, "send", lose_the_first_answer)
        etag = store.swap("a", b"1", None)
    assert sent == ["PUT", "PUT", "HEAD"]
    assert etag
    assert etag == store.stat("a").etag
    assert store.swap("a", b"2", None) is None
    assert store.get("a") == b"1"


@pytest.mark.parametrize("uri", ["", "a\0b", "http://[x", "ftp://host/x", "s3://"])
def test_what_names_no_store_is_a_wrong_request(uri: str) -> None:
    with pytest.raises(RequestError, match="not the URI of a store"):
        open_store(uri)
