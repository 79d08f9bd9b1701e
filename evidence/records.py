"""What a unit leaves: one small JSON file, which is committed.

Each trial has a line, so that a difference between two versions of a file can be read.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from evidence.matrix import RESULTS, Unit, axes_of
from hpt_dist.evals.evidence import Verdict
from hpt_dist.store.records import Count, Line, PathPart, Sha256, decoded

Bools = npt.NDArray[np.bool_]
Shares = npt.NDArray[np.float64]
_Finite = Annotated[float, Field(gt=-1e9, lt=1e9)]
_FORMAT = 1
_SMALL = np.dtype("<u2")
_STEPS = 50_000  # of a share, in two bytes


@dataclass(frozen=True)
class Gate:
    """What a pretraining says of itself, on validation images; see `evidence.StageVerdict`."""

    verdict: Verdict
    mean: _Finite
    half_width: _Finite
    num_images: Count


@dataclass(frozen=True)
class Detector:
    """What a detector finds on test.

    Args:
        ap: by COCO's rule, a share of 1.
        ap50: the same at an overlap of 0.5.
        replicates: of `ap50` over resampled images, see `shares_packed`.
    """

    ap: _Finite
    ap50: _Finite
    replicates: Line

    def resampled(self) -> Shares:
        """Return AP50 of resampled images, float64 [draws], a share of 1."""
        return np.frombuffer(base64.b64decode(self.replicates), _SMALL) / _STEPS


@dataclass(frozen=True)
class TrialRecord:
    """One finished trial.

    Args:
        key: that it ran under.
        settings: digest of its settings and those of all that it needs, without their seeds: that
            of the same trial of another seed.
        sitting: the place of its sitting in the unit's list.
        seconds: of the clock, of all its processes.
        top1: on test, a share of 1; None where test is not read.
        val: the same on val.
        labels: images whose labels it learned from; 0 for none.
        gate: of a pretraining.
        chose: what validation decided, in words; empty where it decided nothing.
        right: for each test image in the split's order whether it was answered rightly: bits in
            base64, the first image the highest bit; empty where test is not read.
        images: of test.
        detector: of a detector; None of others.
    """

    key: Sha256
    settings: Line
    sitting: Count
    seconds: _Finite
    top1: _Finite | None = None
    val: _Finite | None = None
    labels: Count = 0
    gate: Gate | None = None
    chose: Line = ""
    right: Line = ""
    images: Count = 0
    detector: Detector | None = None

    def answers(self) -> Bools:
        """Return for each test image whether it was answered rightly, bool [n]."""
        bits = np.unpackbits(np.frombuffer(base64.b64decode(self.right), np.uint8))
        return bits[: self.images].astype(bool)


@dataclass(frozen=True)
class Sitting:
    """One process that measured, and on what.

    Args:
        commit: of the code; empty where results of a killed process were found in the store.
        changed: files of the code that differed from it.
        machine: processor and cores.
        versions: of packages that compute.
        numerics: how trainings computed.
        cpu_seconds: of all processes; None where that is not known.
    """

    commit: Line
    changed: tuple[Line, ...]
    machine: Line
    versions: Mapping[Line, Line]
    numerics: Line
    cpu_seconds: _Finite | None


@dataclass(frozen=True)
class UnitRecord:
    """What is known of a unit; `trials` by name."""

    target: PathPart
    seed: Count
    trials: Mapping[Line, TrialRecord] = field(default_factory=dict)
    sittings: tuple[Sitting, ...] = ()
    format: Annotated[int, Field(ge=_FORMAT, le=_FORMAT)] = _FORMAT

    def of(self, evaluation: str, arm: str) -> TrialRecord | None:
        """Return the evaluation of an arm; None where it is not done."""
        return self.trials.get(f"{evaluation}/init={arm},seed={self.seed}")

    def find(self, stage: str, **axes: str) -> TrialRecord | None:
        """Return the trial of a stage with these values among its axes; None where it is not done.

        Of several it is the first by name.
        """
        wanted = axes.items()
        for name, one in sorted(self.trials.items()):
            if name.partition("/")[0] == stage and wanted <= axes_of(name).items():
                return one
        return None

    def cpu_seconds(self) -> dict[str, float]:
        """Return the CPU seconds of each trial by name: its sitting's, shared out by the clock.

        Trials of which they are not known are left out.
        """
        clock = [0.0] * len(self.sittings)
        for one in self.trials.values():
            clock[one.sitting] += one.seconds
        spent = [sitting.cpu_seconds for sitting in self.sittings]
        return {
            name: cpu * one.seconds / (clock[one.sitting] or 1.0)
            for name, one in self.trials.items()
            if (cpu := spent[one.sitting]) is not None
        }

    def training(self, arm: str) -> TrialRecord | None:
        """Return the pretraining of an arm; None where it is not done."""
        return self.trials.get(f"{arm}/seed={self.seed}")


def packed(right: Bools) -> str:
    """Return whether images were answered rightly, as `TrialRecord.right` has it."""
    return base64.b64encode(np.packbits(right).tobytes()).decode()


def shares_packed(shares: Sequence[float]) -> str:
    """Return shares of 1 as `Detector.replicates` has them: 50,000ths in two bytes, base64.

    Raises:
        ValueError: one is no share of 1, as of a draw without any object.
    """
    values = np.array(shares, np.float64)
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError("a replicate is no share of 1")
    return base64.b64encode((values * _STEPS).round().astype(_SMALL).tobytes()).decode()


def file_of(unit: Unit, folder: Path = RESULTS) -> Path:
    """Return the file of a unit."""
    return folder / f"{unit.target.name}-{unit.seed}.json"


def read(unit: Unit, folder: Path = RESULTS) -> UnitRecord:
    """Return what is known of a unit: nothing, where it has no file.

    Raises:
        DamagedRecordError: its file is not such a record.
    """
    file = file_of(unit, folder)
    if not file.exists():
        return UnitRecord(unit.target.name, unit.seed)
    fix = "take it from git, or delete it to measure the unit again"
    return decoded(file.read_bytes(), UnitRecord, where=str(file), fix=fix)


def write(record: UnitRecord, file: Path) -> None:
    """Write the file of a unit; a process that is killed leaves the old one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    part.write_text(encoded(record), encoding="utf-8")
    part.replace(file)


def encoded(record: UnitRecord) -> str:
    """Return the text of a unit's file."""
    head = {name: value for name, value in asdict(record).items() if name != "trials"}
    sittings = [f"  {_line(one)}" for one in head.pop("sittings")]
    trials = [
        f"  {_line(name)}: {_line(_without_defaults(one))}"
        for name, one in sorted(record.trials.items())
    ]
    parts = [f"{_line(name)}: {_line(value)}" for name, value in sorted(head.items())]
    parts.append(_block('"sittings": [', sittings, "]"))
    parts.append(_block('"trials": {', trials, "}"))
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _block(opening: str, lines: list[str], closing: str) -> str:
    return "\n".join([opening, ",\n".join(lines), closing]) if lines else f"{opening}{closing}"


def _line(value: Any) -> str:
    return json.dumps(value, sort_keys=True, allow_nan=False)


def _without_defaults(one: TrialRecord) -> dict[str, Any]:
    plain = TrialRecord(one.key, one.settings, one.sitting, one.seconds)
    kept = {name for name, value in vars(one).items() if value != getattr(plain, name)}
    shown = {"key", "settings", "sitting", "seconds"} | kept
    return {name: value for name, value in asdict(one).items() if name in shown}
