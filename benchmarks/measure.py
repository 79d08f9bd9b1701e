"""How two ways of doing the same work are compared, and how a comparison is printed and kept."""

from __future__ import annotations

import io
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

ROUNDS = 5


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Args:
        name: of what is compared.
        ratio: measured.
        goal: the least ratio to reach; None where there is nothing to reach.
        note: the speeds behind the ratio.
        at_most: whether the goal is the greatest ratio instead.
        digits: after the point.
    """

    name: str
    ratio: float
    goal: float | None
    note: str = ""
    at_most: bool = False
    digits: int = 2

    @property
    def reached(self) -> bool:
        """Whether the goal is reached."""
        if self.goal is None:
            return True
        return self.ratio <= self.goal if self.at_most else self.ratio >= self.goal

    def __str__(self) -> str:
        text = f"{self.name} ratio={self.ratio:.{self.digits}f}"
        if self.goal is None:
            return f"{text} goal=none"
        bound = f"{'<=' * self.at_most}{self.goal:g}"
        return f"{text} goal={bound} {'hit' if self.reached else 'MISS'}"


def seconds_of(
    contestants: Mapping[str, Callable[[], object]],
    rounds: int = ROUNDS,
    clock: Callable[[], float] | None = None,
) -> dict[str, list[float]]:
    """Return the seconds of each contestant in each of some interleaved rounds.

    Every round runs each contestant once, so that what disturbs the machine for a while disturbs
    all of them. One round before the first is thrown away.
    """
    clock = clock or time.perf_counter
    seen: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds + 1):
        for name, work in contestants.items():
            began = clock()
            work()
            seen[name].append(clock() - began)
    return {name: values[1:] for name, values in seen.items()}


def paired(numerator: Sequence[float], denominator: Sequence[float]) -> float:
    """Return the median, over rounds, of the ratio between two contestants of the same round."""
    return statistics.median(a / b for a, b in zip(numerator, denominator, strict=True))


def rates(contestants: Mapping[str, Callable[[], int]], rounds: int = ROUNDS) -> dict[str, float]:
    """Return how many images a second each contestant does: the median of interleaved rounds.

    Args:
        contestants: by name, each does some work when called and returns its number of images.
        rounds: that count; see `seconds_of`.
    """
    images: dict[str, list[int]] = {name: [] for name in contestants}

    def counted(name: str) -> Callable[[], None]:
        return lambda: images[name].append(contestants[name]())

    seconds = seconds_of({name: counted(name) for name in contestants}, rounds)
    return {
        name: statistics.median(n / s for n, s in zip(images[name][1:], values, strict=True))
        for name, values in seconds.items()
    }


def in_words(speeds: Mapping[str, float]) -> str:
    """Return speeds for a note."""
    return ", ".join(f"{name} {rate:,.0f}/s" for name, rate in speeds.items())


def print_rows(rows: Iterable[Row]) -> bool:
    """Print rows as they come; return whether all of them reach their goals."""
    reached = True
    for row in rows:
        print(row, f"  # {row.note}" if row.note else "", flush=True)
        reached &= row.reached
    return reached


def print_table(rows: Iterable[Row], header: str, kept: Path | None) -> int:
    """Print a table, keep it in a file if there is one, and return the exit status: 1 for a miss.

    Args:
        rows: measured as they are asked for.
        header: what was measured, on what; see `versions`.
        kept: written when the last row has been printed; None keeps nothing.
    """
    with redirect_stdout(_Tee()) as table:
        print(header, flush=True)
        reached = print_rows(rows)
    if kept is not None:
        kept.write_text(table.getvalue(), encoding="utf-8")
    return 0 if reached else 1


def versions(packages: Iterable[str]) -> str:
    """Return the header of a table: versions and the machine."""
    named = ", ".join(f"{name} {metadata.version(name)}" for name in packages)
    return f"# Python {platform.python_version()}, {named}; {os.cpu_count()} cores, {cpu_name()}"


def cpu_name() -> str:
    """Return what the processor calls itself."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


class _Tee(io.StringIO):
    """Remembers what it prints."""

    def __init__(self) -> None:
        super().__init__()
        self._out = sys.stdout

    def write(self, text: str) -> int:
        self._out.write(text)
        self._out.flush()
        return super().write(text)
