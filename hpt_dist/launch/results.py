"""Finished trials: what they left in the store, and how it gets out, digests checked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hpt_dist.errors import RequestError, nearest
from hpt_dist.launch.survey import looked_up
from hpt_dist.store import Store, committed, files
from hpt_dist.store.committed import WEIGHTS, is_done
from hpt_dist.trial.records import Finished, Launch, ResultPart, RunPart, SpecPart, document
from hpt_dist.weights.source import FORMATS as FORMATS


def finished(store: Store, launch: Launch) -> list[Finished]:
    """Return the finished trials of a launch, in the plan's order."""
    found = looked_up(lambda trial: _finished(store, *trial), launch.trials.items())
    return [trial for trial in found if trial]


def _finished(store: Store, name: str, key: str) -> Finished | None:
    if not is_done(store, key):
        return None
    result = document(store, key, "result.json", ResultPart)
    return Finished(name, key, result, document(store, key, "run.json", RunPart))


def has(launch: Launch, name: str) -> bool:
    """Return whether a launch has a stage or a trial of a name."""
    return any(name in (trial, trial.split("/")[0]) for trial in launch.trials)


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
            document(store, key, "spec.json", SpecPart)["backbone"]
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


def _require(backbone: str, file_format: str) -> None:
    from hpt_dist.weights import exports

    exports.require(backbone, file_format)


def _exported(data: bytes, file_format: str) -> dict[str, bytes]:
    from hpt_dist.weights import exports
    from hpt_dist.weights import match as weights

    state, metadata = weights.read(data)
    return exports.export(state, metadata["backbone"], file_format)
