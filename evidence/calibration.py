"""Does the gate say on validation what test shows, and what does following it earn? Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from evidence.records import Bools, Gate
from hpt_dist.evals import evidence
from hpt_dist.evals.evidence import Verdict

VERDICTS: tuple[Verdict, ...] = ("helped", "no evidence", "harmed")


@dataclass(frozen=True)
class Case:
    """One pretraining: what its gate said, and what test showed.

    Args:
        name: of it.
        gate: on validation.
        truth: the verdict of the paired test images (McNemar), at 95 %.
        gain: on test, in points, of what it left over what it started from.
    """

    name: str
    gate: Gate
    truth: Verdict
    gain: float


# What somebody does with a pretraining, by what its gate says: whether they take its weights.
POLICIES: Mapping[str, Callable[[Case], bool]] = {
    "never take the new weights": lambda _: False,
    "always take them": lambda _: True,
    "take them where the gate says helped": lambda case: case.gate.verdict == "helped",
    "take them unless the gate says harmed": lambda case: case.gate.verdict != "harmed",
    "take them where val is better (`keep: best`)": lambda case: case.gate.mean > 0,
    "take them where test is better (nobody can)": lambda case: case.gain > 0,
}


@dataclass(frozen=True)
class Agreement:
    """How often gate and test agree.

    Args:
        decided: cases in which both decide.
        agree: of these, with the same sign.
        low: end of the exact 95 % interval of their share (Clopper and Pearson, 1934).
        high: the other one.
    """

    decided: int
    agree: int
    low: float
    high: float


def case(name: str, gate: Gate, after: Bools, before: Bools) -> Case:
    """Return a case, by whether each test image is answered rightly after and before."""
    seen = evidence.gate({0: before, 1: after}, kept=1, last=1)
    return Case(name, gate, seen.verdict, seen.mean)


def table(cases: Sequence[Case]) -> list[list[int]]:
    """Return counts: rows are what the gate said, columns what test showed, as in `VERDICTS`."""
    counts = Counter((one.gate.verdict, one.truth) for one in cases)
    return [[counts[said, true] for true in VERDICTS] for said in VERDICTS]


def agreement(cases: Sequence[Case]) -> Agreement:
    """Return how often gate and test agree where both decide."""
    decided = [one for one in cases if "no evidence" not in (one.gate.verdict, one.truth)]
    agree = sum(one.gate.verdict == one.truth for one in decided)
    if not decided:
        return Agreement(0, 0, 0.0, 1.0)
    from scipy.stats import binomtest  # takes a while

    found = binomtest(agree, len(decided)).proportion_ci(0.95, "exact")
    return Agreement(len(decided), agree, float(found.low), float(found.high))


def gains(cases: Sequence[Case]) -> dict[str, tuple[float, int, int]]:
    """Return what each policy earns on test, in points, and how often it takes and harms.

    The second number counts cases in which it takes the new weights, the third those of them in
    which test shows harm.
    """
    found = {}
    for name, takes in POLICIES.items():
        taken = [one for one in cases if takes(one)]
        earned = fmean(one.gain if takes(one) else 0.0 for one in cases) if cases else 0.0
        found[name] = (earned, len(taken), sum(one.truth == "harmed" for one in taken))
    return found
