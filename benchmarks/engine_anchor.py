"""What an anchor costs: the CPU seconds of a training step with one, over the same step without."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator

import torch

from benchmarks.engine_step import QUICKSTART, Setting, Step
from benchmarks.measure import ROUNDS, Row, paired, seconds_of
from hpt_dist.methods import METHODS, Anchored
from hpt_dist.networks.precision import torch_format
from hpt_dist.recipe import METHOD_SETTINGS, Pretrain
from hpt_dist.train import optim

GOAL = 1.4  # a forward pass is a third of a step that does nothing but learn from its views


def rows(setting: Setting = QUICKSTART, rounds: int = ROUNDS) -> Iterator[Row]:
    """Yield a row for each method, by one thread, whose CPU seconds others hardly change."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for name in METHOD_SETTINGS:
        steps = {word: _step(setting, name, anchored=word == "anchored") for word in _WORDS}
        seconds = seconds_of(steps, rounds, clock=time.process_time)
        spent = ", ".join(f"{word} {statistics.median(s):.3f} s" for word, s in seconds.items())
        note = f"{spent} of a CPU a step of {setting.batch} at {setting.size} px"
        yield Row(
            f"{name}_anchored_over_plain", paired(*seconds.values()), GOAL, note, at_most=True
        )
    torch.set_num_threads(threads)


_WORDS = ("anchored", "plain")


def _step(setting: Setting, name: str, *, anchored: bool) -> Step:
    """Return a whole training step of a method with its default settings."""
    group = METHOD_SETTINGS[name]
    settings = Pretrain.model_fields[group].default.model_dump()
    if name == "moco_v2":
        settings["queue"] = setting.queue
    if name == "byol":
        settings["steps"] = 1000
    backbone = setting.create()
    made = METHODS[name](backbone, backbone.feature_dim, **settings, seed=0)
    made.to(memory_format=torch_format(setting.numerics)).train()
    method = Anchored(made, 1.0) if anchored else made
    optimizer = optim.build(method, method.backbone, **setting.optimizer.model_dump())
    views = setting.views()

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        method(views, 0).total.backward()
        optimizer.step()
        method.after_step(1)

    return step
