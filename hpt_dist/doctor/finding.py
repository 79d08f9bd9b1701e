"""The findings of doctor's checks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from hpt_dist.errors import HptError
from hpt_dist.errors.secrets import without_secrets

# torch appends its stack to its errors, behind this.
_STACK = "\nException raised from"
_LONGEST = 500


@dataclass(frozen=True)
class Finding:
    """The outcome of one check, without secrets.

    Args:
        name: name of the check; several findings may share it.
        ok: True for a pass, False for a fault, None for a note.
        says: the message, in one line.
        fix: what to do; never empty for a fault.
    """

    name: str
    ok: bool | None
    says: str
    fix: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "says", without_secrets(self.says))
        object.__setattr__(self, "fix", without_secrets(self.fix))


Check = Callable[[], Iterable[Finding]]


def failed(name: str, message: str, fix: str) -> Finding:
    """Return a fault; the message is joined to one line."""
    return Finding(name, False, " ".join(message.split()), fix)


def judged(name: str, ok: bool, message: str, fix: str) -> Finding:
    """Return a pass, or a fault with its fix."""
    return Finding(name, ok, message, "" if ok else fix)


def error_finding(name: str, error: Exception, fix: str) -> Finding:
    """Return an error as a fault; `fix` is used if the error names no fix itself."""
    if isinstance(error, HptError):
        problem = error.problem
        known = problem.fix or (f"allowed: {problem.allowed}" if problem.allowed else "")
        where = f"{problem.where}: " if problem.where else ""
        return failed(name, where + problem.what, known or fix)
    text = str(error).split(_STACK)[0][:_LONGEST]
    return failed(name, f"{type(error).__name__}: {text}", fix)


def guarded(name: str, check: Check, fix: str) -> list[Finding]:
    """Return a check's findings; if the check raises, the error becomes a fault.

    Args:
        name: name of that fault.
        check: yields findings, and may raise any exception.
        fix: fix for an error that names none itself.
    """
    findings: list[Finding] = []
    try:
        findings += check()
    except Exception as error:  # noqa: BLE001  any error of a check is reported
        findings.append(error_finding(name, error, fix))
    return findings
