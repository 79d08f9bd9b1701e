"""Trials on a real Slurm end as they do here, whatever happens to their jobs."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from slurm_cluster import run_slurm
from small import RECIPE, environment, hpt, outcome
from submitit.slurm.slurm import SlurmJobEnvironment

from hpt_dist import lease, slurm
from hpt_dist.layout import LEASE, stage_prefix
from hpt_dist.placement import Placement
from hpt_dist.profile import Profile
from hpt_dist.store import open_store
from hpt_dist.trial_task import name_ranks

ROOT = Path(__file__).parent.parent
DEV = (ROOT / "slurm/profiles/dev.yaml").read_text()
ONE_RANK_A_NODE = DEV.replace("gpus_per_node: 2", "gpus_per_node: 1")
# Long enough to be disturbed in the middle, and quick to go on with.
LONG = ("stages.hpt.steps=150", "stages.hpt.checkpoint_every=20", "stages.hpt.monitor.every=150")
SETTINGS = [word for setting in LONG for word in ("--set", setting)]
# The quickstart's own recipe, in minutes; not measured is what two stores might measure otherwise.
QUICKSTART = (ROOT / "recipes/quickstart.yaml").read_text()
QUICK = [
    word
    for setting in (
        "image.size=32",
        *("stages.hpt.steps=12", "stages.hpt.head_warmup_steps=2", "stages.hpt.monitor.every=6"),
        *("stages.hpt.batch=16", "stages.hpt.moco.queue=64", "stages.features.steps=20"),
        *("stages.adapt.steps=6", "stages.adapt.head_warmup_steps=2", "stages.adapt.eval_every=3"),
        *("stages.adapt.sweep.seed=[0]", "stages.adapt.batch_labelled=4"),
        "stages.adapt.batch_unlabelled=8",
        *(f"stages.{stage}.precision=float32" for stage in ("hpt", "adapt")),
        *(f"stages.{stage}.memory_format=channels_last" for stage in ("hpt", "adapt")),
    )
    for word in ("--set", setting)
]
pytestmark = [pytest.mark.services, pytest.mark.slow]


@dataclass
class Site:
    """A user's folder on a cluster: a recipe, a profile and a store."""

    folder: Path
    slurm: object

    @property
    def store(self) -> Path:
        return self.folder / "store"

    @property
    def environment(self) -> dict[str, str]:
        return self.slurm.environment | {"HPT_CORES": "1"}

    def hpt(self, *arguments: str, code: int = 0, **more: str) -> str:
        return hpt(*arguments, store=str(self.store), code=code, **{**self.environment, **more})

    def launch(self, *options: str, code: int = 0, profile: str = DEV, text: str = RECIPE) -> str:
        return self.hpt(*self.arguments(*options, profile=profile, text=text), code=code)

    def arguments(self, *options: str, profile: str = DEV, text: str = RECIPE) -> list[str]:
        recipe, file = self.folder / "small.yaml", self.folder / "cluster.yaml"
        recipe.write_text(text)
        file.write_text(profile)
        return ["launch", str(recipe), "--on", str(file), *options]

    def start_long(self, *options: str, profile: str = DEV) -> str:
        """Launch the pretraining alone; return the id of its job once it has some steps."""
        self.launch("--only", "hpt", *SETTINGS, *options, profile=profile)
        self.wait(lambda: self.step() >= 25)
        return self.job

    @property
    def job(self) -> str:
        """The id of the pretraining's job."""
        arrays = json.loads(max(self.store.glob("launches/*.jobs")).read_text())
        return next(array["id"] for array in arrays if self.key in array["keys"])

    @property
    def key(self) -> str:
        return json.loads(max(self.store.glob("launches/*.json")).read_text())["trials"]["hpt"]

    def holder(self) -> lease.LeaseInfo | None:
        return lease.read(open_store(str(self.store)).at(stage_prefix(self.key)), LEASE)

    def step(self) -> int:
        holder = self.holder()
        return int(holder.facts.get("step", 0)) if holder else 0

    def states(self) -> dict[str, str]:
        told = json.loads(self.hpt("status", "--json"))["trials"]
        return {name: state["state"] for name, state in told.items()}

    def run_record(self) -> dict:
        return json.loads((self.store / stage_prefix(self.key) / "run.json").read_text())

    def finished(self) -> dict:
        """Wait until no job is left; return what the trials left."""
        self.wait(lambda: not self.slurm.jobs())
        return outcome(self.store)

    def wait(self, what, timeout_s: float = 240) -> None:
        deadline = time.monotonic() + timeout_s
        while not what():
            assert time.monotonic() < deadline, self.slurm.call("squeue") + self.logs()
            time.sleep(0.1)

    def logs(self) -> str:
        return "\n".join(path.read_text() for path in self.store.glob("work/jobs/*/*.out"))


def made(folder: Path, slurm: object, drawings: Path) -> Site:
    site = Site(folder, slurm)
    shutil.copytree(drawings / "datasets", site.store / "datasets")
    return site


@pytest.fixture
def site(tmp_path, slurm, drawings):
    yield (site := made(tmp_path, slurm, drawings))
    if left := {job.partition("_")[0] for job in slurm.jobs()}:
        slurm.call("scancel", *left)
        site.wait(lambda: not slurm.jobs())


@pytest.fixture
def based(site, undisturbed) -> Site:
    """A site whose base is there already: only the pretraining has to run."""
    base = min(undisturbed.folder.iterdir(), key=_steps_of)
    shutil.copytree(base, site.store / "stages" / base.name)
    return site


def _steps_of(stage: Path) -> int:
    return int(json.loads((stage / "spec.json").read_text())["spec"].get("steps", 0))


@pytest.fixture(scope="module")
def alone(drawings, tmp_path_factory):
    """What the short quickstart leaves by processes of this machine, one thread each."""
    return here(drawings, tmp_path_factory.mktemp("alone"), QUICKSTART, *QUICK).left


@pytest.fixture(scope="module")
def undisturbed(drawings, tmp_path_factory):
    """What the long pretraining leaves by a process of this machine."""
    return here(drawings, tmp_path_factory.mktemp("long"), RECIPE, "--only", "hpt", *SETTINGS)


@dataclass
class Here:
    """A launch that went through on this machine: its folder of trials, and what they left."""

    folder: Path
    left: dict


def here(drawings: Path, folder: Path, text: str, *options: str) -> Here:
    shutil.copytree(drawings / "datasets", folder / "store/datasets")
    (folder / "small.yaml").write_text(text)
    store = str(folder / "store")
    hpt("launch", str(folder / "small.yaml"), *options, store=store, HPT_CORES="1")
    return Here(folder / "store/stages", outcome(folder / "store"))


# The same, here and there.


def test_the_quickstart_on_one_node_leaves_what_it_leaves_here(site, alone):
    said = site.launch(*QUICK, text=QUICKSTART)
    assert "6 trials submitted" in said
    again = site.launch(*QUICK, text=QUICKSTART)
    assert "6 trials are in the queue already" in again
    assert "nothing to submit" in again
    assert len(list(site.store.glob("launches/*.json"))) == 1
    assert site.states()["hpt"] in ("queued", "running")
    assert site.finished() == alone
    # The last trial has closed the launch: nobody waited for it.
    [end] = site.store.glob("launches/*.end")
    assert end.read_text() == "FINISHED"
    assert set(site.states().values()) == {"cached"}
    assert "all 6 trials are cached" in site.launch(*QUICK, text=QUICKSTART)
    assert "== hpt" in site.hpt("logs", "quickstart", "--trial", "hpt")
    assert "Traceback" not in site.logs()


def test_two_ranks_on_two_nodes_one_of_which_is_killed(tmp_path, slurm, drawings, undisturbed):
    """They are two ranks on one node, bit by bit, and one rank up to the order of float sums."""
    one = made(tmp_path / "one", slurm, drawings)
    one.launch("--ranks", "2", "--only", "hpt", *SETTINGS)
    expected = one.finished()
    two = made(tmp_path / "two", slurm, drawings)
    job = two.start_long("--ranks", "2", profile=ONE_RANK_A_NODE)
    [other] = [pid for pid in tasks_of(job) if pid != two.holder().pid]
    os.kill(other, signal.SIGKILL)
    assert two.finished() == expected
    nodes = [slurm.call("scontrol", "show", "job", site.job) for site in (one, two)]
    assert [re.search(r"NumNodes=(\d)", shown)[1] for shown in nodes] == ["1", "2"]
    records = [site.run_record() for site in (one, two)]
    assert [(record["ranks"], record["restarts"]) for record in records] == [(2, 0), (2, 1)]
    losses = losses_of(two.store / stage_prefix(two.key))
    assert losses == losses_of(one.store / stage_prefix(one.key))
    # The same samples in the same order as one rank; training amplifies the sums' order later.
    alone = losses_of(undisturbed.folder / two.key)
    assert losses[:2] == pytest.approx(alone[:2], rel=1e-3)


def losses_of(trial: Path) -> list[float]:
    lines = (trial / "metrics.jsonl").read_text().splitlines()
    metrics = [json.loads(line)["metrics"] for line in lines]
    return [one["train/loss"] for one in metrics if "train/loss" in one]


# Whatever happens.


def test_told_to_save_more_often_than_submitit_allows(based, undisturbed):
    """The signal before the time limit; submitit would end a job of 30 minutes at the 4th."""
    job = based.start_long()
    for restarts in range(1, 5):
        based.slurm.call("scancel", "--signal=USR2", job)
        based.wait(lambda restarts=restarts: restarted(based, restarts))
    assert based.finished() == undisturbed.left
    assert based.run_record()["restarts"] == 4
    assert based.run_record()["job"] == job


def restarted(site: Site, times: int) -> bool:
    """Whether a process of a later start holds the lease, and is past its start-up."""
    holder = site.holder()
    return bool(holder and holder.term == times and "step" in holder.facts) or not site.slurm.jobs()


def test_the_signal_before_the_time_limit(based, undisturbed):
    """Slurm sends it by itself, here within a minute of a job of five."""
    short = DEV.replace("time_min: 30", "time_min: 5")
    short = short.replace("signal_lead_s: 60", "signal_lead_s: 230")
    job = based.start_long(profile=short)
    # Standing still, the task does not end before; Slurm wakes whom it sends a signal.
    os.kill(based.holder().pid, signal.SIGSTOP)
    based.wait(lambda: restarted(based, 1))
    assert "stopped by SIGUSR2" in based.logs()
    assert based.finished() == undisturbed.left
    assert based.run_record()["job"] == job
    assert based.run_record()["restarts"] >= 1


@pytest.mark.parametrize("partition", ["main", "harsh"])
def test_preempted_with_grace_and_without(based, undisturbed, partition):
    profile = DEV.replace("partition: main", f"partition: {partition}")
    job = based.start_long(profile=profile)
    whole = ("--partition=high", "--nodes=2", "--exclusive", "--wrap=sleep 3", "--output=/dev/null")
    based.slurm.call("sbatch", *whole)
    based.wait(lambda: "PENDING" in based.slurm.jobs().get(job, ""))
    assert based.finished() == undisturbed.left
    assert based.run_record()["restarts"] >= 1


def test_queued_again_by_hand(based, undisturbed):
    job = based.start_long()
    based.slurm.call("scontrol", "requeue", job)
    based.wait(lambda: restarted(based, 1))
    assert based.finished() == undisturbed.left
    assert based.run_record()["restarts"] == 1


def test_terminated_while_the_controller_restarts(based, undisturbed):
    """SIGTERM, which submitit ignores; and the job's script asks until Slurm answers."""
    job = based.start_long()
    based.slurm.call("scancel", "--signal=TERM", job)
    based.slurm.cluster.kill_daemon("slurmctld")
    based.wait(lambda: "stopped by SIGTERM" in based.logs())
    based.slurm.cluster.start_daemon("slurmctld")
    based.wait(lambda: restarted(based, 1))
    assert based.finished() == undisturbed.left


def test_a_lost_node_whose_task_lives_on(based, undisturbed):
    """Slurm starts the job anew elsewhere; the lease fences the task that it believes dead."""
    job = based.start_long()
    old = based.holder()
    node = based.slurm.call("squeue", "--noheader", f"--jobs={job}", "--format=%N").strip()
    # The old task stands still while its successor starts, as one behind a broken network does.
    os.kill(old.pid, signal.SIGSTOP)
    based.slurm.cluster.kill_daemon(node)
    try:
        based.wait(lambda: restarted(based, 1))
        os.kill(old.pid, signal.SIGCONT)
        based.wait(lambda: not Path(f"/proc/{old.pid}").exists())
    finally:
        based.slurm.cluster.start_daemon(node)
    assert "another process has taken this trial over" in based.logs()
    assert based.finished() == undisturbed.left
    assert based.run_record()["restarts"] == 1


def tasks_of(job: str) -> list[int]:
    """Return the processes of a job's step that train."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            variables = (folder / "environ").read_bytes().split(b"\0")
            words = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        ours = f"SLURM_JOB_ID={job}".encode() in variables and b"SLURM_PROCID" in b"".join(
            variables
        )
        if ours and b"submitit.core._submit" in words and not words.startswith(b"srun"):
            found.append(int(folder.name))
    return found


def test_a_real_error_is_told_and_not_retried(based):
    based.launch("--set", "stages.hpt.optimizer.lr=1e30", "--set", "stages.hpt.head_warmup_steps=0")
    based.wait(lambda: not based.slurm.jobs())
    said = based.hpt("status", "small")
    assert re.search(r"hpt +failed +.*the loss is not finite at step", said)
    states = based.states()
    assert states["hpt"] == "failed"
    assert states["probe/init=base"] == "cached"
    assert states["adapt/init=hpt,shots=1,seed=0"] == "runs"
    starts = json.loads((based.store / stage_prefix(based.key) / "starts.json").read_text())
    assert starts["count"] == 1
    assert [end.read_text() for end in based.store.glob("launches/*.end")] == ["FAILED"]
    assert "Traceback" not in based.logs()


def test_a_job_whose_parent_slurm_has_forgotten(site):
    """To Slurm it counts as done, and the job starts; the store knows better."""
    site.launch("--only", "hpt", "--hold")
    site.slurm.call("scontrol", "update", f"job={site.job}", "dependency=")
    site.slurm.call("scontrol", "release", site.job)
    site.wait(lambda: site.job not in site.slurm.jobs())
    assert "the trial that hpt starts from is not done" in site.hpt("status", "small")
    assert site.states() == {"base": "queued", "hpt": "failed"}


def test_ranks_meet_elsewhere_where_their_place_is_taken(based):
    based.launch("--only", "hpt", "--ranks", "2", "--hold")
    variables = {"SLURM_JOB_ID": based.job, "SLURM_NTASKS": "2", "SLURM_JOB_NODELIST": "localhost"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.environ", variables)
        name_ranks(SlurmJobEnvironment())
    with socket.create_server(("", int(variables["MASTER_PORT"]))):
        based.slurm.call("scontrol", "release", based.job)
        based.finished()
    assert f"port {variables['MASTER_PORT']} is taken" in based.logs()
    assert based.states()["hpt"] == "cached"
    assert "Restarts=1" in based.slurm.call("scontrol", "show", "job", based.job)


def test_restarts_that_lead_nowhere_come_to_an_end(based):
    profile = DEV + "requeue_limit: 1\n"
    seldom = ("--set", "stages.hpt.checkpoint_every=100000")
    based.launch("--only", "hpt", *SETTINGS, *seldom, profile=profile)
    for start in range(2):
        based.wait(lambda start=start: restarted(based, start))
        os.kill(based.holder().pid, signal.SIGKILL)
    based.wait(lambda: not based.slurm.jobs())
    assert based.states()["hpt"] == "failed"
    assert "2 restarts in a row saved nothing after step 0" in based.hpt("status", "small")


@pytest.mark.parametrize(
    ("code", "marks", "state", "queued"),
    [
        (0, [], "RUNNING", False),
        (1, [], "RUNNING", False),
        (0, ["again"], "RUNNING", True),
        (75, ["again"], "RUNNING", True),
        (0, ["again"], "COMPLETING", False),  # cancelled, or queued again by Slurm itself
        (143, [], "RUNNING", True),
        (137, [], "RUNNING", True),
        (137, ["failed"], "RUNNING", False),
        (143, ["again", "failed"], "RUNNING", False),
        (143, ["worn"], "RUNNING", False),
    ],
)
def test_the_end_of_a_jobs_script(tmp_path, monkeypatch, code, marks, state, queued):
    """The script's last lines, between a task that ended so and commands that only take notes."""
    step = slurm.Step(tmp_path, Placement(1, 1, 0, 1, None, 30))
    script = slurm.script_of(slurm.trial_executor("x.0", Profile(requeue_limit=0), step), 1)
    for name, line in {
        "srun": f"exit {code}",
        "squeue": f"echo {state}",
        "scontrol": f'echo "$@" >> {tmp_path}/asked',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    for mark in marks:
        (tmp_path / f"7.2.{mark}").touch()
    if "worn" in marks:
        (tmp_path / "7.ends").write_text("143\n" * 5)
    variables = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    done = subprocess.run(
        ["bash", "-c", script], env=variables | {"SLURM_RESTART_COUNT": "2"}, timeout=60
    )
    asked = tmp_path / "asked"
    assert (asked.read_text() if asked.exists() else "") == ("requeue 7\n" if queued else "")
    # What waits for the job must not start.
    assert (done.returncode == 0) == (code == 0 and not marks)


# Launching, stopping, looking.


def test_two_launches_at_once_submit_nothing_twice(site):
    arguments = site.arguments("--hold")
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "hpt_dist.cli", *arguments],
            env=environment(str(site.store), **site.environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(2)
    ]
    said = sorted(process.communicate(timeout=120)[0] for process in processes)
    assert all(process.returncode == 0 for process in processes), said
    assert len(site.slurm.jobs()) == 6
    assert sum("6 trials submitted" in one for one in said) == 1
    assert sum("6 trials are in the queue already" in one for one in said) == 1
    records = [json.loads(path.read_text()) for path in site.store.glob("launches/*.jobs")]
    assert sorted(key for arrays in records for array in arrays for key in array["keys"]) == sorted(
        set(json.loads(next(site.store.glob("launches/*.json")).read_text())["trials"].values())
    )


def test_a_launch_of_twenty_trials_is_soon_over_and_cancel_ends_it(site):
    """It takes about a second, of which Python's start is a good part."""
    _, start_s = timed(lambda: site.hpt("--version"))
    sweep = ("--set", f"stages.adapt.sweep.seed={list(range(8))}")
    said, launch_s = timed(lambda: site.launch("--hold", *sweep))
    assert "20 trials submitted" in said
    jobs = site.slurm.jobs()
    assert len(jobs) == 20
    assert sum("_" in job for job in jobs) == 16  # two arrays
    said, nothing_s = timed(lambda: site.launch("--hold", *sweep))
    assert "nothing to submit" in said
    assert launch_s < 4 * nothing_s
    assert launch_s < 8 * start_s
    said = site.hpt("cancel", "small")
    assert said.count("taken out of the queue") == 20
    assert site.slurm.jobs() == {}


def timed(action: Callable[[], str]) -> tuple[str, float]:
    began = time.monotonic()
    return action(), time.monotonic() - began


def test_cancel_lets_a_running_trial_save_and_drops_the_rest(based):
    site = based
    site.launch(*SETTINGS)
    site.wait(lambda: site.step() >= 25)
    said = site.hpt("cancel", "small")
    assert "asked to save and stop: hpt" in said
    assert "taken out of the queue: probe/init=hpt" in said
    site.wait(lambda: not site.slurm.jobs())
    states = site.states()
    assert (states["hpt"], states["probe/init=hpt"]) == ("resumes", "runs")


def test_no_accounting_and_an_edited_checkout(tmp_path, drawings, undisturbed):
    """Without slurmdbd nothing is missed; and jobs run the code as it was at the launch."""
    code = tmp_path / "checkout"
    shutil.copytree(ROOT / "hpt_dist", code / "hpt_dist", ignore=shutil.ignore_patterns("__py*"))
    (tmp_path / "slurm").mkdir()
    with run_slurm(tmp_path / "slurm", accounting=False) as slurm:
        site = made(tmp_path / "site", slurm, drawings)
        arguments = site.arguments("--only", "hpt", *SETTINGS, "--hold")
        launched = subprocess.run(
            [sys.executable, "-m", "hpt_dist.cli", *arguments],
            cwd=code,  # which Python looks into first
            env=environment(str(site.store), **site.environment),
            timeout=120,
        )
        assert launched.returncode == 0
        for file in code.rglob("*.py"):
            file.write_text("raise SystemExit('edited')\n")
        slurm.call("scontrol", "release", *slurm.jobs())
        site.wait(lambda: site.step() >= 25)
        site.slurm.call("scancel", "--signal=USR2", site.job)
        assert site.finished() == undisturbed.left
        assert site.run_record()["restarts"] == 1
        assert set(site.states().values()) == {"cached"}
