"""Child processes: what they get, how their ends are reported, and that none is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from hpt_dist.errors import HptError
from hpt_dist.processes import children, environment, workers

WAYS = pytest.mark.parametrize("warm", [False, True], ids=["fresh", "warm"])


@pytest.fixture(scope="module", autouse=True)
def _server():
    """Start the server of warm children with a preload that is quick to import."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(children, "_WARM", "json")
        children.warm_up(dict(os.environ))


def echo(pipe, *words):
    pipe.send((os.getpid(), *words))


def variables(pipe):
    pipe.send(dict(os.environ))


def write(pipe, text):
    sys.stdout.write(text)
    sys.stdout.flush()
    os.write(2, b"and an error\n")


def end_by(pipe, what):
    if what == "exit":
        sys.exit(3)
    os.kill(os.getpid(), what)


def wait_for_ever(pipe):
    pipe.send(os.getpid())
    while True:
        time.sleep(0.05)


def leave_a_thread(pipe):
    threading.Thread(target=time.sleep, args=[3]).start()
    pipe.send(os.getpid())


def over(child, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not child.has_ended:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return child


@WAYS
def test_it_runs_a_function_in_another_process(warm):
    child = children.start(echo, 1, "two", warm=warm)
    pid, *words = child.pipe.recv()
    assert pid == child.pid != os.getpid()
    assert words == [1, "two"]
    assert over(child).exit_code == 0
    assert list(child.received()) == []


@WAYS
def test_its_environment_is_what_it_was_given(warm, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    wanted = {"PATH": os.environ["PATH"], "HPT_STORE": "here", "RANK": "1"}
    child = children.start(variables, variables=wanted, warm=warm)
    found = child.pipe.recv()
    found.pop("PYTHONPATH", None)  # by which a fresh one finds what it is to run
    found.pop("LC_CTYPE", None)  # which Python sets by itself
    assert found == wanted
    over(child)


@WAYS
def test_its_output_is_appended_to_its_log(warm, tmp_path):
    log = tmp_path / "x.log"
    log.write_text("before\n")
    over(children.start(write, "printed\n", log=log, warm=warm))
    assert sorted(log.read_text().splitlines()) == ["and an error", "before", "printed"]


@WAYS
@pytest.mark.parametrize(
    ("how", "code", "words"),
    [("exit", 3, "exit code 3"), (signal.SIGKILL, -9, "SIGKILL"), (signal.SIGSEGV, -11, "SIGSEGV")],
)
def test_how_it_ended_is_known(warm, how, code, words):
    child = over(children.start(end_by, how, warm=warm))
    assert (child.exit_code, child.ending) == (code, words)
    child.signal(signal.SIGTERM)  # which reaches nobody


@WAYS
def test_a_mortal_one_ends_when_its_pipe_is_closed(warm):
    child = children.start(wait_for_ever, warm=warm)
    child.pipe.recv()
    child.end()
    assert child.has_ended


@WAYS
def test_a_mortal_one_ends_with_a_parent_that_is_killed_and_another_lives_on(warm):
    """In the parent's place: a program that starts one of each, and is killed."""
    program = (
        "import json, os, sys, time\n"
        "from hpt_dist.processes import children\n"
        "from test_children import wait_for_ever\n"
        "children._WARM = 'json'\n"
        "if __name__ == '__main__':\n"
        f"    warm = {warm}\n"
        "    if warm: children.warm_up(dict(os.environ))\n"
        "    both = [children.start(wait_for_ever, warm=warm, mortal=m) for m in (True, False)]\n"
        "    print(json.dumps([child.pipe.recv() for child in both]), flush=True)\n"
        "    time.sleep(60)\n"
    )
    folders = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
    parent = subprocess.Popen(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(folders)},
        stdout=subprocess.PIPE,
        text=True,
    )
    mortal, other = (
        psutil.Process(pid) for pid in map(int, parent.stdout.readline()[1:-2].split(","))
    )
    parent.kill()
    parent.communicate()
    try:
        mortal.wait(timeout=20)
        assert other.is_running()
        assert other.status() != psutil.STATUS_ZOMBIE
    finally:
        other.kill()


@WAYS
def test_one_that_is_asked_to_end_while_it_ends_prints_nothing(warm, tmp_path):
    child = children.start(leave_a_thread, warm=warm, log=tmp_path / "log")
    child.pipe.recv()
    time.sleep(0.5)  # its work is over, and its interpreter waits for the thread
    child.signal(signal.SIGTERM)
    assert over(child).exit_code == 0
    assert (tmp_path / "log").read_text() == ""


def test_ctrl_c_is_the_parents_affair():
    """A terminal sends it to the whole group; whoever listens by himself gets it."""
    child = children.start(wait_for_ever, mortal=False)
    child.pipe.recv()
    child.signal(signal.SIGINT)
    time.sleep(0.3)
    assert not child.has_ended
    child.signal(signal.SIGKILL)
    over(child)


def test_a_server_is_ready_when_it_forks_or_is_killed(tmp_path):
    """Not before: whoever starts a child would wait as long."""
    code = (
        "import os, signal, sys, time\n"
        "from multiprocessing import forkserver\n"
        "from hpt_dist.processes import children\n"
        "children._WARM = sys.argv[1]\n"
        "if __name__ == '__main__':\n"
        "    ready = children.warm_up(dict(os.environ))\n"
        "    if sys.argv[2] == 'kill':\n"
        "        assert not ready.wait(0.2)\n"
        "        os.kill(forkserver._forkserver._forkserver_pid, signal.SIGKILL)\n"
        "    assert ready.wait(60)\n"
        "    print('ready')\n"
    )
    (tmp_path / "slow_to_import.py").write_text("import time; time.sleep(600)")
    folders = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])
    for preload, then in (("json", "wait"), ("slow_to_import", "kill")):
        done = subprocess.run(
            [sys.executable, "-c", code, preload, then],
            env=os.environ | {"PYTHONPATH": folders},
            capture_output=True, text=True, timeout=100, check=False,
        )  # fmt: skip
        assert (done.stdout, done.returncode) == ("ready\n", 0), done.stderr


def test_without_its_server_a_warm_one_is_still_seen_to_live_and_to_end():
    program = (
        "import json, os, psutil, sys, time\n"
        "from hpt_dist.processes import children\n"
        "from test_children import over, wait_for_ever\n"
        "children._WARM = 'json'\n"
        "if __name__ == '__main__':\n"
        "    children.warm_up(dict(os.environ))\n"
        "    child = children.start(wait_for_ever, warm=True, mortal=False)\n"
        "    child.pipe.recv()\n"
        "    psutil.Process(child.pid).parent().kill()\n"
        "    time.sleep(0.5)\n"
        "    assert not child.has_ended\n"
        "    child.signal(9)\n"
        "    assert over(child).exit_code\n"
        "    again = children.start(wait_for_ever, warm=True)\n"
        "    assert again.pipe.recv() == again.pid\n"
        "    again.end()\n"
        "    print('seen')\n"
    )
    folders = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
    printed = subprocess.check_output(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(folders)},
        text=True,
        timeout=60,
    )
    assert printed == "seen\n"


def test_what_cannot_be_sent_is_refused():
    with pytest.raises(children.NotSentError, match="cannot be sent to another process"):
        children.start(lambda pipe: None)


# Many tasks.


def doubled(task, tell):
    tell(f"at {task}")
    if task == 13:
        raise HptError("unlucky")
    if task == 99:
        os.kill(os.getpid(), signal.SIGKILL)
    return 2 * task


def test_tasks_are_shared_out_and_all_answered():
    answers = list(workers.fed(doubled, range(10), 3))
    results = {a.task: a.value for a in answers if a.is_last}
    assert results == {task: 2 * task for task in range(10)}
    assert [a.value for a in answers if not a.is_last and a.task == 4] == ["at 4"]


def test_an_error_and_a_death_end_them_all():
    before = set(psutil.Process().children(recursive=True))
    with pytest.raises(HptError, match="unlucky"):
        list(workers.fed(doubled, [1, 13, 2], 2))
    with pytest.raises(HptError, match="a worker process ended too early: SIGKILL"):
        list(workers.fed(doubled, [1, 99, 2], 2))
    assert {p for p in psutil.Process().children(recursive=True) if p.is_running()} <= before


# What trials get.


def test_what_a_trial_gets_and_what_it_does_not():
    given = {
        **dict.fromkeys(("PATH", "HOME", "LC_ALL", "TMPDIR", "https_proxy", "SSL_CERT_FILE"), "1"),
        **dict.fromkeys(("HPT_STORE", "AWS_PROFILE", "MLFLOW_TRACKING_URI", "TORCH_HOME"), "1"),
        **dict.fromkeys(("CUDA_VISIBLE_DEVICES", "NCCL_SOCKET_IFNAME", "HF_HOME"), "1"),
        "PYTORCH_CUDA_ALLOC_CONF": "1",
    }
    switches = dict.fromkeys(
        (
            *("ACCELERATE_MIXED_PRECISION", "ACCELERATE_USE_DEEPSPEED", "TORCH_ALLOW_TF32_CUBLAS"),
            *("NVIDIA_TF32_OVERRIDE", "WORLD_SIZE", "RANK", "MASTER_ADDR", "OMPI_COMM_WORLD_SIZE"),
            *("PMI_SIZE", "PMIX_RANK", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "TIMM_FUSED_ATTN"),
            *("CUBLAS_WORKSPACE_CONFIG", "TORCHINDUCTOR_CACHE_DIR", "KMP_AFFINITY"),
        ),
        "1",
    )
    others = {"EDITOR": "vi", "SLURM_JOB_ID": "7", "SSH_AUTH_SOCK": "/x"}
    kept, dropped = environment.for_trials(given | switches | others)
    assert kept == given
    assert dropped == sorted(switches)
    kept, dropped = environment.for_trials(given | switches | others, scheduled=True)
    assert kept == given | others
    assert dropped == sorted(switches)


def test_threads_are_set_for_every_library():
    assert environment.threads(3)["OMP_NUM_THREADS"] == "3"
    assert environment.threads(3)["MKL_NUM_THREADS"] == "3"


def test_variables_are_replaced_for_a_while(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    before = dict(os.environ)
    with environment.replaced({"PATH": "x"}):
        assert dict(os.environ) == {"PATH": "x"}
    assert dict(os.environ) == before
