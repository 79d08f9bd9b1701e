"""From a store to the records of a unit: what its finished trials left, and on which machine."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from evidence.matrix import ROOT
from evidence.records import Detector, Gate, Sitting, TrialRecord, packed, shares_packed
from hpt_dist.recipe.trial import Trial, key_of
from hpt_dist.store import Store, committed
from hpt_dist.trial import replicates
from hpt_dist.trial.predictions import file_of
from hpt_dist.trial.records import ResultPart, RunPart, document

_CODE = ("hpt_dist", "recipes/evidence", "evidence")
_RESULTS = "evidence/results/"
_OF_OTHERS = {"spec", "init", "candidates", "compared"}  # keys of trials, which have seeds
_DIGITS = 16
_AP50 = "test/AP50"
_ON_VAL = ("val/top1", "ridge/top1", "knn/top1")  # of evaluations, and of what watches pretraining
_PACKAGES = ("torch", "timm", "numpy", "scikit-learn")


def record_of(store: Store, trial: Trial, sitting: int, known: Mapping[str, Trial]) -> TrialRecord:
    """Return the record of a finished trial.

    Args:
        store: that holds what it left.
        trial: the trial.
        sitting: the place of this sitting in the unit's list.
        known: all trials of the recipe by key.

    Raises:
        StoreError: what it left is not what it committed.
    """
    result = document(store, trial.key, committed.RESULT, ResultPart)
    run = document(store, trial.key, "run.json", RunPart)
    metrics, details = result["metrics"], result["details"]
    test = file_of("test")
    right = _right(store, trial) if test in committed.digests(store, trial.key) else None
    gate, detector = details.get("gate"), _detector(store, trial, metrics)
    return TrialRecord(
        trial.key,
        _settings(trial, known),
        sitting,
        float(run["seconds"]),
        top1=metrics.get("test/top1"),
        val=next((metrics[name] for name in metrics if name in _ON_VAL), None),
        labels=0 if right is None else details.get("n_train", details.get("n_labelled", 0)),
        gate=Gate(**{name: gate[name] for name in Gate.__annotations__}) if gate else None,
        chose=details.get("choice", {}).get("chosen", ""),
        right="" if right is None else packed(right),
        images=details["n_test"] if detector else 0 if right is None else len(right),
        detector=detector,
    )


def settings_of(document: Mapping[str, Any], needs: Sequence[str] = ()) -> str:
    """Return the digest of a trial's settings without its seed.

    Args:
        document: what its key is made of.
        needs: the digests of the trials that it needs.
    """
    spec = {name: value for name, value in document["spec"].items() if name != "seed"}
    others = {name: document[name] for name in document.keys() - _OF_OTHERS}
    return key_of({**others, "spec": spec, "needs": list(needs)})[:_DIGITS]


def _settings(trial: Trial, known: Mapping[str, Trial]) -> str:
    return settings_of(trial.document, [_settings(known[key], known) for key in trial.needs])


def numerics_of(store: Store, trials: Sequence[Trial]) -> str:
    """Return how the trainings among finished trials computed, in words."""
    runs = [document(store, one.key, "run.json", RunPart) for one in trials if one.spec.TRAINS]
    return "; ".join(sorted({run["numerics"] for run in runs if run["numerics"]}))


@dataclass(frozen=True)
class Code:
    """The commit of the code, and which of its files differ from it."""

    commit: str
    changed: tuple[str, ...]


def code() -> Code:
    """Return which code there is."""
    lines = _git("status", "--porcelain", "--", *_CODE).splitlines()
    changed = tuple(line[3:] for line in lines if not line[3:].startswith(_RESULTS))
    return Code(_git("rev-parse", "HEAD").strip(), changed)


def sitting(by: Code | None, cpu_seconds: float | None, numerics: str) -> Sitting:
    """Return what a process measured on, and how long it computed.

    Args:
        by: the code; None where it is not known.
        cpu_seconds: None where they are not known.
        numerics: see `Sitting`.
    """
    return Sitting(
        commit=by.commit if by else "",
        changed=by.changed if by else (),
        machine=f"{_processor()}, {len(os.sched_getaffinity(0))} cores",
        versions={name: metadata.version(name) for name in _PACKAGES},
        numerics=numerics,
        cpu_seconds=None if cpu_seconds is None else round(cpu_seconds, 1),
    )


def _detector(store: Store, trial: Trial, metrics: Mapping[str, float]) -> Detector | None:
    if _AP50 not in metrics:
        return None
    drawn = shares_packed(replicates.read(store, trial.key)[_AP50])
    return Detector(metrics["test/AP"], metrics[_AP50], drawn)


def _right(store: Store, trial: Trial) -> Any:
    data = committed.read(store, trial.key, file_of("test"))
    return np.array(parquet.read_table(pa.BufferReader(data))["correct"].to_pylist(), bool)


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else "unknown"


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "unknown processor")
