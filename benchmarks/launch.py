"""What starting trials costs: `make bench-launch`. Exits 1 when the goal is missed.

Six small trials are launched on fresh stores: by warm processes, by fresh ones, and inline, where
one process does them all. The CPU seconds are those of every process that a launch started, over
those of the launch inline, in turns; the median of three rounds counts. The stores of one round
must hold the same bytes.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from benchmarks.measure import Row, print_table, versions

RECIPE = """\
name: six
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
    eval_every: 4
    sweep: {init: [base, hpt], shots: [1]}
report: {table: adapt, rows: init, columns: shots}
"""
GOAL = 1.5
WAYS = {"warm": (), "fresh": ("--fresh",), "inline": ("--on", "inline")}
_PR_SET_CHILD_SUBREAPER = 36


def main() -> int:
    """Measure and print every row; return the exit status."""
    parser = argparse.ArgumentParser(prog="benchmarks.launch", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    # Processes whose parents end become ours, and so their CPU seconds.
    ctypes.CDLL("libc.so.6").prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    with tempfile.TemporaryDirectory(prefix="bench-launch-") as folder:
        return print_table(rows(Path(folder), asked.rounds), versions(("torch", "mlflow")), None)


def rows(folder: Path, rounds: int) -> Iterator[Row]:
    """Yield the CPU seconds of warm and of fresh launches over those of inline ones."""
    datasets = folder / "datasets"
    for domain in ("color", "line"):
        hpt("shard", f"openmoji/{domain}", str(datasets / "openmoji" / domain), store=folder)
    (folder / "six.yaml").write_text(RECIPE)
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(rounds):
        left = []
        for way, options in WAYS.items():
            store = folder / f"{way}-{number}"
            store.mkdir()
            (store / "datasets").symlink_to(datasets)
            seconds[way].append(
                hpt("launch", str(folder / "six.yaml"), "--cores", "2", *options, store=store)
            )
            left.append(digests(store))
        if any(one != left[0] for one in left):
            raise SystemExit("the ways left different bytes")
    spent = ", ".join(f"{way} {statistics.median(s):.1f} CPU s" for way, s in seconds.items())
    for way, goal in (("warm", GOAL), ("fresh", None)):
        pairs = zip(seconds[way], seconds["inline"], strict=True)
        ratio = statistics.median(ours / inline for ours, inline in pairs)
        yield Row(f"launch_{way}_over_inline", ratio, goal, spent, at_most=True)


def hpt(*words: str, store: Path) -> float:
    """Run a command and all that it leaves behind to the end; return the CPU seconds of it all."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.Popen(
        [sys.executable, "-m", "hpt_dist", *words],
        env={**os.environ, "HPT_STORE": str(store)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    _, complaint = process.communicate()
    if process.returncode:
        raise SystemExit(f"{words[0]} failed: {complaint}")
    with suppress(ChildProcessError):
        while True:
            os.wait()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def digests(store: Path) -> dict[str, str]:
    """Return what finished trials left, by key, without what depends on the clock."""
    left = {}
    for done in sorted(store.glob("stages/*/DONE")):
        objects = json.loads(done.read_text())["objects"]
        for name in objects.keys() - {"run.json", "metrics.jsonl"}:
            left[f"{done.parent.name}/{name}"] = objects[name]["sha256"]
    return left


if __name__ == "__main__":
    sys.exit(main())
