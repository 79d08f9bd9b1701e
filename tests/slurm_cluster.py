"""A real Slurm cluster of two nodes on this machine, started at most once a session.

It is the cluster of `make slurm-up`, see slurm/dev/cluster.py, in a temporary folder; its daemons
die with the tests.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pytest
from services import need

# It runs before any virtual environment is made, so it is no part of the package.
sys.path.insert(0, str(Path(__file__).parent.parent / "slurm/dev"))

from cluster import Cluster

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
ACCOUNTING = ("slurmdbd", "mariadbd", "mariadb-install-db")


@dataclass(frozen=True)
class Slurm:
    """A running cluster; `cluster` kills and starts its daemons."""

    cluster: Cluster

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which Slurm's commands reach this cluster."""
        return self.cluster.environment

    def call(self, *arguments: str | Path) -> str:
        """Run one of Slurm's commands and return what it printed."""
        return self.cluster.call(*arguments)

    def jobs(self) -> dict[str, str]:
        """Return the state of each job and array task that has not ended, by its id."""
        lines = self.call("squeue", "--noheader", "--array", "--format=%i %T").splitlines()
        return dict(line.split() for line in lines)

    def shorten_wait(self, job: str) -> bool:
        """Let a job that was queued again start after 2 s, not 6; return whether that was done.

        Slurm waits until the credentials of the job's earlier start are no longer valid. Its nodes
        know them for revoked before, by the second.
        """
        waiting = ("--noheader", "--states=PENDING", f"--jobs={job}", "--format=%r,%S")
        reason, _, begin = self.call("squeue", *waiting).strip().partition(",")
        if reason != "BeginTime":
            return False
        left = datetime.fromisoformat(begin) - datetime.now()
        if due := 0 < left.total_seconds() < 4:
            self.call("scontrol", "update", f"JobId={job}", "StartTime=now")
        return due

    def nodes_of(self, job: str) -> set[str]:
        """Return the names of the nodes on which a job, or the tasks of an array, ran."""
        facts = self.call("scontrol", "show", "job", job).split()
        return {fact.removeprefix("BatchHost=") for fact in facts if fact.startswith("BatchHost=")}


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    """A Slurm cluster of the nodes n1 and n2, each of 4 cores, 8 GB and 2 GPUs, with accounting."""
    with run_slurm(tmp_path_factory.mktemp("slurm"), accounting=True) as running:
        yield running


@contextlib.contextmanager
def run_slurm(folder: Path, *, accounting: bool = False) -> Iterator[Slurm]:
    """Run a cluster until the block ends, for tests that need one of their own.

    Args:
        folder: an empty folder for its settings, sockets, state and logs.
        accounting: with slurmdbd, so that `sacct` knows of jobs; it starts in 6 s instead of 1 s.
    """
    for program in PROGRAMS + (ACCOUNTING if accounting else ()):
        need(program)
    cluster = Cluster(folder, accounting=accounting, mortal=True)
    try:
        cluster.start()
        yield Slurm(cluster)
    finally:
        cluster.stop()
