"""The benchmarks' own arithmetic: what is printed, and when a goal counts as missed."""

from __future__ import annotations

import itertools
import time

import pytest

from benchmarks.measure import Row, print_rows, rates


def test_a_row_is_one_line_and_a_missed_goal_is_told(capsys):
    good, bad = Row("reading", 3.256, 3, "fast"), Row("sharding", 1.4999, 1.5)
    assert print_rows([good])
    assert not print_rows([bad, good])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("reading ratio=3.26 goal=3 ")
    assert lines[1].startswith("sharding ratio=1.50 goal=1.5")
    assert len(lines) == 3


def test_rates_are_medians_of_interleaved_rounds(monkeypatch):
    calls: list[str] = []
    # A clock in which the first call of a round takes 2 s and the second 1 s, but for one outlier.
    durations = iter([9.0, 9.0, 2.0, 1.0, 50.0, 1.0, 2.0, 1.0])
    now = itertools.accumulate(itertools.chain.from_iterable((0.0, d) for d in durations))
    monkeypatch.setattr(time, "perf_counter", lambda: next(now))
    contestants = {name: lambda name=name: calls.append(name) or 10 for name in ("a", "b")}
    assert rates(contestants, rounds=3) == pytest.approx({"a": 5.0, "b": 10.0})
    assert calls == ["a", "b"] * 4
