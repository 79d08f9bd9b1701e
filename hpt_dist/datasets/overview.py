"""The datasets of a store at a glance, those that are unfinished or damaged too."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from hpt_dist.datasets.manifest import Manifest, read_manifest
from hpt_dist.errors import DataError, StoreError
from hpt_dist.store import ObjectInfo, Store

FOLDER = "datasets"
_MANIFEST = "manifest.json"
_READERS = 16
UNFINISHED = "not finished: run the same shard again"
_NO_DATASET = "no dataset: shard writes one from images"
# Of a shard that is not in a finished dataset: its folder is the split, or the version that a
# dataset is replaced by, and then the split.
_SHARD = re.compile(r"(.+?)/(?:version-[0-9a-f]{12}/)?[^/]+/[^/]+-\d{6}\.[a-z.]+")


@dataclass(frozen=True)
class Listed:
    """A dataset of a store.

    Args:
        name: in the store.
        bytes: of all objects in its folder.
        modified_s: when its manifest, or the last of its objects, was written; Unix time.
        manifest: None where it is unfinished or damaged.
        fault: what is wrong with it then.
    """

    name: str
    bytes: int
    modified_s: float
    manifest: Manifest | None
    fault: str = ""

    @property
    def written(self) -> str:
        """The time of `modified_s`, ISO 8601, UTC; empty where the store does not say it."""
        if not self.modified_s:
            return ""
        return datetime.fromtimestamp(self.modified_s, UTC).isoformat(timespec="seconds")

    def as_json(self) -> dict[str, Any]:
        """Return it for `--json`."""
        facts = {"name": self.name, "bytes": self.bytes, "written": self.written}
        if self.manifest is None:
            return facts | {"fault": self.fault}
        return facts | {
            "digest": self.manifest.digest,
            "label": self.manifest.label,
            "classes": len(self.manifest.classes),
            "splits": {name: split.images for name, split in self.manifest.splits.items()},
            "left_out": len(self.manifest.quarantined),
            "source": self.manifest.source.name,
        }


def objects(infos: Iterable[ObjectInfo]) -> dict[str, list[ObjectInfo]]:
    """Return the objects below `datasets/` by the dataset that they belong to.

    What belongs to none, such as a stray file, is under the name of its folder. A dataset may lie
    below another one: `birds/photos` and `birds`.

    Args:
        infos: of the root of a store, in any order.
    """
    inside = [info for info in infos if info.path.startswith(f"{FOLDER}/")]
    ending = f"/{_MANIFEST}"
    finished = {
        info.path.removeprefix(f"{FOLDER}/").removesuffix(ending)
        for info in inside
        if info.path.endswith(ending)
    }
    found: dict[str, list[ObjectInfo]] = {}
    for info in inside:
        found.setdefault(_owner(info.path.removeprefix(f"{FOLDER}/"), finished), []).append(info)
    return dict(sorted(found.items()))


def _owner(path: str, finished: set[str]) -> str:
    folder = path
    while "/" in folder:
        folder = folder.rpartition("/")[0]
        if folder in finished:
            return folder
    shard = _SHARD.fullmatch(path)
    return shard[1] if shard else path.rpartition("/")[0] or path


def datasets(store: Store) -> list[Listed]:
    """Return the datasets of a store by name.

    Raises:
        StoreError: the store cannot be read.
    """
    return listed(store, objects(store.list(f"{FOLDER}/")))


def listed(store: Store, found: Mapping[str, list[ObjectInfo]]) -> list[Listed]:
    """Return datasets whose objects are known; see `objects`."""
    with ThreadPoolExecutor(_READERS) as threads:
        return list(threads.map(lambda item: _listed(store, *item), found.items()))


def _listed(store: Store, name: str, infos: list[ObjectInfo]) -> Listed:
    size = sum(info.bytes for info in infos)
    manifests = [info for info in infos if info.path == f"{FOLDER}/{name}/{_MANIFEST}"]
    modified_s = max(info.modified_s for info in manifests or infos)
    if not manifests:
        below = f"{FOLDER}/"
        is_begun = any(_SHARD.fullmatch(info.path.removeprefix(below)) for info in infos)
        return Listed(name, size, modified_s, None, UNFINISHED if is_begun else _NO_DATASET)
    try:
        return Listed(name, size, modified_s, read_manifest(store, name))
    except (DataError, StoreError) as error:
        return Listed(name, size, modified_s, None, error.problem.what)
