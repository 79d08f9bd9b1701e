"""A trial that several processes train together, launched as its user does."""

import json
import signal
import subprocess
import sys
import time

import psutil
import pytest
from small import environment, fill, hpt, outcome, saved_step, write_recipe

# Batch-norm statistics move, by groups of half a batch; SGD does not enlarge rounding errors.
RECIPE = """\
name: ranks
store: ${HPT_STORE}
datasets: {color: openmoji/color, line: openmoji/line}
backbone: timm/test_efficientnet
image: {size: 32}
stages:
  base: {kind: import, weights: random}
  hpt:
    kind: pretrain
    init: base
    data: [color/train, line/train]
    steps: 120
    averages: [0.5]
    batch: 16
    bn_group: 8
    moco: {queue: 64, momentum: 0.9}
    head_warmup_steps: 3
    optimizer: {name: sgd, lr: 0.003}
    precision: float32
    memory_format: contiguous
    checkpoint_every: 2
    monitor: {data: line, every: 60, images: 64}
"""
BATCHES = {"stages.hpt.batch": "15", "stages.hpt.moco.queue": "60", "stages.hpt.bn_group": "null"}


def trial(store):
    """Return the folder of the pretraining trial."""
    (folder,) = (p.parent for p in store.glob("stages/*/spec.json") if '"moco"' in p.read_text())
    return folder


def losses(store):
    lines = [json.loads(line) for line in (trial(store) / "metrics.jsonl").read_text().splitlines()]
    return {
        line["step"]: line["metrics"]["train/loss"]
        for line in lines
        if "train/loss" in line["metrics"]
    }


@pytest.fixture(scope="module")
def by_two(drawings, mlflow_tables, tmp_path_factory):
    """A store in which two ranks went through undisturbed."""
    folder = tmp_path_factory.mktemp("by_two")
    store = fill(folder / "store", drawings, mlflow_tables)
    hpt("launch", str(write_recipe(folder, RECIPE)), "--ranks", "2", store=str(store))
    return store


@pytest.fixture
def store(drawings, mlflow_tables, tmp_path):
    return fill(tmp_path / "store", drawings, mlflow_tables)


def peer_of(rank_0, launch):
    """Return the other rank: the process of the launch that is connected to rank 0."""
    at = {c.laddr.port for c in rank_0.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
    (rank_1,) = (
        process
        for process in psutil.Process(launch).children(recursive=True)
        if process != rank_0
        and any(c.raddr and c.raddr.port in at for c in process.net_connections("tcp"))
    )
    return rank_1


def test_two_ranks_train_like_one(by_two, store, tmp_path):
    hpt("launch", str(write_recipe(tmp_path, RECIPE)), store=str(store))
    one, two = losses(store), losses(by_two)
    assert one.keys() == two.keys()
    early = [step for step in one if step <= 40]
    assert len(early) == 20
    # Batch norm over 8 samples of one pixel enlarges rounding errors tenfold every few steps.
    assert [two[step] for step in (2, 4)] == pytest.approx([one[step] for step in (2, 4)], rel=1e-4)
    assert two != one
    assert [two[step] for step in early] == pytest.approx([one[step] for step in early], rel=5e-2)
    assert json.loads((trial(by_two) / "run.json").read_text())["ranks"] == 2


def test_ranks_survive_what_befalls_any_of_them(by_two, store, tmp_path):
    recipe = write_recipe(tmp_path, RECIPE)

    def launch_and_save():
        """Start a launch; return it, rank 0 and rank 1 once another state is saved."""
        before = saved_step(trial(store)) if any(store.glob("stages/*/spec.json")) else 0
        command = [sys.executable, "-m", "hpt_dist", "launch", str(recipe), "--ranks", "2"]
        process = subprocess.Popen(
            command, env=environment(str(store)), stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        while not any(saved_step(folder) > before for folder in store.glob("stages/*")):
            assert process.poll() is None, process.stdout.read()
            time.sleep(0.05)
        lease = json.loads((trial(store) / "lease.json").read_text())
        rank_0 = psutil.Process(lease["pid"])
        return process, rank_0, peer_of(rank_0, process.pid)

    process, rank_0, rank_1 = launch_and_save()
    rank_1.kill()
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "1 of this trial's 2 processes died" in printed
    assert not rank_0.is_running()

    process, rank_0, rank_1 = launch_and_save()
    rank_1.send_signal(signal.SIGUSR1)  # any rank may be asked; all of them stop together
    printed, _ = process.communicate(timeout=300)
    assert "after step" in printed
    assert not rank_1.is_running()

    process, rank_0, rank_1 = launch_and_save()
    rank_0.kill()
    process.communicate(timeout=300)
    rank_1.wait(timeout=30)

    hpt("launch", str(recipe), "--ranks", "2", store=str(store))
    assert outcome(store) == outcome(by_two)


def test_batches_that_ranks_cannot_share_are_refused_before_anything_starts(drawings, tmp_path):
    recipe = write_recipe(tmp_path, RECIPE)
    settings = [part for key, value in BATCHES.items() for part in ("--set", f"{key}={value}")]
    printed = hpt("launch", str(recipe), *settings, "--ranks", "2", store=str(drawings), code=2)
    assert "a batch of 15 images cannot be shared out over 2 ranks" in printed
    groups = ["--set", "stages.hpt.bn_group=4", "--ranks", "8"]
    printed = hpt("launch", str(recipe), *groups, store=str(drawings), code=2)
    assert "batch-norm groups of 4 do not fit the 2 images that each rank has" in printed
    assert not (drawings / "launches").exists()
