"""What tables of the page have in common: differences, verdicts, commands, commits and machines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from evidence.matrix import Unit
from evidence.pooled import Difference, Pooled
from evidence.records import UnitRecord
from hpt_dist.evals.evidence import Verdict
from hpt_dist.page import Grid

WORDS: Mapping[Verdict, str] = {
    "helped": "helped",
    "harmed": "harmed",
    "no evidence": "no evidence",
    "none": "one seed: no verdict",
}
_UNITS = ("unit", "command", "commit", "results", "CPU min")


def difference(one: Difference | None) -> list[str]:
    """Return a mean with the halves of its two intervals; three empty cells for None."""
    if one is None:
        return ["", "", ""]
    seeds = "" if one.seeds_half is None else f"{one.seeds_half:.1f}"
    return [signed(one.mean), seeds, f"{one.images_half:.1f}"]


def verdict(one: Difference | None) -> str:
    """Return what both intervals say, in words; empty for None."""
    return "" if one is None else WORDS[one.verdict]


def pooled(one: Pooled, without: str) -> str:
    """Return a mean over targets with its verdict, or why it has none."""
    says = without if one.half_width is None else WORDS[one.verdict]
    return f"{signed(one.mean)}{half(one)}: {says}"


def half(one: Pooled) -> str:
    """Return half of an interval as it follows the mean; empty without one."""
    return "" if one.half_width is None else f" ± {one.half_width:.1f}"


def signed(value: float, decimals: int = 1) -> str:
    """Return a number with its sign."""
    return f"{value:+.{decimals}f}"


def origins(units: Sequence[Unit], every: Sequence[UnitRecord]) -> Grid:
    """Return the table of where results are from: a row for each sitting of a unit.

    Args:
        units: all that are planned.
        every: the record of each.
    """
    found = []
    for unit, record in zip(units, every, strict=True):
        if not record.sittings:
            found.append([f"*{unit.name}*", f"*{unit.command}*", "", "", ""])
        for number, sitting in enumerate(record.sittings):
            results = sum(one.sitting == number for one in record.trials.values())
            if results:
                changed = " and changes" if sitting.changed else ""
                commit = f"{sitting.commit[:10]}{changed}" or "unknown"
                spent = sitting.cpu_seconds
                minutes = "unknown" if spent is None else f"{spent / 60:.0f}"
                found.append([unit.name, unit.command, commit, str(results), minutes])
    return Grid(list(_UNITS), found, num_left=3)


def machines(every: Sequence[UnitRecord]) -> list[str]:
    """Return what results were measured on, a line for each kind."""
    found = {
        f"{one.machine}; {one.numerics or 'nothing trained'}; "
        + ", ".join(f"{name} {version}" for name, version in sorted(one.versions.items()))
        for record in every
        for one in record.sittings
    }
    return sorted(found)
