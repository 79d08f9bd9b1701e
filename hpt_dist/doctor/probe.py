"""What doctor runs on a cluster's nodes: each process of its job writes down the facts it finds.

Nothing is judged here; `node_findings` does that, where doctor was started. The facts are written
before each step, so that a step that ends this process, or hangs it, is known too.
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import os
import platform
import shutil
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import hpt_dist
from hpt_dist.store import files

Facts = dict[str, Any]

SHARED_MEMORY = "/dev/shm"  # noqa: S108 - no file of ours
# What a process tells of an all-reduce that another one cannot take part in.
DESERTED = "another process failed"

# Long enough for NCCL's first connections on a large cluster.
_MEETING_S = 60.0
_POLL_S = 0.25
_SMI_TIMEOUT_S = 30.0
_SMI = ("ecc.errors.uncorrected.volatile.total", "clocks_throttle_reasons.hw_slowdown")


def facts_file(folder: Path, rank: int) -> Path:
    """Return where a process writes its facts."""
    return folder / f"facts-{rank}.json"


@dataclass(frozen=True)
class Probe:
    """What the processes of the job look at, as submitit carries it to the nodes.

    Args:
        folder: where the facts go, absolute.
        work: the trials' folder for logs and local metrics, absolute.
        store: URI of the store.
        tracking_uri: of MLflow; empty for none.
        packages: distributions whose versions are wanted.
        ranks: processes in all.
        threads: of each.
        gpus: whether to try the GPUs.
    """

    folder: str
    work: str
    store: str
    tracking_uri: str
    packages: tuple[str, ...]
    ranks: int
    threads: int
    gpus: bool

    def __call__(self) -> None:
        """Be one of the processes."""
        now = time.time()
        rank = int(os.environ.get("SLURM_PROCID", "0"))
        node = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
        facts: Facts = {"rank": rank, "node": node, "began_s": now, "errors": {}}
        for name, look in self._steps(facts):
            self._write(facts, doing=name)
            try:
                facts[name] = look()
            except Exception as error:  # noqa: BLE001 - whatever it is, doctor tells it
                facts["errors"][name] = _told(error)
        self._write(facts, doing="")

    def _steps(self, facts: Facts) -> list[tuple[str, Callable[[], Any]]]:
        steps: list[tuple[str, Callable[[], Any]]] = [
            ("versions", self._versions),
            ("work", self._work),
            ("services", self._services),
            ("scratch", _scratch),
            ("torch", _torch),
        ]
        if self.gpus:
            steps.append(("gpus", _gpus))
        if self.ranks > 1:
            steps += [("names", self._names), ("all-reduce", lambda: self._all_reduce(facts))]
        return steps

    def _write(self, facts: Facts, doing: str) -> None:
        facts |= {"doing": doing, "time_s": time.time()}
        file = facts_file(Path(self.folder), facts["rank"])
        if file.parent.is_dir():  # doctor removes the folder once it waits no longer
            files.replace(file, json.dumps(facts).encode())

    def _versions(self) -> Facts:
        return {
            "python": platform.python_version(),
            "interpreter": sys.executable,
            "code": str(Path(hpt_dist.__file__).parent.parent),
            "packages": {name: _version(name) for name in self.packages},
        }

    def _work(self) -> None:
        file = Path(self.work) / f"doctor-{uuid.uuid4().hex}"
        file.write_bytes(b"")
        file.unlink()

    def _services(self) -> list[Facts]:
        from hpt_dist.doctor import services

        return [asdict(finding) for finding in services.reach(self.store, self.tracking_uri)]

    def _names(self) -> Facts:
        """Let the ranks find each other as those of a trial do."""
        import submitit

        from hpt_dist.launch import slurm_process

        environment = submitit.JobEnvironment()
        first = environment.hostnames[0]
        try:
            socket.getaddrinfo(first, None)
            resolves = True
        except OSError:
            resolves = False
        slurm_process.name_ranks(environment)
        return {"first": first, "resolves": resolves, "address": os.environ["MASTER_ADDR"]}

    def _all_reduce(self, facts: Facts) -> list[str]:
        """Return the backends that work: those that training uses on this device."""
        if "names" in facts["errors"]:
            raise RuntimeError("it has no address to go to")
        ended = threading.Event()
        threading.Thread(target=self._give_up, args=(facts, ended), daemon=True).start()
        try:
            return _reduced()
        finally:
            ended.set()

    def _give_up(self, facts: Facts, ended: threading.Event) -> None:
        """End this process if the others never come: no call of torch's would return."""
        patience = time.monotonic() + _MEETING_S
        why = ""
        while not why and not ended.wait(_POLL_S):
            if self._has_failed_elsewhere(facts["rank"]):
                why = DESERTED
            elif time.monotonic() > patience:
                why = f"not over within {_MEETING_S:.0f} s"
        if why:
            facts["errors"]["all-reduce"] = why
            self._write(facts, doing="")
            os._exit(0)

    def _has_failed_elsewhere(self, rank: int) -> bool:
        for other in range(self.ranks):
            file = facts_file(Path(self.folder), other)
            if other != rank and file.exists():
                errors = json.loads(file.read_text(encoding="utf-8"))["errors"]
                if "all-reduce" in errors:
                    return True
        return False


def _reduced() -> list[str]:
    import torch
    import torch.distributed as dist

    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    # A process on a node with GPUs uses both: gradients go by NCCL, some facts by gloo.
    backends = ["nccl", "gloo"] if torch.cuda.is_available() else ["gloo"]
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group(backends[0], timeout=timedelta(seconds=_MEETING_S))
    for backend in backends:
        group: Any = dist.new_group(backend=backend)
        device = "cuda" if backend == "nccl" else "cpu"
        total = torch.full((1024,), float(rank + 1), device=device)
        dist.all_reduce(total, group=group)
        if set(total.tolist()) != {ranks * (ranks + 1) / 2}:
            raise RuntimeError(f"{backend} gave a wrong sum")
    dist.destroy_process_group()
    return backends


def _scratch() -> Facts:
    """Look at where shards of a remote store are kept, and at the memory that processes share."""
    from hpt_dist.reading import node_cache

    warnings = _Warnings()
    logger = logging.getLogger(node_cache.__name__)
    logger.addHandler(warnings)
    cache = node_cache.default_cache()
    logger.removeHandler(warnings)
    facts: Facts = {"warning": " ".join(warnings.said), "shm_gb": _free_gb(SHARED_MEMORY)}
    if cache:
        kept = sum(file.stat().st_size for file in cache.folder.iterdir() if file.is_file())
        facts |= {
            "folder": str(cache.folder),
            "free_gb": _free_gb(cache.folder) + kept / 1e9,
            "limit_gb": cache.limit_bytes / 1e9,
        }
    return facts


class _Warnings(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(" ".join(record.getMessage().split()))


def _torch() -> Facts:
    import torch
    import torchvision

    return {
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "cuda": torch.version.cuda or "",
        "gpus": torch.cuda.device_count(),
    }


def _gpus() -> Facts:
    """Let each GPU compute something whose result is exact, and ask how it is."""
    import torch

    whole = torch.arange(512 * 512, dtype=torch.float32).remainder(17).sub(8).view(512, 512)
    right = whole @ whole  # whole numbers below 2^24
    wrong: dict[str, str] = {}
    for index in range(torch.cuda.device_count()):
        try:
            there = whole.to(f"cuda:{index}")
            if not torch.equal((there @ there).cpu(), right):
                wrong[str(index)] = "a product of matrices is wrong"
        except RuntimeError as error:
            wrong[str(index)] = _told(error)
    return {"seen": torch.cuda.device_count(), "wrong": wrong, **_asked_smi()}


def _asked_smi() -> Facts:
    """Return nvidia-smi's lines, `ECC errors, slowed down` of each GPU, or what it complains of."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return {"smi": [], "complaint": ""}
    query = [program, f"--query-gpu=index,{','.join(_SMI)}", "--format=csv,noheader"]
    answer = subprocess.run(
        query, capture_output=True, text=True, timeout=_SMI_TIMEOUT_S, check=False
    )
    said = answer.stdout.strip().splitlines()
    if answer.returncode:
        return {"smi": [], "complaint": " ".join((answer.stderr or answer.stdout).split())}
    return {"smi": said, "complaint": ""}


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _free_gb(path: Path | str) -> float:
    try:
        return shutil.disk_usage(path).free / 1e9
    except OSError:
        return 0.0


def _told(error: BaseException) -> str:
    """Return an error in one line, without the stack that torch appends."""
    lines = str(error).split("\nException raised from")[0].split()
    return " ".join([f"{type(error).__name__}:", *lines])[:500]
