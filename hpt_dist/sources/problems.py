"""Every mistake of a list or of an annotation file, told at once."""

from __future__ import annotations

from collections.abc import Iterable

from hpt_dist.errors import RequestError, nearest

_SHOWN = 10


class Problems:
    """Mistakes as they are found; only those that will be shown are kept."""

    def __init__(self) -> None:
        self._shown: list[str] = []
        self._count = 0

    def add(self, where: str, what: str, name: str = "", known: Iterable[str] = ()) -> None:
        """Note a mistake.

        Args:
            where: a file:line, or a file and the id of what is wrong in it.
            what: the mistake, in one sentence.
            name: a name that is not known.
            known: the names that are; the nearest is shown.
        """
        self._count += 1
        if self._count <= _SHOWN:  # looking for the nearest of many names takes long
            self._shown.append(f"{where}: {what} {nearest(name, known)}".rstrip())

    def refuse(self, of: str, fix: str = "") -> None:
        """Raise what was found, if anything was.

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
