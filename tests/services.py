"""Real servers and programs for the tests, each started at most once a session.

A missing program skips the tests that need it, or fails them when HPT_REQUIRE_SERVICES=1.
Everything listens on free ports of 127.0.0.1 and keeps its state in one temporary folder.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import boto3
import pytest
from botocore.config import Config
from selenium import webdriver
from shared import made_once

from hpt_dist.tracking import tracker

ACCESS_KEY = "testaccess"
SECRET_KEY = "testsecret"


def need(program: str) -> str:
    """Return the path of a program, or end the test: see the module's text."""
    folders = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    path = shutil.which(program, path=folders)
    if path is None:
        unavailable(f"{program} is not installed; .ci/install or the test extra brings it")
    return path


def unavailable(why: str) -> NoReturn:
    """End the test, by a failure where HPT_REQUIRE_SERVICES=1."""
    end = pytest.fail if os.environ.get("HPT_REQUIRE_SERVICES") == "1" else pytest.skip
    end(why)


def free_ports(count: int) -> list[int]:
    """Return distinct ports that nothing listened on a moment ago.

    They lie below the range from which the kernel gives outgoing connections theirs, so that none
    of these takes one before its server does; and above those at which the ranks of jobs meet.
    """
    ports: list[int] = []
    with contextlib.ExitStack() as stack:
        while len(ports) < count:
            port = 20_480 + secrets.randbelow(12_288)
            with contextlib.suppress(OSError):
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
                ports.append(port)
    return ports


@dataclass
class Programs:
    """Background programs of one service; leaving the block kills them and their children."""

    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __enter__(self) -> Programs:
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self.running):
            self.kill(name)

    def start(self, name: str, *arguments: str | Path) -> None:
        """Start a program that also dies with this process, its output in `<name>.log`."""
        with self.log(name).open("wb") as log:
            self.running[name] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "--", need(str(arguments[0])), *arguments[1:]],
                env=os.environ | self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def kill(self, name: str) -> None:
        """End a program and its children by SIGKILL."""
        process = self.running.pop(name)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def call(self, *arguments: str | Path) -> str:
        """Run a program to its end and return what it printed."""
        result = subprocess.run(
            [need(str(arguments[0])), *arguments[1:]],
            env=os.environ | self.environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert result.returncode == 0, f"{arguments}: {result.stderr}"
        return result.stdout

    def wait(self, name: str, url: str, timeout_s: float = 60) -> None:
        """Return once the program answers at the URL with a status below 400."""
        deadline = time.monotonic() + timeout_s
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):
                return
            if self.running[name].poll() is not None or time.monotonic() > deadline:
                pytest.fail(
                    f"{name} does not answer at {url}:\n{self.log(name).read_text()[-3000:]}"
                )
            time.sleep(0.05)

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"


@dataclass(frozen=True)
class S3Server:
    """A running S3 server; `ca_bundle` holds the certificate of an https endpoint."""

    endpoint: str
    ca_bundle: Path | None = None

    @property
    def environment(self) -> dict[str, str]:
        """The AWS variables by which any S3 client reaches this server."""
        variables = {
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        return variables | ({"AWS_CA_BUNDLE": str(self.ca_bundle)} if self.ca_bundle else {})

    def make_bucket(self) -> str:
        """Create a bucket of a new name."""
        bucket = f"test-{uuid.uuid4().hex[:12]}"
        client = boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            verify=str(self.ca_bundle) if self.ca_bundle else None,
            config=Config(s3={"addressing_style": "path"}),
        )
        client.create_bucket(Bucket=bucket)
        client.close()
        return bucket


@dataclass(frozen=True)
class Ceph:
    """Ceph's S3 gateway with its http and https listeners, which show the same buckets."""

    http: S3Server
    https: S3Server
    programs: Programs

    def kill_gateway(self) -> None:
        """End the gateway by SIGKILL; the cluster behind it, and so all objects, stay."""
        self.programs.kill("radosgw")

    def start_gateway(self) -> None:
        """Start the gateway on its ports and return once it answers."""
        self.programs.start("radosgw", "radosgw", "-n", "client.rgw", "-f")
        self.programs.wait("radosgw", self.http.endpoint)


# A gateway tells all others of a new bucket, and waits for one that was killed: by default 30 s.
CEPH_CONF = """
[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{mon_port}]
public network = 127.0.0.0/8
auth cluster required = none
auth service required = none
auth client required = none
ms mon client mode = crc
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pgp num = 8
osd pool default pg autoscale mode = off
mon allow pool size one = true
mon max pg per osd = 1000
osd crush chooseleaf type = 0
osd client watch timeout = 3
objecter tick interval = 1
keyring = {folder}/keyring
run dir = {folder}
admin socket = {folder}/$name.sock
pid file = {folder}/$name.pid
log file = {folder}/$name.ceph.log
[mon]
mon data = {folder}/mon
mon data avail crit = 1
paxos propose interval = 0.05
paxos min wait = 0.01
[osd]
osd data = {folder}/osd
osd objectstore = memstore
memstore device bytes = 8589934592
osd class load list = *
osd class default list = *
[client.rgw]
rgw data = {folder}/rgw
rgw frontends = beast endpoint=127.0.0.1:{http_port} ssl_endpoint=127.0.0.1:{https_port} \
ssl_certificate={folder}/both.pem tcp_nodelay=1
"""


def make_certificate(folder: Path) -> Path:
    """Write a certificate for 127.0.0.1, and `both.pem` with its key; return the former."""
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    Programs(folder).call(
        *("openssl", "req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"),
        *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
        *("-addext", "subjectAltName=IP:127.0.0.1"),
        *("-addext", "keyUsage=critical,digitalSignature,keyCertSign"),
        *("-keyout", key, "-out", certificate),
    )
    (folder / "both.pem").write_bytes(certificate.read_bytes() + key.read_bytes())
    return certificate


@pytest.fixture(scope="session")
def ceph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ceph]:
    """A one-disk Ceph cluster in memory with its S3 gateway."""
    with run_ceph(tmp_path_factory.mktemp("ceph")) as running:
        yield running


@contextlib.contextmanager
def run_ceph(folder: Path) -> Iterator[Ceph]:
    """Run a one-disk Ceph cluster in memory with its S3 gateway until the block ends.

    Args:
        folder: an empty folder for its settings, sockets and logs; its path is short.
    """
    (folder / "osd").mkdir()
    fsid, osd = str(uuid.uuid4()), str(uuid.uuid4())
    mon_port, http_port, https_port = free_ports(3)
    certificate = make_certificate(folder)
    (folder / "ceph.conf").write_text(
        CEPH_CONF.format(
            fsid=fsid,
            folder=folder,
            mon_port=mon_port,
            http_port=http_port,
            https_port=https_port,
        )
    )
    keyring, monmap = folder / "keyring", folder / "monmap"
    with Programs(folder, {"CEPH_CONF": str(folder / "ceph.conf")}) as programs:
        call = programs.call
        call("ceph-authtool", "--create-keyring", keyring, "--gen-key", "-n", "mon.")
        address = f"[v2:127.0.0.1:{mon_port}]"
        call("monmaptool", "--create", "--fsid", fsid, "--addv", "a", address, monmap)
        call("ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap, "--keyring", keyring)
        programs.start("ceph-mon", "ceph-mon", "-i", "a", "-f")
        call("ceph", "osd", "new", osd)
        call("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd)
        programs.start("ceph-osd", "ceph-osd", "-i", "0", "-f")
        call(
            *("radosgw-admin", "-n", "client.rgw", "user", "create", "--uid=test"),
            *("--display-name=test", f"--access-key={ACCESS_KEY}", f"--secret-key={SECRET_KEY}"),
        )
        http = S3Server(f"http://127.0.0.1:{http_port}")
        https = S3Server(f"https://127.0.0.1:{https_port}", certificate)
        running = Ceph(http, https, programs)
        running.start_gateway()
        yield running


SEAWEED_S3 = """
{{"identities": [{{"name": "test", "actions": ["Admin", "Read", "List", "Tagging", "Write"],
  "credentials": [{{"accessKey": "{access_key}", "secretKey": "{secret_key}"}}]}}]}}
"""


@pytest.fixture(scope="session")
def seaweedfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """SeaweedFS, the strictest S3 server of those that install: it checks every digest."""
    folder = tmp_path_factory.mktemp("seaweedfs")
    config = folder / "s3.json"
    config.write_text(SEAWEED_S3.format(access_key=ACCESS_KEY, secret_key=SECRET_KEY))
    names = ("master.port", "volume.port", "filer.port", "s3.port")
    grpc_names = ("master.port.grpc", "volume.port.grpc", "filer.port.grpc", "s3.port.grpc")
    ports = free_ports(8)
    options = [f"-{name}={port}" for name, port in zip(names + grpc_names, ports, strict=True)]
    with Programs(folder) as programs:
        programs.start(
            *("seaweedfs", "weed", "server", f"-dir={folder}", "-ip=127.0.0.1", *options),
            # Each bucket takes seven volumes, and each test a bucket.
            *("-ip.bind=127.0.0.1", "-volume.max=10000", "-master.volumeSizeLimitMB=256"),
            # Two further servers have fixed ports, on which a second SeaweedFS would end itself.
            *("-master.telemetry=false", "-s3", "-s3.port.iceberg=0", "-s3.port.lance=0"),
            *(f"-s3.config={config}", "-s3.autoCreateBucket=false"),
        )
        endpoint = f"http://127.0.0.1:{ports[names.index('s3.port')]}"
        programs.wait("seaweedfs", f"{endpoint}/healthz")
        yield S3Server(endpoint)


@pytest.fixture(scope="session")
def mlflow_tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite file with MLflow's empty tables, to be copied: making them takes seconds."""

    def make(folder: Path) -> None:
        tracker.initialise(f"sqlite:///{folder}/mlflow.db")

    return made_once(tmp_path_factory, "mlflow_tables", make) / "mlflow.db"


@contextlib.contextmanager
def run_mlflow(
    folder: Path, artifacts: str, environment: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Run an MLflow server with SQLite in `folder` until the block ends.

    Args:
        folder: where its database and log go.
        artifacts: a folder or `s3://bucket/prefix` that the server itself reads and writes.
        environment: further variables of the server, such as `S3Server.environment`.

    Yields:
        The tracking URI.
    """
    settings = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    [port] = free_ports(1)
    with Programs(folder, settings | dict(environment or {})) as programs:
        programs.start(
            *("mlflow", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)),
            # The default of 4 workers takes 44 s to start.
            *("--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db"),
            *("--artifacts-destination", artifacts),
        )
        uri = f"http://127.0.0.1:{port}"
        programs.wait("mlflow", f"{uri}/health", timeout_s=120)
        yield uri


@pytest.fixture(scope="session")
def mlflow_server(mlflow_tables: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The tracking URI of an MLflow server that keeps artifacts in a folder."""
    folder = tmp_path_factory.mktemp("mlflow")
    shutil.copy(mlflow_tables, folder)
    with run_mlflow(folder, str(folder / "artifacts")) as uri:
        yield uri


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """A headless browser under selenium."""
    options = webdriver.ChromeOptions()
    options.binary_location = need("chromium")
    profile = tmp_path_factory.mktemp("chromium")
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--window-size=1400,1000",
        f"--user-data-dir={profile}",
    ):
        options.add_argument(argument)
    driver = webdriver.Chrome(options, webdriver.ChromeService(need("chromedriver")))
    yield driver
    driver.quit()
