"""Commit a trial's result: every object is put and verified, then `DONE` names them all."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from hpt_dist.errors import StoreError
from hpt_dist.errors.secrets import public_address
from hpt_dist.store import Store, open_store
from hpt_dist.store.committed import HEAD, MODEL, REPLICATES, WEIGHTS
from hpt_dist.store.paths import DONE
from hpt_dist.tracking.tracker import METRICS, Tracker
from hpt_dist.train.averages import of_details
from hpt_dist.train.checkpoint import Checkpoints
from hpt_dist.trial import documents, replicates, starts
from hpt_dist.trial.context import Context
from hpt_dist.trial.predictions import file_of
from hpt_dist.trial.result import Result


@dataclass(frozen=True)
class Run:
    """How a result came about.

    Args:
        restarts: how often the trial had started before.
        seconds: of all its processes.
        inputs: digest of what it read; empty for one without a parent.
        same_as: key of the trial that read the same and computed the result; empty for its own.
    """

    restarts: int
    seconds: float
    inputs: str
    same_as: str


def commit(context: Context, tracker: Tracker, result: Result, run: Run) -> None:
    """Put every object, verify it, and only then name them all in `DONE`.

    Raises:
        lease.LeaseLostError: another process has taken the trial over.
        StoreError: the store refuses, or holds something else than was written.
    """
    trial, root = context.order.trial, context.root
    same = {"same_as": run.same_as} if run.same_as else {}
    replaced = {"replaced": list(result.replaced)} if result.replaced else {}
    objects = {
        "spec.json": as_json(trial.document),
        "result.json": as_json(
            documents.of_result(trial, result.metrics, result.details) | replaced
        ),
        "run.json": as_json(
            _cost(context, result, run) | same | ({"inputs": run.inputs} if run.inputs else {})
        ),
        **_tensors(context, result),
        **_predictions(result),
        **result.pictures,
        **result.detections,
    }
    if result.replicates:
        objects[REPLICATES] = replicates.encoded(result.replicates)
    # The tracker has all points before `DONE`: whoever finds it can bring them to MLflow.
    tracker.log(trial.steps, _points(result, run))
    for name in objects.keys() - {"run.json"}:
        tracker.artifact(name, objects[name])
    objects[METRICS] = tracker.points
    context.check()
    manifest = {name: _put(root, name, data) for name, data in objects.items()}
    context.check()
    chose = {name: text for name in ("chose", "out") if (text := getattr(result, name))}
    root.put(DONE, as_json({"key": trial.key, "objects": manifest} | same | replaced | chose))
    clear(root)


def clear(root: Store) -> None:
    """Delete what only an unfinished trial needs."""
    Checkpoints(root).clear()
    root.delete(starts.STARTS)
    root.sweep()


def as_json(value: Any) -> bytes:
    """Return a document of a trial: the same bytes for the same values."""
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()


def _cost(context: Context, result: Result, run: Run) -> dict[str, Any]:
    trial, order = context.order.trial, context.order
    elsewhere = [one for one in trial.datasets.values() if one.store]
    return documents.of_run(
        seconds=run.seconds,
        restarts=run.restarts,
        job=order.scheduled,
        ranks=order.ranks,
        threads=order.threads,
        numerics=result.numerics,
        stores={one.name: public_address(open_store(one.store).uri) for one in elsewhere},
        device=trial.device,
        state_bytes=Checkpoints(context.root).kept_bytes(),
    )


def _tensors(context: Context, result: Result) -> dict[str, bytes]:
    """Return the files of weights, by name."""
    trial, found = context.order.trial, {}
    metadata = {"key": trial.key, "trial": trial.name, "backbone": trial.backbone}
    if average := of_details(result.details):
        metadata["average"] = str(average)  # a copy of the file alone says what it holds
    for name, state in {WEIGHTS: result.weights, MODEL: result.model}.items():
        if state is not None:
            from hpt_dist.weights import match  # torch takes long to import

            found[name] = match.save(state, metadata)
    if result.head:
        found[HEAD] = result.head.encoded(metadata)
    return found


def _predictions(result: Result) -> dict[str, bytes]:
    """Return the files of what a model answered, by name."""
    found = dict(result.taken)
    if result.predictions:
        from hpt_dist.trial import predictions_file  # pyarrow takes long to import

        for split, one in result.predictions.items():
            found[file_of(split)] = predictions_file.encoded(one)
    return found


def _points(result: Result, run: Run) -> dict[str, float]:
    """Return what MLflow shows of a result, by name."""
    points = {
        f"kept/{name}" if name in result.curves else name: value
        for name, value in {**result.metrics, **replicates.ends(result.details)}.items()
    }
    points["active_seconds"] = run.seconds
    if result.replaced:
        points["images_replaced"] = len(result.replaced)
    return points


def _put(root: Store, name: str, data: bytes) -> dict[str, Any]:
    info = root.put(name, data)
    if info.bytes != len(data):
        raise StoreError(f"{root.uri}/{name} holds {info.bytes} of {len(data)} bytes")
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
