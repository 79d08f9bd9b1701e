"""Commands that print: in a process of their own they say what they say in the tests' process."""

import logging
import os
import signal
import sys

import pytest
from small import hpt

COMMANDS = {
    "--version": 0,
    "schema": 0,
    "runs tiny": 0,
    "data list --json": 0,
    "prune --json": 0,
    "status tiny": 0,
    "status tiny --json": 0,
    "status nobody": 2,
    "logs tiny --trial hpt": 0,
    "cancel tiny": 2,
    "plan RECIPE": 0,
    "plan RECIPE --json --set stages.hpt.steps=25": 0,
    "plan RECIPE --set stages.hpt.stepz=25": 2,
    "launch RECIPE --only nothing": 2,
    "report tiny": 0,
    "report tiny --json": 0,
    "pull tiny/hpt OUT": 0,
    "pull tiny/hpt OUT --format nonsense": 2,
    "data show STORE/datasets/openmoji/line": 0,
    "data verify STORE/datasets/openmoji/nothing": 2,
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_says_the_same_in_either_process(tiny, tmp_path, command):
    store, recipe = tiny
    places = {"STORE": str(store), "RECIPE": str(recipe), "OUT": str(tmp_path / "out")}
    words = command
    for name, place in places.items():
        words = words.replace(name, place)
    printed = [
        hpt(*words.split(), store=str(store), code=COMMANDS[command], process=process)
        for process in (True, False)
    ]
    assert printed[0] == printed[1]
    assert printed[0]


def test_a_command_leaves_the_process_as_it_was(tmp_path):
    def state():
        handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
        return dict(os.environ), list(logging.getLogger().handlers), sys.argv, sys.stdout, handlers

    before = state()
    assert "no launch" in hpt("status", "nobody", store=str(tmp_path), code=2, HPT_CORES="7")
    assert state() == before
