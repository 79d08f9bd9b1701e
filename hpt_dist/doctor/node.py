"""Doctor's checks on a cluster's nodes: each process of its job runs them and writes a report.

They are the checks that doctor makes on any machine, and some that only a job can make. The report
is written before each check, so that it names a check that crashes or hangs the process.
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
from hpt_dist.doctor import login, machine, services
from hpt_dist.doctor.finding import Check, Finding, error_finding, failed, guarded
from hpt_dist.errors import HptError, RequestError
from hpt_dist.store import files, records
from hpt_dist.store.records import DamagedRecordError

_LEAST_SCRATCH_GB = 2.0
_LEAST_SHARED_GB = 1.0
_SHARED_MEMORY = "/dev/shm"  # noqa: S108 - only its size is read
# Long enough for NCCL's first connections on a large cluster.
_MEETING_S = 60.0
_POLL_S = 0.25
# Checks of what comes from the image, so that a new image may be the fix.
_OF_IMAGE = ("python", "packages", "torch")
# For each check of a service, the prefix of the variables that it needs.
_VARIABLES = {"store": "AWS_", "clock": "AWS_", "mlflow": "MLFLOW_"}
_FIXES = {
    "node folder": "set --work or HPT_WORK to a folder that all nodes share; mount it into a "
    "container",
    "scratch": "export HPT_CACHE=/a/local/disk in `setup`, or HPT_CACHE_GB=0 to cache nothing",
    "names": "add the nodes to DNS or /etc/hosts, in the image too",
    "all-reduce": "set the network interface between the nodes: export GLOO_SOCKET_IFNAME, and "
    "with GPUs NCCL_SOCKET_IFNAME, in `setup` (`ip -brief address` on a node lists them); open "
    "the ports from 1024 in the firewall",
}
_SHARED_FIX = "use a folder that all nodes share, or S3; mount the folder into a container"
_OTHER_FIX = "run `hpt-dist doctor` on that node by hand"


@dataclass
class NodeReport:
    """The report of one process of the job.

    Args:
        rank: rank of the process.
        node: name of its node.
        began_s: unix time on the node when the process started.
        time_s: unix time on the node when this report was written.
        doing: the current check; empty at the end.
        code: the folder that hpt_dist was imported from.
        versions: versions of Python and packages, by name.
        findings: findings of the checks so far.
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
        """Replace the report's file atomically."""
        self.doing, self.time_s = doing, time.time()
        file = _file(folder, self.rank)
        if file.parent.is_dir():  # doctor removes the folder when it stops waiting
            files.replace(file, json.dumps(asdict(self)).encode())

    @classmethod
    def read(cls, folder: str | Path, rank: int) -> NodeReport | None:
        """Return the report of a process; None if it has not written one yet.

        Raises:
            DamagedRecordError: it is damaged.
        """
        file = _file(folder, rank)
        try:
            data = file.read_bytes()
        except FileNotFoundError:
            return None
        report = records.decoded(data, cls, where=str(file), fix="run doctor again")
        if report.rank != rank:
            raise DamagedRecordError(f"it is the report of rank {report.rank}", where=str(file))
        return report


def _file(folder: str | Path, rank: int) -> Path:
    return Path(folder) / f"report-{rank}.json"


@dataclass(frozen=True)
class Probe:
    """The checks of the job's processes and what they need; submitit sends it to the nodes.

    Args:
        folder: folder for the reports, absolute.
        work: the trials' folder for logs and local metrics, absolute.
        store: URI of the store.
        store_exists: whether the folder of the store exists on the machine where doctor was
            started; None for a remote store.
        tracking_uri: URI of MLflow; empty for none.
        code: folder of the copied package that jobs run.
        requirements: requirements of the package on the machine where doctor was started.
        versions: versions of Python and packages on that machine.
        withheld: variables that are set on that machine but not passed on by the profile's `env`.
        ranks: number of processes.
        gpus: number of GPUs that torch must be able to use on each node.
        container: the image that the job runs in; empty for none.
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
        """Run the checks; submitit calls this in each process."""
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
        general: list[tuple[str, Check]] = [
            ("python", machine.python),
            ("packages", lambda: [machine.installed(self.requirements)]),
            ("cpu", machine.cpu),
            ("torch", partial(machine.torch, self.gpus)),
            ("store", partial(services.reach, self.store, self.tracking_uri)),
        ]
        return [
            *((f"node {name}", partial(self._on_node, check)) for name, check in general),
            ("login profile", self._login_profile),
            ("node folder", self._folder),
            ("scratch", self._scratch),
            ("shared memory", _shared_memory),
            ("names", self._names),
            ("all-reduce", partial(self._all_reduce, report)),
        ]

    def _on_node(self, check: Check) -> Iterator[Finding]:
        """Run a general check; rename its findings and adapt their fixes to a node."""
        for finding in check():
            name = f"node {finding.name}"
            if finding.name == "store" and finding.ok is None and self.store_exists:
                message = f"{finding.says}, but it exists where doctor was started"
                yield failed(name, message, _SHARED_FIX)
            else:
                yield replace(finding, name=name, fix=self._fix(finding))

    def _fix(self, finding: Finding) -> str:
        """Return a finding's fix, with what may also help on a node."""
        if finding.ok is not False:
            return finding.fix
        if self.container and finding.name in _OF_IMAGE:
            image = f"build {self.container} again from this version (containers/build)"
            return f"{image}, or fix it in the image: {finding.fix}"
        prefix = _VARIABLES.get(finding.name, "")
        withheld = [name for name in self.withheld if prefix and name.startswith(prefix)]
        if withheld:
            return (
                f"pass {', '.join(withheld)} on to jobs: add them to `env` in the profile; or "
                f"{finding.fix}"
            )
        return finding.fix

    def _login_profile(self) -> Iterator[Finding]:
        """Look at what Slurm has read for a job, where it is not in an image."""
        if self.container or os.environ.get("SLURM_LOCALID", "0") != "0":
            return
        yield login.profile(os.environ)

    def _folder(self) -> Iterator[Finding]:
        try:
            with tempfile.NamedTemporaryFile(dir=self.work, prefix="doctor-"):
                message = "the folders of jobs and work can be written"
                yield Finding("node folder", True, message)
        except OSError as error:
            message = f"{self.work} cannot be written: {error.strerror}"
            yield failed("node folder", message, _FIXES["node folder"])

    def _scratch(self) -> Iterator[Finding]:
        """Check the disk where shards of a remote store are cached."""
        if self.store_exists is None:
            yield _cache()
        else:
            message = "shards are read from the store's folder and are not cached"
            yield Finding("scratch", True, message)

    def _names(self) -> Iterator[Finding]:
        """Check that ranks can find each other, as those of a trial do."""
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
            message = f"{first} cannot be resolved here; trials use {address} instead"
            yield Finding("names", None, message, _FIXES["names"])
        else:
            yield Finding("names", True, f"the name of the first node, {first}, can be resolved")

    def _all_reduce(self, report: NodeReport) -> Iterator[Finding]:
        """Check that ranks can exchange sums with the backends that training uses."""
        if self.ranks == 1:
            message = "not checked: a trial of this profile has one process"
            fix = "raise `nodes` or `gpus_per_node` for more processes"
            yield Finding("all-reduce", None, message, fix)
            return
        if any(one.name == "names" and one.ok is False for one in report.findings):
            yield Finding("all-reduce", None, "not checked: the first node has no address")
            return
        ended = threading.Event()
        threading.Thread(target=self._give_up, args=(report, ended), daemon=True).start()
        try:
            backends = _add_up()
            yield Finding("all-reduce", True, f"{self.ranks} processes exchange sums by {backends}")
        except Exception as error:  # noqa: BLE001 - torch raises several kinds
            yield _not_reduced(error)
        finally:
            ended.set()

    def _give_up(self, report: NodeReport, ended: threading.Event) -> None:
        """End this process if others do not join: torch's calls would never return."""
        deadline = time.monotonic() + _MEETING_S
        while not ended.wait(_POLL_S):
            if self._has_failed_elsewhere(report.rank):
                finding = Finding("all-reduce", None, "stopped, because another process failed")
            elif time.monotonic() > deadline:
                message = f"not finished within {_MEETING_S:.0f} s"
                finding = failed("all-reduce", message, _FIXES["all-reduce"])
            else:
                continue
            report.findings.append(finding)
            report.write(self.folder, doing="")
            os._exit(0)

    def _has_failed_elsewhere(self, rank: int) -> bool:
        try:
            reports = [NodeReport.read(self.folder, i) for i in range(self.ranks) if i != rank]
        except DamagedRecordError:
            return False  # doctor itself names it
        findings = [finding for report in reports if report for finding in report.findings]
        return any(one.name == "all-reduce" and not one.ok for one in findings)


def _add_up() -> str:
    """Sum over all ranks with each backend; return the backends in words."""
    import torch
    import torch.distributed as dist

    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    # With GPUs training uses both: NCCL for gradients, gloo for some facts.
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
            raise RuntimeError(f"{backend} returned a wrong sum")
    dist.destroy_process_group()
    return " and ".join(backends)


def _not_reduced(error: Exception) -> Finding:
    finding = error_finding("all-reduce", error, _FIXES["all-reduce"])
    if re.search("address already in use|EADDRINUSE", finding.says, re.IGNORECASE):
        fix = "run doctor again; trials try another port by themselves"
        return replace(finding, ok=None, fix=fix)
    return finding


def _cache() -> Finding:
    from hpt_dist.reading import node_cache

    try:
        cache = node_cache.configured_cache()
    except RequestError as error:
        problem = error.problem
        if problem.where == "HPT_CACHE_GB":
            raise  # a trial fails too
        message = f"{problem.where}: {problem.what}; trials read shards from the store instead"
        return Finding("scratch", None, message, problem.fix)
    if cache is None:
        fix = "export HPT_CACHE and HPT_CACHE_GB in `setup`: a cache makes fewer requests to S3"
        return Finding("scratch", None, "shards are not cached on the node (HPT_CACHE_GB=0)", fix)
    kept = sum(file.stat().st_size for file in cache.folder.iterdir() if file.is_file())
    free_gb, limit_gb = _free_gb(cache.folder) + kept / 1e9, cache.limit_bytes / 1e9
    if free_gb < min(_LEAST_SCRATCH_GB, limit_gb):
        message = f"{cache.folder} has {free_gb:.2f} GB for shards"
        fix = "export HPT_CACHE=/a/larger/local/disk in `setup`, or HPT_CACHE_GB=0 to cache nothing"
        return failed("scratch", message, fix)
    # Whole GB, so that similar nodes report the same and are listed once.
    message = f"{cache.folder} has {free_gb:.0f} GB for shards; at most {limit_gb:g} are used"
    if free_gb < limit_gb:
        fix = f"export HPT_CACHE_GB={max(1, int(free_gb * 0.9))} in `setup`, or use a larger disk"
        return Finding("scratch", None, message, fix)
    return Finding("scratch", True, message)


def _shared_memory() -> Iterator[Finding]:
    free_gb = _free_gb(_SHARED_MEMORY)
    if free_gb < _LEAST_SHARED_GB:
        fix = "give containers more shared memory; NCCL may fail between GPUs of one node"
        yield Finding("shared memory", None, f"{_SHARED_MEMORY} has {free_gb:.2f} GB free", fix)


def _free_gb(path: Path | str) -> float:
    try:
        return shutil.disk_usage(path).free / 1e9
    except OSError:
        return 0.0
