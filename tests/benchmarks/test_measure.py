"""The benchmarks' own arithmetic: what is printed, and when a goal counts as missed."""

from __future__ import annotations

import itertools
import time

import pytest

from benchmarks.measure import (
    Row,
    cpu_name,
    paired,
    print_rows,
    print_table,
    rates,
    versions,
)


def test_a_row_is_one_line_and_a_missed_goal_is_reported(capsys):
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


def test_a_goal_is_a_floor_a_ceiling_or_none(capsys):
    rows = [
        Row("over", 1.104, 1.1, at_most=True),
        Row("under", 1.1, 1.1, at_most=True),
        Row("wait", 0.0193, 0.02, at_most=True, digits=4),
        Row("free", 0.5, None),
    ]
    assert [row.reached for row in rows] == [False, True, True, True]
    assert [str(row) for row in rows] == [
        "over ratio=1.10 goal=<=1.1 MISS",
        "under ratio=1.10 goal=<=1.1 hit",
        "wait ratio=0.0193 goal=<=0.02 hit",
        "free ratio=0.50 goal=none",
    ]
    assert print_rows(rows[1:])
    assert not print_rows(rows)


def test_paired_ratios_are_of_the_same_round():
    # The machine was ten times slower in the second round, for both.
    assert paired([2.0, 20.0, 4.0], [1.0, 10.0, 1.0]) == 2.0


def test_a_table_is_kept_as_it_was_printed(tmp_path, capsys):
    kept = tmp_path / "table.txt"
    assert print_table(iter([Row("good", 2, 1, "why")]), "# header", kept) == 0
    assert kept.read_text() == capsys.readouterr().out
    assert kept.read_text() == "# header\ngood ratio=2.00 goal=1 hit   # why\n"
    assert print_table(iter([Row("bad", 1, 2)]), "# header", None) == 1


def test_a_header_has_versions_and_the_machine():
    shown = versions(["numpy"])
    assert shown.startswith("# Python 3.")
    assert "numpy " in shown
    assert shown.endswith(cpu_name())
