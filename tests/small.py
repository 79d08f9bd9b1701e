"""A recipe that goes the whole way in seconds, on real drawings and real ImageNet weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

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
    # Not measured: two stores of one test must compute alike.
    precision: float32
    memory_format: channels_last
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
    precision: float32
    memory_format: channels_last
    eval_every: 4
    checkpoint_every: 2
    sweep: {init: [base, hpt], shots: [1], seed: [0]}
report: {table: adapt, rows: init, columns: shots}
"""


def write_recipe(folder: Path, text: str = RECIPE) -> Path:
    path = folder / "small.yaml"
    path.write_text(text)
    return path


def environment(store: str, **more: str) -> dict[str, str]:
    return {**os.environ, "HPT_STORE": store, "HPT_CORES": "2", "PYTHONWARNINGS": "ignore", **more}


def hpt(*arguments: str, store: str, code: int = 0, **more: str) -> str:
    """Run a command as its user does; return what it printed on both channels."""
    done = subprocess.run(
        [sys.executable, "-m", "hpt_dist.cli", *arguments],
        env=environment(store, **more),
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode == code, said
    assert "Traceback" not in said, said
    return said


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
