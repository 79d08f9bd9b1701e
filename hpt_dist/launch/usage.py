"""What a store holds, in bytes: by launch and by dataset."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hpt_dist.datasets import overview
from hpt_dist.datasets.overview import Listed
from hpt_dist.launch.launches import launches
from hpt_dist.reading.node_cache import default_folder
from hpt_dist.store import ObjectInfo, Store
from hpt_dist.store.paths import FEATURES, stage_prefix
from hpt_dist.trial.records import Launch

STAGES = stage_prefix("")
_STATES = "/state/"
_RECORDS = ("launches/", "inputs/", "sharding/", "STORE")
# Parts of a work folder, as docs/architecture.md names them.
_WORK = {
    "trials": "logs and metrics",
    "jobs": "scripts and logs of jobs",
    "reports": "reports",
    "mlflow.db": "MLflow",
    "mlartifacts": "MLflow",
}


@dataclass(frozen=True)
class OfLaunch:
    """What the trials of a launch hold.

    Args:
        id: of the launch.
        trials: how many it has.
        bytes: of all of them, those that other launches have too included.
        shared_bytes: of the trials that other launches have too.
    """

    id: str
    trials: int
    bytes: int
    shared_bytes: int


@dataclass(frozen=True)
class Usage:
    """What a store holds, in bytes.

    Args:
        launches: oldest first.
        trials: of all trials, each counted once.
        states: of those, what trials that are not done need to go on.
        unnamed: of those, what is of no launch.
        datasets: by name.
        unfinished: what writers have begun and not finished; not part of the total.
        features: of frozen backbones, which trials share; they can be computed again.
        records: of launches and shardings.
        other: what is none of these.
        total: of all objects, without the work folder.
        work: the local work folder, by what it is for.
        cache: this node's cache of shards of remote stores.
    """

    launches: Sequence[OfLaunch]
    trials: int
    states: int
    unnamed: int
    datasets: Sequence[Listed]
    unfinished: int
    features: int
    records: int
    other: int
    total: int
    work: Mapping[str, int]
    cache: int

    def as_json(self) -> dict[str, Any]:
        """Return it for `--json`."""
        datasets = [one.as_json() for one in self.datasets]
        return asdict(self) | {"datasets": datasets}


def trial_objects(infos: Iterable[ObjectInfo]) -> dict[str, list[ObjectInfo]]:
    """Return the objects of trials by the trials' keys."""
    found: dict[str, list[ObjectInfo]] = {}
    for info in infos:
        if info.path.startswith(STAGES):
            key = info.path.removeprefix(STAGES).partition("/")[0]
            found.setdefault(key, []).append(info)
    return found


def of(store: Store, work: Path) -> Usage:
    """Return what a store holds; of a store on S3, one listing of all of it.

    Args:
        store: its root.
        work: the local work folder.

    Raises:
        StoreError: it cannot be read.
    """
    inside = _prefix_inside(store, work)
    infos = [one for one in store.list() if not inside or not one.path.startswith(inside)]
    trials = trial_objects(infos)
    sizes = {key: _size(those) for key, those in trials.items()}
    known = launches(store)
    datasets = overview.listed(store, overview.objects(infos))
    of_launches = list(_of_launches(known, sizes))
    named = {key for launch in known for key in launch.trials.values()}
    of_trials, of_datasets = sum(sizes.values()), sum(one.bytes for one in datasets)
    records = _size(one for one in infos if one.path.startswith(_RECORDS))
    of_features = _size(one for one in infos if one.path.startswith(f"{FEATURES}/"))
    total = _size(infos)
    return Usage(
        launches=of_launches,
        trials=of_trials,
        states=_size(one for those in trials.values() for one in those if _STATES in one.path),
        unnamed=sum(size for key, size in sizes.items() if key not in named),
        datasets=datasets,
        unfinished=_size(store.unfinished()),
        features=of_features,
        records=records,
        other=total - of_trials - of_datasets - of_features - records,
        total=total,
        work=_of_work(work),
        cache=sum(size for _, size in _files(default_folder())),
    )


def _prefix_inside(store: Store, work: Path) -> str:
    """Return the prefix of a work folder that lies in the store; empty if it lies elsewhere."""
    if not store.folder or not work.is_relative_to(store.folder):
        return ""
    return f"{work.relative_to(store.folder).as_posix()}/"


def _size(infos: Iterable[ObjectInfo]) -> int:
    return sum(info.bytes for info in infos)


def _of_launches(known: Sequence[Launch], sizes: Mapping[str, int]) -> Iterable[OfLaunch]:
    users = Counter(key for launch in known for key in set(launch.trials.values()))
    for launch in known:
        keys = set(launch.trials.values())
        shared = sum(sizes.get(key, 0) for key in keys if users[key] > 1)
        yield OfLaunch(launch.id, len(keys), sum(sizes.get(key, 0) for key in keys), shared)


def _of_work(work: Path) -> dict[str, int]:
    found: Counter[str] = Counter()
    for path, size in _files(work):
        found[_WORK.get(path.relative_to(work).parts[0], "other")] += size
    return dict(found)


def _files(folder: Path) -> Iterable[tuple[Path, int]]:
    """Yield the files below a folder with their sizes; none if it does not exist."""
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place, name)
            try:
                yield path, path.lstat().st_size
            except FileNotFoundError:  # deleted in between
                continue
