"""The cluster of slurm/dev is real: nodes, GPUs, preemption, accounting; it repairs itself."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cluster import Cluster
from processes import ClusterError, Processes, alive
from services import need

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.services


def wait(what, slurm=None, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline, slurm and slurm.call("squeue")
        time.sleep(0.05)


def submit(slurm, folder: Path, *options: str, script: str) -> str:
    file = folder / "job.sh"
    file.write_text(f"#!/bin/bash\n{script}\n")
    arguments = (f"--output={folder}/job.out", *options, str(file))
    return slurm.call("sbatch", "--parsable", *arguments).strip()


@pytest.fixture
def job(slurm, tmp_path):
    """Submit a script; whatever is left of it ends with the test."""
    ids = []

    def submit_one(*options: str, script: str) -> str:
        ids.append(submit(slurm, tmp_path, *options, script=script))
        return ids[-1]

    yield submit_one
    for one in set(ids) & set(slurm.jobs()):
        slurm.call("scancel", "--signal=KILL", "--full", one)
        slurm.call("scancel", one)
    wait(lambda: not set(ids) & set(slurm.jobs()), slurm)


def test_two_nodes_with_names_and_gpus_of_their_own(slurm):
    assert set(slurm.cluster.nodes()) == {"n1", "n2"}
    asked = "echo $SLURMD_NODENAME $(hostname) $CUDA_VISIBLE_DEVICES $(getent hosts n1 n2)"
    printed = slurm.call("srun", "--nodes=2", "--gres=gpu:2", "sh", "-c", asked)
    lines = sorted(line.split() for line in printed.splitlines())
    assert [line[0] for line in lines] == ["n1", "n2"]
    assert {line[2] for line in lines} == {"0,1"}
    if os.geteuid() == 0:  # others may give a node no host name of its own
        assert [line[1] for line in lines] == ["n1", "n2"]
        assert all(line[3:] == ["127.0.1.1", "n1", "127.0.1.2", "n2"] for line in lines)
        assert "127.0.1.2" not in Path("/etc/hosts").read_text()


def test_a_job_gets_no_more_gpus_than_there_are(slurm):
    with pytest.raises(ClusterError, match="not available"):
        slurm.call("sbatch", "--gres=gpu:3", "--wrap=true")


# As submitit does it: whoever gets the signal saves and queues the job again.
SAVING = """
trap 'sleep 2; echo saved >> {file}; scontrol requeue $SLURM_JOB_ID; exit' USR2
echo began >> {file}
while true; do sleep 0.1; done
"""


@pytest.mark.parametrize("partition", ["main", "harsh"])
def test_a_job_in_high_preempts(slurm, job, tmp_path, partition):
    seen = tmp_path / "seen"
    whole = ("--nodes=2", "--exclusive", "--requeue")
    script = SAVING.format(file=seen)
    options = (f"--partition={partition}", "--signal=B:USR2@30", "--time=60")
    low = job(*whole, *options, script=script)
    wait(seen.exists, slurm)
    high = job(*whole, "--partition=high", script="sleep 30")
    wait(lambda: slurm.jobs()[high] == "RUNNING", slurm)
    assert slurm.jobs()[low] == "PENDING"
    assert "Restarts=1" in slurm.call("scontrol", "show", "job", low)
    # Only where there is a time of grace can it save.
    assert seen.read_text().split() == ["began"] + ["saved"] * (partition == "main")


def test_accounting_knows_a_finished_job_and_refuses_strangers(slurm, job):
    with pytest.raises(ClusterError, match="Invalid account"):
        job("--account=strangers", script="true")
    done = job("--account=dev", "--qos=urgent", script="exit 3")
    asked = ("sacct", "--jobs", done, "--allocations", "--noheader", "--parsable2")
    fields = "--format=State,ExitCode,Account,QOS"
    wait(lambda: slurm.call(*asked, fields).strip() == "FAILED|3:0|dev|urgent", slurm)


def test_the_queue_outlives_the_controller_and_a_task_its_slurmd(slurm, job, tmp_path):
    pid, cluster = tmp_path / "pid", slurm.cluster
    running = job("--nodelist=n1", script=f"echo $$ > {pid}.new; mv {pid}.new {pid}; sleep 600")
    wait(pid.exists, slurm)
    waiting = job("--job-name=patient", f"--dependency=afterok:{running}", script="true")
    # It notes the queue some time after a change.
    wait(lambda: b"patient" in (cluster.run / "state/job_state").read_bytes(), slurm)
    cluster.kill_daemon("slurmctld")
    assert "slurmctld" not in cluster.processes.running()
    cluster.kill_daemon("n1")
    task = int(pid.read_text())
    assert alive(task)
    cluster.start_daemon("slurmctld")
    assert slurm.jobs() == {running: "RUNNING", waiting: "PENDING"}
    with pytest.raises(ClusterError, match="runs already"):
        cluster.start_daemon("slurmctld")
    cluster.start_daemon("n1")
    wait(cluster.is_ready)
    assert alive(task)


def make(command: str, folder: Path, *options: str, code: int = 0) -> str:
    """Run the command line as `make` does, and return all that it printed."""
    arguments = (ROOT / "slurm/dev/cluster.py", command, "--folder", folder, *options)
    result = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
    printed = result.stdout + result.stderr
    assert result.returncode == code, printed
    assert "Traceback" not in printed
    return printed


@pytest.mark.slow
def test_up_repairs_what_was_killed_and_down_leaves_nothing(tmp_path):
    for program in ("munged", "slurmctld", "slurmd", "sbatch", "weed", "mlflow"):
        need(program)
    # Slurm could use neither the space nor the length.
    folder = tmp_path / "my project" / ("deep" * 20) / ".slurm-dev"
    try:
        printed = make("up", folder, "--no-accounting")
        [seconds] = re.findall(r"n1 and n2 after (.+) s", printed)
        assert float(seconds) < 60
        run = Path(json.loads((folder / "cluster.json").read_text())["run"])
        first = Processes(run, mortal=False).running()
        assert {*first} == {"munged", "slurmctld", "n1", "n2", "weed", "mlflow"}
        make("up", folder, "--no-accounting")
        assert Processes(run, mortal=False).running() == first
        for name in ("munged", "slurmctld", "n2"):
            os.kill(first[name], signal.SIGKILL)
        assert "slurmctld  does not run" in make("status", folder, code=1)
        make("up", folder, "--no-accounting")
        second = Processes(run, mortal=False).running()
        assert {*second} == {*first}
        assert second["n1"] == first["n1"]
        assert "node n2: idle" in make("status", folder)
        task = use(folder)
        assert alive(task)
    finally:
        make("down", folder)
    assert not alive(task)
    assert Processes(run, mortal=False).running() == {}
    assert not folder.exists()
    assert not run.exists()
    assert "there is no cluster" in make("down", folder)


USE = """
. "$1/env"
sbatch --parsable --output=/dev/null --wrap="env -i setsid sleep 600 & echo \\$! > '$1/pid'; wait"
while [ ! -s "$1/pid" ]; do sleep 0.1; done
"$2" -c "
import boto3, mlflow
client = boto3.client('s3')
with mlflow.start_run():
    mlflow.log_text('hello', 'note.txt')
[found] = client.list_objects_v2(Bucket='hpt')['Contents']
assert found['Key'].endswith('note.txt'), found
"
"""


def use(folder: Path) -> int:
    """Use the cluster as a shell does, and return the PID of a task that hides well."""
    kept = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    command = ["sh", "-e", "-c", USE, "sh", str(folder), sys.executable]
    subprocess.run(command, env=kept, check=True, timeout=120, capture_output=True)
    return int((folder / "pid").read_text())


def test_what_is_wrong_is_reported_before_anything_starts(tmp_path, monkeypatch):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/thesis.tex").write_text("years of work")
    assert "holds something else" in make("up", tmp_path / "theirs", code=2)
    make("down", tmp_path / "theirs")
    assert (tmp_path / "theirs/thesis.tex").exists()
    assert "there is no cluster" in make("status", tmp_path / "nowhere", code=1)
    # A machine that lacks MariaDB alone.
    monkeypatch.setattr(shutil, "which", lambda name, path: None if "maria" in name else name)
    with pytest.raises(ClusterError, match=r"apt-get install mariadb-server.*--no-accounting"):
        Cluster(tmp_path / "mine").start()
