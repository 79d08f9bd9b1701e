"""Damaged images: refused, or replaced by their neighbours where that was asked for."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping, Sequence

from hpt_dist.errors import DamagedImageError, DataError
from hpt_dist.sources import openmoji

log = logging.getLogger(__name__)

_SHOWN = 10


class Replacements:
    """The damaged images that a trial has replaced by the next ones of their pools.

    One that was replaced once is replaced whenever it comes again, also after a restart and if its
    shard is sound by then. Threads and streams share it.

    Args:
        max_bad: how many may be replaced; 0 refuses the first.
    """

    def __init__(self, max_bad: int = 0) -> None:
        self.max_bad = max_bad
        self._steps: dict[str, int] = {}  # in which each was replaced first
        self._lock = threading.Lock()

    def __bool__(self) -> bool:
        return bool(self._steps)

    def __contains__(self, name: str) -> bool:
        return name in self._steps

    def note(self, step: int, damaged: Mapping[str, DamagedImageError]) -> None:
        """Note the damaged images of a batch that is about to be used.

        Args:
            step: of the batch; -1 for what is looked at beside the training.
            damaged: by their names; see `Pool.name`.

        Raises:
            DataError: there are more than may be replaced; names all those of the batch.
        """
        with self._lock:
            new = sorted(damaged.keys() - self._steps.keys())
            count = len(self._steps) + len(new)
            if new and count > self.max_bad:
                raise refusal(list(damaged.values()), self.max_bad)
            for name in damaged:
                self._steps[name] = min(step, self._steps.get(name, step))
        for name in new:
            problem, limit = damaged[name].problem, self.max_bad
            text = "%s: %s; replaced by the next one (%d of at most %d in all)"
            log.warning(text, problem.where, problem.what, count, limit)

    def until(self, step: int) -> list[str]:
        """Return the names of those that were replaced before a step, sorted."""
        return sorted(name for name, first in self._steps.items() if first < step)

    def restore(self, names: Iterable[str]) -> None:
        """Replace these from now on: other processes of the trial did.

        Raises:
            DataError: they are more than may be replaced.
        """
        with self._lock:
            self._steps |= dict.fromkeys(names, -1)
            if len(self._steps) > self.max_bad:
                raise DataError(
                    "\n  ".join([_too_many(self.max_bad), *sorted(self._steps)[:_SHOWN]]),
                    fix="hpt-dist data verify names their shards",
                )


def refusal(errors: Sequence[DamagedImageError], max_bad: int = 0) -> DataError:
    """Return the error of images that may not be replaced; it names them all."""
    errors = sorted(errors, key=lambda error: (error.problem.where, error.problem.what))
    if len(errors) == 1 and not max_bad:
        return errors[0]
    problems = [error.problem for error in errors]
    title = _too_many(max_bad) if max_bad else f"{len(errors)} images are damaged"
    lines = [f"{problem.where}: {problem.what}" for problem in problems[:_SHOWN]]
    lines += [f"and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
    fixes = dict.fromkeys(problem.fix for problem in problems)
    return DataError("\n  ".join([title, *lines]), fix="\n  ".join(fixes))


def _too_many(max_bad: int) -> str:
    return f"more than {max_bad} {'image is' if max_bad == 1 else 'images are'} damaged, among them"


def remake(dataset: str, source: str) -> str:
    """Return what to do about the damaged shards of a dataset.

    Args:
        dataset: URI of the dataset.
        source: the name of the source that it was made from.
    """
    known = source in openmoji.NAMES
    given = source if known else "SOURCE"
    called = "" if known else f" (SOURCE was called {source})"
    return (
        f"delete that tar and run `hpt-dist shard {given} {dataset}`{called} with the options of "
        "the first time: it writes what is missing alone, with the same bytes. `hpt-dist data "
        f"verify {dataset}` names all that is damaged. Then launch again: the trial goes on from "
        "where it was"
    )
