"""From records to rows: what each arm is worth on a target, and against another arm. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean

from evidence import calibration, pooled
from evidence.calibration import Case
from evidence.matrix import ARMS, BASE, EVALUATIONS, GATED, PIXELS, Target
from evidence.pooled import Difference, Pooled
from evidence.records import TrialRecord, UnitRecord
from hpt_dist.recipe import file as recipe_file

Pair = tuple[TrialRecord, TrialRecord]
Find = Callable[[UnitRecord], TrialRecord | None]


@dataclass(frozen=True)
class Row:
    """What an arm is worth in an evaluation on a target.

    Args:
        evaluation: a key of `matrix.EVALUATIONS`.
        arm: a key of `matrix.ARMS`.
        seeds: that are measured, and the base's too.
        planned: seeds.
        mean: accuracy on test in per cent; None where no seed is measured.
        versus: its difference from the base; None of the base, and where no seed is measured.
        cpu_minutes: of the training behind it, a seed; None where it is not known.
    """

    evaluation: str
    arm: str
    seeds: int
    planned: int
    mean: float | None
    versus: Difference | None
    cpu_minutes: float | None


@dataclass(frozen=True)
class Together:
    """A difference over all domains that have verdicts.

    Args:
        headline: what another target can expect.
        here: on these targets alone.
        targets: that are measured.
        seeds: the fewest of a target.
    """

    headline: Pooled
    here: Pooled
    targets: int
    seeds: int


@dataclass(frozen=True)
class OverTargets(Together):
    """An arm in an evaluation over all domains that have verdicts.

    Args:
        evaluation: see `Row`.
        arm: see `Row`.
    """

    evaluation: str
    arm: str


@cache
def planned(target: Target) -> list[tuple[str, str]]:
    """Return the evaluations with their arms that the recipe of a target has, in a page's order."""
    recipe = recipe_file.load(target.recipe, environment={})
    found = []
    for evaluation in EVALUATIONS:
        points = recipe.stages.get(evaluation, ())
        arms = {str(point.axes["init"]) for point in points}
        judges = points[0].spec.JUDGES if points else False
        arms |= {PIXELS} if judges else set()
        found += [(evaluation, arm) for arm in ARMS if arm in arms]
    return found


def row(target: Target, records: Sequence[UnitRecord], evaluation: str, arm: str) -> Row:
    """Return the row of an arm, from the records of a target's units."""
    found = pairs(records, evaluation, arm, BASE)
    means = [100 * one.top1 for one, _ in found if one.top1 is not None]
    return Row(
        evaluation,
        arm,
        len(found),
        target.seeds,
        fmean(means) if means else None,
        difference(found) if found and arm != BASE else None,
        _cost(records, arm),
    )


def pairs(records: Iterable[UnitRecord], evaluation: str, arm: str, other: str) -> list[Pair]:
    """Return what two arms left in an evaluation; see `paired`."""
    return paired(records, _of(evaluation, arm), _of(evaluation, other))


def paired(records: Iterable[UnitRecord], one: Find, other: Find) -> list[Pair]:
    """Return two trials of each seed that has both.

    Only seeds of the same settings count: those of the first one, which is measured first.
    """
    found: list[Pair] = []
    for record in sorted(records, key=lambda one: one.seed):
        first, second = one(record), other(record)
        if first is None or second is None:
            continue
        if not found or _settings(found[0]) == _settings((first, second)):
            found.append((first, second))
    return found


def against(
    records: Sequence[UnitRecord], evaluation: str, arm: str, other: str
) -> Difference | None:
    """Return the difference between two arms; None where no seed has both."""
    found = pairs(records, evaluation, arm, other)
    return difference(found) if found else None


def over_targets(
    targets: Sequence[tuple[Target, Sequence[UnitRecord]]], evaluation: str, arm: str
) -> OverTargets | None:
    """Return an arm over all domains; None where none has been measured.

    Args:
        targets: with their records; those that do not decide are left out.
        evaluation: see `Row`.
        arm: see `Row`.
    """
    measured = [(target, pairs(records, evaluation, arm, BASE)) for target, records in targets]
    differences = [(one, difference(found), len(found)) for one, found in measured if found]
    found = together(differences)
    return OverTargets(**vars(found), evaluation=evaluation, arm=arm) if found else None


def together(targets: Iterable[tuple[Target, Difference, int]]) -> Together | None:
    """Return a difference over all domains; None where none has been measured.

    Args:
        targets: each with its difference and the number of its seeds; those that do not decide are
            left out.
    """
    domains: dict[str, list[Difference]] = {}
    seeds = []
    for target, its, count in targets:
        if target.decides:
            domains.setdefault(target.domain, []).append(its)
            seeds.append(count)
    if not domains:
        return None
    means = [pooled.of_a_domain(its) for its in domains.values()]
    headline = pooled.over_targets([one.mean for one in means])
    return Together(headline, pooled.on_these_targets(means), len(seeds), min(seeds))


def cases(records: Iterable[UnitRecord], evaluation: str) -> list[Case]:
    """Return every pretraining with a gate whose weights were evaluated, with what test showed."""
    found = []
    for record in records:
        for arm, start in GATED.items():
            training = record.training(arm)
            after, before = record.of(evaluation, arm), record.of(evaluation, start)
            if training and training.gate and after and before:
                name = f"{record.target}/{record.seed} {arm}"
                answers = after.answers(), before.answers()
                found.append(calibration.case(name, training.gate, *answers))
    return found


def difference(found: Sequence[Pair]) -> Difference:
    """Return the difference of paired trials; there is at least one."""
    return pooled.difference(
        [one.answers() for one, _ in found], [base.answers() for _, base in found]
    )


def _of(evaluation: str, arm: str) -> Find:
    return lambda record: record.of(evaluation, arm)


def _settings(pair: Pair) -> tuple[str, str]:
    return pair[0].settings, pair[1].settings


def _cost(records: Iterable[UnitRecord], arm: str) -> float | None:
    """Return the CPU minutes of the training of an arm, and of what it chose from, a seed."""
    took = []
    for record in records:
        seconds = record.cpu_seconds()
        stages = (arm, f"{arm}.candidates")
        parts = [name for name in record.trials if name.split("/")[0] in stages]
        if record.training(arm) and all(name in seconds for name in parts):
            took.append(sum(seconds[name] for name in parts))
    return fmean(took) / 60 if took else None
