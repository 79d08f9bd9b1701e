"""One pretraining on a real Slurm ends as an undisturbed one does, whatever happens to its job.

One trial lives through one misfortune after the other: each costs a restart, and none a trial.
"""

from __future__ import annotations

import fcntl
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from slurm_site import DEV, LONG, ROOT, TINY, Site, based, here, settings
from small import environment

from hpt_dist.store.lease import LeaseInfo

pytestmark = [pytest.mark.services, pytest.mark.slow]

# So that the controller's next look, of one each 30 s, finds two minutes to be few.
PROFILE = DEV.replace("signal_lead_s: 60", "signal_lead_s: 90")

# What happens to a job that trains. It returns what the job's log says of it, once more each time.
Misfortune = Callable[[Site], str]


def told_to_save(site: Site) -> str:
    """By USR2, which clusters send before the time limit; submitit would allow it three times."""
    site.slurm.call("scancel", "--signal=USR2", site.job)
    return "stopped by SIGUSR2"


def queued_again_by_hand(site: Site) -> str:
    """The task has KillWait to save; it may not come to say so."""
    site.slurm.call("scontrol", "requeue", site.job)
    return "DUE TO JOB REQUEUE"


def terminated_while_the_controller_restarts(site: Site) -> str:
    """SIGTERM, which submitit ignores; and the job's script asks until Slurm answers."""
    saved = site.logs().count("stopped by SIGTERM")
    site.slurm.cluster.kill_daemon("slurmctld")
    # To the task itself: a controller that is killed may not have passed the signal on.
    os.kill(site.holder().pid, signal.SIGTERM)
    site.wait(lambda: site.logs().count("stopped by SIGTERM") > saved)
    site.slurm.cluster.start_daemon("slurmctld")
    return "stopped by SIGTERM"


def preempted_with_grace(site: Site) -> str:
    preempt(site)
    return "stopped by SIGUSR2"


def preempted_without_grace(site: Site) -> str:
    """As on clusters that set no GraceTime: the job gets everything at once."""
    site.slurm.call("scontrol", "update", "PartitionName=main", "GraceTime=0")
    try:
        preempt(site)
    finally:
        site.slurm.call("scontrol", "update", "PartitionName=main", "GraceTime=20")
    return "DUE TO PREEMPTION"


def preempt(site: Site) -> None:
    whole = ("--partition=high", "--nodes=2", "--exclusive", "--wrap=sleep 1", "--output=/dev/null")
    site.slurm.call("sbatch", *whole)
    site.wait(lambda: site.slurm.jobs()[site.job] == "PENDING")


def near_its_time_limit(site: Site) -> str:
    """Slurm sends the signal by itself, and looks at limits every 30 s."""
    saved = site.logs().count("stopped by SIGUSR2")
    # Standing still, the task does not end before; Slurm wakes whom it sends a signal.
    os.kill(site.holder().pid, signal.SIGSTOP)
    site.slurm.call("scontrol", "update", f"JobId={site.job}", "TimeLimit=2")
    site.wait(lambda: site.logs().count("stopped by SIGUSR2") > saved)
    site.wait(lambda: site.slurm.jobs()[site.job] == "PENDING")
    site.slurm.call("scontrol", "update", f"JobId={site.job}", "TimeLimit=30")
    return "stopped by SIGUSR2"


def stand_still(site: Site) -> LeaseInfo:
    """Stop a task as one behind a broken network is, so not in the middle of a write here."""
    with (site.trial / ".tmp/lock").open("ab") as lock:
        while True:
            old = site.holder()
            os.kill(old.pid, signal.SIGSTOP)
            time.sleep(0.05)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.kill(old.pid, signal.SIGCONT)
            else:
                return old


def on_a_lost_node_where_its_task_lives_on(site: Site) -> str:
    """Slurm starts the job anew elsewhere; the lease fences the task that it believes dead."""
    cluster = site.slurm.cluster
    node = site.slurm.call("squeue", "--noheader", f"--jobs={site.job}", "--format=%N").strip()
    old = stand_still(site)
    cluster.kill_daemon(node)
    try:
        # As the controller does by itself after SlurmdTimeout.
        site.slurm.call("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=lost")
        site.wait_for_holder(old.restarts + 1)
        os.kill(old.pid, signal.SIGCONT)
        site.wait(lambda: not Path(f"/proc/{old.pid}").exists())
    finally:
        cluster.start_daemon(node)
    site.wait(cluster.is_ready)
    return "another process has taken this trial over"


# USR2 comes four times: submitit by itself would end a job at the fourth.
ONCE_EACH = (
    told_to_save,
    preempted_without_grace,
    queued_again_by_hand,
    told_to_save,
    on_a_lost_node_where_its_task_lives_on,
    preempted_with_grace,
    terminated_while_the_controller_restarts,
    near_its_time_limit,
)


def strike(site: Site, misfortunes: Sequence[Misfortune]) -> None:
    """Let a job that trains go through misfortunes; each costs one restart and no saved step."""
    job = site.job
    for restarts, misfortune in enumerate(misfortunes, 1):
        saved, logs = site.saved_step(), site.logs()
        printed = misfortune(site)
        site.wait_for_start(restarts)
        assert site.logs().count(printed) > logs.count(printed), misfortune
        [step] = re.findall(r"resumes after step (\d+)", site.logs()[len(logs) :])[-1:] or ["0"]
        assert int(step) >= saved, misfortune
        shown = site.slurm.call("scontrol", "show", "job", job)
        assert f"Restarts={restarts} " in shown, misfortune


def test_one_trial_and_many_misfortunes(tmp_path, slurm, trained_here):
    """Meanwhile somebody edits the checkout: jobs run the code as it was at the launch."""
    site = based(tmp_path, slurm, trained_here)
    try:
        launch_from(checkout := tmp_path / "checkout", site)
        for file in checkout.rglob("*.py"):
            file.write_text("raise SystemExit('edited')\n")
        site.slurm.call("scontrol", "release", site.job)
        site.wait_for_start(0)
        job = site.job
        strike(site, ONCE_EACH)
        assert site.finished() == trained_here.left
        record = site.run_record()
        assert (record["restarts"], record["job"]) == (len(ONCE_EACH), job)
        assert set(site.states().values()) == {"cached"}
    finally:
        site.cancel_all()


def launch_from(checkout: Path, site: Site) -> None:
    """Launch the long pretraining, held, by the code of another folder."""
    shutil.copytree(
        ROOT / "hpt_dist", checkout / "hpt_dist", ignore=shutil.ignore_patterns("__py*")
    )
    done = subprocess.run(
        [
            *(sys.executable, "-m", "hpt_dist"),
            *site.arguments("--only", "hpt", *LONG, "--hold", profile=PROFILE),
        ],
        cwd=checkout,  # which Python looks into first
        env=environment(str(site.store), **site.environment),
        timeout=120,
    )
    assert done.returncode == 0


@pytest.mark.deep
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", range(3))
def test_misfortunes_in_any_order(tmp_path, slurm, drawings, seed):
    longer = settings(steps=900)
    (tmp_path / "here").mkdir()
    expected = here(drawings, tmp_path / "here", TINY, "--only", "hpt", *longer)
    site = based(tmp_path / "there", slurm, expected)
    try:
        site.launch("--only", "hpt", *longer, profile=PROFILE)
        site.wait_for_start(0)
        strike(site, random.Random(seed).choices(ONCE_EACH, k=20))
        assert site.finished() == expected.left
        assert site.run_record()["restarts"] == 20
    finally:
        site.cancel_all()
