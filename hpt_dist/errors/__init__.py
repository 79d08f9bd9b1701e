"""The exception tree. Every error says what, where, what is allowed and what to do.

HptError                 exit code 1: the work failed
├── RequestError         exit code 2: the request was wrong; nothing was started
│   └── RecipeError      every problem of a recipe at once
├── DataError            an image, shard or manifest is damaged or missing
│   └── DamagedImageError   one image, unlike a whole shard; max_bad may replace it
├── StoreError           the object store refused, or an object does not exist
│   └── StoreAwayError   the store is out of reach; the same request may succeed later
├── WeightsError         weights do not fit the backbone
├── TrainingError        training cannot continue (a non-finite loss, a damaged state)
└── Interrupted          stopped on request after saving; the same command continues
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Self

from hpt_dist.errors.secrets import without_secrets

_MOST_COMPARISONS = 2_000_000  # of characters, to find the nearest name: tenths of a second


@dataclass(frozen=True)
class Problem:
    """One fault, described for the person who must fix it, without secrets.

    Args:
        what: the fault, in one sentence.
        where: a file:line and key path, a URI or an option; empty when `what` says it.
        allowed: the accepted values or range.
        fix: the next thing to do.
    """

    what: str
    where: str = ""
    allowed: str = ""
    fix: str = ""

    def __post_init__(self) -> None:
        for field in fields(self):
            object.__setattr__(self, field.name, without_secrets(getattr(self, field.name)))

    def __str__(self) -> str:
        lines = [f"{self.where}: {self.what}" if self.where else self.what]
        if self.allowed:
            lines.append(f"  allowed: {self.allowed}")
        if self.fix:
            lines.append(f"  do: {self.fix}")
        return "\n".join(lines)


class HptError(Exception):
    """The work failed for a reason that its user can act on."""

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", allowed: str = "", fix: str = "") -> None:
        self.problem = Problem(what, where, allowed, fix)
        super().__init__(str(self.problem))

    def at(self, where: str) -> Self:
        """Return the same error with its place, for a caller who knows it."""
        problem = self.problem
        return type(self)(problem.what, where=where, allowed=problem.allowed, fix=problem.fix)


class RequestError(HptError):
    """The request was wrong; nothing was started."""

    exit_code = 2


class RecipeError(RequestError):
    """All problems of one recipe.

    Args:
        problems: at least one problem, in file order.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        title = f"{count} problem{'s' if count > 1 else ''} in the recipe"
        Exception.__init__(self, "\n".join([title, *map(str, self.problems)]))
        self.problem = Problem(str(self))


class DataError(HptError):
    """An image, a shard or a manifest is damaged or missing."""


class DamagedImageError(DataError):
    """One image is damaged: its bytes changed since they were written, or do not decode."""


class StoreError(HptError):
    """The object store refused a request, or an object does not exist."""


class StoreAwayError(StoreError):
    """The store is out of reach: the same request may succeed when it is back."""


class WeightsError(HptError):
    """Weights do not fit the backbone."""


class TrainingError(HptError):
    """Training cannot continue."""


class DivergedError(TrainingError):
    """Values are not finite any more: with these settings there is nothing to continue."""


class Interrupted(HptError):  # noqa: N818 - not a fault
    """Stopped on request after the state was saved; the same command continues from it."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `did you mean X?` for the nearest of the known names, or an empty string.

    Long names, or very many, have none: comparing them would take longer than looking.
    """
    names = list(known)
    if len(name) * sum(map(len, names)) > _MOST_COMPARISONS:
        return ""
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else ""
