"""All mistakes of a list or of an annotation file, reported at once."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from hpt_dist.errors import RequestError, nearest

_SHOWN = 20

At = tuple[str, int]
"""A file and a line in it, from 1."""


class _Mistake(NamedTuple):
    at: At
    text: str
    name: str
    known: Collection[str]

    def __str__(self) -> str:
        hint = nearest(self.name, self.known)
        return f"{self.text}; {hint}" if hint else self.text


class Problems:
    """Collects mistakes; it keeps only those that the report will show."""

    def __init__(self) -> None:
        self._first: list[_Mistake] = []
        self._count = 0

    def __bool__(self) -> bool:
        return bool(self._count)

    def add(
        self,
        where: str,
        what: str,
        name: str = "",
        known: Collection[str] = (),
        at: At = ("", 0),
    ) -> None:
        """Note a mistake.

        Args:
            where: a file:line, or a file and the wrong entry.
            what: the mistake, in one sentence.
            name: an unknown name.
            known: the known names; the report shows the nearest.
            at: its place; the report is in this order, and else in that of the calls.
        """
        self._count += 1
        self._first.append(_Mistake(at, f"{where}: {what}", name, known))
        if len(self._first) >= 2 * _SHOWN:
            self._first = self._in_order()

    def join(self, other: Problems) -> None:
        """Take over the mistakes of another part."""
        self._count += other._count
        self._first = [*self._first, *other._first]

    def refuse(self, of: str, fix: str = "") -> None:
        """Raise the mistakes, if there are any.

        Args:
            of: the list or the file.
            fix: the next thing to do.

        Raises:
            RequestError: the number of mistakes and the first of them.
        """
        if not self._count:
            return
        title = f"{self._count} problem{'s' if self._count > 1 else ''} in {of}"
        more = [f"and {self._count - _SHOWN} more"] if self._count > _SHOWN else []
        # Finding the nearest of many names takes long, so only for these.
        raise RequestError("\n".join([title, *map(str, self._in_order()), *more]), fix=fix)

    def _in_order(self) -> list[_Mistake]:
        return sorted(self._first, key=lambda one: one.at)[:_SHOWN]
