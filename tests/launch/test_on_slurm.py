"""Trials on a real Slurm end as they do here, whatever happens to their jobs."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient
from slurm_site import DEV, LONG, ONE_RANK_A_NODE, ROOT, Site, based, here, made
from small import environment, outcome
from submitit.slurm.slurm import SlurmJobEnvironment

from hpt_dist.errors import TrainingError
from hpt_dist.launch.slurm_process import name_ranks
from hpt_dist.slurm import commands as slurm
from hpt_dist.slurm import jobs as slurm_jobs
from hpt_dist.slurm.jobs import Array
from hpt_dist.slurm.placement import Placement
from hpt_dist.slurm.profile import Profile
from hpt_dist.store import FolderStore
from hpt_dist.trial import starts

# The quickstart's own recipe, in minutes.
QUICKSTART = (ROOT / "recipes/quickstart.yaml").read_text()
QUICK = [
    word
    for setting in (
        "image.size=32",
        *("stages.hpt.steps=12", "stages.hpt.head_warmup_steps=2", "stages.hpt.monitor.every=6"),
        *("stages.hpt.batch=16", "stages.hpt.moco.queue=64", "stages.hpt.sweep.seed=[0]"),
        *("stages.linear.sweep.init=[hpt]", "stages.linear.sweep.seed=[0]"),
        *("stages.few.sweep.init=[hpt]", "stages.few.sweep.seed=[0]", "stages.few.sweep.shots=[1]"),
    )
    for word in ("--set", setting)
]
pytestmark = [pytest.mark.services, pytest.mark.slow]


@pytest.fixture
def site(tmp_path, slurm, drawings):
    yield (site := made(tmp_path, slurm, drawings))
    site.cancel_all()


@pytest.fixture
def started(tmp_path, slurm, trained_here):
    """A site whose base is there already: only the pretraining has to run."""
    yield (site := based(tmp_path, slurm, trained_here))
    site.cancel_all()


# The same, here and there.


# What nodes or modules may set, and libraries would act on.
STRAY = """\
setup:
  - export ACCELERATE_MIXED_PRECISION=bf16 ACCELERATE_USE_DEEPSPEED=true TIMM_FUSED_ATTN=0
  - export OMPI_COMM_WORLD_SIZE=2 OMPI_COMM_WORLD_RANK=1 PMI_SIZE=2 WORLD_SIZE=2 RANK=1
mlflow_experiment: a site's own
"""


def test_the_quickstart_on_one_node_leaves_what_it_leaves_here(site, drawings, tmp_path):
    (tmp_path / "here").mkdir()
    alone = here(drawings, tmp_path / "here", QUICKSTART, *QUICK)
    printed = site.launch(*QUICK, text=QUICKSTART, profile=DEV + STRAY)
    assert "4 trials submitted" in printed
    again = site.launch(*QUICK, text=QUICKSTART, profile=DEV + STRAY)
    assert "4 trials are in the queue already" in again
    assert "nothing to submit" in again
    assert len(list(site.store.glob("launches/*.json"))) == 1
    assert site.states()["hpt/seed=0"] in ("queued", "running")
    assert site.finished() == alone.left
    # The last trial has closed the launch: nobody waited for it.
    [end] = site.store.glob("launches/*.end")
    assert end.read_text() == "FINISHED"
    [record] = map(json.loads, map(Path.read_text, site.store.glob("launches/*.json")))
    client = MlflowClient(record["tracking_uri"])
    [place] = [one for one in client.search_experiments() if one.name == record["experiment"]]
    assert place.name == "a site's own"
    assert len(client.search_runs([place.experiment_id])) == 5  # the launch, and its trials
    assert set(site.states().values()) == {"cached"}
    cached = site.launch(*QUICK, text=QUICKSTART, profile=DEV + STRAY)
    assert "all 4 trials are cached" in cached
    logs = site.hpt("logs", "quickstart", "--trial", "hpt/seed=0")
    assert "== hpt" in logs
    assert re.search(r"step 12/12  loss \d.*, ridge [\d.]+ % at step 6, .*images/s", logs)
    assert "left out of the environment: ACCELERATE_MIXED_PRECISION, " in site.logs()
    assert "Traceback" not in site.logs()


def test_two_ranks_on_two_nodes_whose_port_is_taken_and_one_is_killed(
    started, two_ranks, trained_here
):
    """They are two ranks on one node, bit by bit, and one rank up to the order of float sums."""
    site = started
    site.launch("--ranks", "2", "--only", "hpt", *LONG, "--hold", profile=ONE_RANK_A_NODE)
    variables = {"SLURM_JOB_ID": site.job, "SLURM_NTASKS": "2", "SLURM_JOB_NODELIST": "localhost"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.environ", variables)
        name_ranks(SlurmJobEnvironment())
    # Their place is taken: they meet elsewhere, at the next start.
    with socket.create_server(("", int(variables["MASTER_PORT"]))):
        site.slurm.call("scontrol", "release", site.job)
        site.wait_for_start(1)
    assert f"port {variables['MASTER_PORT']} is taken" in site.logs()
    [other] = [pid for pid in tasks_of(site.job) if pid != site.holder().pid]
    os.kill(other, signal.SIGKILL)
    assert site.finished() == outcome(two_ranks.store)
    shown = site.slurm.call("scontrol", "show", "job", site.job)
    assert "Restarts=2 " in shown
    assert "NumNodes=2 " in shown
    script = next(two_ranks.store.glob("work/jobs/*/*_submission.sh")).read_text()
    assert "--nodes=1\n" in script
    records = [one.run_record() for one in (two_ranks, site)]
    # The start that found its place taken had not begun.
    assert [(record["ranks"], record["restarts"]) for record in records] == [(2, 0), (2, 1)]
    losses = losses_of(site.trial)
    assert losses == losses_of(two_ranks.trial)
    # The same samples in the same order as one rank; training amplifies the sums' order later.
    alone = losses_of(trained_here.store / "stages" / site.key)
    assert losses[:2] == pytest.approx(alone[:2], rel=1e-3)


def losses_of(trial: Path) -> list[float]:
    lines = (trial / "metrics.jsonl").read_text().splitlines()
    metrics = [json.loads(line)["metrics"] for line in lines]
    return [one["train/loss"] for one in metrics if "train/loss" in one]


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


# What does not go on.


def test_a_real_error_is_reported_and_not_retried(started):
    site = started
    broken = ("stages.hpt.optimizer.lr=1e30", "stages.hpt.head_warmup_steps=0")
    words = [word for setting in broken for word in ("--set", setting)]
    site.launch("--only", "probe", *words)
    site.wait(lambda: not site.slurm.jobs())
    printed = site.hpt("status", "small")
    assert re.search(r"hpt +failed +.*the loss is not finite at step", printed)
    # What waits for it does not start; what does not goes through.
    assert site.states() == {
        "base": "cached",
        "hpt": "failed",
        "probe/init=base": "cached",
        "probe/init=hpt": "runs",
    }
    assert json.loads((site.trial / "starts.json").read_text())["count"] == 1
    assert [end.read_text() for end in site.store.glob("launches/*.end")] == ["FAILED"]
    assert "Traceback" not in site.logs()


def test_a_job_whose_parent_slurm_has_forgotten(site):
    """To Slurm it counts as done, and the job starts; the store knows better."""
    site.launch("--only", "hpt", "--hold")
    site.slurm.call("scontrol", "update", f"job={site.job}", "dependency=")
    site.slurm.call("scontrol", "release", site.job)
    site.wait(lambda: site.job not in site.slurm.jobs())
    assert "the trial that hpt starts from is not done" in site.hpt("status", "small")
    assert site.states() == {"base": "queued", "hpt": "failed"}


def test_restarts_that_lead_nowhere_come_to_an_end(started):
    site = started
    seldom = ("--set", "stages.hpt.checkpoint_every=100000")
    site.launch("--only", "hpt", *LONG, *seldom, profile=DEV + "requeue_limit: 0\n")
    site.wait((site.trial / "starts.json").exists)
    os.kill(site.holder().pid, signal.SIGKILL)
    site.wait(lambda: not site.slurm.jobs())
    assert site.states()["hpt"] == "failed"
    assert "1 restarts in a row saved nothing after step 0" in site.hpt("status", "small")


def test_a_restart_is_in_vain_where_its_job_saved_nothing_new(tmp_path):
    root = FolderStore(tmp_path)
    for step, job, in_vain in (
        *((0, "7", 0), (0, "7", 1), (10, "7", 0), (10, "7", 1)),
        *((10, "8", 0), (10, "8", 1), (10, "8", 2)),
    ):
        assert starts.note(root, step, job, limit=2).in_vain == in_vain
    with pytest.raises(TrainingError, match="3 restarts in a row saved nothing after step 10"):
        starts.note(root, 10, "8", limit=2)


@pytest.mark.parametrize(
    ("code", "marks", "state", "queued"),
    [
        (0, ["began"], "RUNNING", False),
        (1, ["began"], "RUNNING", False),
        (0, ["began", "again"], "RUNNING", True),
        (75, ["began", "again"], "RUNNING", True),
        # Cancelled, or queued again by Slurm itself.
        (0, ["began", "again"], "COMPLETING", False),
        (143, ["began"], "RUNNING", True),
        (137, ["began"], "RUNNING", True),
        (137, ["began", "failed"], "RUNNING", False),
        (143, ["began", "again", "failed"], "RUNNING", False),
        (143, ["began", "worn"], "RUNNING", False),
        # No process began: Slurm refused the step, or Python was not to be found.
        (1, [], "RUNNING", True),
        (1, ["worn"], "RUNNING", False),
        # The store was away.
        (69, ["began", "away"], "RUNNING", True),
        (69, ["began", "away", "slow"], "RUNNING", True),
        (137, ["began", "away"], "RUNNING", True),
        (69, ["began", "away", "worn"], "RUNNING", False),
        # The last task of an array has the id of the whole array.
        (75, ["began", "again", "array"], "RUNNING", True),
    ],
)
def test_the_end_of_a_jobs_script(tmp_path, monkeypatch, code, marks, state, queued):
    """The script's last lines, between a task that ended so and commands that only take notes."""
    step = slurm.Step(tmp_path, Placement(1, 1, 0, 1, None, 30))
    profile = Profile(requeue_limit=0, store_wait_s=150)
    script = slurm.script_of(slurm.executor("x.0", profile, step), 1)
    # How long Slurm itself waits; 120 s where nothing is set.
    auth = "socket=/run/munge,cred_expire=300" if "slow" in marks else "(null)"
    for name, line in {
        "srun": f"exit {code}",
        "squeue": f"echo {state}",
        "scontrol": f'[ "$1" = show ] && echo "AuthInfo = {auth}" || echo "$@" >> {tmp_path}/asked',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    for mark in marks:
        (tmp_path / f"7.2.{mark}").touch()
    if "worn" in marks:
        (tmp_path / "7.ends").write_text("143\n" * 5)
    variables = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    if "array" in marks:
        variables |= {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "0"}
    done = subprocess.run(
        ["bash", "-c", script], env=variables | {"SLURM_RESTART_COUNT": "2"}, timeout=60
    )
    asked, job = tmp_path / "asked", "7_0" if "array" in marks else "7"
    wanted = f"requeue {job}\n" if queued else ""
    if queued and "away" in marks and "slow" not in marks:
        wanted += f"update JobId={job} StartTime=now+150\n"
    assert (asked.read_text() if asked.exists() else "") == wanted
    # What waits for the job must not start.
    assert (done.returncode == 0) == (code == 0 and marks == ["began"])
    array = Array("x.0", ("k",), str(tmp_path), job)
    noted = slurm_jobs.ending(array, "k", slurm_jobs.last_starts(array.folder))
    assert noted
    assert (noted.start, noted.goes_on) == (2, queued or state != "RUNNING")


# Launching, stopping, looking.


def test_two_launches_at_once_submit_nothing_twice(site):
    arguments = site.arguments("--hold")
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "hpt_dist", *arguments],
            env=environment(str(site.store), **site.environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(2)
    ]
    printed = sorted(process.communicate(timeout=120)[0] for process in processes)
    assert all(process.returncode == 0 for process in processes), printed
    assert len(site.slurm.jobs()) == 6
    assert sum("6 trials submitted" in one for one in printed) == 1
    assert sum("6 trials are in the queue already" in one for one in printed) == 1
    records = [json.loads(path.read_text()) for path in site.store.glob("launches/*.jobs")]
    assert sorted(key for arrays in records for array in arrays for key in array["keys"]) == sorted(
        set(json.loads(next(site.store.glob("launches/*.json")).read_text())["trials"].values())
    )


def test_a_launch_of_twenty_trials_is_soon_over_and_cancel_ends_it(site, tmp_path):
    """It takes about a second, of which Python's start is a good part."""
    _, start_s = timed(lambda: site.hpt("status", "nobody", code=2, process=True))
    sweep = ("--set", f"stages.adapt.sweep.seed={list(range(8))}")
    queued, launch_s = timed(lambda: site.launch("--hold", *sweep))
    assert "20 trials submitted" in queued
    jobs = site.slurm.jobs()
    assert len(jobs) == 20
    assert sum("_" in job for job in jobs) == 16  # two arrays
    printed, nothing_s = timed(lambda: site.launch("--hold", *sweep))
    assert "nothing to submit" in printed
    assert launch_s < 4 * nothing_s
    assert launch_s < 8 * start_s
    printed = pasted(site, re.findall(r"(?:look|stop): (.*)", queued), tmp_path)
    assert printed.count(" queued ") == 20
    assert printed.count("removed from the queue") == 20
    assert site.slurm.jobs() == {}


def pasted(site: Site, commands: list[str], folder: Path) -> str:
    """Run the commands that a launch has printed in a shell that knows no store, logs -f apart."""
    assert re.findall(r"hpt_dist (\w+)", " ".join(commands)) == ["status", "logs", "cancel"]
    printed = ""
    for one in (commands[0], commands[2]):
        done = subprocess.run(
            ["bash", "-c", one],
            env=environment("", **site.environment),
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        printed += done.stdout
    return printed


def timed(action: Callable[[], str]) -> tuple[str, float]:
    """Return what a command says, and its CPU seconds: other tests run beside it."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    printed = action()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return printed, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
