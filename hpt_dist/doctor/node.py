"""What doctor runs on a cluster's nodes: each process of its job makes checks, and writes a report.

They are the checks of a machine that doctor makes anywhere, and those that need nodes. The report
is written before each check, so that one that ends this process, or hangs it, is known too.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import hpt_dist
from hpt_dist.doctor import machine, services
from hpt_dist.doctor.finding import Check, Finding, error_finding, failed, guarded
from hpt_dist.errors import HptError
from hpt_dist.store import files

_LEAST_SCRATCH_GB = 2.0
_LEAST_SHARED_GB = 1.0
_SHARED_MEMORY = "/dev/shm"  # noqa: S108 - no file of ours
# Long enough for NCCL's first connections on a large cluster.
_MEETING_S = 60.0
_POLL_S = 0.25
# What an image brings along, so that another image may be the fix.
_OF_IMAGE = ("python", "packages", "torch")
# Prefixes of the variables by which services are reached.
_VARIABLES = {"store": "AWS_", "clock": "AWS_", "mlflow": "MLFLOW_"}
_FIXES = {
    "node folder": "name a folder that all nodes share by --work or HPT_WORK; a container needs it "
    "among its mounts",
    "scratch": "export HPT_CACHE=/a/local/disk in `setup`, or HPT_CACHE_GB=0 to keep none",
    "names": "add the nodes to DNS or /etc/hosts, also to those of the image",
    "all-reduce": "name the interface between the nodes: export GLOO_SOCKET_IFNAME, and with GPUs "
    "NCCL_SOCKET_IFNAME, in `setup` (`ip -brief address` on a node lists them); let a firewall "
    "pass the ports from 1024",
}
_SHARED_FIX = (
    "use a folder that all nodes share, or S3; a container needs the folder among its mounts"
)
_OTHER_FIX = "run `hpt-dist doctor` on that node by hand"


@dataclass
class NodeReport:
    """What one process of the job found.

    Args:
        rank: of the process.
        node: that it ran on.
        began_s: unix time there when it began.
        time_s: unix time there when this was written.
        doing: the check that it was at; empty at the end.
        code: the folder that hpt_dist was imported from.
        versions: of Python and packages, by name.
        findings: of the checks until then.
    """

    rank: int
    node: str
    began_s: float
    time_s: float = 0.0
    doing: str = ""
    code: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def write(self, folder: str | Path, doing: str) -> None:
        """Write it down; whoever reads it meanwhile sees the one before."""
        self.doing, self.time_s = doing, time.time()
        file = _file(folder, self.rank)
        if file.parent.is_dir():  # doctor removes the folder once it waits no longer
            files.replace(file, json.dumps(asdict(self)).encode())

    @classmethod
    def read(cls, folder: str | Path, rank: int) -> NodeReport | None:
        """Return the report of a process; None if it wrote none yet."""
        try:
            found = json.loads(_file(folder, rank).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return cls(**found | {"findings": [Finding(**one) for one in found["findings"]]})


def _file(folder: str | Path, rank: int) -> Path:
    return Path(folder) / f"report-{rank}.json"


@dataclass(frozen=True)
class Probe:
    """What the job's processes check, and by what, as submitit carries it to the nodes.

    Args:
        folder: where the reports go, absolute.
        work: the trials' folder for logs and local metrics, absolute.
        store: URI of the store.
        store_exists: whether a folder store is there where doctor was started; None for a remote
            one.
        tracking_uri: of MLflow; empty for none.
        code: folder of the copied package that jobs run.
        requirements: of the package where doctor was started.
        versions: of Python and packages there.
        withheld: variables that are set there, and that the profile's `env` does not pass on.
        ranks: processes in all.
        gpus: of each node that torch has to use.
        container: whether the job runs in one, and which.
        interpreter: path of Python on the nodes.
    """

    folder: str
    work: str
    store: str
    store_exists: bool | None
    tracking_uri: str
    code: str
    requirements: tuple[str, ...]
    versions: dict[str, str]
    withheld: tuple[str, ...]
    ranks: int
    gpus: int
    container: str
    interpreter: str

    def __call__(self) -> None:
        """Be one of the processes."""
        report = NodeReport(
            rank=int(os.environ.get("SLURM_PROCID", "0")),
            node=os.environ.get("SLURMD_NODENAME") or socket.gethostname(),
            began_s=time.time(),
            code=str(Path(hpt_dist.__file__).parent.parent),
            versions=machine.versions(self.requirements),
        )
        for name, check in self._checks(report):
            report.write(self.folder, doing=name)
            report.findings += guarded(name, check, _FIXES.get(name, _OTHER_FIX))
        report.write(self.folder, doing="")

    def _checks(self, report: NodeReport) -> list[tuple[str, Check]]:
        everywhere: list[tuple[str, Check]] = [
            ("python", machine.python),
            ("packages", lambda: [machine.installed(self.requirements)]),
            ("cpu", machine.cpu),
            ("torch", partial(machine.torch, self.gpus)),
            ("store", partial(services.reach, self.store, self.tracking_uri)),
        ]
        return [
            *((f"node {name}", partial(self._on_node, check)) for name, check in everywhere),
            ("node folder", self._folder),
            ("scratch", self._scratch),
            ("shared memory", _shared_memory),
            ("names", self._names),
            ("all-reduce", partial(self._all_reduce, report)),
        ]

    def _on_node(self, check: Check) -> Iterator[Finding]:
        """Let a check that is made anywhere speak of a node."""
        for finding in check():
            name = f"node {finding.name}"
            if finding.name == "store" and finding.ok is None and self.store_exists:
                says = f"{finding.says}, though it is there where you submit"
                yield failed(name, says, _SHARED_FIX)
            else:
                yield replace(finding, name=name, fix=self._fix(finding))

    def _fix(self, finding: Finding) -> str:
        """Say what else may be why, on a node."""
        if finding.ok is not False:
            return finding.fix
        if self.container and finding.name in _OF_IMAGE:
            image = f"build {self.container} again from this version (containers/build)"
            return f"{image}, or inside it: {finding.fix}"
        prefix = _VARIABLES.get(finding.name, "")
        withheld = [name for name in self.withheld if prefix and name.startswith(prefix)]
        if withheld:
            return (
                f"let jobs have {', '.join(withheld)}, set here: add them to `env` in the profile; "
                f"else {finding.fix}"
            )
        return finding.fix

    def _folder(self) -> Iterator[Finding]:
        try:
            with tempfile.NamedTemporaryFile(dir=self.work, prefix="doctor-"):
                says = "sees the folders of jobs and work, and writes there"
                yield Finding("node folder", True, says)
        except OSError as error:
            says = f"{self.work} cannot be written: {error.strerror}"
            yield failed("node folder", says, _FIXES["node folder"])

    def _scratch(self) -> Iterator[Finding]:
        """Look at where shards of a remote store are kept."""
        if self.store_exists is None:
            yield _cache()
        else:
            says = "shards are read from the store's folder, and not kept"
            yield Finding("scratch", True, says)

    def _names(self) -> Iterator[Finding]:
        """Let the ranks find each other as those of a trial do."""
        if self.ranks == 1:
            return
        import submitit

        from hpt_dist.launch import slurm_process

        environment = submitit.JobEnvironment()
        first = environment.hostnames[0]
        try:
            slurm_process.name_ranks(environment)
            socket.getaddrinfo(first, None)
        except HptError as error:
            yield failed("names", error.problem.what, _FIXES["names"])
        except OSError:
            address = os.environ["MASTER_ADDR"]
            says = f"{first} has no address here; trials use {address} instead"
            yield Finding("names", None, says, _FIXES["names"])
        else:
            yield Finding("names", True, f"the first node, {first}, is known by its name")

    def _all_reduce(self, report: NodeReport) -> Iterator[Finding]:
        """Let the ranks add up by the backends that training uses on this device."""
        if self.ranks == 1:
            says = "not tried: a trial of this profile has one process"
            fix = "raise `nodes` or `gpus_per_node` for more"
            yield Finding("all-reduce", None, says, fix)
            return
        if any(one.name == "names" and one.ok is False for one in report.findings):
            yield Finding("all-reduce", None, "not tried: the first node has no address")
            return
        ended = threading.Event()
        threading.Thread(target=self._give_up, args=(report, ended), daemon=True).start()
        try:
            backends = _add_up()
            yield Finding("all-reduce", True, f"{self.ranks} processes add up by {backends}")
        except Exception as error:  # noqa: BLE001 - torch has several
            yield _not_reduced(error)
        finally:
            ended.set()

    def _give_up(self, report: NodeReport, ended: threading.Event) -> None:
        """End this process if the others never come: no call of torch's would return."""
        patience = time.monotonic() + _MEETING_S
        while not ended.wait(_POLL_S):
            if self._has_failed_elsewhere(report.rank):
                finding = Finding("all-reduce", None, "given up, since another process failed")
            elif time.monotonic() > patience:
                says = f"not over within {_MEETING_S:.0f} s"
                finding = failed("all-reduce", says, _FIXES["all-reduce"])
            else:
                continue
            report.findings.append(finding)
            report.write(self.folder, doing="")
            os._exit(0)

    def _has_failed_elsewhere(self, rank: int) -> bool:
        reports = (NodeReport.read(self.folder, i) for i in range(self.ranks) if i != rank)
        findings = [finding for report in reports if report for finding in report.findings]
        return any(one.name == "all-reduce" and not one.ok for one in findings)


def _add_up() -> str:
    """Return the backends that work."""
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
    return " and ".join(backends)


def _not_reduced(error: Exception) -> Finding:
    finding = error_finding("all-reduce", error, _FIXES["all-reduce"])
    if re.search("address already in use|EADDRINUSE", finding.says, re.IGNORECASE):
        fix = "run doctor again: trials try another port by themselves"
        return replace(finding, ok=None, fix=fix)
    return finding


def _cache() -> Finding:
    from hpt_dist.reading import node_cache

    cache = node_cache.configured_cache()
    if cache is None:
        fix = "a cache spares the store: export HPT_CACHE and HPT_CACHE_GB in `setup`"
        return Finding("scratch", None, "shards are not kept on the node (HPT_CACHE_GB=0)", fix)
    kept = sum(file.stat().st_size for file in cache.folder.iterdir() if file.is_file())
    free_gb, limit_gb = _free_gb(cache.folder) + kept / 1e9, cache.limit_bytes / 1e9
    if free_gb < min(_LEAST_SCRATCH_GB, limit_gb):
        says = f"{cache.folder} has {free_gb:.2f} GB for shards"
        fix = "export HPT_CACHE=/a/larger/local/disk in `setup`, or HPT_CACHE_GB=0 to keep none"
        return failed("scratch", says, fix)
    # Rounded coarsely, so that nodes alike say the same.
    says = f"{cache.folder} has {free_gb:.0f} GB for shards, of which at most {limit_gb:g} are used"
    if free_gb < limit_gb:
        fix = f"export HPT_CACHE_GB={max(1, int(free_gb * 0.9))} in `setup`, or name a larger disk"
        return Finding("scratch", None, says, fix)
    return Finding("scratch", True, says)


def _shared_memory() -> Iterator[Finding]:
    free_gb = _free_gb(_SHARED_MEMORY)
    if free_gb < _LEAST_SHARED_GB:
        fix = "give containers more of it, or NCCL may fail between GPUs of one node"
        yield Finding("shared memory", None, f"{_SHARED_MEMORY} has {free_gb:.2f} GB free", fix)


def _free_gb(path: Path | str) -> float:
    try:
        return shutil.disk_usage(path).free / 1e9
    except OSError:
        return 0.0
