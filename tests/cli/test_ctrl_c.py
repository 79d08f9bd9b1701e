"""Ctrl-C looks like what it is: it is no failure, states are saved, and the way on is printed."""

import json
import os
import re
import shlex
import shutil
import signal
import sys
import threading
import time
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from small import TINY, environment, fill, hpt, saved_step, wait_for, write_recipe
from terminal import Terminal, be_stubborn

from hpt_dist.launch import closing, launches, local
from hpt_dist.launch.launches import Settings
from hpt_dist.processes import children
from hpt_dist.recipe import Knn
from hpt_dist.recipe.trial import Trial
from hpt_dist.store import FolderStore, open_store
from hpt_dist.trial.context import TrialOrder

TRIAL = Trial(
    "probe", "probe", {}, frozenset(), Knn(kind="knn", init="base", data="line"),
    "", {}, "resnet50", {}, "5" * 64,
)  # fmt: skip
LAUNCH = [sys.executable, "-m", "hpt_dist", "launch"]


@pytest.fixture
def store(drawings, mlflow_tables, tmp_path):
    return fill(tmp_path / "its store", drawings, mlflow_tables)


@pytest.fixture
def recipe(store, tmp_path):
    """A long recipe that names its store, to which HPT_STORE does not lead."""
    text = TINY.replace("${HPT_STORE}", str(store)).replace("steps: 300", "steps: 3000")
    return write_recipe(tmp_path, text)


def trial(store, name="hpt"):
    record = max(store.glob("launches/tiny-*.json"), default=None)
    key = json.loads(record.read_text())["trials"][name] if record else "none"
    return store / "stages" / key


def test_trials_save_and_the_command_that_goes_on_is_printed(store, recipe, tmp_path):
    elsewhere = environment(str(tmp_path / "elsewhere"))
    words = [*LAUNCH, recipe.name, "--only", "hpt"]
    with Terminal(words, tmp_path, elsewhere) as terminal:
        terminal.wait_for(r"hpt +\S+ +\d+/3000 loss \d\.\d+, ridge [\d.]+ % at step 0")
        terminal.wait_for(r"/3000 loss .*, \d:\d\d:\d\d left, [\d,]+ images/s")
        terminal.press_ctrl_c()
        assert terminal.end() == 1
        screen = terminal.screen()
    after = re.search(r"\nstopped hpt  by SIG(INT|TERM) after step (\d+)\n", screen)[2]
    assert "stopping: each running trial saves its state and ends (Ctrl-C again: at once)" in screen
    assert "stopped: 1 of 2 trials are done; 1 stopped by SIG" in screen
    assert "2 trials: 2 runs; 48,000 image views to train on" in screen  # what --only leaves
    assert not re.search("FAILED|Traceback|error|report:", screen)
    again = re.search("to go on, run the same command: (.*)", screen)[1]
    assert shlex.split(again) == words
    state = hpt("status", str(recipe), store=elsewhere["HPT_STORE"])
    assert f"of {recipe} (HPT_STORE names" in state
    assert re.search(rf"hpt +resumes +after step {after}\b", state)
    for line in hpt("logs", str(recipe), "--trial", "hpt", store="none").splitlines():
        assert not re.search(r"step \d+/", line) or re.search(r"loss \d.*ridge .* images/s", line)


def test_a_closed_terminal_is_a_request_to_save_and_stop(store, recipe, tmp_path):
    with Terminal([*LAUNCH, recipe.name, "--only", "hpt"], tmp_path, environment("")) as terminal:
        terminal.wait_for(r"hpt +\S+ +\d+/3000 loss \d\.\d+, ridge")
        assert terminal.close() == 1
    state = hpt("status", str(recipe), store="none")
    assert "the launch was stopped" in state
    after = int(re.search(r"hpt +resumes +after step (\d+)", state)[1])
    assert not (trial(store) / "failure.json").exists()
    # Not the last one that was saved anyway, every ten steps, but where it was.
    assert saved_step(trial(store)) == after


class Seen:
    """A watcher who presses Ctrl-C, and again when trials were asked to stop."""

    def __init__(self):
        self.calls = []

    def moved(self, trial, facts):
        self.calls.append("moved")
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)  # passed on by another program: it counts once

    def stopping(self):
        self.calls.append("stopping")
        threading.Timer(2 * local._TWICE_S, os.kill, (os.getpid(), signal.SIGINT)).start()

    def __getattr__(self, name):
        return lambda *_: self.calls.append(name)


def test_a_second_ctrl_c_ends_a_trial_that_does_not_save(monkeypatch, tmp_path):
    child = children.start(be_stubborn, mortal=False)
    order = TrialOrder("r", TRIAL, str(tmp_path), tmp_path, "", "", "", 32, "imagenet", 1)
    monkeypatch.setattr(local, "job_of", lambda *_, **__: order)
    monkeypatch.setattr(local, "_processes", lambda *_: [child])
    plan = SimpleNamespace(recipe=None, store=FolderStore(tmp_path), trials=[TRIAL])
    settings, seen = Settings("local", 1, (), tmp_path, "", fresh=True), Seen()
    with pytest.raises(KeyboardInterrupt):
        local.work_through(plan, [TRIAL], settings, Mock(id="r-1"), seen)
    assert child.exit_code == -signal.SIGKILL
    assert seen.calls == ["started", "moved", "stopping"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_while_the_server_imports_nothing_is_waited_for(monkeypatch, tmp_path):
    """Before it forks, whoever starts a child would wait, however loaded the machine is."""
    monkeypatch.setattr(children, "warm_up", lambda _: threading.Event())  # it never gets ready
    started = []
    monkeypatch.setattr(local, "_processes", lambda *_: started.append(1))
    plan = SimpleNamespace(recipe=None, store=FolderStore(tmp_path), trials=[TRIAL])
    settings, seen = Settings("local", 1, (), tmp_path, ""), Seen()
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
    errors, stopped = local.work_through(plan, [TRIAL], settings, Mock(id="r-1"), seen)
    assert stopped
    assert errors == {"probe": local.NotDone("not started", stopped=True)}
    assert not started
    assert not seen.calls


def test_a_stopped_launch_draws_no_report(tiny, tmp_path, monkeypatch):
    """The report of one that ends goes to MLflow, with its plots, which take long."""
    sent = []
    monkeypatch.setattr(closing.tracker, "log_parent", lambda *args: sent.append(set(args[3])))
    monkeypatch.setattr(closing.tracker, "set_status", lambda *_: None)
    store = open_store(str(shutil.copytree(tiny[0], tmp_path / "store", symlinks=True)))
    [launch] = launches.launches(store)
    closing.finish_launch(store, launch, done=False, stopped=True)
    closing.finish_launch(store, launch, done=True)
    assert sent[0] == {"resolved.json", "recipe.yaml"}
    assert sent[1] > {"report.html"}


def test_inline_once_saves_and_twice_ends_at_once(drawings, mlflow_tables, tmp_path):
    store = fill(tmp_path / "store", drawings, mlflow_tables)
    recipe = write_recipe(tmp_path, TINY)
    threads = torch.get_num_threads()

    def press(count):
        wait_for(lambda: saved_step(trial(store)) > steps[-1])
        for _ in range(count):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)

    # One that comes when the launch has ended must not end the tests.
    before = signal.signal(signal.SIGINT, lambda *_: None)
    steps = [0]
    for count in (1, 3):
        thread = threading.Thread(target=press, args=[count])
        thread.start()
        arguments = ("launch", str(recipe), "--on", "inline", "--only", "hpt")
        printed = hpt(*arguments, store=str(store), code=1, process=False)
        thread.join()
        assert "stopping: each running trial saves" in printed
        assert "to go on, run the same command: " in printed
        steps.append(saved_step(trial(store)))
    assert not list(store.glob("stages/*/failure.json"))
    signal.signal(signal.SIGINT, before)
    torch.set_num_threads(threads)
