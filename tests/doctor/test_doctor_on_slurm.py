"""Doctor on a real Slurm: what is sound is found so, and each planted fault with its fix."""

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

from hpt_dist.doctor import cluster, login, preemption
from hpt_dist.doctor.finding import Finding
from hpt_dist.doctor.node import NodeReport, Probe
from hpt_dist.doctor.outcome import Outcome, judge
from hpt_dist.errors import RequestError

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
    assert {
        "slurm",
        "job",
        "start",
        "code",
        "versions",
        "node folder",
        "names",
        "all-reduce",
    } <= good
    assert {f"node {name}" for name in ("python", "packages", "torch", "store", "clock")} <= good
    [reduced] = [one for one in found if one["name"] == "all-reduce"]
    assert "n1, n2: 2 processes exchange sums by gloo" in reduced["says"]
    assert doctor.slurm.jobs().keys() <= doctor.ending()


@pytest.mark.parametrize(
    ("change", "name", "says", "fix"),
    [
        ("partition: nowhere", "job", "nvalid partition", "partition.*main; harsh; high"),
        ("account: nobody", "job", "nvalid account", "account.*dev"),
        ("qos: nothing", "job", "nvalid qos", "qos.*normal"),
        ("constraint: quantum", "job", "nvalid feature", "constraint"),
        ("sbatch: {reservation: none}", "job", "reservation", "reservation: ...}. in the profile"),
        ("sbatch: {nodelist: n7}", "job", "nvalid node name", "nodelist.*n.1-2"),
        ("sbatch: {gres: 'gpu:a100'}", "job", "not available|gres", "gres below|gpus_per_node"),
        ("nodes: 3", "job", "ode count|not available", "nodes.*2 of 4 cores"),
        ("container: {runtime: oci, image: /none}", "container", "/none does not exist", "image"),
        ("container: {runtime: pyxis, image: a/b}", "", "", ""),
        ("shared_folder: /proc/none", "shared folder", "proc", "shared_folder"),
        ("mlflow: NOT_SET", "profile", "NOT_SET", "export NOT_SET"),
        ("gpu_per_node: 2", "profile", "unknown setting", "did you mean gpus_per_node"),
    ],
)
def test_a_fault_that_is_seen_where_jobs_are_submitted(doctor, change, name, says, fix):
    key = change.partition(":")[0]
    lines = [line for line in DEV.splitlines() if not line.startswith(f"{key}:")]
    found = doctor.examine("\n".join([*lines, change]))
    if not name:  # a registry's image is not looked for here, but pyxis is
        name, says, fix = "container", "no --container-image", "pyxis"
    assert set(found) == {name}
    [fault] = found[name]
    assert_matches(says, fault["says"] + fault["fix"])
    assert_matches(fix, f"{fault['says']} {fault['fix']}")
    assert doctor.slurm.jobs().keys() <= doctor.ending()


def assert_matches(pattern: str, text: str) -> None:
    assert re.search(pattern, text), text


@pytest.mark.services
def test_faults_that_only_the_nodes_see(doctor, ceph, tmp_path):
    """Nine at once, each reported by itself."""
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
    all_found = doctor.command(profile, store, **variables)
    # Without grace a job goes on from its last state, so that is no fault.
    [preempted] = [one for one in all_found if one["name"] == "preemption"]
    assert preempted["ok"] is None
    assert_matches("harsh.*GraceTime=0", preempted["says"])
    assert_matches("use partition main", preempted["fix"])
    found = faults(all_found)
    expected = {
        "mlflow": ("does not answer", "mlflow server"),
        "setup": ("module: command not found", "setup"),
        "node packages": ("torch 1.0.0 does not satisfy", "pip install"),
        "node store": (".", "AWS_ACCESS_KEY_ID.*env"),
        "node mlflow": ("does not answer", "MLFLOW_TRACKING_URI.*env|mlflow server"),
        "scratch": ("0.00 GB for shards", "HPT_CACHE"),
        "node gpu": ("torch can use 0 of 1 GPUs", "accelerator: none"),
        "all-reduce": ("GLOO|nowhere0", "GLOO_SOCKET_IFNAME"),
    }
    assert set(found) == set(expected)
    for name, (says, fix) in expected.items():
        [fault] = found[name]
        assert_matches(says, fault["says"])
        assert_matches(fix, fault["fix"])
    assert doctor.slurm.jobs().keys() <= doctor.ending()


def test_no_such_interpreter_on_the_nodes(doctor):
    [fault] = doctor.examine(DEV + "python: /opt/none/bin/python\n")["start"]
    assert "no /opt/none/bin/python in the nodes" in fault["fix"]


# What is judged without a cluster.

REPORT = NodeReport(0, "n1", began_s=1000.0, time_s=1010.0, code="/code")
PROBE = Probe(
    folder="/jobs/x",
    work="/work",
    store="/store",
    store_exists=True,
    tracking_uri="",
    code="/code",
    requirements=(),
    versions={},
    withheld=("AWS_SECRET_ACCESS_KEY",),
    ranks=1,
    gpus=0,
    container="",
    interpreter="/python",
)


def outcome(*reports: NodeReport, pending_until_s: float = 999.0) -> list[Finding]:
    """Return what is found where these reports came."""
    seen_s = {report.rank: 1011.0 for report in reports}
    came = Outcome("7", reports, "RUNNING", pending_until_s=pending_until_s, seen_s=seen_s)
    return list(judge(came, replace(PROBE, ranks=len(reports))))


def fixes(*reports: NodeReport, **settings: float) -> dict[str, str]:
    """Return the fixes of the faults, by name."""
    return {x.name: x.fix for x in outcome(*reports, **settings) if x.ok is False}


def test_a_clock_that_is_wrong():
    assert fixes(REPORT) == {}
    assert "chrony" in fixes(replace(REPORT, time_s=1100.0))["node clock"]
    assert "chrony" in fixes(REPORT, pending_until_s=1100.0)["node clock"]


def test_nodes_that_differ():
    versions = {"Python": "3.11.2", "torch": "2.4.0", "torchvision": "0.19.0"}
    same = replace(REPORT, versions=versions)
    other = replace(REPORT, rank=1, node="n2", versions=versions | {"torch": "2.5.0"})
    assert "versions" not in fixes(same, replace(same, rank=1, node="n2"))
    assert "same environment" in fixes(same, other)["versions"]


def test_what_several_processes_find_is_reported_once():
    finding = Finding("scratch", False, "is full", "empty it")
    reports = [
        replace(REPORT, rank=rank, node=f"n{1 + rank // 2}", findings=[finding])
        for rank in range(4)
    ]
    [found] = [one for one in outcome(*reports) if one.name == "scratch"]
    assert found == replace(finding, says="n1, n2: is full")


@pytest.mark.parametrize(("known", "ok"), [("n1", True), ("10.0.0.1", None), ("", False)])
def test_names_that_lead_nowhere(known, ok, monkeypatch):
    def resolve(host, _):
        if host != known:
            raise OSError
        return [(0, 0, 0, "", (host, 0))]

    job = mock.Mock(hostnames=["n1", "n2"], num_tasks=2, num_nodes=2, raw_job_id="7")
    monkeypatch.setattr("submitit.JobEnvironment", lambda: job)
    monkeypatch.setattr("socket.getaddrinfo", resolve)
    with mock.patch.dict(os.environ, SLURM_LAUNCH_NODE_IPADDR="10.0.0.1"):
        [found] = replace(PROBE, ranks=2)._names()
    assert found.ok is ok
    assert ok or "/etc/hosts" in found.fix


def test_processes_without_an_address_do_not_wait_for_each_other():
    report = replace(REPORT, findings=[Finding("names", False, "none", "add one")])
    [found] = replace(PROBE, ranks=2)._all_reduce(report)
    assert (found.ok, "no address" in found.says) == (None, True)


def test_code_that_is_not_the_launchs():
    assert "PYTHONPATH" in fixes(replace(REPORT, code="/other"))["code"]


@pytest.mark.parametrize(
    ("finding", "fix"),
    [
        (Finding("store", None, "/store does not exist yet"), "all nodes share"),
        (Finding("store", False, "refused", "look"), "pass AWS_SECRET_.* on to jobs: .*; or look"),
        (Finding("packages", False, "old", "upgrade"), "build /image again.*: upgrade"),
    ],
)
def test_what_a_fault_may_mean_on_a_node(finding, fix):
    [found] = replace(PROBE, container="/image")._on_node(lambda: [finding])
    assert (found.name, found.ok) == (f"node {finding.name}", False)
    assert_matches(fix, found.fix)


@pytest.mark.parametrize(
    ("reason", "ok"),
    [("Resources", None), ("QOSMaxNodePerUserLimit", False), ("JobHeldUser", False)],
)
def test_a_job_that_waits(reason, ok):
    [finding] = judge(Outcome("7", [], "PENDING", reason), PROBE)
    assert finding.ok is ok
    assert reason in finding.says


def test_a_node_that_does_not_see_the_folder():
    [finding] = judge(Outcome("7", [], "exit code 1:0"), PROBE)
    assert (finding.name, finding.ok) == ("node folder", False)
    assert "shared_folder" in finding.fix


@pytest.mark.parametrize(
    ("mode", "grace", "ok"),
    [("REQUEUE", 60, None), ("REQUEUE", 0, None), ("CANCEL", 60, False), ("OFF", 0, True)],
)
def test_preemption(mode, grace, ok):
    rule = preemption.Rule("partition low", ("high",), mode, grace)
    [finding] = preemption.judge({"PreemptType": "preempt/partition_prio"}, [rule])
    assert finding.ok is ok
    assert bool(finding.fix) == (ok is False or (ok is None and not grace))


def test_a_home_that_cannot_keep_shards_costs_time_alone(monkeypatch):
    monkeypatch.setenv("HOME", "/dev/null/ada")
    for name in ("XDG_CACHE_HOME", "HPT_CACHE", "HPT_CACHE_GB"):
        monkeypatch.delenv(name, raising=False)
    [found] = replace(PROBE, store_exists=None)._scratch()
    assert found.ok is None
    assert "read shards from the store instead" in found.says
    assert "HPT_CACHE" in found.fix
    monkeypatch.setenv("HPT_CACHE_GB", "much")
    with pytest.raises(RequestError, match="HPT_CACHE_GB"):  # with which a trial fails too
        list(replace(PROBE, store_exists=None)._scratch())


@pytest.mark.parametrize(
    ("lines", "ok", "says"),
    [
        ("export SITE=1 TORCH_HOME=/weights", True, "jobs read it"),
        ("export PYTHONPATH=/x OMP_NUM_THREADS=1", None, "sets OMP_NUM_THREADS, PYTHONPATH, which"),
        ("sleep 0.3", None, "each start of a job waits for it for 0 s"),
    ],
)
def test_the_login_profile_of_a_node(tmp_path, monkeypatch, lines, ok, says):
    (tmp_path / ".profile").write_text(f"{lines}\n")
    monkeypatch.setattr(login, "_SLOW_S", 0.3)
    found = login.profile({"HOME": str(tmp_path), "SHELL": "/bin/bash", "PATH": os.environ["PATH"]})
    assert (found.ok, bool(found.fix)) == (ok, ok is None)
    assert_matches(says, found.says)


def test_doctor_needs_no_cluster_here(tmp_path):
    """Without Slurm that is the one fault; nothing hangs, nothing raises."""
    empty = tmp_path / "bin"
    empty.mkdir()
    file = tmp_path / "cluster.yaml"
    file.write_text(DEV)
    printed = hpt("doctor", str(file), "--store", str(tmp_path), store="", code=1, PATH=str(empty))
    assert "sbatch, srun, squeue, scontrol, scancel, sinfo cannot be found" in " ".join(
        printed.split()
    )
    assert "run doctor on a login node" in printed
