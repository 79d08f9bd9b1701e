"""Doctor's checks of a machine, a store and MLflow, each with a fix. No check ever raises."""

from __future__ import annotations

import base64
import os
import shutil
import socket
import sqlite3
import ssl
import statistics
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from hpt_dist.datasets.manifest import Manifest, dataset_names, read_manifest
from hpt_dist.doctor import machine
from hpt_dist.doctor.finding import Check, Finding, failed, guarded, judged
from hpt_dist.errors import HptError
from hpt_dist.store import Store, open_store
from hpt_dist.store.paths import tracking_database, work_folder
from hpt_dist.tracking import tracker
from hpt_dist.tracking.address import EXPERIMENT_VARIABLE, credentials, given, reached

T = TypeVar("T")

_LEAST_FREE_GB = 2.0
_TIMEOUT_S = 5.0
_LOCK_TIMEOUT_S = 2.0
# S3 refuses requests if the clock is 15 minutes off; a few seconds already make logs misleading.
LARGEST_SKEW_S = 20.0
_SHARDS_CHECKED = 8  # of each split; `data verify` reads all
_SQLITE_MAGIC = b"SQLite format 3\0"
# Fixes for errors that name none.
_FIXES = {
    "python": "install Python 3.11 or newer",
    "packages": "install again: pip install --upgrade hpt-dist",
    "torch": "install torch and torchvision together: pip install --upgrade torch torchvision",
    "cpu": "see the message; training has to read the machine's number of cores and its memory",
    "store": "check the URI, the network, AWS_ENDPOINT_URL_S3, the credentials and the permissions "
    "to read, write, list and delete",
    "disk": "choose a store and a work folder on a disk that this user can read",
    "clock": "check that AWS_ENDPOINT_URL_S3 is correct and can be reached",
    "datasets": "run `hpt-dist data verify STORE/datasets/NAME` to see what is damaged; shard it "
    "again",
    "mlflow": "check the tracking URI; training goes on without MLflow, and `hpt-dist sync` "
    "brings it up to date",
}


def examine(store_uri: str, tracking_uri: str) -> list[Finding]:
    """Check this machine, a store and MLflow.

    Args:
        store_uri: URI of the store; a test object is written there and removed.
        tracking_uri: URI of MLflow; empty for none.

    Returns:
        One or more findings for each check, always in the same order.
    """
    checks: dict[str, Check] = {
        "python": machine.python,
        "packages": machine.packages,
        "torch": machine.torch,
        "cpu": machine.cpu,
        "store": partial(_store, store_uri),
        "disk": partial(_disk, store_uri),
        "mlflow": partial(_mlflow, tracking_uri),
    }
    with ThreadPoolExecutor(len(checks)) as pool:
        results = pool.map(_guarded, checks, checks.values())
        return [finding for findings in results for finding in findings]


def reach(store_uri: str, tracking_uri: str) -> list[Finding]:
    """Check whether a store and MLflow can be used from here; their contents are not checked.

    Args:
        store_uri: URI of the store; a test object is written there and removed.
        tracking_uri: URI of MLflow; empty for none.
    """
    findings = _guarded("store", lambda: _reached(open_store(store_uri)))
    return findings + _guarded("mlflow", partial(_mlflow, tracking_uri))


def _guarded(name: str, check: Check) -> list[Finding]:
    return guarded(name, check, _FIXES[name])


def _failed(name: str, message: str, fix: str = "") -> Finding:
    return failed(name, message, fix or _FIXES[name])


def _store(uri: str) -> Iterator[Finding]:
    """Check a store, and its datasets if it can be used."""
    store = open_store(uri)
    findings = list(_reached(store))
    yield from findings
    if any(finding.ok for finding in findings if finding.name == "store"):
        yield from _guarded("datasets", partial(_datasets, store))


def _reached(store: Store) -> Iterator[Finding]:
    folder = store.folder
    if folder is None:
        clock = _guarded("clock", _clock)
        yield from clock
        if all(finding.ok is not False for finding in clock):
            yield from _guarded("store", partial(_used, store))
    elif folder.exists():
        yield from _guarded("store", partial(_used, store))
    else:
        yield _missing("store", folder, "choose another store with --store or HPT_STORE")


def _missing(name: str, path: Path, otherwise: str) -> Finding:
    """Report a path that does not exist; it is a fault if it cannot be created."""
    above = _existing(path)
    if above.is_dir() and os.access(above, os.W_OK | os.X_OK):
        fix = "nothing, if the path is correct: it is created at first use"
        return Finding(name, None, f"{path} does not exist yet", fix)
    return _failed(name, f"{path} does not exist and cannot be created in {above}", otherwise)


def _used(store: Store) -> Iterator[Finding]:
    """Write, read, list, swap and delete a test object, as launches do."""
    name = f"doctor/{uuid.uuid4().hex}"
    seconds: list[float] = []
    try:
        wrong = list(_probed(store.at(name), seconds))
    finally:
        left = store.at(name).folder
        if left is not None:  # the objects are deleted, but their folders remain
            shutil.rmtree(left, ignore_errors=True)
            with suppress(OSError):  # another doctor uses it at the same time
                left.parent.rmdir()
    if wrong:
        yield _failed("store", f"{store.uri}: {'; '.join(wrong)}")
        return
    latency_ms = 1000 * statistics.median(seconds)
    yield Finding(
        "store",
        True,
        f"{store.uri}: put, get, range, list, swap and delete work; {latency_ms:.1f} ms each",
    )


def _probed(probe: Store, seconds: list[float]) -> Iterator[str]:
    """Yield what each request did wrong; append the time of each to `seconds`."""
    data = bytes(range(256)) * 16
    try:
        _timed(seconds, lambda: probe.put("object", data))
        if _timed(seconds, lambda: probe.get("object")) != data:
            yield "get did not return the bytes that put wrote"
        if _timed(seconds, lambda: probe.get("object", 100, 50)) != data[100:150]:
            yield "a ranged get returned the wrong bytes"
        if [info.path for info in _timed(seconds, lambda: list(probe.list()))] != ["object"]:
            yield "list does not show the object that put wrote"
        yield from _swapped(probe, seconds)
    finally:
        for name in ("object", "swapped"):
            probe.delete(name)
    if probe.stat("object") is not None:
        yield "a deleted object still exists"


def _swapped(probe: Store, seconds: list[float]) -> Iterator[str]:
    """Check that only one of two writers succeeds: leases depend on it."""
    first = _timed(seconds, lambda: probe.swap("swapped", b"first", None))
    if first is None:
        yield "swap could not create an object"
        return
    if probe.swap("swapped", b"second", None) is not None:
        yield "swap replaced an existing object although it expected none"
    if probe.swap("swapped", b"second", first) is None:
        yield "swap refused to replace the version that it expected"
    if probe.swap("swapped", b"third", first) is not None:
        yield "swap replaced another version than expected, so two machines could run one trial"


def _timed(seconds: list[float], request: Callable[[], T]) -> T:
    began = time.perf_counter()
    answer = request()
    seconds.append(time.perf_counter() - began)
    return answer


def _disk(uri: str) -> Iterator[Finding]:
    """Check the free space of a folder store and of the work folder."""
    store = open_store(uri)
    root = store.folder
    folders = {"work folder": work_folder(store, os.environ.get("HPT_WORK", ""))}
    if root is not None:
        folders = {"store": root, **folders}
    for what, folder in folders.items():
        free_gb = shutil.disk_usage(_existing(folder)).free / 1e9
        message = f"{what} {folder}: {free_gb:,.1f} GB free"
        fix = f"free some space (at least {_LEAST_FREE_GB:g} GB), or use another disk"
        yield judged("disk", free_gb >= _LEAST_FREE_GB, message, fix)


def _clock() -> Iterator[Finding]:
    """Check whether the S3 server can be reached, and compare its clock with this machine's."""
    from hpt_dist.store import s3

    endpoint = s3.endpoint()
    try:
        date = _date_header(endpoint)
    except OSError as error:
        yield _failed(
            "store",
            f"{endpoint} cannot be reached: {getattr(error, 'reason', error)}",
            "check AWS_ENDPOINT_URL_S3, the network and, for TLS, AWS_CA_BUNDLE",
        )
        return
    if not date:
        yield Finding("clock", None, f"{endpoint} sends no time", "compare the clocks by hand")
        return
    # The header has whole seconds; half a second more is right on average.
    skew_s = time.time() - (parsedate_to_datetime(date).timestamp() + 0.5)
    message = f"the clocks of this machine and of {endpoint} differ by {abs(skew_s):.0f} s"
    fix = "synchronise this machine's clock (chrony or ntpd)"
    yield judged("clock", abs(skew_s) <= LARGEST_SKEW_S, message, fix)


def _date_header(endpoint: str) -> str:
    request = urllib.request.Request(endpoint, method="HEAD")  # noqa: S310  the user's own server
    try:
        with _open(request, "AWS_CA_BUNDLE") as answer:
            return answer.headers.get("Date") or ""
    except urllib.error.HTTPError as refusal:  # a refusal also has a date
        with refusal:
            return refusal.headers.get("Date") or ""


def _datasets(store: Store) -> Iterator[Finding]:
    """Parse every manifest, and compare the sizes of the first shards with it."""
    names = dataset_names(store)
    if not names:
        fix = "hpt-dist shard SOURCE DEST"
        yield Finding("datasets", None, f"no dataset in {store.uri} yet", fix)
        return
    shards, good = 0, 0
    for name in names:
        try:
            manifest = read_manifest(store, name)
        except HptError as error:
            yield _failed("datasets", str(error.problem.what), error.problem.fix)
            continue
        shards += sum(len(split.shards) for split in manifest.splits.values())
        wrong = list(_wrong_shards(store, manifest))
        if wrong:
            more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
            yield _failed("datasets", f"{name}: {wrong[0]} is missing or truncated{more}")
        else:
            good += 1
    if good:
        yield Finding("datasets", True, f"{good} readable datasets with {shards} shards")


def _wrong_shards(store: Store, manifest: Manifest) -> Iterator[str]:
    shards = manifest.shards_in(store.at(f"datasets/{manifest.name}"))
    for split in manifest.splits.values():
        for shard in split.shards[:_SHARDS_CHECKED]:
            info = shards.stat(shard.path)
            if info is None or info.bytes != shard.bytes:
                yield shard.path


def _mlflow(uri: str) -> Iterator[Finding]:
    """Check whether MLflow can record runs."""
    uri = given(uri)
    scheme = urlsplit(uri).scheme
    if not uri:
        fix = "set MLFLOW_TRACKING_URI"
        yield Finding("mlflow", None, "no MLflow is set; metrics stay in local files", fix)
    elif database := tracking_database(uri):
        yield _sqlite(database)
    elif scheme in ("http", "https"):
        yield _server(uri.rstrip("/"))
    elif scheme in ("", "file"):
        yield _failed(
            "mlflow",
            f"{uri} is a folder, which MLflow no longer supports",
            "use sqlite:////absolute/mlflow.db, or the address of a server",
        )
    else:
        fix = "run `hpt-dist sync` to see whether it works"
        yield Finding("mlflow", None, f"doctor does not check {scheme} addresses", fix)


def _sqlite(path: Path) -> Finding:
    if not path.exists():
        return _missing("mlflow", path, "choose another file, or create that folder")
    fix = f"move {path} away and run `hpt-dist sync`, which fills a new one from local files"
    with path.open("rb") as file:
        magic = file.read(len(_SQLITE_MAGIC))
    if magic and magic != _SQLITE_MAGIC:
        return _failed("mlflow", f"{path} is not an SQLite database", fix)
    try:
        address = f"{path.absolute().as_uri()}?mode=rw"
        with closing(sqlite3.connect(address, timeout=_LOCK_TIMEOUT_S, uri=True)) as database:
            database.execute("BEGIN IMMEDIATE").close()
            # SQLite begins also where it may only read.
            version = database.execute("PRAGMA user_version").fetchone()[0]
            database.execute(f"PRAGMA user_version = {version}").close()
            database.rollback()
    except sqlite3.OperationalError as error:
        return _failed(
            "mlflow",
            f"{path} cannot be written: {error}",
            "stop the program that locks it; check the permissions of the file and its folder",
        )
    except sqlite3.DatabaseError as error:
        return _failed("mlflow", f"{path} is damaged: {error}", fix)
    return Finding("mlflow", True, f"{path} can be written")


def _server(uri: str) -> Finding:
    """Check that a server answers, and that it lets this user make and delete a run."""
    silent = _silent(uri)
    if silent:
        return silent
    user = os.environ.get("MLFLOW_TRACKING_USERNAME", "") or os.getuid()
    # Each node's doctor has an experiment of its own: they work at the same time.
    own = f"hpt-dist doctor {user}@{socket.gethostname()}"
    experiment = os.environ.get(EXPERIMENT_VARIABLE, "") or own
    try:
        tracker.probe(uri, experiment)
    except HptError as error:
        return _failed("mlflow", f"{uri}: {error.problem.what}", error.problem.fix)
    return Finding("mlflow", True, f"{uri}: a run was made and deleted")


def _silent(uri: str) -> Finding | None:
    """Return why a server cannot be reached; None where it answers."""
    address = reached(uri)
    user, password = credentials(address)
    user = user or os.environ.get("MLFLOW_TRACKING_USERNAME", "")
    password = password or os.environ.get("MLFLOW_TRACKING_PASSWORD", "")
    request = urllib.request.Request(f"{uri}/health")  # noqa: S310  the user's own server
    if user:
        login = base64.b64encode(f"{user}:{password}".encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {login}")
    try:
        with _open(request, "MLFLOW_TRACKING_SERVER_CERT_PATH", "REQUESTS_CA_BUNDLE"):
            return None
    except urllib.error.HTTPError as refusal:
        with refusal:
            if refusal.code in (401, 403):  # a login that is wrong; MLflow itself never asks here
                return None
            return _failed(
                "mlflow",
                f"{uri}/health answers with HTTP {refusal.code}",
                "see the server's log; check that the address is that of an MLflow server",
            )
    except OSError as error:
        return _failed(
            "mlflow",
            f"{uri} does not answer: {getattr(error, 'reason', error)}",
            "start the server (mlflow server), or correct the address or the certificate's path; "
            "training goes on without it, and `hpt-dist sync` brings it up to date",
        )


def _open(request: urllib.request.Request, *bundles: str) -> urllib.request._UrlopenRet:
    """Open a URL; also trust the certificates that the first set variable of `bundles` names."""
    context = ssl.create_default_context()
    named = [os.environ[name] for name in bundles if os.environ.get(name)]
    if named:
        context.load_verify_locations(named[0])
    return urllib.request.urlopen(request, timeout=_TIMEOUT_S, context=context)  # noqa: S310


def _existing(path: Path) -> Path:
    """Return the path, or the nearest existing folder above it."""
    path = path.absolute()
    return next(p for p in (path, *path.parents) if p.exists())
