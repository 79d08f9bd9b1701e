"""An S3 server (SeaweedFS) and an MLflow server beside the cluster, where they are installed."""

from __future__ import annotations

import http.client
import json
import os
import sys
from pathlib import Path

from configuration import SEAWEEDFS, Settings
from processes import Processes, find

PROGRAMS = {"weed": "an S3 server", "mlflow": "an MLflow server"}
BUCKET = "hpt"


def program(name: str) -> str | None:
    """Return the path of one of PROGRAMS, or None; the project's environment comes first."""
    environment = Path(__file__).resolve().parents[2] / ".venv/bin"
    folders = os.pathsep.join(map(str, (environment, Path(sys.executable).parent)))
    return find(name, folders)


def variables(settings: Settings) -> dict[str, str]:
    """Return the variables by which clients reach the servers whose programs are here."""
    found: dict[str, str] = {}
    if program("weed"):
        found |= {
            "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{settings.ports['s3']}",
            "AWS_ACCESS_KEY_ID": "dev",
            "AWS_SECRET_ACCESS_KEY": settings.secret,
            "AWS_DEFAULT_REGION": "us-east-1",
            "HPT_STORE": f"s3://{BUCKET}/dev",
        }
    if program("mlflow"):
        found["MLFLOW_TRACKING_URI"] = f"http://127.0.0.1:{settings.ports['mlflow']}"
    return found


def begin(processes: Processes, settings: Settings) -> None:
    """Start what does not run, without waiting for it: MLflow takes many seconds."""
    running = processes.running()
    commands = {"weed": _seaweedfs, "mlflow": _mlflow}
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    for name, command in commands.items():
        path = program(name)
        if path and name not in running:
            arguments = [path, *command(processes.folder, settings)]
            processes.start(name, arguments, variables(settings) | quiet)


def wait(processes: Processes, settings: Settings) -> None:
    """Return once the servers answer and there is a bucket."""
    ports = settings.ports
    if program("weed"):
        processes.wait("weed", lambda: _ask(ports["s3"], "/healthz") == 200)
        # A folder of the filer is a bucket, and making one needs no signature. 409: there already.
        folder = f"/buckets/{BUCKET}/"
        processes.wait("weed", lambda: _ask(ports["filer"], folder, "POST") in (201, 409))
    if program("mlflow"):
        processes.wait("mlflow", lambda: _ask(ports["mlflow"], "/health") == 200, timeout_s=180)


def _seaweedfs(run: Path, settings: Settings) -> list[str]:
    data = run / "s3"
    data.mkdir(exist_ok=True)
    key = {"accessKey": "dev", "secretKey": settings.secret}
    actions = ["Admin", "Read", "List", "Tagging", "Write"]
    identity = {"name": "dev", "actions": actions, "credentials": [key]}
    config = run / "s3.json"
    config.touch(mode=0o600)
    config.write_text(json.dumps({"identities": [identity]}))
    ports = [f"-{name}.port={settings.ports[name]}" for name in SEAWEEDFS]
    ports += [f"-{name}.port.grpc={settings.ports[f'{name}.grpc']}" for name in SEAWEEDFS]
    return [
        *("server", f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", *ports),
        *("-volume.max=1000", "-master.volumeSizeLimitMB=1024", "-master.telemetry=false"),
        # Two further servers have fixed ports, on which a second SeaweedFS would end itself.
        *("-s3", "-s3.port.iceberg=0", "-s3.port.lance=0", f"-s3.config={config}"),
    ]


def _mlflow(run: Path, settings: Settings) -> list[str]:
    artifacts = f"s3://{BUCKET}/mlflow" if program("weed") else str(run / "mlartifacts")
    return [
        *("server", "--host", "127.0.0.1", "--port", str(settings.ports["mlflow"])),
        # The default of 4 workers takes 44 s to start.
        *("--workers", "1", "--backend-store-uri", f"sqlite:///{run}/mlflow.db"),
        *("--artifacts-destination", artifacts),
    ]


def _ask(port: int, path: str, method: str = "GET") -> int:
    """Return the status of an answer, or 0 where nobody answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request(method, path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()
