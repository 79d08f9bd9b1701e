"""What one of doctor's checks found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from hpt_dist.errors import HptError


@dataclass(frozen=True)
class Finding:
    """The outcome of one check.

    Args:
        name: of the check; several findings may share it.
        ok: False for a fault, None for a note.
        says: what was found, in one line.
        mend: what to do; never empty for a fault.
    """

    name: str
    ok: bool | None
    says: str
    mend: str = ""


Check = Callable[[], Iterator[Finding]]


def failed(name: str, what: str, mend: str) -> Finding:
    """Return a fault, told in one line."""
    return Finding(name, False, " ".join(what.split()), mend)


def guarded(name: str, check: Check, mend: str) -> list[Finding]:
    """Return what a check found; that it failed is a finding like any other.

    Args:
        name: of that finding.
        check: yields findings, and may raise whatever it likes.
        mend: of a failure that says none itself.
    """
    findings: list[Finding] = []
    try:
        findings += check()
    except HptError as error:
        problem = error.problem
        known = problem.fix or (f"allowed: {problem.allowed}" if problem.allowed else "")
        where = f"{problem.where}: " if problem.where else ""
        findings.append(failed(name, where + problem.what, known or mend))
    except Exception as error:  # noqa: BLE001  a check that fails is a finding like any other
        findings.append(failed(name, f"{type(error).__name__}: {error}", mend))
    return findings
