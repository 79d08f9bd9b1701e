"""A real S3 server whose answers are cut, refused, delayed or lost, and one that is killed."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from faulty_proxy import Cut, Damage, Delay, Every, FaultyProxy, Refuse, Reset, Shorten
from services import Ceph, S3Server

from hpt_dist.errors import DataError, RequestError, StoreError
from hpt_dist.store import s3_client, s3_upload
from hpt_dist.store.s3 import S3Store

pytestmark = pytest.mark.services
MB = 1 << 20
BIG = os.urandom(24 * MB + 12_345)


@pytest.fixture
def server(ceph: Ceph, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """Ceph, with short waits between attempts."""
    for name, value in ceph.http.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(s3_client, "_FIRST_WAIT_S", 0.02)
    return ceph.http


@pytest.fixture
def store(server: S3Server) -> S3Store:
    return S3Store(server.make_bucket(), "p")


@contextlib.contextmanager
def faulty(server: S3Server, *faults: Every) -> Iterator[FaultyProxy]:
    """Put a proxy between this process, with those that it starts, and the server."""
    with FaultyProxy(server.endpoint, faults) as proxy, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL_S3", proxy.endpoint)
        yield proxy


def uploads(store: S3Store) -> list[str]:
    """Return the keys of unfinished uploads."""
    found = s3_client.call("list_multipart_uploads", {"Bucket": store.bucket})
    return [upload["Key"] for upload in found.get("Uploads", [])]


def start_put(store: S3Store, path: str, size_bytes: int) -> subprocess.Popen[str]:
    """Put zeros in another process, which SIGTERM ends by SystemExit."""
    code = (
        "import signal, sys\nfrom hpt_dist.store import open_store\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\n"
        f"open_store('{store.uri}').put('{path}', bytes({size_bytes}))\n"
    )
    return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL, text=True)


def wait_for_upload(store: S3Store, key: str) -> None:
    deadline = time.monotonic() + 30
    while key not in uploads(store):
        assert time.monotonic() < deadline
        time.sleep(0.02)


# ------------------------------------------------------------------ reading


@pytest.mark.parametrize(
    "fault", [Cut(0), Cut(100_000), Cut(5 * MB), Refuse(500), Refuse(503), Reset(), Delay(0.05)]
)
def test_reads_are_exact_whatever_happens(
    store: S3Store, server: S3Server, monkeypatch: pytest.MonkeyPatch, fault: object
) -> None:
    info = store.put("a", BIG)
    with faulty(server, Every(2, fault)) as proxy:
        assert b"".join(store.stream(info)) == BIG
        assert store.get("a", 0, 3 * MB, info.etag) == BIG[: 3 * MB]
        assert store.get("a", 23 * MB) == BIG[23 * MB :]
        assert proxy.made[type(fault).__name__] >= 3


def test_a_response_that_is_always_cut_still_ends(
    store: S3Store, server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attempts count from the last progress, so more than AWS_MAX_ATTEMPTS are made."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    store.put("a", BIG[: 4 * MB])
    with faulty(server, Every(1, Cut(MB + 1), "GET")) as proxy:
        assert store.get("a") == BIG[: 4 * MB]
        assert proxy.requests["GET"] == 4


@pytest.mark.parametrize("attempts", [1, 3])
def test_a_server_that_never_answers_well(
    store: S3Store, server: S3Server, monkeypatch: pytest.MonkeyPatch, attempts: int
) -> None:
    info = store.put("a", BIG[: 20 * MB])
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", str(attempts))
    with faulty(server, Every(1, Refuse())) as proxy:
        for call in (lambda: store.get("a"), lambda: store.put("a", b"1")):
            before = proxy.requests.total()
            with pytest.raises(StoreError, match="SlowDown"):
                call()
            assert proxy.requests.total() - before == attempts
        with pytest.raises(StoreError, match=f"{store.uri}/a: S3 refused: SlowDown"):
            list(store.stream(info))


def test_a_short_answer_is_no_data(
    store: S3Store, server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put("a", BIG[:1000])
    message = "S3 sent 900 bytes as bytes 0-999/1000"
    with (
        faulty(server, Every(1, Shorten(900), "GET")),
        pytest.raises(StoreError, match=message),
    ):
        store.get("a")


def test_a_change_between_and_during_reads(
    store: S3Store, server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = store.put("a", BIG[: 2 * MB])
    new = store.put("a", BIG[MB : 3 * MB])
    for read in (
        lambda: store.get("a", 0, 10, old.etag),
        lambda: store.get("a", 5 * MB, 10, old.etag),
        lambda: list(store.stream(old)),
    ):
        with pytest.raises(DataError, match=f"{store.uri}/a: the object changed while it was read"):
            read()

    def replace() -> None:
        s3_client._client_of(os.getpid(), settings, s3_client._CONNECT_S).put_object(
            Bucket=store.bucket, Key="p/a", Body=BIG[: 2 * MB]
        )

    settings = s3_client.settings()
    with faulty(server, Every(1, Cut(MB, meanwhile=replace), "GET")):
        monkeypatch.setattr(s3_client, "_FIRST_WAIT_S", 2.0)  # so that the change is there
        with pytest.raises(DataError, match="changed while it was read"):
            store.get("a")
    assert new.etag != old.etag


def test_leaving_a_stream_early_ends_it(store: S3Store) -> None:
    before = threading.active_count()
    stream = store.stream(store.put("a", BIG))
    assert next(stream) == BIG[:MB]
    stream.close()
    assert threading.active_count() == before


@pytest.mark.parametrize("is_tls", [False, True])
def test_a_gateway_that_is_killed_and_back_is_not_noticed(
    ceph: Ceph, monkeypatch: pytest.MonkeyPatch, is_tls: bool
) -> None:
    server = ceph.https if is_tls else ceph.http
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(s3_client, "_LONGEST_WAIT_S", 3.0)  # still more than 5 s together
    store = S3Store(server.make_bucket())
    info = store.put("a", BIG)
    back = threading.Event()

    def read(is_streamed: bool) -> int:
        """Read again and again until the gateway is back, and count."""
        count = 0
        while not back.is_set():
            data = b"".join(store.stream(info)) if is_streamed else store.get("a")
            assert data == BIG
            count += 1
        return count

    def write() -> int:
        count = 0
        while not back.is_set():
            assert store.put("b", BIG).bytes == len(BIG)
            count += 1
        return count

    with ThreadPoolExecutor(3) as executor:
        jobs = [executor.submit(read, True), executor.submit(read, False), executor.submit(write)]
        time.sleep(0.7)
        ceph.kill_gateway()
        try:
            time.sleep(1.5)
        finally:
            ceph.start_gateway()
            back.set()
        assert all(job.result() for job in jobs)
    assert store.get("b") == BIG
    assert uploads(store) == []


# ------------------------------------------------------------------ writing


@pytest.mark.parametrize("fault", [Refuse(500), Refuse(503), Reset(), Damage(), Cut(0)])
@pytest.mark.parametrize("as_file", [False, True])
def test_writes_are_exact_whatever_happens(
    store: S3Store,
    server: S3Server,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    fault: object,
    as_file: bool,
) -> None:
    (tmp_path / "file").write_bytes(BIG)
    with faulty(server, Every(3, fault, "PUT POST")) as proxy:
        for path, data in (("small", BIG[:MB]), ("big", BIG)):
            if as_file:
                (tmp_path / "file").write_bytes(data)
            info = store.put(path, tmp_path / "file" if as_file else data)
            assert info == store.stat(path)
            assert store.get(path) == data
        assert proxy.made[type(fault).__name__] >= 2
    assert uploads(store) == []


def test_an_upload_whose_beginning_was_answered_to_nobody_is_not_left_behind(
    store: S3Store, server: S3Server
) -> None:
    with faulty(server, Every(1, Reset(), "POST")) as proxy:

        def only_once() -> None:
            while not proxy.made:
                time.sleep(0.001)
            proxy.faults.clear()

        with ThreadPoolExecutor(1) as executor:
            executor.submit(only_once)
            store.put("big", BIG)
        assert proxy.requests["POST"] >= 3  # began, began again, completed
    assert store.get("big") == BIG
    assert uploads(store) == []


def test_all_kinds_of_bytes_can_be_written(store: S3Store) -> None:
    for data in (bytearray(BIG), memoryview(BIG)[1::], memoryview(bytearray(BIG)).cast("B"), b""):
        store.put("a", data)
        assert store.get("a") == bytes(data)


def test_an_object_knows_its_digest(store: S3Store) -> None:
    for data in (b"1", BIG):
        store.put("a", data)
        head = s3_client.call("head_object", {"Bucket": store.bucket, "Key": "p/a"})
        assert head["Metadata"]["sha256"] == hashlib.sha256(data).hexdigest()


def test_parts_grow_with_the_object() -> None:
    for size_bytes in (8 * MB + 1, 80_000 * MB, 80_000 * MB + 1, 5_000_000 * MB):
        source = s3_upload._UploadSource(size_bytes, lambda *_: b"")
        assert -(-size_bytes // source.part_bytes) <= 10_000
        assert source.part_bytes % MB == 0
        assert source.part_bytes >= 8 * MB
    assert s3_upload._UploadSource(80_000 * MB, lambda *_: b"").part_bytes == 8 * MB


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_put_leaves_nothing(
    store: S3Store, server: S3Server, monkeypatch: pytest.MonkeyPatch, stop: signal.Signals
) -> None:
    with faulty(server, Every(1, Delay(0.3), "PUT")):
        with start_put(store, "a", 200 * MB) as process:
            wait_for_upload(store, "p/a")
            process.send_signal(stop)
        assert process.returncode == (-signal.SIGINT if stop == signal.SIGINT else 7)
    assert uploads(store) == []
    assert store.stat("a") is None


def test_a_put_that_fails_leaves_nothing(
    store: S3Store, server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    with faulty(server, Every(1, Refuse(), "PUT")):
        with pytest.raises(StoreError, match="SlowDown"):
            store.put("a", BIG)
        assert uploads(store) == []
    with pytest.raises(StoreError, match="No such file"):
        store.put("a", tmp_path / "nowhere")


def test_a_file_that_changes_during_its_upload_is_refused(
    store: S3Store, server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_bytes(BIG)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    digests_of = s3_upload._Digests.from_source

    def change_after(source: s3_upload._UploadSource) -> s3_upload._Digests:
        digests = digests_of(source)
        with file.open("r+b") as content:
            content.seek(20 * MB)
            content.write(b"changed")
        return digests

    monkeypatch.setattr(s3_upload._Digests, "from_source", change_after)
    with pytest.raises(StoreError, match="BadDigest") as caught:
        store.put("a", file)
    assert "leave the file as it is" in caught.value.problem.fix
    assert uploads(store) == []
    assert store.stat("a") is None


def test_a_later_put_clears_what_a_killed_one_left(
    store: S3Store, server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = s3_client.call("create_multipart_upload", {"Bucket": store.bucket, "Key": "p/ab"})
    slowly = faulty(server, Every(1, Delay(0.3), "PUT"))
    with slowly, start_put(store, "a", 200 * MB) as process:
        wait_for_upload(store, "p/a")
        process.kill()
    assert uploads(store) == ["p/a", "p/ab"]
    store.put("a", BIG)
    assert uploads(store) == ["p/ab"]
    assert other["Key"] == "p/ab"
    assert store.get("a") == BIG


def test_a_sweep_aborts_the_uploads_below_a_prefix(store: S3Store) -> None:
    for key in ("p/state/a", "p/b", "pq/c"):
        s3_client.call("create_multipart_upload", {"Bucket": store.bucket, "Key": key})
    store.put("kept", b"1")
    store.sweep()
    assert uploads(store) == ["pq/c"]
    assert [info.path for info in store.list()] == ["kept"]


def test_writers_of_one_object_both_end(
    store: S3Store, server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The later ones abort the uploads of those before, which start again."""
    contents = [BIG, BIG[::-1], BIG]
    with faulty(server, Every(1, Delay(0.2), "PUT")) as proxy:
        with ThreadPoolExecutor(len(contents)) as executor:
            writing = []
            for content in contents:
                writing.append(executor.submit(store.put, "a", content))
                wait_for_upload(store, "p/a")
                time.sleep(0.1)
            assert {job.result().bytes for job in writing} == {len(BIG)}
        assert proxy.requests["POST"] > 2 * len(contents)  # somebody did start again
    assert store.get("a") in contents
    assert uploads(store) == []


def test_a_wrong_number_of_attempts(store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("0", "many", "-1"):
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", text)
        with pytest.raises(RequestError, match="AWS_MAX_ATTEMPTS"):
            store.get("a")
