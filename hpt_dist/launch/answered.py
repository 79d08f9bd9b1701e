"""What a finished trial answered: its predictions out of the store, and the images they are of."""

from __future__ import annotations

from collections.abc import Collection

from hpt_dist.datasets.manifest import read_manifest
from hpt_dist.datasets.preview import Thumbnail, thumbnails_of
from hpt_dist.errors import HptError, RequestError
from hpt_dist.recipe import KINDS
from hpt_dist.store import Store, committed, open_store
from hpt_dist.store.paths import stage_prefix
from hpt_dist.trial.predictions import file_of, split_of
from hpt_dist.trial.predictions_file import Answer, Facts, read
from hpt_dist.trial.records import RunPart, SpecPart, document


def predictions(store: Store, name: str, key: str, split: str) -> tuple[Facts, list[Answer]]:
    """Return what a finished trial answered to the images of a split.

    Args:
        store: where it ran.
        name: of the trial, for messages.
        key: of the trial.
        split: that it was evaluated on.

    Raises:
        RequestError: it left no predictions of the split.
        StoreError: they are not what it committed.
        DataError: they are in no form that this version knows.
    """
    left = committed.digests(store, key)
    file = file_of(split)
    if file not in left:
        raise _lacking(store, name, key, [one for one in map(split_of, left) if one], split)
    return read(committed.read(store, key, file), f"{store.uri}/{stage_prefix(key)}/{file}")


def _lacking(store: Store, name: str, key: str, splits: list[str], split: str) -> RequestError:
    if splits:
        what = f"{name} left no predictions of {split}"
        return RequestError(what, where="--split", allowed=", ".join(sorted(splits)))
    kind = str(document(store, key, "spec.json", SpecPart).get("spec", {}).get("kind", ""))
    if kind in KINDS and KINDS[kind].LEAVES == "weights":
        return RequestError(
            f"{name} ({kind}) names no classes, and leaves no predictions",
            fix="name a trial that evaluates what it left, such as one of knn, linear or finetune",
        )
    return RequestError(
        f"{name} left no predictions: an earlier version evaluated it, or {kind} leaves none",
        fix=f"{committed.undone_by(store, key)} and launch again: it is computed anew",
    )


def thumbnails(
    store: Store, key: str, facts: Facts, keys: Collection[str]
) -> tuple[dict[str, Thumbnail], str]:
    """Return images that a trial answered, by key, or why they cannot be shown.

    Args:
        store: where the trial ran.
        key: of the trial.
        facts: of its predictions.
        keys: of the images.
    """
    stores = document(store, key, "run.json", RunPart).get("stores", {})
    try:
        own = stores.get(facts.dataset)
        place = open_store(own) if own else store
        manifest = read_manifest(place, facts.dataset)
        if manifest.digest != facts.digest:
            return {}, f"the dataset {facts.dataset} in {place.uri} is another one now."
        found = thumbnails_of(place, manifest, facts.split, keys)
    except HptError as error:
        where = f" ({error.problem.where})" if error.problem.where else ""
        return {}, f"{error.problem.what}{where}."
    return found, ""
