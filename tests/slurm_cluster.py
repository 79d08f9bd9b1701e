"""A real Slurm cluster of two nodes on this machine, started at most once a session.

munge, slurmctld and two slurmd, as whoever runs the tests; no accounting, for what we run asks
only the controller. The state is in one temporary folder and no service of the system is touched.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import secrets
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from services import Programs, free_ports, need

NODES = ("n1", "n2")

# `config_overrides` lets the nodes claim more cores than there are. Equal addresses would do, but
# equal ports leave a dead slurmd that is shown as idle.
SLURM_CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=500
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1
KillWait=1
SlurmdTimeout=15
NodeName=n1 NodeHostname={host} NodeAddr=127.0.1.1 Port={first_port} CPUs=4 RealMemory=8000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.1.2 Port={second_port} CPUs=4 RealMemory=8000
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=UNLIMITED State=UP
"""

# Nothing is confined; a mount point that is not there keeps Slurm from looking for one that is.
CGROUP_CONF = """
CgroupPlugin=cgroup/v1
CgroupMountpoint=/nonexistent
CgroupAutomount=no
ConstrainCores=no
ConstrainDevices=no
ConstrainRAMSpace=no
ConstrainSwapSpace=no
"""


@dataclass(frozen=True)
class Slurm:
    """A running cluster."""

    programs: Programs

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which Slurm's commands reach this cluster."""
        return dict(self.programs.environment)

    def call(self, *arguments: str | Path) -> str:
        """Run one of Slurm's commands and return what it printed."""
        return self.programs.call(*arguments)

    def jobs(self) -> dict[str, str]:
        """Return the state of each job and array task that has not ended, by its id."""
        lines = self.call("squeue", "--noheader", "--array", "--format=%i %T").splitlines()
        return dict(line.split() for line in lines)

    def nodes_of(self, job: str) -> set[str]:
        """Return the names of the nodes on which a job, or the tasks of an array, ran."""
        facts = self.call("scontrol", "show", "job", job).split()
        return {fact.removeprefix("BatchHost=") for fact in facts if fact.startswith("BatchHost=")}


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    """A Slurm cluster of the nodes n1 and n2, each of 4 cores and 8 GB."""
    for program in ("munged", "slurmctld", "slurmd", "sbatch"):
        need(program)
    with run_slurm(tmp_path_factory.mktemp("slurm")) as running:
        yield running


@contextlib.contextmanager
def run_slurm(folder: Path) -> Iterator[Slurm]:
    """Run a cluster until the block ends.

    Args:
        folder: an empty folder for its settings, sockets, state and logs; its path is short.
    """
    for node in NODES:
        (folder / "spool" / node).mkdir(parents=True)
    ports = dict(zip(("controller_port", "first_port", "second_port"), free_ports(3), strict=True))
    host = socket.gethostname().partition(".")[0]
    settings = SLURM_CONF.format(host=host, user=getpass.getuser(), folder=folder, **ports)
    (folder / "slurm.conf").write_text(settings)
    (folder / "cgroup.conf").write_text(CGROUP_CONF)
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(64))
    names = ("key-file", "log-file", "pid-file", "seed-file")
    files = [f"--{name}={folder}/munge.{name.partition('-')[0]}" for name in names]
    with Programs(folder, {"SLURM_CONF": str(folder / "slurm.conf")}) as programs:
        # munged distrusts folders that others may write, and so the whole of /tmp.
        socket_option = f"--socket={folder}/munge.sock"
        programs.start("munged", "munged", "--foreground", "--force", socket_option, *files)
        programs.start("slurmctld", "slurmctld", "-D")
        for node in NODES:
            programs.start(node, "slurmd", "-D", "-N", node)
        running = Slurm(programs)
        try:
            _wait_until_idle(running)
            yield running
        finally:
            for name in (*NODES, "slurmctld", "munged"):
                programs.kill(name)
            _kill_tasks(folder / "slurm.conf")


def _wait_until_idle(slurm: Slurm, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    wanted = [f"{node} idle" for node in NODES]
    said = ""
    while said.splitlines() != wanted:
        if time.monotonic() > deadline:
            logs = [slurm.programs.log(name).read_text()[-2000:] for name in slurm.programs.running]
            pytest.fail("\n".join(["the Slurm cluster does not start:", said, *logs]))
        time.sleep(0.1)
        with contextlib.suppress(AssertionError):  # the controller does not listen yet
            said = slurm.call("sinfo", "--Node", "--noheader", "--format=%N %t")


def _kill_tasks(settings: Path) -> None:
    """End the jobs' processes, which outlive slurmd: they are known by the cluster's settings."""
    mark = f"SLURM_CONF={settings}".encode()
    for environment in Path("/proc").glob("[0-9]*/environ"):
        pid = int(environment.parent.name)
        with contextlib.suppress(OSError):
            if pid != os.getpid() and mark in environment.read_bytes().split(b"\0"):
                os.kill(pid, signal.SIGKILL)
