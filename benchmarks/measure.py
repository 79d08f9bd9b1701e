"""How two ways of doing the same work are compared, and how a comparison is printed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

ROUNDS = 5


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Args:
        name: of what is compared.
        ratio: measured; larger is better.
        goal: the least ratio to reach.
        note: the speeds behind the ratio.
    """

    name: str
    ratio: float
    goal: float
    note: str = ""

    def __str__(self) -> str:
        return f"{self.name} ratio={self.ratio:.2f} goal={self.goal:g}"


def rates(contestants: Mapping[str, Callable[[], int]], rounds: int = ROUNDS) -> dict[str, float]:
    """Return how many images a second each contestant does: the median of interleaved rounds.

    Every round runs each contestant once, so that what disturbs the machine for a while disturbs
    all of them. One round before the first is thrown away.

    Args:
        contestants: by name, each does some work when called and returns its number of images.
        rounds: that count.
    """
    seen: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds + 1):
        for name, work in contestants.items():
            began = time.perf_counter()
            images = work()
            seen[name].append(images / (time.perf_counter() - began))
    return {name: statistics.median(values[1:]) for name, values in seen.items()}


def said(speeds: Mapping[str, float]) -> str:
    """Return speeds for a note."""
    return ", ".join(f"{name} {rate:,.0f}/s" for name, rate in speeds.items())


def print_rows(rows: Iterable[Row]) -> bool:
    """Print rows as they come; return whether all of them reach their goals."""
    reached = True
    for row in rows:
        print(row, f"  # {row.note}" if row.note else "", flush=True)
        reached &= row.ratio >= row.goal
    return reached
