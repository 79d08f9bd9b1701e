"""All mistakes of a list or of an annotation file, reported at once."""

from __future__ import annotations

from collections.abc import Iterable

from hpt_dist.errors import RequestError, nearest

_SHOWN = 10


class Problems:
    """Collects mistakes; it keeps only those that the report will show."""

    def __init__(self) -> None:
        self._shown: list[str] = []
        self._count = 0

    def add(self, where: str, what: str, name: str = "", known: Iterable[str] = ()) -> None:
        """Note a mistake.

        Args:
            where: a file:line, or a file and the id of the wrong entry.
            what: the mistake, in one sentence.
            name: an unknown name.
            known: the known names; the report shows the nearest.
        """
        self._count += 1
        if self._count <= _SHOWN:  # finding the nearest of many names takes long
            hint = nearest(name, known)
            self._shown.append(f"{where}: {what}; {hint}" if hint else f"{where}: {what}")

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
        raise RequestError("\n".join([title, *self._shown, *more]), fix=fix)
