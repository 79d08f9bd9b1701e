"""Doctor on a real Slurm: what is sound is found so, and each planted fault with its mend."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
from small import environment, hpt

from hpt_dist.doctor import cluster, node_findings, preemption
from hpt_dist.doctor.probe_outcome import Expected, Outcome, start

ROOT = Path(__file__).parents[2]
DEV = (ROOT / "slurm/profiles/dev.yaml").read_text()


class Doctor:
    """Runs doctor on profiles of one cluster."""

    def __init__(self, folder: Path, slurm) -> None:
        self.folder, self.slurm = folder, slurm

    def command(self, profile: str, store: str = "", **variables: str) -> list[dict]:
        """Return all that the command finds; its exit code says whether there are any faults."""
        file = self.folder / "cluster.yaml"
        file.write_text(profile)
        words = ("doctor", str(file), "--json", "--work", str(self.folder / "work"))
        done = subprocess.run(
            [sys.executable, "-m", "hpt_dist", *words],
            env=environment(store or str(self.folder / "store"), **self.slurm.environment)
            | variables,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert "Traceback" not in done.stdout + done.stderr
        found = json.loads(done.stdout)
        assert done.returncode == bool(faults(found)), done.stderr
        return found

    def examine(self, profile: str) -> dict[str, list[dict]]:
        """Return the faults of a profile, as the command finds them after those of this machine."""
        file = self.folder / "cluster.yaml"
        file.write_text(profile)
        with mock.patch.dict(os.environ, self.slurm.environment):
            read, found = cluster.load(str(file))
            if read:
                store, work = self.folder / "store", self.folder / "work"
                found += cluster.examine(read, str(store), str(work), print)
        return faults([vars(one) for one in found])

    def ending(self) -> set[str]:
        """Return the jobs that are over but for Slurm's last look at them."""
        return {job for job, state in self.slurm.jobs().items() if state == "COMPLETING"}


def faults(found: list[dict]) -> dict[str, list[dict]]:
    """Return what is wrong of what doctor found, by its name."""
    wrong: dict[str, list[dict]] = {}
    for one in found:
        if one["ok"] is False:
            wrong.setdefault(one["name"], []).append(one)
    return wrong


@pytest.fixture
def doctor(tmp_path, slurm, drawings):
    shutil.copytree(drawings / "datasets", tmp_path / "store/datasets")
    return Doctor(tmp_path, slurm)


def test_a_sound_cluster(doctor):
    found = doctor.command(DEV)
    assert faults(found) == {}
    good = {one["name"] for one in found if one["ok"]}
    assert {"slurm", "job", "start", "versions", "node store", "names", "all-reduce"} <= good
    [reduced] = [one for one in found if one["name"] == "all-reduce"]
    assert "n1, n2: 2 processes add up by gloo" in reduced["says"]
    assert doctor.slurm.jobs().keys() <= doctor.ending()


@pytest.mark.parametrize(
    ("change", "name", "says", "mend"),
    [
        ("partition: nowhere", "job", "nvalid partition", "partition.*main; harsh; high"),
        ("account: nobody", "job", "nvalid account", "account.*dev"),
        ("qos: nothing", "job", "nvalid qos", "qos.*normal"),
        ("constraint: quantum", "job", "nvalid feature", "constraint"),
        ("nodes: 3", "job", "ode count|not available", "nodes.*2 of 4 cores"),
        ("container: {runtime: oci, image: /none}", "container", "/none is not there", "image"),
        ("container: {runtime: pyxis, image: a/b}", "", "", ""),
        ("shared_folder: /proc/none", "shared folder", "proc", "shared_folder"),
        ("mlflow: NOT_SET", "profile", "NOT_SET", "export NOT_SET"),
        ("gpu_per_node: 2", "profile", "unknown setting", "did you mean gpus_per_node"),
    ],
)
def test_a_fault_that_is_seen_where_jobs_are_submitted(doctor, change, name, says, mend):
    key = change.partition(":")[0]
    lines = [line for line in DEV.splitlines() if not line.startswith(f"{key}:")]
    found = doctor.examine("\n".join([*lines, change]))
    if not name:  # a registry's image is not looked for here, but pyxis is
        name, says, mend = "container", "no --container-image", "pyxis"
    assert set(found) == {name}
    [fault] = found[name]
    assert_matches(says, fault["says"] + fault["mend"])
    assert_matches(mend, f"{fault['says']} {fault['mend']}")
    assert doctor.slurm.jobs().keys() <= doctor.ending()


def assert_matches(pattern: str, text: str) -> None:
    assert re.search(pattern, text), text


@pytest.mark.services
def test_faults_that_only_the_nodes_see(doctor, ceph, tmp_path):
    """Nine at once, each told by itself."""
    old = tmp_path / "old/torch-1.0.0.dist-info/METADATA"
    old.parent.mkdir(parents=True)
    old.write_text("Metadata-Version: 2.1\nName: torch\nVersion: 1.0.0\n")
    cache = tmp_path / "tiny"
    cache.mkdir()
    setup = [
        "module load nothing",
        f"export PYTHONPATH={tmp_path}/old:$PYTHONPATH",
        "export GLOO_SOCKET_IFNAME=nowhere0",
        f"mount -t tmpfs -o size=1m tiny {cache}; export HPT_CACHE={cache}",
    ]
    lines = [line for line in DEV.splitlines() if not line.startswith(("partition", "accelerator"))]
    profile = "\n".join([*lines, "partition: harsh", "env: [HPT_*]", f"setup: {json.dumps(setup)}"])
    store = f"s3://{ceph.http.make_bucket()}/hpt"
    variables = {**ceph.http.environment, "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    found = faults(doctor.command(profile, store, **variables))
    expected = {
        "preemption": ("harsh.*GraceTime=0", "use partition main"),
        "mlflow": ("does not answer", "mlflow server"),
        "setup": ("module: command not found", "setup"),
        "versions": ("torch 1.0.0 is not", "pip install"),
        "node store": (".", "AWS_ACCESS_KEY_ID.*env"),
        "node mlflow": ("does not answer", "MLFLOW_TRACKING_URI.*env|mlflow server"),
        "scratch": ("0.00 GB for shards", "HPT_CACHE"),
        "node gpu": ("torch sees 0 of 1 GPUs", "accelerator: none"),
        "all-reduce": ("GLOO|nowhere0", "GLOO_SOCKET_IFNAME"),
    }
    assert set(found) == set(expected)
    for name, (says, mend) in expected.items():
        [fault] = found[name]
        assert_matches(says, fault["says"])
        assert_matches(mend, fault["mend"])
    assert doctor.slurm.jobs().keys() <= doctor.ending()


def test_no_such_interpreter_on_the_nodes(doctor):
    [fault] = doctor.examine(DEV + "python: /opt/none/bin/python\n")["start"]
    assert "no /opt/none/bin/python in the nodes" in fault["mend"]


# What is judged without a cluster.

FACTS = {
    "rank": 0,
    "node": "n1",
    "began_s": 1000.0,
    "time_s": 1010.0,
    "doing": "",
    "errors": {},
}
EXPECTED = Expected("3.11.2", {}, (), "/code", None, None, 2, (), "", "/python", "/jobs/x")


def judged(facts: dict, **outcome) -> dict[str, str]:
    """Return the mends of the faults in one process's facts, by name."""
    settings = {"pending_until_s": 999.0, "seen_s": {0: 1011.0}} | outcome
    made = Outcome("7", [FACTS | facts], "RUNNING", **settings)
    found = node_findings.judge(made, replace(EXPECTED, ranks=1))
    return {one.name: one.mend for one in found if one.ok is False}


def test_a_clock_that_is_wrong():
    assert judged({}) == {}
    assert "chrony" in judged({"time_s": 1100.0})["node clock"]
    assert "chrony" in judged({}, pending_until_s=1100.0)["node clock"]


def test_names_that_lead_nowhere():
    error = {"errors": {"names": "the name of the first node, n1, has no address here"}}
    assert "/etc/hosts" in judged(error)["names"]
    assert judged({"names": {"first": "n1", "resolves": True, "address": "10.0.0.1"}}) == {}


def test_gpus_that_are_ill():
    facts = {"gpus": {"seen": 2, "wrong": {"1": "wrong"}, "smi": ["0, 3, Active"], "complaint": ""}}
    made = Outcome("7", [FACTS | facts], "RUNNING", pending_until_s=999.0, seen_s={0: 1011.0})
    found = node_findings.judge(made, replace(EXPECTED, ranks=1, gpus=2))
    told = [one.says for one in found if one.name == "node gpu" and one.ok is False]
    assert told == ["n1: GPU 1: wrong", "n1: GPU 0 had 3 memory errors (ECC)"]


def test_code_that_is_not_the_launchs():
    there = {"python": "3.11.2", "interpreter": "/p", "code": "/other", "packages": {}}
    assert "PYTHONPATH" in judged({"versions": there})["code"]


@pytest.mark.parametrize(
    ("reason", "ok"),
    [("Resources", None), ("QOSMaxNodePerUserLimit", False), ("JobHeldUser", False)],
)
def test_a_job_that_waits(reason, ok):
    [finding] = start(Outcome("7", [], "PENDING", reason), EXPECTED)
    assert finding.ok is ok
    assert reason in finding.says


def test_a_node_that_does_not_see_the_folder():
    [finding] = start(Outcome("7", [], "exit code 1:0"), EXPECTED)
    assert (finding.name, finding.ok) == ("node folder", False)
    assert "shared_folder" in finding.mend


@pytest.mark.parametrize(
    ("mode", "grace", "ok"),
    [("REQUEUE", 60, None), ("REQUEUE", 0, False), ("CANCEL", 60, False), ("OFF", 0, True)],
)
def test_preemption(mode, grace, ok):
    rule = preemption.Rule("partition low", ("high",), mode, grace)
    [finding] = preemption.judge({"PreemptType": "preempt/partition_prio"}, [rule])
    assert finding.ok is ok
    assert bool(finding.mend) == (ok is False)


def test_what_is_told_needs_no_cluster_here(tmp_path):
    """Without Slurm that is the one fault; nothing hangs, nothing raises."""
    empty = tmp_path / "bin"
    empty.mkdir()
    file = tmp_path / "cluster.yaml"
    file.write_text(DEV)
    said = hpt("doctor", str(file), "--store", str(tmp_path), store="", code=1, PATH=str(empty))
    assert "sbatch, srun, squeue, scontrol, scancel, sinfo cannot be found" in " ".join(
        said.split()
    )
    assert "run this where jobs are submitted" in said
