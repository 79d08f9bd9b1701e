"""Trials that read the same: the second one takes the first one's result.

A trial's key says what was asked for: the document of its settings, with its parent's key. What it
reads is known once its parent is done. A stage that kept the weights that it started from leaves
those of its own parent, so what follows either is one and the same computation.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from typing import Any

from hpt_dist.errors import DataError, HptError
from hpt_dist.recipe.trial import Trial, key_of
from hpt_dist.store import Store, committed
from hpt_dist.store.committed import HEAD, MODEL, WEIGHTS
from hpt_dist.trial import replicates
from hpt_dist.trial.predictions import split_of
from hpt_dist.trial.records import ResultPart, RunPart, SpecPart, document
from hpt_dist.trial.result import Result
from hpt_dist.weights import head

log = logging.getLogger(__name__)

INPUTS = "inputs"
_KEY = re.compile("[0-9a-f]{64}")
_KEY_BYTES = 64


def inputs_of(store: Store, trial: Trial) -> str:
    """Return the digest of all that a trial reads; empty for one without a parent.

    Raises:
        StoreError: the parent's weights are not what it committed.
    """
    if not trial.init:
        return ""
    from hpt_dist.weights.files import content_digest

    weights = {"weights": content_digest(committed.read(store, trial.init, WEIGHTS))}
    # Two that choose from what has read the same choose the same.
    read = [key_of({**one.document, "init": weights}) for one in trial.candidates]
    return key_of({**trial.document, "init": weights} | ({"candidates": read} if read else {}))


def find(store: Store, trial: Trial, inputs: str) -> tuple[str, Result] | None:
    """Return the key of a finished trial that read the same, and what it left.

    None if there is none, or it is damaged.

    Args:
        store: where both are.
        trial: that is about to run.
        inputs: what it reads; see `inputs_of`.
    """
    place = f"{INPUTS}/{inputs}"
    if not inputs or (info := store.stat(place)) is None:
        return None
    try:
        key = store.get(place).decode("ascii", "replace") if info.bytes == _KEY_BYTES else ""
        if not _KEY.fullmatch(key):
            raise DataError("it names no trial", where=f"{store.uri}/{place}")
        # The index alone is not believed: its trial must have been asked for the same.
        settings = document(store, key, "spec.json", SpecPart)
        if _settings(settings) != _settings(trial.document):
            raise DataError(f"trial {key[:12]} has other settings", where=f"{store.uri}/{place}")
        return key, left_by(store, key)
    except HptError as error:
        log.warning("another trial has read the same, but cannot be used: %s", error)
        return None


def noted(store: Store, path: str) -> str:
    """Return the key of the trial that a note of inputs names.

    Raises:
        StoreError: there is no such note, or it cannot be read.
    """
    return store.get(path).decode("ascii", "replace")


def note(store: Store, inputs: str, key: str) -> None:
    """Note that a trial is done, for those that will read the same."""
    if inputs:
        store.put(f"{INPUTS}/{inputs}", key.encode())


def _settings(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a document without the keys of what its trial reads."""
    return {name: one for name, one in document.items() if name not in ("init", "candidates")}


def left_by(store: Store, key: str) -> Result:
    """Return what a finished trial left.

    Raises:
        StoreError: it is not done, or something is not what it committed.
    """
    from hpt_dist.weights import files

    there = committed.digests(store, key)
    done = committed.done(store, key)
    result = document(store, key, "result.json", ResultPart)
    run = document(store, key, "run.json", RunPart)

    def files_that(fit: Callable[[str], object]) -> dict[str, bytes]:
        return {name: committed.read(store, key, name) for name in there if fit(name)}

    weights = files_that(lambda name: name in (WEIGHTS, MODEL))
    tensors = {name: files.read(data)[0] for name, data in weights.items()}
    return Result(
        result["metrics"],
        result["details"],
        weights=tensors.get(WEIGHTS),
        model=tensors.get(MODEL),
        head=head.read(committed.read(store, key, HEAD), HEAD)[0] if HEAD in there else None,
        numerics=str(run.get("numerics", "")),
        replaced=result.get("replaced", ()),
        chose=done.chose if done else "",
        taken=files_that(split_of),
        replicates=replicates.read(store, key),
        out=str(result["details"].get("out", "")),
        pictures=files_that(lambda name: name.endswith(".webp") or name.startswith("detection.")),
        detections=files_that(lambda name: name.startswith("detections.")),
    )
