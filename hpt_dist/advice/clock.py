"""The time that a look has: its parts share it, and what they have no time for is left out."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


class OutOfTimeError(Exception):
    """A part of a look has used up its time."""


class Clock:
    """Seconds from now on.

    Args:
        seconds: of the whole look.
    """

    def __init__(self, seconds: float) -> None:
        self._began = time.monotonic()
        self._end = self._began + seconds

    @property
    def spent(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._began

    def left(self, share: float = 1.0) -> float:
        """Return the seconds that are left, or a share of them; at least 0."""
        return max(0.0, (self._end - time.monotonic()) * share)

    def part(self, share: float) -> Clock:
        """Return the clock of a part that may take a share of what is left."""
        return Clock(self.left(share))

    def within(self, things: Iterable[T], least: int = 1) -> Iterator[T]:
        """Yield things until the time is up, but at least so many."""
        for number, thing in enumerate(things):
            if number >= least and not self.left():
                return
            yield thing

    def check(self) -> None:
        """Raise if the time is up.

        Raises:
            OutOfTimeError: it is.
        """
        if not self.left():
            raise OutOfTimeError
