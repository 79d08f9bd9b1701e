"""Recipes that go the whole way in seconds on real drawings, and commands as users give them."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from unittest import mock

import pytest

from hpt_dist.cli.main import main

REFUSED = 2  # the exit status of a wrong request

RECIPE = """\
name: small
store: ${HPT_STORE}
datasets: {color: openmoji/color, line: openmoji/line}
backbone: timm/tf_efficientnet_lite0
image: {size: 32}
stages:
  base: {kind: import, weights: package/efficientnet-lite0}
  hpt:
    kind: pretrain
    init: base
    data: [color/train, line/train]
    steps: 24
    batch: 8
    moco: {queue: 32, momentum: 0.9}
    batch_norm: frozen
    head_warmup_steps: 3
    optimizer: {name: adamw, lr: 3e-4}
    monitor: {data: line, every: 12, images: 64}
    checkpoint_every: 4
  probe: {kind: knn, data: line, k: [5], sweep: {init: [base, hpt]}}
  adapt:
    kind: mme
    source: color/train
    target: line
    steps: 8
    batch_labelled: 4
    batch_unlabelled: 8
    batch_norm: frozen
    optimizer: {name: sgd, lr: 0.01, nesterov: true, backbone_lr_scale: 0.1}
    eval_every: 4
    checkpoint_every: 2
    sweep: {init: [base, hpt], shots: [1], seed: [0]}
report: {table: adapt, rows: init, columns: shots}
"""
# Longer, and cheaper: for what kills, doubles, cancels and waits, where weights do not matter.
TINY = (
    RECIPE.replace("name: small", "name: tiny")
    .replace("timm/tf_efficientnet_lite0", "timm/test_efficientnet")
    .replace("package/efficientnet-lite0", "random")
    .replace("steps: 24", "steps: 300\n    keep: last")
    .replace("every: 12", "every: 150")
    .replace("checkpoint_every: 4", "checkpoint_every: 10")
    .replace("steps: 8", "steps: 40")
    .replace("eval_every: 4", "eval_every: 20")
    .replace("checkpoint_every: 2", "checkpoint_every: 10")
)


def write_recipe(folder: Path, text: str = RECIPE) -> Path:
    path = folder / f"{text.split()[1]}.yaml"
    path.write_text(text)
    return path


# These and all refusals print words, and nothing else is asked of them: the tests' own process runs
# them. tests/test_cli_processes.py starts each as its user does.
WORDS = frozenset({"cancel", "data", "logs", "plan", "pull", "report", "schema", "status"})


def fill(store: Path, drawings: Path, mlflow_tables: Path) -> Path:
    """Give a new store the datasets of another, and MLflow's tables, which take seconds to make."""
    (store / "work").mkdir(parents=True)
    (store / "datasets").symlink_to(drawings / "datasets")
    shutil.copy(mlflow_tables, store / "work/mlflow.db")
    return store


def environment(store: str, **more: str) -> dict[str, str]:
    # With more threads than free cores a step of training takes four times as long.
    own = {"HPT_STORE": store, "HPT_CORES": "1", "PYTHONWARNINGS": "ignore"}
    # Those of the tests' own process; a launch would report that it leaves them out.
    threads = {"OMP_NUM_THREADS", "GOMP_SPINCOUNT"}
    inherited = {name: value for name, value in os.environ.items() if name not in threads}
    return {**inherited, **own, **more}


def hpt(
    *arguments: str, store: str, code: int = 0, process: bool | None = None, **more: str
) -> str:
    """Run a command; return what it printed on both channels.

    Args:
        arguments: the command and its options.
        store: the store that it finds in its environment.
        code: the exit status that it must have.
        process: whether it gets a process of its own; None leaves that to `WORDS` and `code`.
        more: further variables of its environment.
    """
    if process is None:
        process = arguments[0] not in WORDS and code != REFUSED
    run = _run_process if process else _run_here
    status, said = run(arguments, environment(store, **more))
    assert status == code, said
    assert "Traceback" not in said, said
    return said


def _run_process(arguments: Sequence[str], variables: Mapping[str, str]) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "hpt_dist", *arguments],
        env=dict(variables),
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def _run_here(arguments: Sequence[str], variables: Mapping[str, str]) -> tuple[int, str]:
    """Run a command in this process, which is afterwards as it was before."""
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.dict(os.environ, variables, clear=True),
        mock.patch.object(sys, "argv", ["hpt-dist", *arguments]),
        _own_logging(),
        warnings.catch_warnings(action="ignore"),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        main()
    return int(ended.value.code or 0), out.getvalue() + err.getvalue()


@contextlib.contextmanager
def _own_logging() -> Iterator[None]:
    """Let a command set up the root logger as in a process of its own."""
    root = logging.getLogger()
    level = root.level
    try:
        with mock.patch.object(root, "handlers", []):
            yield
    finally:
        root.setLevel(level)


def outcome(store: Path) -> dict[str, dict[str, str]]:
    """Return, for each finished trial by key, the SHA-256 of what it left, the clock apart."""
    found = {}
    for done in sorted(store.glob("stages/*/DONE")):
        objects = json.loads(done.read_text())["objects"]
        found[done.parent.name] = {
            name: entry["sha256"]
            for name, entry in objects.items()
            if name not in ("run.json", "metrics.jsonl")
        }
    return found


def saved_step(folder: Path) -> int:
    """Return the step of a trial's last saved state; 0 before the first and after the end."""
    steps = [0]
    for record in folder.glob("state/*.json"):
        with contextlib.suppress(FileNotFoundError):  # a newer one took its place
            steps.append(json.loads(record.read_text())["step"])
    return max(steps)


def wait_for(condition: Callable[[], object], timeout_s: float = 200) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.05)
