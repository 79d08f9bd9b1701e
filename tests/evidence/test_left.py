"""Which trials of a unit run: what has a result stays; results of a unit share their weights."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from evidence import left
from evidence.matrix import TARGETS, Unit, arm_of, units
from evidence.records import Sitting, TrialRecord, UnitRecord


@dataclass(frozen=True)
class Trial:
    name: str
    needs: tuple[str, ...] = ()
    kind: str = "linear"
    seed: int | None = 0

    @property
    def key(self):
        return f"key of {self.name}"

    @property
    def spec(self):
        return SimpleNamespace(kind=self.kind)

    @property
    def axes(self):
        return {} if self.seed is None else {"seed": self.seed}


BASE = Trial("base", kind="import", seed=None)
HPT = Trial("hpt/seed=0", (BASE.key,), "pretrain")
OTHER = Trial("hpt_bn/seed=0", (BASE.key,), "pretrain")
LINEAR = [
    Trial(f"linear/init={one.name.split('/')[0]},seed=0", (one.key,)) for one in (BASE, HPT, OTHER)
]
TRIALS = [BASE, HPT, OTHER, *LINEAR]
RECORDED = {trial.name: trial.key for trial in TRIALS if trial is not BASE}


def names(recorded, done=()):
    keys = {trial.key for trial in TRIALS if trial.name in done}
    return [trial.name for trial in left.to_run(TRIALS, recorded, keys.__contains__)]


def test_nothing_runs_that_has_a_result():
    """Imports have none, and run where something needs them."""
    assert names(RECORDED) == []
    assert names({}) == [trial.name for trial in TRIALS]


def test_another_key_runs_with_what_it_needs_and_what_starts_from_that():
    """Without a store its training runs again, and then everything that is of its weights."""
    recorded = {**RECORDED, "linear/init=hpt,seed=0": "older"}
    assert names(recorded) == ["base", "hpt/seed=0", "linear/init=hpt,seed=0"]
    recorded = {**RECORDED, "hpt/seed=0": "older"}
    assert names(recorded) == ["base", "hpt/seed=0", "linear/init=hpt,seed=0"]
    assert names(recorded, ["base"]) == ["hpt/seed=0", "linear/init=hpt,seed=0"]


def test_what_the_store_holds_does_not_run():
    recorded = {**RECORDED, "linear/init=hpt,seed=0": "older"}
    assert names(recorded, ["base", "hpt/seed=0"]) == ["linear/init=hpt,seed=0"]


def test_a_new_arm_runs_alone():
    added = {name: key for name, key in RECORDED.items() if "hpt_bn" not in name}
    assert names(added) == ["base", "hpt_bn/seed=0", "linear/init=hpt_bn,seed=0"]


def test_a_unit_is_the_trials_of_its_seed_and_those_without():
    trials = [BASE, HPT, Trial("hpt/seed=1", (BASE.key,), "pretrain", 1)]
    assert left.of_unit(trials, Unit(TARGETS[0], 1)) == [BASE, trials[2]]
    assert arm_of("linear/init=hpt,seed=0") == "hpt"
    assert arm_of("hpt/seed=0") == ""


def test_the_first_seed_of_every_target_comes_first():
    found = units()
    assert [one.seed for one in found] == sorted(one.seed for one in found)
    assert {one.target.name for one in found if not one.seed} == {one.name for one in TARGETS}
    assert len({one.name for one in found}) == sum(one.seeds for one in TARGETS)


def test_minutes_are_those_of_like_trials_by_the_clock_of_their_sitting():
    sitting = Sitting("c", (), "m", {}, "", cpu_seconds=600.0)
    trials = {
        "hpt/seed=0": TrialRecord("0" * 64, "s", 0, 300.0),
        "linear/init=hpt,seed=0": TrialRecord("1" * 64, "s", 0, 100.0),
    }
    cost = left.costs([UnitRecord("line", 0, trials, (sitting,))])
    assert cost("hpt/seed=3", "line") == pytest.approx(450)
    assert cost("hpt/seed=3", "clipart") == pytest.approx(450)  # of another target: a like one
    assert cost("scratch/seed=3", "line") is None
    unknown = dataclasses.replace(sitting, cpu_seconds=None)  # of a process that was killed
    assert left.costs([UnitRecord("line", 0, trials, (unknown,))])("hpt/seed=3", "line") is None
    assert left.minutes([450.0, 150.0]) == pytest.approx(5)
    assert left.minutes([450.0, None]) is None
