"""Doctor finds planted faults, each with its fix, and never raises."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from email.utils import formatdate
from pathlib import Path
from time import time

import pytest
from answering import answering
from services import S3Server, free_ports

from hpt_dist import store
from hpt_dist.datasets import manifest
from hpt_dist.doctor import machine, services
from hpt_dist.doctor.finding import Finding
from hpt_dist.doctor.services import examine

NOBODY = 65534


@pytest.fixture(autouse=True)
def _without_torch(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Importing torch takes seconds; one test does it."""
    if "slow_torch" not in request.fixturenames:
        monkeypatch.setattr(machine, "torch", lambda: iter(()))


@pytest.fixture
def slow_torch() -> None:
    """Let doctor import torch."""


def named(findings: list[Finding], name: str) -> list[Finding]:
    return [finding for finding in findings if finding.name == name]


def fault(findings: list[Finding], name: str) -> Finding:
    """Return the one fault of a check, which must have a fix."""
    (found,) = [finding for finding in named(findings, name) if finding.ok is False]
    assert found.fix
    assert "\n" not in found.says
    return found


def sqlite_uri(folder: Path) -> str:
    return f"sqlite:///{folder}/mlflow.db"


def files_below(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


def write_dataset(opened: store.Store, name: str = "toy", shard_bytes: int = 10) -> None:
    shard = manifest.Shard("train/a.tar", 1, 10, "0" * 64, "train/a.index.json", "0" * 64)
    described = manifest.Manifest(
        format=manifest.FORMAT,
        name=name,
        label="none",
        metric="",
        classes=(),
        mean=(0.5, 0.5, 0.5),
        std=(0.2, 0.2, 0.2),
        source=manifest.Origin("x", "x", "x", "x"),
        splits={"train": manifest.Split(1, (), (shard,))},
        quarantined=(),
    )
    opened.put(f"datasets/{name}/manifest.json", described.content)
    opened.put(f"datasets/{name}/train/a.tar", b"x" * shard_bytes)


def test_a_good_folder_store_passes_and_is_left_as_it_was(tmp_path: Path, slow_torch: None) -> None:
    write_dataset(store.open_store(str(tmp_path)))
    before = files_below(tmp_path)
    findings = examine(str(tmp_path), sqlite_uri(tmp_path))
    assert [f for f in findings if f.ok is False] == []
    assert files_below(tmp_path) == before
    for name in ("python", "packages", "torch", "cpu", "store", "disk", "datasets"):
        assert any(finding.ok for finding in named(findings, name)), name
    assert len(named(findings, "gpu")) == 1
    assert "1 shards" in named(findings, "datasets")[0].says


def test_the_order_of_findings_does_not_change(tmp_path: Path) -> None:
    runs = [[f.name for f in examine(str(tmp_path), sqlite_uri(tmp_path))] for _ in range(3)]
    assert runs[0] == runs[1] == runs[2]


def test_a_store_to_be_made_is_a_note_and_is_not_made(tmp_path: Path) -> None:
    findings = examine(str(tmp_path / "new" / "store"), "")
    (found,) = named(findings, "store")
    assert found.ok is None
    assert found.fix
    assert files_below(tmp_path) == []


def test_a_store_that_cannot_be_made_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = fault(examine(str(tmp_path / "file" / "store"), ""), "store")
    assert "cannot be created" in found.says


def test_a_store_that_cannot_be_written_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file where a folder should be")
    assert str(tmp_path) in fault(examine(str(tmp_path / "store"), ""), "store").says


@contextmanager
def folder_to_read_only() -> Iterator[Path]:
    """A folder with a database, for a user who may write to neither."""
    folder = Path(tempfile.mkdtemp())  # pytest's own are closed to other users
    path = folder / "mlflow.db"
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE runs (id)").close()
        database.commit()
    path.chmod(0o444)
    folder.chmod(0o555)
    me = os.geteuid()
    try:
        if me == 0:  # who may write everywhere
            os.seteuid(NOBODY)
        yield folder
    finally:
        os.seteuid(me)
        folder.chmod(0o755)
        shutil.rmtree(folder)


def test_a_folder_and_a_database_without_the_right_to_write_are_faults() -> None:
    with folder_to_read_only() as folder:
        findings = examine(str(folder), sqlite_uri(folder))
    fault(findings, "store")
    assert "readonly" in fault(findings, "mlflow").says


def test_an_unknown_kind_of_store_is_a_fault() -> None:
    assert "ftp://host/x" in fault(examine("ftp://host/x", ""), "store").says


@pytest.mark.parametrize(
    ("method", "broken", "words"),
    [
        ("get", lambda self, path, start=0, length=None: b"other", "ranged get"),
        ("list", lambda self, prefix="": iter(()), "list"),
        ("swap", lambda self, path, data, expected: self.put(path, data).etag, "another version"),
        ("swap", lambda self, path, data, expected: None, "could not create"),
        ("delete", lambda self, path: None, "still exists"),
    ],
)
def test_a_store_that_misbehaves_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, broken: object, words: str
) -> None:
    monkeypatch.setattr(store.FolderStore, method, broken)
    assert words in fault(examine(str(tmp_path), ""), "store").says
    assert files_below(tmp_path) == []


def test_an_s3_endpoint_that_nobody_serves_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    [port] = free_ports(1)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{port}")
    findings = examine("s3://bucket/prefix", "")
    assert "cannot be reached" in fault(findings, "store").says
    assert not named(findings, "datasets")


def test_a_wrong_clock_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    date = formatdate(time() - 1000, usegmt=True)
    with answering(403, headers={"Date": date}) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.address)
        findings = examine("s3://bucket/prefix", "")
    # The header has whole seconds, and asking takes some time.
    assert any(f"{seconds} s" in fault(findings, "clock").says for seconds in range(999, 1010))


def test_missing_credentials_are_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(403, headers={"Date": formatdate(usegmt=True)}) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.address)
        findings = examine("s3://bucket/prefix", "")
    assert named(findings, "clock")[0].ok
    assert "AWS_ACCESS_KEY_ID" in fault(findings, "store").fix


@pytest.mark.services
def test_a_real_s3_server(seaweedfs: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in seaweedfs.environment.items():
        monkeypatch.setenv(name, value)
    uri = f"s3://{seaweedfs.make_bucket()}/prefix"
    opened = store.open_store(uri)
    write_dataset(opened)
    before = list(opened.list())
    findings = examine(uri, "")
    assert [f for f in findings if f.ok is False] == []
    assert {"store", "clock", "datasets"} <= {f.name for f in findings if f.ok}
    assert list(opened.list()) == before
    missing = fault(examine("s3://no-such-bucket/x", ""), "store")
    assert "bucket" in missing.fix


def test_damaged_and_cut_datasets_are_faults_beside_good_ones(tmp_path: Path) -> None:
    opened = store.open_store(str(tmp_path))
    write_dataset(opened, "good")
    write_dataset(opened, "cut", shard_bytes=5)
    opened.put("datasets/damaged/manifest.json", b"{")
    found = named(examine(str(tmp_path), ""), "datasets")
    assert [finding.ok for finding in found] == [False, False, True]
    assert all(finding.fix for finding in found[:2])
    assert "train/a.tar" in found[0].says
    assert "1 readable" in found[2].says


def test_a_dead_mlflow_server_is_a_fault(tmp_path: Path) -> None:
    [port] = free_ports(1)
    found = fault(examine(str(tmp_path), f"http://127.0.0.1:{port}"), "mlflow")
    assert "Connection refused" in found.says
    with answering(500) as server:
        assert "HTTP 500" in fault(examine(str(tmp_path), server.address), "mlflow").says
    with answering() as server:
        found = fault(examine(str(tmp_path), server.address), "mlflow")
        assert "it answers, but not as MLflow does" in found.says


def test_a_password_reaches_mlflow_and_no_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "")
    with answering() as server:
        address = server.address.replace("://", "://ada:planted@")
        (found,) = named(examine(str(tmp_path), address), "mlflow")
    assert "planted" not in f"{found.says} {found.fix}"
    assert set(server.logins) == {"Basic YWRhOnBsYW50ZWQ="}
    (found,) = named(examine(str(tmp_path), address), "mlflow")
    assert "planted" not in found.says
    assert server.address in found.says


@pytest.mark.parametrize("uri", ["./mlruns", "file:///mlruns"])
def test_a_folder_is_no_mlflow(tmp_path: Path, uri: str) -> None:
    assert "sqlite" in fault(examine(str(tmp_path), uri), "mlflow").fix


def test_mlflow_databases(tmp_path: Path) -> None:
    def check(uri: str) -> Finding:
        (found,) = named(examine(str(tmp_path), uri), "mlflow")
        assert found.fix or found.ok
        return found

    path = tmp_path / "mlflow.db"
    assert check("").ok is None
    assert check(sqlite_uri(tmp_path)).ok is None
    assert not path.exists()
    assert check("postgresql://host/db").ok is None
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE runs (id)").close()
        database.commit()
        assert check(sqlite_uri(tmp_path)).ok
        database.execute("BEGIN IMMEDIATE").close()
        locked = check(sqlite_uri(tmp_path))
        assert locked.ok is False
        assert "locked" in locked.says
    path.write_bytes(b"no database at all")
    assert check(sqlite_uri(tmp_path)).ok is False
    path.unlink()
    path.mkdir()
    assert check(sqlite_uri(tmp_path)).ok is False
    assert check(sqlite_uri(tmp_path / "mlflow.db" / "x")).ok is None


def test_full_disks_are_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 10**8})
    monkeypatch.setattr(services.shutil, "disk_usage", lambda _: usage)
    found = named(examine(str(tmp_path), ""), "disk")
    assert [finding.ok for finding in found] == [False, False]
    assert all("0.1 GB" in finding.says and finding.fix for finding in found)


def test_a_check_that_breaks_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Iterator[Finding]:
        yield Finding("cpu", True, "so far")
        raise ZeroDivisionError("two\nlines")

    monkeypatch.setattr(machine, "cpu", broken)
    findings = examine(str(tmp_path), "")
    assert fault(findings, "cpu").says == "ZeroDivisionError: two lines"
    assert named(findings, "cpu")[0].says == "so far"


def test_torch_and_torchvision_that_do_not_fit_are_a_fault(
    monkeypatch: pytest.MonkeyPatch, slow_torch: None
) -> None:
    error = "RuntimeError: operator torchvision::nms does not exist"
    monkeypatch.setattr(machine, "_TORCH", f"import sys; sys.exit({error!r})")
    found = fault(list(machine.torch()), "torch")
    assert error in found.says
    assert "torchvision" in found.fix


def print_as_torch(monkeypatch: pytest.MonkeyPatch, gpus: str) -> None:
    """Let the check's process print what is wrong with each GPU, as JSON."""
    versions = '{"torch": "1", "torchvision": "1"}'
    monkeypatch.setattr(machine, "_TORCH", f"print({versions!r}); print({gpus!r})")


@pytest.mark.parametrize(
    ("gpus", "complaint", "usable", "ok"),
    [
        ([], "", 0, None),
        ([], "", None, None),
        (["H200, 141 GB, 570"], "", 1, True),
        (["H200, 141 GB, 570"], "", 0, False),
        (["H200, 141 GB, 570"], "", None, None),
        (["/dev/nvidia0"], "NVIDIA-SMI has failed", 1, False),
    ],
)
def test_gpus(
    gpus: list[str],
    complaint: str,
    usable: int | None,
    ok: bool | None,
    monkeypatch: pytest.MonkeyPatch,
    slow_torch: None,
) -> None:
    monkeypatch.setattr(machine, "_gpus", lambda: (gpus, complaint))
    if usable is None:
        monkeypatch.setattr(machine, "_TORCH", "raise SystemExit(1)")
    else:
        print_as_torch(monkeypatch, json.dumps({str(index): "" for index in range(usable)}))
    (found,) = named(list(machine.torch()), "gpu")
    assert found.ok is ok
    assert found.fix or ok is not False


def test_gpus_that_are_ill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slow_torch: None
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(
        "#!/bin/sh\ncase $1 in *index*) echo 0, 3, Active; echo 1, 0, Not Active;; "
        "*) echo H200, 141 GB, 570; echo H200, 141 GB, 570;; esac\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    print_as_torch(monkeypatch, '{"0": "", "1": "a product of matrices is wrong"}')
    found = named(list(machine.torch(gpus=2)), "gpu")
    assert [(one.ok, one.says) for one in found] == [
        (False, "GPU 1: a product of matrices is wrong"),
        (False, "GPU 0 had 3 memory errors (ECC)"),
        (None, "GPU 0 is slowed down by its hardware"),
    ]


def test_gpus_that_end_or_hang_torch(monkeypatch: pytest.MonkeyPatch, slow_torch: None) -> None:
    print_as_torch(monkeypatch, "")
    monkeypatch.setattr(machine, "_TORCH", f"import sys; {machine._TORCH}; sys.exit(3)")
    found = list(machine.torch(gpus=1))
    assert "exit code 3" in fault(found, "gpu").says
    assert named(found, "torch")[0].ok

    def hang(words: list[str], **_: object) -> None:
        raise subprocess.TimeoutExpired(words, 120, b'{"torch": "1", "torchvision": "1"}')

    monkeypatch.setattr(machine.subprocess, "run", hang)
    assert "no answer within 120 s" in fault(list(machine.torch(gpus=1)), "gpu").says


def test_packages_that_are_missing_or_old_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [
        "numpy>=1.0",
        "numpy<1.0",
        "not-there-at-all>=2",
        "neither-this; extra == 'demo'",
        "nor-this; extra == 'test'",
        "nor-that; python_version < '3'",
    ]
    monkeypatch.setattr(machine.importlib.metadata, "requires", lambda _: asked)
    faulty, note = machine.packages()
    assert faulty.ok is False
    assert "not-there-at-all is missing" in faulty.says
    assert "does not satisfy <1.0" in faulty.says
    assert "nor" not in faulty.says
    assert (note.ok, "[demo]" in note.fix) == (None, True)


def test_doctor_imports_no_torch() -> None:
    code = (
        "import sys; from hpt_dist.doctor import cluster, services; "
        "print({'torch', 'mlflow'} & set(sys.modules))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.stdout.strip() == "set()", answer.stderr
