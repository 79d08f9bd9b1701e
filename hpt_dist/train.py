"""The training loop, the same for every method; the only module that knows accelerate."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer

from hpt_dist.checkpoint import Checkpoints
from hpt_dist.errors import Interrupted, TrainingError
from hpt_dist.interrupt import Interrupt
from hpt_dist.methods import Loss, Method

__all__ = [
    "Accelerator",
    "Evaluation",
    "Feed",
    "Inputs",
    "Loop",
    "Observer",
    "Outcome",
    "Selection",
    "fit",
    "make_accelerator",
]

log = logging.getLogger(__name__)

LOG_EVERY = 10

Inputs = tuple[Tensor, ...]

# What one training step consumes: the inputs of each phase.
Feed = Callable[[int], AbstractContextManager[Iterator[tuple[Inputs, ...]]]]


class Observer(Protocol):
    """What the loop tells the world: metrics, and that it is alive."""

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Note metrics after `step` steps."""

    def progress(self, step: int, steps: int, images_per_second: float) -> None:
        """Say how far the training is."""

    def check(self) -> None:
        """Raise if this process may no longer write (another one took over)."""


@dataclass
class Selection:
    """The best evaluated weights so far, chosen on validation alone.

    Args:
        history: (steps, metrics) of every evaluation.
        best_step: steps of the best; -1 before the first.
        best_value: its value.
        weights: the method's state there.
    """

    history: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    best_step: int = -1
    best_value: float = float("-inf")
    weights: dict[str, Tensor] = field(default_factory=dict)

    def add(self, step: int, metrics: dict[str, float], value: float, method: nn.Module) -> None:
        """Note an evaluation; an equal value later is better, as in MME's own rule (>=)."""
        self.history.append((step, metrics))
        if value >= self.best_value:
            self.best_step, self.best_value = step, value
            self.weights = {k: v.detach().cpu().clone() for k, v in method.state_dict().items()}

    def stale(self) -> int:
        """Return how many evaluations came after the best."""
        return sum(step > self.best_step for step, _ in self.history)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a saved selection."""
        vars(self).update(state)
        self.history = [(step, metrics) for step, metrics in self.history]


@dataclass(frozen=True)
class Outcome:
    """What a finished training leaves, beside the method itself.

    Args:
        selection: on validation.
        seconds_before: what earlier processes had put into the state it went on from.
    """

    selection: Selection
    seconds_before: float


@dataclass(frozen=True)
class Evaluation:
    """When and how to look at validation during training.

    Args:
        every: steps between evaluations; the last step is always evaluated.
        run: evaluates the method as it is, and returns metrics.
        select_on: the metric that chooses the weights; higher is better.
        patience: evaluations after the best before stopping; None never stops early.
    """

    every: int
    run: Callable[[], dict[str, float]]
    select_on: str
    patience: int | None = None


@dataclass(frozen=True)
class Loop:
    """Everything that one training needs.

    Args:
        method: what learns; see `methods.Method`.
        optimizer: over the method's parameters.
        set_rates: sets the optimizer's learning rates for a step; returns the head's.
        feed: opens the endless stream of inputs at a step.
        steps: how many steps in all.
        images_per_step: over all ranks, for images/s.
        checkpoints: where states are saved and found.
        checkpoint_every: steps between saved states.
        evaluation: looks at validation, if any.
    """

    method: Method
    optimizer: Optimizer
    set_rates: Callable[[Optimizer, int], float]
    feed: Feed
    steps: int
    images_per_step: int
    checkpoints: Checkpoints
    checkpoint_every: int
    evaluation: Evaluation | None = None


def make_accelerator(*, threads: int, seed: int) -> Accelerator:
    """Return the device and the ranks to train on; a CPU where there is no GPU.

    Args:
        threads: for operators on the CPU; float sums depend on it.
        seed: of torch's global generators.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    return Accelerator(cpu=not torch.cuda.is_available())


def fit(loop: Loop, accelerator: Accelerator, observer: Observer, interrupt: Interrupt) -> Outcome:
    """Train to the last step from the newest good state.

    Returns:
        The selection on validation (its weights are empty without an evaluation), and the cost.

    Raises:
        Interrupted: asked to stop; the state is saved.
        TrainingError: a loss is not finite; names the step and the last good state.
    """
    model, optimizer = accelerator.prepare(loop.method, loop.optimizer)
    selection = Selection()
    began = time.perf_counter()
    start, seconds_before = _resume(loop, selection)
    window = _Window(loop)
    with loop.feed(start) as feed:
        for step in range(start, loop.steps):
            inputs = window.wait(feed)
            rate = loop.set_rates(loop.optimizer, step)
            losses = [
                _update(accelerator, model, optimizer, inputs[phase], phase)
                for phase in range(loop.method.phases)
            ]
            loop.method.after_step()
            done = step + 1
            window.add(done, losses, rate)
            stopping = _agreed(accelerator, bool(interrupt))
            if done % LOG_EVERY == 0 or done == loop.steps or stopping:
                window.flush(observer)
            if _evaluated(loop, done, selection, observer) or done == loop.steps:
                break
            if done % loop.checkpoint_every == 0 or stopping:
                window.flush(observer)
                seconds = seconds_before + time.perf_counter() - began
                _save(loop, done, seconds, selection, observer, accelerator)
            if stopping:
                raise Interrupted(
                    f"stopped by {interrupt.signal_name or 'another rank'} after step {done}",
                    fix="run the same command again; it goes on from there",
                )
    window.flush(observer)
    return Outcome(selection, seconds_before)


def _update(
    accelerator: Accelerator, model: nn.Module, optimizer: Any, inputs: Inputs, phase: int
) -> Loss:
    optimizer.zero_grad(set_to_none=True)
    with accelerator.autocast():
        loss: Loss = model(inputs, phase)
    accelerator.backward(loss.total)
    optimizer.step()
    return loss


def _evaluated(loop: Loop, done: int, selection: Selection, observer: Observer) -> bool:
    """Evaluate where it is due; return whether patience has run out."""
    plan = loop.evaluation
    if plan is None or (done % plan.every and done != loop.steps):
        return False
    metrics = plan.run()
    observer.metrics(done, metrics)
    selection.add(done, metrics, metrics[plan.select_on], loop.method)
    return plan.patience is not None and selection.stale() >= plan.patience


def _agreed(accelerator: Accelerator, asked: bool) -> bool:
    """Return whether any rank was asked to stop; every rank gets the same answer."""
    if accelerator.num_processes == 1:
        return asked
    flag = torch.tensor([float(asked)], device=accelerator.device)
    total: Tensor = accelerator.reduce(flag, "sum")
    return bool(total.item())


def _save(
    loop: Loop,
    step: int,
    seconds: float,
    selection: Selection,
    observer: Observer,
    accelerator: Accelerator,
) -> None:
    if not accelerator.is_main_process:
        return
    state = {
        "method": loop.method.state_dict(),
        "optimizer": loop.optimizer.state_dict(),
        "selection": selection.state_dict(),
        "seconds": seconds,
        # Nothing here draws from the global generators but stochastic depth and dropout.
        "rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }
    loop.checkpoints.save(step, state, observer.check)


def _resume(loop: Loop, selection: Selection) -> tuple[int, float]:
    """Take over the newest good state; return its step and what it has cost so far, seconds."""
    latest = loop.checkpoints.latest()
    if latest is None:
        return 0, 0.0
    step, state = latest
    loop.method.load_state_dict(state["method"])
    loop.optimizer.load_state_dict(state["optimizer"])
    selection.load_state_dict(state["selection"])
    torch.set_rng_state(state["rng"])
    if state["cuda_rng"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda_rng"])
    log.info("resumes after step %d", step)
    return step, float(state["seconds"])


class _Window:
    """What happened since metrics were last written: losses, waits and time."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._reset()

    def _reset(self) -> None:
        self._losses: list[tuple[int, list[Loss]]] = []
        self._rate = 0.0
        self._data_wait_s = 0.0
        self._began = time.perf_counter()

    def wait(self, feed: Iterator[tuple[Inputs, ...]]) -> tuple[Inputs, ...]:
        """Return the next inputs, counting the time that training stood still for them."""
        began = time.perf_counter()
        inputs = next(feed)
        self._data_wait_s += time.perf_counter() - began
        return inputs

    def add(self, step: int, losses: list[Loss], rate: float) -> None:
        """Note the losses of a step; they stay on the device until the window is written."""
        self._losses.append((step, losses))
        self._rate = rate

    def flush(self, observer: Observer) -> None:
        """Write the window's means, having checked that every loss is finite."""
        if not self._losses:
            return
        totals = torch.stack([loss.total.detach().float() for _, ls in self._losses for loss in ls])
        finite = torch.isfinite(totals).view(len(self._losses), -1).all(dim=1)
        if not finite.all():
            step = self._losses[int((~finite).nonzero()[0])][0]
            raise TrainingError(
                f"the loss is not finite at step {step}",
                fix=f"lower the learning rate; the last good state is that of step "
                f"{max(self._loop.checkpoints.steps(), default=0)}",
            )
        step, seconds = self._losses[-1][0], time.perf_counter() - self._began
        images_per_second = self._loop.images_per_step * len(self._losses) / seconds
        values = {f"train/{name}": value for name, value in self._means().items()}
        values["train/lr"] = self._rate
        values["train/images_per_second"] = images_per_second
        values["train/data_wait"] = self._data_wait_s / seconds
        observer.metrics(step, values)
        observer.progress(step, self._loop.steps, images_per_second)
        self._reset()

    def _means(self) -> dict[str, float]:
        seen: dict[str, list[Tensor]] = {}
        for _, losses in self._losses:
            for loss in losses:
                for name, value in loss.metrics.items():
                    seen.setdefault(name, []).append(value.float())
        return {name: float(torch.stack(values).mean()) for name, values in seen.items()}
