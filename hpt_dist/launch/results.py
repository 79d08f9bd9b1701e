"""Finished trials: what they left in the store, and how it gets out, digests checked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hpt_dist.errors import RequestError, nearest
from hpt_dist.store import Store, committed, files
from hpt_dist.store.committed import WEIGHTS, is_done
from hpt_dist.store.paths import stage_prefix
from hpt_dist.trial.records import Finished, Launch
from hpt_dist.weights.source import FORMATS as FORMATS


def finished(store: Store, launch: Launch) -> list[Finished]:
    """Return the finished trials of a launch, in the plan's order."""
    found = []
    for name, key in launch.trials.items():
        if is_done(store, key):
            result, run = (_document(store, key, file) for file in ("result.json", "run.json"))
            found.append(Finished(name, key, result, run))
    return found


def trials_of(launch: Launch, name: str) -> list[str]:
    """Return the names of a launch's trials that a stage's or a trial's name stands for.

    Raises:
        RequestError: the launch has none of that name.
    """
    names = [trial for trial in launch.trials if name in (trial, trial.split("/")[0])]
    if names:
        return names
    known = [*dict.fromkeys(trial.split("/")[0] for trial in launch.trials), *launch.trials]
    raise RequestError(
        f"{launch.id} has no stage or trial {name}",
        allowed=", ".join(known[:20]),
        fix=nearest(name, known),
    )


def pull(
    store: Store, launch: Launch, names: Sequence[str], destination: Path, file_format: str
) -> list[Path]:
    """Copy weights and results of finished trials into a folder, digests checked.

    Args:
        store: where the launch ran.
        launch: which launch.
        names: trial names.
        destination: a folder, made if needed; one sub-folder for each trial if there are several.
        file_format: one of FORMATS: safetensors is as stored; see `exports` for the others.

    Raises:
        RequestError: a trial is not done yet, or its backbone cannot be written in the format;
            nothing was written.
        StoreError: an object is not what `DONE` says, or that is damaged.
    """
    keys = {name: launch.trials[name] for name in names}
    objects = {}
    for name, key in keys.items():
        if committed.done(store, key) is None:
            raise RequestError(f"{name} is not done", fix=f"hpt-dist status {launch.id}")
        objects[name] = committed.digests(store, key)
    if file_format != "safetensors":
        for backbone in {
            _document(store, key, "spec.json")["backbone"]
            for name, key in keys.items()
            if WEIGHTS in objects[name]
        }:
            _require(backbone, file_format)
    written = []
    for name, key in keys.items():
        folder = destination / name.replace("/", "-") if len(names) > 1 else destination
        for file in objects[name]:
            data = committed.read(store, key, file)
            convert = file == WEIGHTS and file_format != "safetensors"
            contents = _exported(data, file_format) if convert else {file: data}
            for path, content in contents.items():
                files.replace(folder / path, content)
                written.append(folder / path)
    return written


_MUST_HOLD = {
    "spec.json": "backbone",
    "result.json": "kind",
    "run.json": "seconds",
}


def _document(store: Store, key: str, name: str) -> dict[str, Any]:
    """Return a JSON object of a finished trial."""
    try:
        document: dict[str, Any] = json.loads(store.at(stage_prefix(key)).get(name))
        document[_MUST_HOLD[name]]
    except (ValueError, KeyError, TypeError) as error:
        raise committed.damaged(store, key, name, f"is damaged: {error!r}") from error
    return document


def _require(backbone: str, file_format: str) -> None:
    from hpt_dist.weights import exports

    exports.require(backbone, file_format)


def _exported(data: bytes, file_format: str) -> dict[str, bytes]:
    from hpt_dist.weights import exports
    from hpt_dist.weights import match as weights

    state, metadata = weights.read(data)
    return exports.export(state, metadata["backbone"], file_format)
