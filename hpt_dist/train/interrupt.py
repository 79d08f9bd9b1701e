"""Signals become a flag that the training loop reads at a step boundary.

A handler that saved by itself could run inside a collective and deadlock the other ranks, so the
handlers only set the flag.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from types import FrameType
from typing import TypeVar

from hpt_dist.errors import Interrupted

T = TypeVar("T")

# Ctrl-C, `hpt-dist cancel`, and a terminal that was closed.
BY_PEOPLE = ("SIGINT", "SIGTERM", "SIGHUP")

# SIGTERM comes before the end of a job; the others are usual choices of `sbatch --signal`.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


@contextmanager
def handled(
    handler: Callable[[int, FrameType | None], None], *numbers: signal.Signals
) -> Iterator[None]:
    """Call a handler at signals for as long as the block runs; in the main thread alone.

    At SIGHUP too, by which a terminal that is closed ends its processes, unless it is ignored: so
    nohup wants it.
    """
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    heard = numbers if ignored else (*numbers, signal.SIGHUP)
    before = {number: signal.signal(number, handler) for number in heard}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


class Interrupt:
    """Whether this process should stop, and the cause: a signal's name, or another event.

    Args:
        on_signal: called at the first signal, where a person at the terminal waits for this
            process: a Ctrl-C after it then ends it at once.
    """

    def __init__(self, on_signal: Callable[[], None] | None = None) -> None:
        self.cause = ""
        self._on_signal = on_signal

    def __bool__(self) -> bool:
        return bool(self.cause)

    def ask(self, cause: str) -> None:
        """Ask the process to stop; the first cause is the one that is reported."""
        self.cause = self.cause or cause

    def heeding(self, things: Iterable[T], *causes: str) -> Iterator[T]:
        """Yield things as long as nobody asks to stop; only for one process alone.

        Args:
            things: what to go through.
            causes: to stop for; any, if none is given.

        Raises:
            Interrupted: somebody did.
        """
        for thing in things:
            if self.cause and (not causes or self.cause in causes):
                raise Interrupted(
                    f"stopped by {self.cause} while it looked at images",
                    fix="run the same command again",
                )
            yield thing

    def _set(self, number: int, _frame: FrameType | None) -> None:
        if self.cause and self._on_signal and number == signal.SIGINT:
            raise KeyboardInterrupt
        first = not self.cause
        self.ask(signal.Signals(number).name)
        if first and self._on_signal:
            self._on_signal()


@contextmanager
def listening(on_signal: Callable[[], None] | None = None) -> Iterator[Interrupt]:
    """Turn SIGTERM, SIGINT, SIGUSR1 and SIGUSR2 into a flag for as long as the block runs.

    SIGHUP too, unless it is ignored. `on_signal` is that of `Interrupt`. Only the main thread may
    set handlers; in another thread the flag simply stays unset.
    """
    interrupt = Interrupt(on_signal)
    may = threading.current_thread() is threading.main_thread()
    with handled(interrupt._set, *SIGNALS) if may else nullcontext():
        yield interrupt
