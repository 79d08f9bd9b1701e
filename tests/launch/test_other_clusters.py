"""Clusters with other habits, and stores that go away: each costs a restart, and no trial."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from configuration import Habits
from slurm_cluster import run_slurm
from slurm_site import DEV, LONG, Site, based

pytestmark = [pytest.mark.services, pytest.mark.slow]

NAMES = ("gpu-07-a1", "gpu-07-a2")
# What every start of a job there reads; the folder has a torch that ends whoever imports it.
LOGIN = "export OMP_NUM_THREADS=7 PYTHONPATH={folder}/poison\n"
OTHER = """\
nodes: 2
gpus_per_node: 1
accelerator: none
cpus_per_gpu: 1
memory_gb: 2
time_min: 5
signal_lead_s: 60
sbatch: {gres: none, exclusive: true, comment: "of nobody", nice: 5}
setup:
  # As Slurm may do after a lost node: it refuses the step of one start.
  - '[ "$SLURM_RESTART_COUNT" = 1 ] || export SLURM_STEP_GRES=gpu:9'
"""
# `ulimit -t` of the shell that launches, seconds of CPU.
LIMIT_S = 86_399


@pytest.fixture
def limited() -> Iterator[None]:
    """A limit of CPU time, which the login node's shells have and jobs are not to get."""
    before = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (LIMIT_S, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_CPU, before)


def habits(folder: Path) -> Habits:
    """Return the habits of a site that has nothing in common with ours."""
    (folder / "poison").mkdir(parents=True)
    (folder / "poison/torch.py").write_text("raise SystemExit('poison')\n")
    for name in ("prolog", "task-prolog"):
        program = folder / name
        program.write_text("#!/bin/sh\necho print Welcome to our site.\n")
        program.chmod(0o755)
    return Habits(
        lines=(
            *("MaxArraySize=5", "JobRequeue=0"),
            *(f"Prolog={folder}/prolog", f"TaskProlog={folder}/task-prolog"),
            f"PartitionName=DEFAULT Nodes={','.join(NAMES)} OverSubscribe=EXCLUSIVE MaxTime=5",
            "PartitionName=main Default=YES PriorityTier=10 GraceTime=0",
        ),
        names=NAMES,
        gres=False,
        login=LOGIN.format(folder=folder),
    )


def test_a_cluster_of_other_habits(tmp_path, trained_here, limited, monkeypatch):
    """No accounting, exclusive nodes without GRES and of names that no DNS knows, and so on.

    Two ranks on two nodes outlive a step that Slurm refuses, and save when they are cancelled.
    """
    monkeypatch.setenv("HOME", "/dev/null/ada")
    (folder := tmp_path / "slurm").mkdir()
    with run_slurm(folder, accounting=False, habits=habits(tmp_path / "habits")) as slurm:
        site = based(tmp_path / "site", slurm, trained_here)
        many = ("--set", "stages.adapt.sweep.seed=[0, 1, 2, 3, 4, 5, 6]", "--hold")
        assert "17 trials submitted" in site.launch(*many, profile=OTHER)
        site.hpt("cancel", "small")
        only = ("--only", "probe", "--set", "stages.probe.sweep.init=[hpt]")
        site.launch(*only, "--ranks", "2", *LONG, profile=OTHER)
        site.wait(lambda: any(site.store.glob(f"work/jobs/*/{site.job}.0.end")))
        # Slurm needs some seconds to complete the job before it queues it again.
        ended = "ended before it began with exit code 1: srun: error: Unable to create"
        site.wait(lambda: ended in " ".join(site.hpt("status", "small").split()))
        site.wait_for_start(1)
        assert str(LIMIT_S) not in Path(f"/proc/{site.holder().pid}/limits").read_text()
        printed = site.hpt("cancel", "small")
        assert "asked to save and stop: hpt" in printed
        assert "removed from the queue: probe/init=hpt" in printed
        site.wait(lambda: not slurm.jobs())
        assert site.saved_step() > 0
        states = site.states()
        assert (states["hpt"], states["probe/init=hpt"]) == ("resumes", "runs")
        assert "the launch was stopped" in site.hpt("status", "small")
        logs = site.logs()
    assert "left out of the login profile: PYTHONPATH" in logs
    assert "left out of the environment: OMP_NUM_THREADS" in logs
    assert "Job completed successfully" not in logs
    assert "Found credentials" not in logs


@pytest.fixture
def started(tmp_path, slurm, trained_here) -> Iterator[Site]:
    yield (site := based(tmp_path, slurm, trained_here))
    site.cancel_all()


def test_a_folder_that_is_away_costs_a_restart_and_no_trial(started, trained_here, monkeypatch):
    """With it, the folder of jobs is away, and with that every note that a process could leave."""
    monkeypatch.setenv("HPT_STORE_PATIENCE_S", "1")
    site = started
    job = site.start_long(profile=DEV + "store_wait_s: 3\n")
    pid, away = site.holder().pid, site.folder / "unmounted"
    site.store.rename(away)
    site.wait(lambda: not Path(f"/proc/{pid}").exists())
    assert site.hpt("status", "small", code=2)
    time.sleep(1)
    assert site.slurm.jobs()[job] == "RUNNING"  # its script waits for the folder
    away.rename(site.store)
    assert site.finished() == trained_here.left
    assert site.run_record()["restarts"] == 1
    assert "the store is gone" in site.logs()


def test_a_signal_that_ends_a_job_is_named(started):
    site = started
    # What the node's own limit does.
    site.start_long(profile=DEV + "requeue_limit: 0\n")
    os.kill(site.holder().pid, signal.SIGXCPU)
    site.wait(lambda: not site.slurm.jobs())
    printed = " ".join(site.hpt("status", "small").split())
    assert "was ended by SIGXCPU (exit code 152): its limit of CPU time" in printed
