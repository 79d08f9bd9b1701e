"""What no launch and no recipe needs: found, and deleted where that is still so.

A trial is deleted under its lease, so that none runs meanwhile, and while nobody submits jobs. The
launches are read once more right before: one that began in between keeps its trials. `DONE` goes
first: whatever is left after a kill counts as unfinished, and is found again.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from hpt_dist.datasets import overview
from hpt_dist.datasets.overview import Listed
from hpt_dist.datasets.shard_target import MANIFEST, SHARD_FILE
from hpt_dist.datasets.subset import SUBSET_FILE
from hpt_dist.errors import HptError, RequestError
from hpt_dist.launch import launches, on_slurm, runs
from hpt_dist.launch.sharding import id_of
from hpt_dist.launch.survey import looked_up
from hpt_dist.launch.usage import STAGES, trial_objects
from hpt_dist.slurm import jobs as slurm_jobs
from hpt_dist.store import ObjectInfo, Store, lease, records
from hpt_dist.store.paths import DONE, FEATURES, LAUNCHES, LEASE, stage_prefix
from hpt_dist.train.checkpoint import Checkpoints
from hpt_dist.trial import alike
from hpt_dist.trial.records import Launch

# A dataset that was written lately may be about to be used, or is still being written.
YOUNG_S = 24 * 3600.0
# A lease that was not renewed for so long is worth watching for a minute.
_SILENT_S = 600.0
Kind = Literal["launch", "trial", "saved states", "drafts", "features", "dataset", "old version"]


@dataclass(frozen=True)
class Item:
    """What may go.

    Args:
        kind: of thing.
        name: a launch's id, a trial's key, that of features, a dataset's name.
        bytes: that it holds.
        why: in words.
        objects: of a dataset, at the time of the listing.
    """

    kind: Kind
    name: str
    bytes: int
    why: str
    objects: Sequence[ObjectInfo] = field(default=(), repr=False)

    def as_json(self) -> dict[str, str | int]:
        """Return it for `--json`."""
        return {"kind": self.kind, "name": self.name, "bytes": self.bytes, "why": self.why}


@dataclass(frozen=True)
class Needs:
    """What is needed besides what launches name.

    Args:
        keys: of trials.
        digests: of datasets.
    """

    keys: Collection[str] = ()
    digests: Collection[str] = ()


def find(
    store: Store, needs: Needs, forget: Sequence[str] = (), datasets: bool = False
) -> list[Item]:
    """Return what no launch and no recipe needs.

    Args:
        store: the root of the store.
        needs: of recipes.
        forget: ids of launches that are no longer needed.
        datasets: whether datasets may go.

    Raises:
        RequestError: there is no such launch, it has not ended, or a record is damaged.
        StoreError: the store cannot be read.
    """
    known = _every_launch(store)
    forgotten = _forgotten(store, known, forget)
    kept = [one for one in known if one.id not in forget]
    infos = list(store.list(STAGES))
    return [
        *forgotten,
        *_trials(store, infos, _needed(store, kept) | set(needs.keys)),
        *_features(store),
        *(_datasets(store, kept, needs.digests) if datasets else ()),
    ]


def _every_launch(store: Store) -> list[Launch]:
    """Return all launches; a record that cannot be read may name any trial."""
    paths = [one.path for one in store.list(f"{LAUNCHES}/") if one.path.endswith(".json")]
    known = launches.launches(store)
    names = {f"{LAUNCHES}/{one.id}.json" for one in known}
    if damaged := [path for path in paths if path not in names]:
        raise RequestError(
            "nobody can tell which trials a damaged launch needs",
            where=", ".join(f"{store.uri}/{path}" for path in damaged),
            fix="repair or delete the record",
        )
    return known


def _forgotten(store: Store, known: Sequence[Launch], forget: Sequence[str]) -> list[Item]:
    by_id = {one.id: one for one in known}
    if unknown := [name for name in forget if name not in by_id]:
        raise RequestError(
            f"no launch {unknown[0]} in {store.uri}",
            where="--forget",
            allowed=", ".join(by_id) or "none",
            fix="name a launch by its id: hpt-dist runs lists them",
        )
    items = []
    for run in runs.of(store, [by_id[name] for name in forget]):
        if run.state in ("running", "queued", "unknown"):
            raise RequestError(
                f"{run.launch.id} is {run.state}",
                where="--forget",
                fix=f"hpt-dist cancel {run.launch.id}",
            )
        notes = store.list(f"{LAUNCHES}/{run.launch.id}.")
        items.append(
            Item("launch", run.launch.id, sum(one.bytes for one in notes), "to be forgotten")
        )
    return items


def _needed(store: Store, known: Sequence[Launch]) -> set[str]:
    """Return the keys that launches name, and those of jobs in Slurm's queue."""
    return {key for one in known for key in one.trials.values()} | set(
        slurm_jobs.known_queue(store) or ()
    )


def _trials(store: Store, infos: Sequence[ObjectInfo], needed: Collection[str]) -> Iterator[Item]:
    drafts: dict[str, int] = {}
    for info in store.at(STAGES.rstrip("/")).unfinished():
        key = info.path.partition("/")[0]
        drafts[key] = drafts.get(key, 0) + info.bytes
    for key, those in trial_objects(infos).items():
        if _is_held(store, key, those):
            drafts.pop(key, 0)
            continue
        size = sum(info.bytes for info in those)
        paths = {info.path.removeprefix(f"{STAGES}{key}/"): info.bytes for info in those}
        states = [count for path, count in paths.items() if path.startswith("state/")]
        if key not in needed:
            yield Item("trial", key, size + drafts.pop(key, 0), "of no launch")
        elif DONE in paths and states:
            yield Item("saved states", key, sum(states), "the trial is done")
    for key, size in drafts.items():
        yield Item("drafts", key, size, "begun by a process that ended")


def _features(store: Store) -> Iterator[Item]:
    """Yield the features of backbones that were not written lately: what needs them computes them.

    What reads them may have begun at any time, and finds them or does not.
    """
    found: dict[str, list[ObjectInfo]] = {}
    for info in store.list(f"{FEATURES}/"):
        found.setdefault(info.path.split("/")[1], []).append(info)
    for key, those in found.items():
        if not _is_young(those):
            size = sum(info.bytes for info in those)
            yield Item("features", key, size, "computed again when they are needed")


def _is_held(store: Store, key: str, infos: Sequence[ObjectInfo]) -> bool:
    """Return whether a process of this host works on a trial, or one elsewhere did so lately."""
    path = f"{stage_prefix(key)}/{LEASE}"
    noted = next((info for info in infos if info.path == path), None)
    holder = lease.read(store, path) if noted else None
    if noted is None or holder is None or holder.died:
        return False
    return holder.on_this_host or not _is_old(noted)


def _is_old(noted: ObjectInfo) -> bool:
    """Return whether a lease looks as if its holder had died; only watching it would tell."""
    return 0 < noted.modified_s < time.time() - _SILENT_S


def _datasets(store: Store, known: Sequence[Launch], digests: Collection[str]) -> Iterator[Item]:
    needed = set(digests) | {digest for one in known for digest in _read_by(store, one)}
    found = overview.objects(store.list(f"{overview.FOLDER}/"))
    for one in overview.listed(store, found):
        objects = _own(found[one.name], one.name)
        is_damaged = one.manifest is None and one.fault != overview.UNFINISHED
        if not objects or is_damaged or _is_young(objects):
            continue
        if one.manifest is None or one.manifest.digest not in needed:
            why = one.fault or "no launch of this store used it"
            size = sum(info.bytes for info in objects)
            yield Item("dataset", one.name, size, why, tuple(objects))
        elif old := _of_old_versions(one, objects):
            size = sum(info.bytes for info in old)
            yield Item("old version", one.name, size, "another version took its place", tuple(old))


def _own(objects: Sequence[ObjectInfo], name: str) -> list[ObjectInfo]:
    """Return what sharding wrote for a dataset: other files beside it are their owner's."""
    prefix = f"{overview.FOLDER}/{name}/"
    paths = {info.path.removeprefix(prefix): info for info in objects}
    # A tar without an index may be somebody's own.
    indexed = {path.partition(".")[0] for path in paths if path.endswith(".index.json")}
    return [
        info
        for path, info in paths.items()
        if path == MANIFEST
        or SUBSET_FILE.fullmatch(path)
        or (SHARD_FILE.fullmatch(path) and path.partition(".")[0] in indexed)
    ]


def _read_by(store: Store, launch: Launch) -> Iterator[str]:
    """Yield the digests of the datasets that a launch reads."""
    for name, key in launch.trials.items():
        path = f"{stage_prefix(key)}/spec.json"
        document = launch.settings.get(name) or records.read(store, path, dict[str, Any])
        if document is None:  # the record is one of an earlier version, and it never began
            raise RequestError(
                f"nobody can tell which datasets {launch.id} reads",
                where="--datasets",
                fix=f"--forget {launch.id}, if it is not needed any more",
            )
        yield from document.get("datasets", {}).values()


def _is_young(objects: Sequence[ObjectInfo]) -> bool:
    """Return whether something was written lately; also where the store does not say when."""
    latest = max(info.modified_s for info in objects)
    return not latest or latest > time.time() - YOUNG_S


def _of_old_versions(one: Listed, objects: Sequence[ObjectInfo]) -> list[ObjectInfo]:
    """Return the files of shards that are not those of the manifest."""
    if one.manifest is None:
        return []
    below = f"{one.manifest.folder}/" if one.manifest.folder else ""
    shards = [shard.path for split in one.manifest.splits.values() for shard in split.shards]
    stems = {below + path.removesuffix(".tar") for path in shards}
    prefix = f"{overview.FOLDER}/{one.name}/"
    return [
        info
        for info in objects
        if SHARD_FILE.fullmatch(path := info.path.removeprefix(prefix))
        if path.partition(".")[0] not in stems
    ]


@dataclass(frozen=True)
class Kept:
    """Why something was not deleted after all."""

    item: Item
    why: str


def delete(store: Store, item: Item, needs: Needs) -> Kept | None:
    """Delete what `find` returned, unless it is needed by now or somebody works on it.

    Args:
        store: the root of the store.
        item: what goes.
        needs: see `find`.

    Returns:
        None if it is gone, else why it stays.

    Raises:
        HptError: the store refuses, or another command submits jobs for too long.
    """
    with on_slurm.alone(store):
        if item.kind == "launch":
            record = f"{LAUNCHES}/{item.name}.json"
            notes = [info.path for info in store.list(f"{LAUNCHES}/{item.name}.")]
            for path in sorted(notes, key=lambda path: path != record):
                store.delete(path)
            return None
        if item.kind == "features":
            prefix = f"{FEATURES}/{item.name}"
            for path in [f"{prefix}/{DONE}", *(info.path for info in store.list(f"{prefix}/"))]:
                store.delete(path)
            return None
        if item.kind in ("dataset", "old version"):
            return _delete_dataset(store, item, needs)
        return _delete_of_trial(store, item, needs)


def _delete_of_trial(store: Store, item: Item, needs: Needs) -> Kept | None:
    root = store.at(stage_prefix(item.name))
    noted = root.stat(LEASE)
    patience_s = lease.TTL_S + lease.RENEW_S if noted and _is_old(noted) else 0.0
    try:
        with lease.hold(root, LEASE, patience_s=patience_s):
            if item.kind == "trial":
                if item.name in _needed(store, _every_launch(store)) | set(needs.keys):
                    return Kept(item, "a launch names it now")
                root.delete(DONE)
                for info in list(root.list()):
                    if info.path != LEASE:
                        root.delete(info.path)
            elif item.kind == "saved states":
                Checkpoints(root).clear()
            root.sweep()
    except lease.LeaseTakenError as error:
        return Kept(item, error.problem.what)
    return None


def _delete_dataset(store: Store, item: Item, needs: Needs) -> Kept | None:
    prefix = f"{overview.FOLDER}/{item.name}/"
    if any(store.list(f"{LAUNCHES}/{id_of(store.uri, item.name)}.")):
        return Kept(item, "jobs write it")
    now = {info.path: info for info in store.list(prefix)}
    if any(now.get(info.path) != info for info in item.objects):
        return Kept(item, "it has changed since")
    if item.kind == "dataset" and _is_used(store, item, needs):
        return Kept(item, "a launch uses it now")
    first = prefix + MANIFEST
    for info in sorted(item.objects, key=lambda one: one.path != first):
        store.delete(info.path)
    return None


def _is_used(store: Store, item: Item, needs: Needs) -> bool:
    return item.name not in {
        one.name for one in _datasets(store, _every_launch(store), needs.digests)
    }


def forget_inputs(store: Store, keys: Collection[str]) -> int:
    """Delete the notes of what deleted trials had read; return how many.

    Args:
        store: the root of the store.
        keys: of the trials.
    """

    def stale(path: str) -> bool:
        try:
            return alike.noted(store, path) in keys
        except HptError:
            return False

    paths = [info.path for info in store.list(f"{alike.INPUTS}/")] if keys else []
    gone = [path for path, is_stale in zip(paths, looked_up(stale, paths), strict=True) if is_stale]
    for path in gone:
        store.delete(path)
    return len(gone)
