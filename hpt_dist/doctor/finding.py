"""What one of doctor's checks found."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from hpt_dist.errors import HptError

# torch appends its stack to its errors, behind this.
_STACK = "\nException raised from"
_LONGEST = 500


@dataclass(frozen=True)
class Finding:
    """The outcome of one check.

    Args:
        name: of the check; several findings may share it.
        ok: False for a fault, None for a note.
        says: what was found, in one line.
        fix: what to do; never empty for a fault.
    """

    name: str
    ok: bool | None
    says: str
    fix: str = ""


Check = Callable[[], Iterable[Finding]]


def failed(name: str, what: str, fix: str) -> Finding:
    """Return a fault, in one line."""
    return Finding(name, False, " ".join(what.split()), fix)


def judged(name: str, ok: bool, says: str, fix: str) -> Finding:
    """Return what is right, or else a fault with its fix."""
    return Finding(name, ok, says, "" if ok else fix)


def error_finding(name: str, error: Exception, fix: str) -> Finding:
    """Return an error as a fault; `fix` is for one that says none itself."""
    if isinstance(error, HptError):
        problem = error.problem
        known = problem.fix or (f"allowed: {problem.allowed}" if problem.allowed else "")
        where = f"{problem.where}: " if problem.where else ""
        return failed(name, where + problem.what, known or fix)
    text = str(error).split(_STACK)[0][:_LONGEST]
    return failed(name, f"{type(error).__name__}: {text}", fix)


def guarded(name: str, check: Check, fix: str) -> list[Finding]:
    """Return what a check found; that it failed is a finding like any other.

    Args:
        name: of that finding.
        check: yields findings, and may raise whatever it likes.
        fix: of a failure that says none itself.
    """
    findings: list[Finding] = []
    try:
        findings += check()
    except Exception as error:  # noqa: BLE001  a check that fails is a finding like any other
        findings.append(error_finding(name, error, fix))
    return findings
