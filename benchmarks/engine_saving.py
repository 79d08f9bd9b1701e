"""What saving a state costs training: the stall itself, and the slower steps while it is written.

Both are given as a share of 100 steps. A window of steps begins with a save; what its first half
takes longer than its second half, by which the state is written, is what the save cost. That says
what 100 steps with a save take over 100 without, with less noise than timing 100 steps twice.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor

from benchmarks.engine_step import NEVER, QUICKSTART, Setting, cores, moco, train
from benchmarks.measure import Row
from hpt_dist.train.loop import make_accelerator

SAVES = 6
EVERY = 16  # steps between saves; the state is written within half of them
_PER = 100


def step_seconds(
    setting: Setting, every: int, steps: int, threads: int
) -> tuple[list[float], float]:
    """Train on one batch in memory and return the seconds of each step but the last.

    A save after step n counts for step n.

    Returns:
        These seconds, and the seconds that training stood still for saves, as the loop reports.
    """
    times: list[float] = []
    views = setting.views()

    def inputs() -> Iterator[tuple[tuple[Tensor, Tensor]]]:
        while True:
            times.append(time.perf_counter())
            yield (views,)

    @contextmanager
    def feed(_start: int) -> Iterator[Iterator[tuple[tuple[Tensor, Tensor]]]]:
        yield inputs()

    accelerator = make_accelerator(threads=threads, seed=0)
    log = train(setting, moco(setting), feed, steps, accelerator, every)
    stalled_s = 0.0
    before = 0
    for step, values in log.points:
        taken = (step - before) * setting.batch * 2 / values["train/images_per_second"]
        stalled_s += values.get("train/save_stall_share", 0.0) * taken
        before = step
    return [b - a for a, b in itertools.pairwise(times)], stalled_s


def cost(seconds: Sequence[float], every: int) -> tuple[float, float]:
    """Return what a save costs, in usual steps: the median over saves; and a usual step's seconds.

    Args:
        seconds: of step 1, 2, ...; those of step `every`, 2 `every`, ... end with a save.
        every: steps between saves.
    """
    half = every // 2
    windows = [
        seconds[first : first + every]
        for first in range(every - 1, len(seconds) - every + 1, every)
    ]
    usual = statistics.median(s for window in windows for s in window[half:])
    # Against the same window's other half, so that a slow machine's drift is not a save's cost.
    extra = [sum(w[:half]) - half * statistics.median(w[half:]) for w in windows]
    return statistics.median(extra) / usual, usual


def rows() -> Iterator[Row]:
    """Yield the rows of this module."""
    steps = EVERY * (SAVES + 1)
    seconds, stalled_s = step_seconds(QUICKSTART, EVERY, steps + 1, cores())
    # The first save makes the buffer that the others use again, and is no part of the median.
    extra, usual = cost(seconds[EVERY:], EVERY)
    undisturbed, _ = step_seconds(QUICKSTART, NEVER, EVERY * 2 + 1, cores())
    noise, _ = cost(undisturbed, EVERY)
    saves = len(range(EVERY, steps + 1, EVERY))
    stall = stalled_s / saves / usual
    yield Row(
        "checkpoint_cost_of_100_steps",
        extra / _PER,
        0.01,
        f"the stall and what {EVERY // 2} steps take longer, {extra * usual * 1e3:.0f} ms; a step "
        f"is {usual * 1e3:.0f} ms; without saves {noise / _PER:.4f} would be measured",
        at_most=True,
        digits=4,
    )
    yield Row(
        "checkpoint_stall_of_100_steps",
        stall / _PER,
        0.01,
        f"as the loop reports: {stall * usual * 1e3:.0f} ms a save, mean of {saves}",
        at_most=True,
        digits=4,
    )
