"""The file of a run's metrics: one JSON line for each step that logged some."""

from __future__ import annotations

import itertools
import json
import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from hpt_dist.store import records
from hpt_dist.store.records import Count, DamagedRecordError

_FIX = "delete this line; MLflow then lacks its points"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Written:
    """A line as it is in the file."""

    step: Count
    time: float
    metrics: Mapping[str, float | Literal["nan", "inf", "-inf"]]


class Line(NamedTuple):
    """The metrics of one optimizer step and the unix time at which they were logged."""

    step: int
    time: float
    metrics: dict[str, float]

    @classmethod
    def decode(cls, raw: bytes, where: str = "") -> Line:
        """Read a line of the file; `where` is its place, for the error.

        Raises:
            DamagedRecordError: it is no such line.
        """
        line = records.decoded(raw, _Written, where=where, fix=_FIX)
        return cls(line.step, line.time, {name: float(x) for name, x in line.metrics.items()})

    def encode(self) -> bytes:
        """Return the line as JSON; nan and inf, which JSON lacks, become strings."""
        metrics = {
            name: value if math.isfinite(value) else str(value)
            for name, value in self.metrics.items()
        }
        values = {"step": self.step, "time": self.time, "metrics": metrics}
        return json.dumps(values, allow_nan=False).encode() + b"\n"

    def beyond(self, last_steps: Mapping[str, int]) -> Line:
        """Return the line with only the metrics that it extends beyond their last step."""
        metrics = {
            name: value
            for name, value in self.metrics.items()
            if self.step > last_steps.get(name, -1)
        }
        return self._replace(metrics=metrics)


def read_lines(path: Path, start: int = 0, count: int | None = None) -> tuple[list[Line], int]:
    """Return complete lines from a byte position on, and the position of the next one.

    A last line without a line end is still being written, or was cut by a kill: it is left out.

    Raises:
        DamagedRecordError: a line is damaged.
    """
    lines = []
    with path.open("rb") as file:
        file.seek(start)
        for raw in itertools.islice(file, count):
            if not raw.endswith(b"\n"):
                break
            lines.append(Line.decode(raw, f"{path}, byte {start}"))
            start += len(raw)
    return lines, start


def kept_until(path: Path, step: int) -> bytes:
    """Return the lines of a file up to a step, without a torn last one.

    Damaged lines are left out, with a warning in the log.
    """
    kept = []
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            if not raw.endswith(b"\n"):
                break
            try:
                if Line.decode(raw, f"{path}:{number}").step <= step:
                    kept.append(raw)
            except DamagedRecordError as error:
                logger.warning("%s: %s; it is left out", error.problem.where, error.problem.what)
    return b"".join(kept)


def last_steps(lines: Iterable[bytes]) -> dict[str, int]:
    """Return the last step of each metric in some lines."""
    found: dict[str, int] = {}
    for raw in lines:
        line = Line.decode(raw)
        for name in line.metrics:
            found[name] = max(line.step, found.get(name, -1))
    return found
