"""The training loop, the same for every method; the only module that knows accelerate."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import torch
from accelerate import Accelerator as Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor, nn
from torch.optim import Optimizer

from hpt_dist.errors import DataError, DivergedError, Interrupted, StoreError
from hpt_dist.methods import Loss, Method
from hpt_dist.networks import batch_norm
from hpt_dist.networks.precision import autocast, require
from hpt_dist.reading.damage import Replacements
from hpt_dist.recipe.numerics import FLOAT32, DeviceKind, Numerics
from hpt_dist.train.agreement import Vote, check_agreed, united
from hpt_dist.train.checkpoint import Checkpoints, Saver
from hpt_dist.train.interrupt import Interrupt
from hpt_dist.train.observer import Observer
from hpt_dist.train.selection import Evaluation, Selection

log = logging.getLogger(__name__)

LOG_EVERY = 10
_KEYS_SHOWN = 8

T = TypeVar("T")
Inputs = tuple[Tensor, ...]

# What one training step consumes: the inputs of each phase.
Feed = Callable[[int], AbstractContextManager[Iterator[tuple[Inputs, ...]]]]


@dataclass(frozen=True)
class TrainOutcome:
    """The result of a finished training, beside the method itself.

    Args:
        selection: on validation.
        seconds_before: seconds that earlier processes had spent on the resumed state.
        replaced: the damaged images that were replaced, by name.
    """

    selection: Selection
    seconds_before: float
    replaced: Sequence[str] = ()


@dataclass(frozen=True)
class Loop:
    """Everything that one training needs.

    Args:
        method: what learns, on its device; see `methods.Method`.
        optimizer: over the method's parameters.
        set_rates: sets the optimizer's learning rates for a step; returns the head's.
        feed: opens the endless stream of inputs at a step.
        steps: how many steps in all.
        images_per_step: over all ranks, for images/s.
        checkpoints: saves and loads states.
        checkpoint_every: steps between saved states.
        evaluation: of validation, if any.
        numerics: precision of the passes.
        held_steps: first steps in which the backbone's batch-norm statistics stand still.
        keys_of: the sample keys of the global batch of a step, for its error.
        replacements: of damaged images, by this rank's feed and evaluation.
        saves_last: whether the last step is saved as well, for what comes after the training.
        before_step: does what is due before a step; a resumed run does it again.
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
    numerics: Numerics = FLOAT32
    held_steps: int = 0
    keys_of: Callable[[int], Sequence[str]] = lambda _: ()
    replacements: Replacements = field(default_factory=Replacements)
    saves_last: bool = False
    before_step: Callable[[int], None] = lambda _: None


def make_accelerator(
    *, threads: int, seed: int, device: DeviceKind = "cpu", numerics: Numerics | None = None
) -> Accelerator:
    """Return the device and the ranks to train on.

    The environment describes several ranks, as torchrun and Slurm launchers set it: RANK,
    WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT.

    Args:
        threads: for operators on the CPU; float sums depend on it.
        seed: of torch's global generators.
        device: of the plan; "cpu" uses the CPU even beside a GPU.
        numerics: of the training, to check that the device supports them; None without training.

    Raises:
        TrainingError: the device does not exist here, or does not support the numerics.
    """
    require(device, numerics)
    # accelerate remembers the ranks of an earlier trial of this process.
    AcceleratorState._reset_state(reset_partial_state=True)
    torch.manual_seed(seed)
    # A resumed run must end with the same bits; cuDNN's default kernels do not promise that.
    torch.backends.cudnn.deterministic = True
    # float32 is float32 on every device: torch would let convolutions round to TF32.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    # Buffers are equal on all ranks by construction: queues take the keys of the global batch, and
    # statistics are shared. Sending rank 0's before each pass would cost a queue a step.
    ddp = DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)
    # Each setting that accelerate would otherwise read from the environment is given here.
    accelerator = Accelerator(
        cpu=device == "cpu",
        mixed_precision="no",
        gradient_accumulation_steps=1,
        dynamo_backend="no",
        kwargs_handlers=[ddp],
    )
    torch.set_num_threads(threads)
    return accelerator


def fit(
    loop: Loop, accelerator: Accelerator, observer: Observer, interrupt: Interrupt
) -> TrainOutcome:
    """Train to the last step from the newest good state.

    Every rank calls it; only the main rank saves and reports to its observer.

    Returns:
        The selection on validation (its weights are empty without an evaluation), and the cost.

    Raises:
        Interrupted: asked to stop, on any rank; the state is saved.
        DataError, StoreError: data is damaged or missing; one process alone saves the state before.
        DivergedError: a loss is not finite; names the step, its samples and the last good state.
    """
    began = time.perf_counter()
    with warnings.catch_warnings():  # newer versions of torch have another name for a setting
        warnings.filterwarnings("ignore", "`broadcast_buffers`", FutureWarning)
        model = accelerator.prepare_model(loop.method)
    state = _TrainState(loop, accelerator)
    start, seconds_before = state.resume(observer)
    check_agreed(accelerator, start)
    vote = Vote(accelerator)
    stale = state.look(start, observer, lambda _: None)
    with Saver(loop.checkpoints) as saver, loop.feed(start) as feed:
        window = _Window(loop, accelerator, observer, saver)

        def save(done: int) -> None:
            window.flush()  # which refuses to save a state that is not finite
            seconds = seconds_before + time.perf_counter() - began
            window.stalled_s += state.save(saver, done, seconds, observer)

        done = start
        try:
            for step in range(start, start if stale else loop.steps):
                state.between(partial(loop.before_step, step), step, save)
                inputs = window.wait(feed)
                if step in (start, loop.held_steps):
                    batch_norm.hold_statistics(loop.method.backbone, held=step < loop.held_steps)
                rate = loop.set_rates(loop.optimizer, step)
                losses = [state.update(model, inputs[p], p) for p in range(loop.method.phases)]
                done = step + 1
                loop.method.after_step(done)
                batch_norm.share_statistics(loop.method)
                window.add(done, losses, rate)
                stopping = vote(bool(interrupt))
                if done % LOG_EVERY == 0 or done == loop.steps or stopping:
                    window.flush()
                if stopping:  # before a look that is due: it comes after the restart
                    save(done)
                    saver.wait()
                    accelerator.wait_for_everyone()  # nobody ends a rank that still saves
                    raise Interrupted(
                        f"stopped by {interrupt.cause or 'another rank'} after step {done}",
                        fix="run the same command again; it goes on from there",
                    )
                if state.look(done, observer, save) or done == loop.steps:
                    break
                if done % loop.checkpoint_every == 0:
                    save(done)
        except (DataError, StoreError):
            # What was trained until here is sound; several ranks are not at the same place.
            if done > start and accelerator.num_processes == 1:
                with suppress(StoreError):
                    save(done)
            raise
        end = partial(save, done) if loop.saves_last and done > start else window.flush
        end()
    return TrainOutcome(state.selection, seconds_before, state.replaced(done))


class _TrainState:
    """The state for a restart: the method, the optimizer, the scaler, generators, the selection.

    The schedule and the stream's position follow from the step.
    """

    def __init__(self, loop: Loop, accelerator: Accelerator) -> None:
        self._loop, self._accelerator = loop, accelerator
        self._device = accelerator.device.type
        self._scaler = torch.amp.GradScaler(
            self._device, enabled=loop.numerics.precision == "float16"
        )
        self.selection = Selection()

    def update(self, model: nn.Module, inputs: Inputs, phase: int) -> Loss:
        """Take one optimizer step."""
        loop = self._loop
        loop.optimizer.zero_grad(set_to_none=True)
        with autocast(loop.numerics, self._device):
            loss: Loss = model(inputs, phase)
        self._scaler.scale(loss.total).backward()  # type: ignore[no-untyped-call]
        self._scaler.step(loop.optimizer)
        self._scaler.update()
        return loss

    def between(self, work: Callable[[], T], done: int, save: Callable[[int], None]) -> T:
        """Work between steps; a process alone that stops in it does it after the restart."""
        try:
            return work()
        except Interrupted:
            save(done)
            raise

    def look(self, done: int, observer: Observer, save: Callable[[int], None]) -> bool:
        """Look at validation where it is due; return whether patience has run out."""
        plan, selection = self._loop.evaluation, self.selection
        noted = bool(selection.history) and selection.history[-1][0] == done
        if plan is None or noted or not plan.is_due(done, self._loop.steps):
            return False
        look = self.between(plan.run, done, save)
        observer.metrics(done, look.metrics)
        selection.add(done, look, plan)
        observer.looked(selection)
        return selection.is_stale(plan.patience)

    def save(self, saver: Saver, step: int, seconds: float, observer: Observer) -> float:
        """Start to write the state after `step` steps; return the seconds that training waited."""
        loop, replaced = self._loop, self.replaced(step)
        if not self._accelerator.is_main_process:
            return 0.0
        state = {
            "method": loop.method.state_dict(),
            "optimizer": loop.optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "selection": self.selection.state_dict(),
            "seconds": seconds,
            "points": observer.metrics_so_far(),
            "replaced": replaced,
            # Nothing here draws from the global generators but stochastic depth and dropout.
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }
        return saver.save(step, state, observer.check)

    def replaced(self, step: int) -> list[str]:
        """Return the images that any rank replaced before a step; every rank calls it.

        Raises:
            DataError: together they are more than may be replaced.
        """
        replacements = self._loop.replacements
        names = replacements.until(step)
        if replacements.max_bad and self._accelerator.num_processes > 1:
            names = united(self._accelerator, names)
            replacements.restore(names)
        return names

    def resume(self, observer: Observer) -> tuple[int, float]:
        """Load the newest intact state; return its step and the seconds spent on it."""
        loop = self._loop
        latest = loop.checkpoints.latest()
        if latest is None:
            return 0, 0.0
        step, state = latest
        loop.method.load_state_dict(state["method"])
        loop.optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])
        self.selection.load_state_dict(state["selection"])
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(state["cuda_rng"])
        if "points" in state:  # those of older versions have none
            observer.restore_metrics(state["points"])
        loop.replacements.restore(state.get("replaced", []))
        if self.selection.history:
            observer.looked(self.selection)
        log.info("resumes after step %d", step)
        return step, float(state["seconds"])


class _Window:
    """Losses, waits and time since metrics were last written."""

    def __init__(
        self, loop: Loop, accelerator: Accelerator, observer: Observer, saver: Saver
    ) -> None:
        self._loop, self._accelerator = loop, accelerator
        self._observer, self._saver = observer, saver
        self._reset()

    def _reset(self) -> None:
        self._losses: list[tuple[int, list[Loss]]] = []
        self._rate = 0.0
        self._data_wait_s = 0.0
        self.stalled_s = 0.0  # by saving
        self._began = time.perf_counter()

    def wait(self, feed: Iterator[tuple[Inputs, ...]]) -> tuple[Inputs, ...]:
        """Return the next inputs, counting the time that training stood still for them."""
        began = time.perf_counter()
        inputs = next(feed)
        self._data_wait_s += time.perf_counter() - began
        return inputs

    def add(self, step: int, losses: list[Loss], rate: float) -> None:
        """Add the losses of a step; they stay on the device until the window is written."""
        self._losses.append((step, losses))
        self._rate = rate

    def flush(self) -> None:
        """Write the window's means over steps and ranks, having checked that losses are finite."""
        if not self._losses:
            return
        # One row a step; the ranks' shares are equal, so the mean of their means is the batch's.
        names = [name for loss in self._losses[0][1] for name in loss.metrics]
        table = torch.stack([_row(losses) for _, losses in self._losses])
        table = self._accelerator.reduce(table, "mean").cpu()
        finite = table[:, : self._loop.method.phases].isfinite().all(dim=1)
        if not finite.all():
            raise self._not_finite(self._losses[int((~finite).nonzero()[0])][0])
        step, seconds = self._losses[-1][0], time.perf_counter() - self._began
        images_per_second = self._loop.images_per_step * len(self._losses) / seconds
        means = table[:, self._loop.method.phases :].mean(dim=0).tolist()
        values = {f"train/{name}": value for name, value in zip(names, means, strict=True)}
        values["train/lr"] = self._rate
        values["train/images_per_second"] = images_per_second
        values["train/data_wait_share"] = self._data_wait_s / seconds
        values["train/save_stall_share"] = self.stalled_s / seconds
        self._observer.metrics(step, values)
        self._observer.progress(step, self._loop.steps, images_per_second)
        self._reset()

    def _not_finite(self, step: int) -> DivergedError:
        """Return the error of a loss that is not finite; all ranks raise it at the same step."""
        keys = self._loop.keys_of(step - 1)
        log.error("the samples of step %d: %s", step, " ".join(keys))
        samples = ", ".join(keys[:_KEYS_SHOWN])
        samples += f" and {len(keys) - _KEYS_SHOWN} more, in the log" * (len(keys) > _KEYS_SHOWN)
        self._saver.wait()  # for the last good state
        last_good = max(self._loop.checkpoints.steps(), default=0)
        return DivergedError(
            f"the loss is not finite at step {step}",
            where=f"samples {samples}" if samples else "",
            fix=f"lower the learning rate, or look at these images; the last good state is that of "
            f"step {last_good}",
        )


def _row(losses: Sequence[Loss]) -> Tensor:
    """Return the totals and then the metrics of a step's phases, float32."""
    values = [loss.total.detach() for loss in losses]
    values += [value for loss in losses for value in loss.metrics.values()]
    return torch.stack([value.float() for value in values])
