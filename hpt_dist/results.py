"""Finished trials: what they left in the store, and how it gets out, digests checked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpt_dist.errors import RequestError, StoreError, nearest
from hpt_dist.launch import Launch
from hpt_dist.layout import DONE, stage_prefix
from hpt_dist.store import Store

FORMATS = ("safetensors", "timm", "torchvision")


@dataclass(frozen=True)
class Finished:
    """One finished trial.

    Args:
        name: `stage/axis=value,...`.
        key: of the trial.
        result: result.json: stage, kind, axes, seed, images, metrics, details.
        run: run.json: seconds, host, versions.
    """

    name: str
    key: str
    result: dict[str, Any]
    run: dict[str, Any]


def finished(store: Store, launch: Launch) -> list[Finished]:
    """Return the finished trials of a launch, in the plan's order."""
    found = []
    for name, key in launch.trials.items():
        root = store.at(stage_prefix(key))
        if root.stat(DONE):
            result, run = (_document(root, file) for file in ("result.json", "run.json"))
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
        file_format: safetensors (as stored), or a .pth with timm's or torchvision's names.

    Raises:
        RequestError: a trial is not done yet.
        StoreError: an object is not what `DONE` says.
    """
    written = []
    for name in names:
        root = store.at(stage_prefix(launch.trials[name]))
        if not root.stat(DONE):
            raise RequestError(f"{name} is not done", fix=f"hpt-dist status {launch.id}")
        folder = destination / name.replace("/", "-") if len(names) > 1 else destination
        folder.mkdir(parents=True, exist_ok=True)
        objects = _document(root, DONE)["objects"]
        for file, expected in objects.items():
            data = root.get(file)
            if hashlib.sha256(data).hexdigest() != expected["sha256"]:
                raise StoreError(
                    f"{root.uri}/{file} is not what was committed: its SHA-256 differs",
                    fix=f"delete {root.uri}/{DONE} and launch again",
                )
            if file == "weights.safetensors" and file_format != "safetensors":
                data, file = _exported(data, file_format)  # noqa: PLW2901
            path = folder / file
            partial = path.with_name(f".{path.name}.partial")
            partial.write_bytes(data)
            partial.replace(path)
            written.append(path)
    return written


_MUST_HOLD = {"result.json": "kind", "run.json": "seconds", DONE: "objects"}


def _document(root: Store, name: str) -> dict[str, Any]:
    """Return a JSON object of a finished trial."""
    try:
        document: dict[str, Any] = json.loads(root.get(name))
        document[_MUST_HOLD[name]]
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{root.uri}/{name} is damaged: {error!r}",
            fix=f"delete {root.uri}/{DONE} and launch again",
        ) from error
    return document


def _exported(data: bytes, file_format: str) -> tuple[bytes, str]:
    from hpt_dist import weights

    state, metadata = weights.read(data)
    return weights.export(state, metadata["backbone"], file_format)  # type: ignore[arg-type]
