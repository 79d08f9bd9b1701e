"""From records to what adaptation is worth, from the base and after HPT. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean, stdev

import numpy as np

from evidence import pooled, rows
from evidence.matrix import ADAPT, BASE, OBJECTIVES, STARTS, Target
from evidence.pooled import Difference
from evidence.records import UnitRecord
from evidence.rows import Find, Together
from hpt_dist.recipe import file as recipe_file

Measured = Sequence[tuple[Target, Sequence[UnitRecord]]]
_HPT = "hpt"


@dataclass(frozen=True)
class Arms:
    """What the recipe of a pair compares, each in a page's order.

    Args:
        starts: keys of `matrix.STARTS`.
        objectives: keys of `matrix.OBJECTIVES`.
        shots: labelled images of a class.
    """

    starts: tuple[str, ...]
    objectives: tuple[str, ...]
    shots: tuple[int, ...]


@dataclass(frozen=True)
class Accuracy:
    """Accuracy on test in per cent.

    Args:
        mean: over seeds.
        spread: standard deviation over seeds; None of one.
        seeds: that are measured.
    """

    mean: float
    spread: float | None
    seeds: int


@cache
def planned(target: Target) -> Arms:
    """Return what the recipe of a pair compares."""
    points = recipe_file.load(target.recipe, environment={}).stages[ADAPT]
    axes = [point.axes for point in points]
    starts = {str(one["init"]) for one in axes}
    objectives = {str(one["objective"]) for one in axes}
    shots = {int(str(one["shots"])) for one in axes}
    return Arms(
        tuple(one for one in STARTS if one in starts),
        tuple(one for one in OBJECTIVES if one in objectives),
        tuple(sorted(shots)),
    )


def trial(start: str, objective: str, shots: int) -> Find:
    """Return how the record of a unit is asked for an adaptation."""
    return lambda record: record.find(ADAPT, init=start, objective=objective, shots=str(shots))


def accuracy(
    records: Sequence[UnitRecord], start: str, objective: str, shots: int
) -> Accuracy | None:
    """Return what an adaptation is worth; None where no seed is measured."""
    find = trial(start, objective, shots)
    found = rows.paired(records, find, find)
    values = [100 * one.top1 for one, _ in found if one.top1 is not None]
    if not values:
        return None
    return Accuracy(fmean(values), stdev(values) if len(values) > 1 else None, len(values))


def gain(
    records: Sequence[UnitRecord], objective: str, budgets: Sequence[int]
) -> tuple[Difference, int] | None:
    """Return how much HPT adds to the base, and from how many seeds; None where none has both.

    Args:
        records: of the units of a pair.
        objective: a key of `matrix.OBJECTIVES`.
        budgets: labelled images of a class; of several, each counts alike, and only seeds that have
            all of them.
    """
    finds = [(trial(_HPT, objective, one), trial(BASE, objective, one)) for one in budgets]
    whole = [one for one in records if all(a(one) and b(one) for a, b in finds)]
    found = [rows.paired(whole, *both) for both in finds]
    seeds = len(found[0])
    if not seeds or any(len(one) != seeds for one in found):
        return None
    hpt, base = (
        [np.mean([one[seed][side].answers() for one in found], axis=0) for seed in range(seeds)]
        for side in (0, 1)
    )
    return pooled.difference(hpt, base), seeds


def over_pairs(measured: Measured, objective: str, budgets: Sequence[int]) -> Together | None:
    """Return how much HPT adds over all pairs; None where none is measured. See `gain`."""
    found = [(target, gain(its, objective, budgets)) for target, its in measured]
    return rows.together((target, *one) for target, one in found if one)


def sizes(records: Sequence[UnitRecord], arms: Arms) -> tuple[int, tuple[int, ...]] | None:
    """Return the test images, and the labels at each budget; None where no seed has all of them."""
    for record in records:
        found = [trial(BASE, arms.objectives[0], shots)(record) for shots in arms.shots]
        known = [one for one in found if one is not None]
        if len(known) == len(found):
            return known[0].images, tuple(one.labels for one in known)
    return None
