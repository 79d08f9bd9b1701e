"""The file of a run's metrics: one JSON line for each step that logged some."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from hpt_dist.store import files


class Line(NamedTuple):
    """The metrics of one optimizer step and the unix time at which they were logged."""

    step: int
    time: float
    metrics: dict[str, float]

    @classmethod
    def decode(cls, raw: bytes) -> Line:
        """Read a line of the file."""
        values = json.loads(raw)
        metrics = {name: float(value) for name, value in values["metrics"].items()}
        return cls(values["step"], values["time"], metrics)

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
    """
    lines = []
    with path.open("rb") as file:
        file.seek(start)
        for raw in itertools.islice(file, count):
            if not raw.endswith(b"\n"):
                break
            lines.append(Line.decode(raw))
            start += len(raw)
    return lines, start


def keep_until(path: Path, step: int) -> dict[str, int]:
    """Drop the lines beyond a step, and a torn last one; return the last step of each metric."""
    lines = read_lines(path)[0] if path.exists() else []
    kept = [line for line in lines if line.step <= step]
    files.replace(path, b"".join(line.encode() for line in kept))
    last_steps: dict[str, int] = {}
    for line in kept:
        for name in line.metrics:
            last_steps[name] = max(line.step, last_steps.get(name, -1))
    return last_steps
