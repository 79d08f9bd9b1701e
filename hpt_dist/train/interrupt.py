"""Signals become a flag that the training loop reads at a step boundary.

A handler that saved by itself could run inside a collective and deadlock the other ranks, so the
handlers only set the flag.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# SIGTERM comes before the end of a job; the others are usual choices of `sbatch --signal`.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


class Interrupt:
    """Whether this process should stop, and the cause: a signal's name, or another event."""

    def __init__(self) -> None:
        self.cause = ""

    def __bool__(self) -> bool:
        return bool(self.cause)

    def ask(self, cause: str) -> None:
        """Ask the process to stop; the first cause is the one that is reported."""
        self.cause = self.cause or cause

    def _set(self, number: int, _frame: FrameType | None) -> None:
        self.ask(signal.Signals(number).name)


@contextmanager
def listening() -> Iterator[Interrupt]:
    """Turn SIGTERM, SIGINT, SIGUSR1 and SIGUSR2 into a flag for as long as the block runs.

    Only the main thread may set handlers; in another thread the flag simply stays unset.
    """
    interrupt = Interrupt()
    try:
        before = {number: signal.signal(number, interrupt._set) for number in SIGNALS}
    except ValueError:
        before = {}
    try:
        yield interrupt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
