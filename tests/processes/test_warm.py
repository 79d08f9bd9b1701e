"""Trials forked from a warm server: the bytes of fresh processes, whatever is set or dies."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
from small import TINY, environment, hpt, outcome, write_recipe

LONG = ("--only", "hpt")
# What a shell, a batch job or MPI's starter may leave, and libraries would act on.
STRAY = {
    "ACCELERATE_MIXED_PRECISION": "bf16",
    "ACCELERATE_USE_DEEPSPEED": "true",
    "WORLD_SIZE": "2",
    "RANK": "0",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "1",
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_RANK": "1",
    "PMI_SIZE": "2",
    "SLURM_JOB_ID": "7",
    "SLURM_NTASKS": "2",
    "OMP_NUM_THREADS": "7",
    "TIMM_FUSED_ATTN": "0",
}


def store_of(drawings, folder):
    (folder / "datasets").symlink_to(drawings / "datasets")
    return folder


def test_fresh_processes_among_stray_variables_leave_the_same_bytes(tiny, drawings, tmp_path):
    store = store_of(drawings, tmp_path)
    words = ("launch", str(write_recipe(store, TINY)), "--only", "hpt", "--fresh")
    printed = hpt(*words, store=str(store), **STRAY)
    left = outcome(store)
    assert left == {key: outcome(tiny[0])[key] for key in left}
    assert len(left) == 2
    [line] = re.findall(r"not passed on to trials.*: (.*)", printed)
    assert set(line.split(", ")) >= {name for name in STRAY if not name.startswith("SLURM")}
    assert "SLURM_JOB_ID" not in line  # which is nobody's switch, and stays away all the same


def launched(store):
    """Start a launch of a long trial; return it, its server and the trial once it has saved."""
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "hpt_dist",
            "launch",
            str(write_recipe(store, TINY)),
            *LONG,
        ],
        env=environment(str(store), **STRAY),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 200
    while not (saved := list(store.glob("stages/*/state/*.json"))):
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    holder = json.loads((saved[0].parents[1] / "lease.json").read_text())
    trial = psutil.Process(holder["pid"])
    return process, trial.parent(), trial


def test_a_trial_outlives_its_server_and_its_launcher(tiny, drawings, tmp_path):
    store = store_of(drawings, tmp_path)
    launcher, server, trial = launched(store)
    assert "forkserver" in " ".join(server.cmdline())
    # No team of OpenMP, whose locks a fork would copy: Arrow's allocator alone has a thread.
    tasks = [Path(f"/proc/{server.pid}/task/{thread.id}/comm") for thread in server.threads()]
    names = [task.read_text().strip() for task in tasks]
    assert len([name for name in names if not name.startswith("jemalloc")]) == 1
    server.kill()
    time.sleep(1)
    assert launcher.poll() is None
    assert trial.is_running()
    launcher.kill()
    launcher.communicate()
    trial.wait(timeout=200)
    runs = [json.loads(path.read_text()) for path in store.glob("stages/*/run.json")]
    assert [run["restarts"] for run in runs] == [0, 0]
    recipe = str(write_recipe(store, TINY))
    assert "all 2 trials are cached" in hpt("launch", recipe, *LONG, store=str(store))
    left = outcome(store)
    assert left == {key: outcome(tiny[0])[key] for key in left}


def test_a_signal_to_the_whole_group_lets_the_trial_save(drawings, tmp_path):
    store = store_of(drawings, tmp_path)
    launcher, _, trial = launched(store)
    os.killpg(launcher.pid, signal.SIGTERM)
    printed, _ = launcher.communicate(timeout=200)
    assert launcher.returncode == 1
    assert "stopped by SIGTERM after step" in printed
    assert not trial.is_running()
    assert "resumes" in hpt("status", "tiny", store=str(store))


def test_inline_is_one_process(tiny):
    store, recipe = tiny
    words = ("launch", str(recipe), "--on", "inline", "--ranks", "2")
    assert "use --on local" in hpt(*words, store=str(store), code=2)
