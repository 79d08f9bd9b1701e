"""What finished trials left gets out of the store: digests checked, with how to load it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpt_dist.errors import HptError, RequestError
from hpt_dist.launch import model_cards
from hpt_dist.report import card
from hpt_dist.store import Store, committed, files
from hpt_dist.store.committed import HEAD, MODEL, RESULT, WEIGHTS
from hpt_dist.train.averages import of_details
from hpt_dist.trial.records import Launch, ResultPart, SpecPart, document
from hpt_dist.weights import loading_note
from hpt_dist.weights.loading_note import BACKBONE
from hpt_dist.weights.source import FORMATS as FORMATS


@dataclass(frozen=True)
class Pulled:
    """What was copied.

    Args:
        files: all that were written.
        notes: what to know of them, a line each.
    """

    files: list[Path]
    notes: list[str]


@dataclass(frozen=True)
class _Left:
    """What a finished trial left.

    Args:
        name: of the trial.
        key: of the trial.
        spec: its spec.json.
        objects: that it committed.
    """

    name: str
    key: str
    spec: Mapping[str, Any]
    objects: Sequence[str]

    @property
    def kind(self) -> str:
        """The kind of its stage."""
        return str(self.spec.get("spec", {}).get("kind", ""))

    @property
    def backbone(self) -> tuple[str, str, str] | None:
        """The (trial, object, name of the copy) of a backbone that is copied with it."""
        if WEIGHTS in self.objects:
            return self.key, WEIGHTS, WEIGHTS
        judged = HEAD in self.objects and MODEL not in self.objects
        return (self.spec["init"], WEIGHTS, BACKBONE) if judged else None


def pull(
    store: Store, launch: Launch, names: Sequence[str], destination: Path, file_format: str
) -> Pulled:
    """Copy weights and results of finished trials into a folder, digests checked.

    Of an evaluation that left only a head, the backbone that it judged is copied too. A model card
    lies beside weights.

    Args:
        store: where the launch ran.
        launch: which launch.
        names: trial names.
        destination: a folder, made if needed; one sub-folder for each trial if there are several.
        file_format: one of FORMATS: safetensors is as stored; see `exports` for the others.

    Raises:
        RequestError: a trial is not done yet, its backbone cannot be written in the format, or
            its folder holds another trial; nothing was written.
        StoreError: an object is not what `DONE` says, or that is damaged.
    """
    found = [_left(store, launch, name) for name in names]
    if file_format != "safetensors":
        _require(found, file_format)
    folders = [
        destination / one.name.replace("/", "-") if len(names) > 1 else destination for one in found
    ]
    for one, folder in zip(found, folders, strict=True):
        _refuse_another(folder, one)
    pulled = Pulled([], [])
    cards = _cards(store, launch, names, pulled)
    for one, folder in zip(found, folders, strict=True):
        contents = _contents(store, one, file_format)
        where = (one.name, launch.id, one.spec, folder)
        several = HEAD in contents and _judges_several(store, one)
        average = _average(store, one)
        note = loading_note.text(
            *where, tuple(contents), file_format, several=several, average=average
        )
        if average:
            pulled.notes.append(f"{one.name}: its weights are an average, {average}")
        if note:
            contents[loading_note.FILE] = note.encode()
            pulled.notes.append(f"how to load it: {folder / loading_note.FILE}")
            if HEAD in contents:
                pulled.notes.extend(["", *loading_note.three_lines(folder, several=several), ""])
            if one.name in cards:
                contents[card.FILE] = cards[one.name].encode()
        for path, content in contents.items():
            files.replace(folder / path, content)
            pulled.files.append(folder / path)
        pulled.notes.extend(_missing(store, one))
    return pulled


def _cards(store: Store, launch: Launch, names: Sequence[str], pulled: Pulled) -> dict[str, str]:
    """Return the model cards; a result of another trial that is damaged keeps no weights back."""
    try:
        return model_cards.texts(store, launch, names)
    except HptError as error:
        pulled.notes.append(f"no {card.FILE}: {error.problem.what}")
        return {}


def _refuse_another(folder: Path, one: _Left) -> None:
    """Raise RequestError if a folder holds another trial: its files would be taken for this one's.

    A classifier of before, for example, beside other weights.
    """
    path = folder / RESULT
    try:
        there = json.loads(path.read_bytes())
        key, name = there["key"], there["trial"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    if key != one.key:
        raise RequestError(
            f"it holds {name} of key {str(key)[:12]}, and {one.name} is {one.key[:12]}",
            where=str(folder),
            fix="name another folder, or delete this one",
        )


def _left(store: Store, launch: Launch, name: str) -> _Left:
    key = launch.trials[name]
    if committed.done(store, key) is None:
        raise RequestError(f"{name} is not done", fix=f"hpt-dist status {launch.id}")
    spec = document(store, key, "spec.json", SpecPart)
    return _Left(name, key, spec, tuple(committed.digests(store, key)))


def _contents(store: Store, one: _Left, file_format: str) -> dict[str, bytes]:
    """Return the files of a trial by name, its backbone in a format."""
    contents = {
        name: committed.read(store, one.key, name) for name in one.objects if name != WEIGHTS
    }
    if one.backbone:
        key, name, copy = one.backbone
        data = committed.read(store, key, name)
        if file_format == "safetensors" or copy == BACKBONE:
            contents[copy] = data
        if file_format != "safetensors":
            contents |= _exported(data, file_format)
    if one.kind == "detect" and file_format != "safetensors":
        contents |= _exported_detector(contents[MODEL], one.spec, file_format)
    return contents


def _judges_several(store: Store, one: _Left) -> bool:
    """Return whether an evaluation is of several labels an image; of one, it has a top-1."""
    metrics = document(store, one.key, RESULT, ResultPart)["metrics"]
    return not any(name.endswith("/top1") for name in metrics)


def _average(store: Store, one: _Left) -> str:
    """Return which average a trial's weights are; empty where a step left them, or its start."""
    if WEIGHTS not in one.objects:
        return ""
    average = of_details(document(store, one.key, RESULT, ResultPart)["details"])
    return str(average) if average else ""


def _missing(store: Store, one: _Left) -> list[str]:
    """Return why an evaluation brings no classifier."""
    if one.kind == "knn":
        return [f"{one.name}: neighbours have no classifier to load; a linear stage leaves one"]
    if one.kind == "mme" and HEAD not in one.objects:
        what = f"an earlier version left no {HEAD}, so load_classifier cannot load it"
        return [f"{one.name}: {what}; {loading_note.FILE} says what {MODEL} holds"]
    if one.kind not in ("linear", "finetune") or HEAD in one.objects:
        return []
    return [
        f"{one.name}: an earlier version evaluated this and kept no classifier; "
        f"{committed.undone_by(store, one.key)} and launch again to get it"
    ]


def _require(found: Sequence[_Left], file_format: str) -> None:
    """Refuse a format that a backbone or a detector cannot be written in."""
    from hpt_dist.weights import detectors, exports

    for backbone in {one.spec["backbone"] for one in found if one.backbone}:
        exports.require(backbone, file_format)
    for one in found:
        if one.kind == "detect":
            architecture = one.spec["spec"]["architecture"]
            detectors.require(one.spec["backbone"], architecture, file_format)


def _exported(data: bytes, file_format: str) -> dict[str, bytes]:
    from hpt_dist.weights import exports
    from hpt_dist.weights import match as weights

    state, metadata = weights.read(data)
    return exports.export(state, metadata["backbone"], file_format)


def _exported_detector(data: bytes, spec: Mapping[str, Any], file_format: str) -> dict[str, bytes]:
    from hpt_dist.weights import detectors
    from hpt_dist.weights import match as weights

    settings = spec["spec"]
    sizes = len(settings["anchor_sizes"]) if settings["architecture"] == "c4" else 1
    return detectors.export(
        weights.read(data)[0],
        spec["backbone"],
        settings["architecture"],
        file_format,
        sizes=sizes,
        ratios=len(settings["anchor_ratios"]),
    )
