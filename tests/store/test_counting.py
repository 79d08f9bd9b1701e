"""How far a long work is, in lines: images a second and the time left, of this run alone."""

from __future__ import annotations

import io
from itertools import count

import pytest
from rich.console import Console

from hpt_dist.cli import console


@pytest.fixture
def clock(monkeypatch):
    """Let every look at the clock be a second later."""
    seconds = count()
    monkeypatch.setattr(console.time, "monotonic", lambda: float(next(seconds)))


def shown(monkeypatch, calls, terminal: bool) -> str:
    printed = io.StringIO()
    monkeypatch.setattr(
        console, "err", Console(file=printed, force_terminal=terminal, width=200, highlight=False)
    )
    with console.counting("shard photos") as tell:
        for done, total in calls:
            tell(done, total)
    return printed.getvalue()


def test_lines_tell_speed_and_time_left_without_what_was_done_before(monkeypatch, clock):
    calls = [(500_000, 1_000_000), *((500_000 + 1000 * i, 1_000_000) for i in range(1, 31))]
    lines = shown(monkeypatch, calls, terminal=False).splitlines()
    assert 1 < len(lines) < 10
    assert all(line.startswith("shard photos: 5") for line in lines)
    assert all("of 1,000,000, " in line and "images/s, 0:" in line for line in lines)
    assert max(float(line.split(", ")[-2].split()[0].replace(",", "")) for line in lines) <= 1000


def test_a_bar_shows_the_speed(monkeypatch):
    text = shown(monkeypatch, [(10, 40), (30, 40), (40, 40)], terminal=True)
    assert "40/40" in text
    assert "images/s" in text


def test_nothing_to_do_prints_nothing(monkeypatch, clock):
    assert shown(monkeypatch, [(7, 7)], terminal=False) == ""
