"""Two gloo ranks of one thread each against one rank of two threads, on the same global batch."""

from __future__ import annotations

import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from benchmarks.engine_step import QUICKSTART, Setting, moco, train
from benchmarks.measure import ROUNDS, Row
from hpt_dist.train.loop import make_accelerator
from hpt_dist.trial.memory import keep_freed_memory
from hpt_dist.trial.ranks import free_port

STEPS = 6  # that count, of a round


def _on_rank(
    rank: int, world: int, threads: int, port: int, setting: Setting, steps: int, report: str
) -> None:
    """Train as one of the ranks; the first writes the seconds of its median step to a file."""
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world),
        LOCAL_WORLD_SIZE=str(world),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    keep_freed_memory()
    accelerator = make_accelerator(threads=threads, seed=0)
    views = setting.views(batch=setting.batch // world)
    times: list[float] = []

    def inputs() -> Iterator[tuple[tuple[Tensor, Tensor]]]:
        while True:
            times.append(time.perf_counter())
            yield (views,)

    @contextmanager
    def feed(_start: int) -> Iterator[Iterator[tuple[tuple[Tensor, Tensor]]]]:
        yield inputs()

    train(setting, moco(setting, accelerator.device), feed, steps + 3, accelerator)
    if rank == 0:
        seconds = [b - a for a, b in itertools.pairwise(times[2:])]
        Path(report).write_text(str(statistics.median(seconds)), encoding="utf-8")
    if dist.is_initialized():
        dist.destroy_process_group()


def step_seconds(world: int, threads: int, setting: Setting, steps: int = STEPS) -> float:
    """Return the seconds of a step on that many ranks, in fresh processes."""
    with tempfile.TemporaryDirectory() as folder:
        report = f"{folder}/seconds"
        mp.spawn(_on_rank, (world, threads, free_port(), setting, steps, report), nprocs=world)
        return float(Path(report).read_text(encoding="utf-8"))


def rows(rounds: int = ROUNDS) -> Iterator[Row]:
    """Yield the rows of this module."""
    pairs = [
        (step_seconds(1, 2, QUICKSTART), step_seconds(2, 1, QUICKSTART)) for _ in range(rounds)
    ]
    one, two = (statistics.median(seconds) for seconds in zip(*pairs, strict=True))
    yield Row(
        "two_ranks_vs_one",
        statistics.median(a / b for a, b in pairs),
        0.9,
        f"a step of {QUICKSTART.batch} images: 1 rank with 2 threads {one:.3f} s, "
        f"2 gloo ranks with 1 thread {two:.3f} s",
    )
