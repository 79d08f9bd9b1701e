"""Named subsets of a dataset, kept beside it: a label budget, a share of a split, or k shots.

```
datasets/<name>/subsets/<subset>.json    format, dataset (digest), split, rule, seed, keys
```
The file is canonical JSON with its keys ascending, so that its digest names the choice. A subset
belongs to one version of its dataset and is refused for any other.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Final, Literal

import numpy as np
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from hpt_dist.datasets import fewshot
from hpt_dist.datasets.manifest import Manifest, canonical_json, read_index, read_manifest, sha256
from hpt_dist.errors import DataError, RequestError, nearest
from hpt_dist.store import Store

FORMAT: Final = 1
FOLDER = "subsets"

# HPT, arXiv 2103.12718: 1,000 labels (figure 3), 1, 10 and 25 % (figure 6), and on DomainNet's
# domains the totals of labelled target images behind the "shots" of its table 3.
PAPER_LABELS = 1000
PAPER_PERCENTS = (1, 10, 25)
PAPER_BUDGETS = (345, 3795, 5470, 7883, 11362, 16376, 23603)
_DOMAINNET_CLASSES = 345

_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
_NAME = re.compile(r"(?!manifest$)[A-Za-z0-9_][A-Za-z0-9._-]*")
_READERS = 8
SUBSET_FILE = re.compile(rf"{FOLDER}/[^/]+\.json")
_FIX = "delete it and choose it again: hpt-dist data subset"
Kind = Literal["labels", "percent", "shots"]


@dataclass(frozen=True, config=_STRICT)
class SubsetRule:
    """How many images are chosen: `labels` in all, `percent` of all, or `shots` of each class."""

    kind: Kind
    amount: int | float

    @classmethod
    def from_number(cls, kind: Kind, amount: float) -> SubsetRule:
        """Return a rule with whole amounts as integers: 10.0 is stored as 10.

        Raises:
            RequestError: the amount is no finite number.
        """
        if not math.isfinite(amount):
            raise RequestError(f"cannot choose {amount} {kind}", allowed="a finite number")
        return cls(kind, int(amount) if float(amount).is_integer() else amount)

    def __str__(self) -> str:
        return f"{self.amount} {self.kind}"


@dataclass(frozen=True, config=_STRICT)
class _SubsetFile:
    """The content of a subset's file."""

    format: Literal[1]
    dataset: str
    split: str
    rule: SubsetRule
    seed: int
    keys: tuple[str, ...]


@dataclass(frozen=True)
class Subset:
    """Some images of one split of a dataset.

    Args:
        name: of the subset.
        dataset: digest of the dataset's manifest.
        split: of the dataset.
        rule: how many images were requested.
        seed: chose them.
        keys: of the images, ascending.
    """

    name: str
    dataset: str
    split: str
    rule: SubsetRule
    seed: int
    keys: tuple[str, ...]

    @cached_property
    def content(self) -> bytes:
        """The bytes of its file."""
        return canonical_json(
            _SubsetFile(FORMAT, self.dataset, self.split, self.rule, self.seed, self.keys)
        )

    @cached_property
    def digest(self) -> str:
        """SHA-256 of its file."""
        return sha256(self.content)


_SUBSET: TypeAdapter[_SubsetFile] = TypeAdapter(_SubsetFile)


class Chooser:
    """Chooses subsets of one split. It reads the split's indexes once.

    Args:
        store: the root of the store.
        manifest: of the dataset.
        split: its name, such as `train`.
        seed: of two subsets of one seed and kind the smaller one is a part of the larger one.
        progress: called with (shards read, shards).

    Raises:
        RequestError: there is no such split.
        DataError: an index is damaged.
    """

    def __init__(
        self,
        store: Store,
        manifest: Manifest,
        split: str,
        seed: int = 0,
        progress: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> None:
        manifest.images(split)
        self._manifest, self._split, self._seed = manifest, split, seed
        self._keys: list[str] = []
        self._labels: list[int | tuple[int, ...]] = []
        folder = manifest.shards_in(store.at(f"datasets/{manifest.name}"))
        shards, classes = manifest.splits[split].shards, len(manifest.classes)
        with ThreadPoolExecutor(_READERS) as threads:
            indexes = threads.map(lambda shard: read_index(folder, shard, classes), shards)
            for done, index in enumerate(indexes, start=1):
                self._keys += index.keys
                self._labels += index.labels
                progress(done, len(shards))

    def choose(self, name: str, rule: SubsetRule) -> Subset:
        """Choose a subset; nothing is written.

        Raises:
            RequestError: the name cannot be used, or the dataset cannot satisfy the rule.
        """
        if not _NAME.fullmatch(name):
            raise RequestError(
                f"{name!r} cannot name a subset",
                allowed="letters, digits, '.', '_' and '-', other than `manifest`",
            )
        keys = tuple(sorted(self._keys[row] for row in self._rows(rule).tolist()))
        return Subset(name, self._manifest.digest, self._split, rule, self._seed, keys)

    def _rows(self, rule: SubsetRule) -> fewshot.Indices:
        if rule.kind == "percent":
            return fewshot.percent(self._keys, rule.amount, self._seed)
        if self._manifest.label == "none":
            raise RequestError(
                f"{self._manifest.name} has no labels",
                fix="--percent chooses a share of any dataset",
            )
        labels: fewshot.Labels = self._labels
        if self._manifest.label == "single":
            labels = np.array(self._labels, np.int64)
        by_rule = {"labels": fewshot.n_labels, "shots": fewshot.k_shot}[rule.kind]
        return by_rule(labels, len(self._manifest.classes), int(rule.amount), self._seed)


def write_subset(store: Store, name: str, subset: Subset) -> str:
    """Write a subset beside its dataset, unless it already exists.

    A subset of the same name that belongs to an earlier version of the dataset is replaced.

    Args:
        store: the root of the store.
        name: of the dataset.
        subset: from `Chooser.choose`.

    Returns:
        The path in the store.

    Raises:
        RequestError: another subset has this name.
    """
    path = _path(name, subset.name)
    if store.stat(path) is not None:
        existing = _parse(store.get(path), f"{store.uri}/{path}", subset.name)
        if existing == subset:
            return path
        if existing.dataset == subset.dataset:
            raise RequestError(
                f"another subset {subset.name} exists: {describe(existing)}",
                where=f"{store.uri}/{path}",
                fix="choose another name, or delete that file",
            )
    store.put(path, subset.content)
    return path


def read_subset(store: Store, name: str, subset_name: str) -> Subset:
    """Read a subset and check that it belongs to the dataset as it is now.

    Args:
        store: the root of the store.
        name: of the dataset, such as `domainnet/real`.
        subset_name: such as `labels-1000`.

    Raises:
        RequestError: there is no such dataset or subset.
        DataError: it is damaged, or was chosen from another version of the dataset.
    """
    digest = read_manifest(store, name).digest
    path = _path(name, subset_name)
    if not _NAME.fullmatch(subset_name) or store.stat(path) is None:
        known = subset_names(store, name)
        raise RequestError(
            f"the dataset {name} has no subset {subset_name}",
            where=store.uri,
            allowed=", ".join(known) or "none yet",
            fix=nearest(subset_name, known) or "hpt-dist data subset URI NAME creates one",
        )
    where = f"{store.uri}/{path}"
    subset = _parse(store.get(path), where, subset_name)
    if subset.dataset != digest:
        raise DataError(
            f"the subset {subset_name} was chosen from another version of {name}: "
            f"manifest {subset.dataset[:12]}, and now it is {digest[:12]}",
            where=where,
            fix=f"choose it again: hpt-dist data subset {store.uri}/datasets/{name} "
            f"{subset_name} {_options(subset)}",
        )
    return subset


def subset_names(store: Store, name: str) -> list[str]:
    """Return the names of a dataset's subsets, sorted."""
    folder = _path(name, "").removesuffix(".json")
    paths = [info.path.removeprefix(folder) for info in store.list(folder)]
    names = [path.removesuffix(".json") for path in paths if path.endswith(".json")]
    return [name for name in names if _NAME.fullmatch(name)]


def paper_rules(manifest: Manifest) -> dict[str, SubsetRule]:
    """Return the subsets that the paper draws from a dataset, by name.

    1,000 labels need labels, and the seven budgets the 345 classes of a domain of DomainNet.
    """
    rules = {f"percent-{share}": SubsetRule("percent", share) for share in PAPER_PERCENTS}
    budgets: tuple[int, ...] = (PAPER_LABELS,) if manifest.label != "none" else ()
    if manifest.label == "single" and len(manifest.classes) == _DOMAINNET_CLASSES:
        budgets += PAPER_BUDGETS
    return rules | {f"labels-{count}": SubsetRule("labels", count) for count in sorted(budgets)}


def describe(subset: Subset) -> str:
    """Describe a subset in words."""
    return f"{subset.rule} of {subset.split}, seed {subset.seed}, {len(subset.keys):,} images"


def _options(subset: Subset) -> str:
    rule = subset.rule
    return f"--{rule.kind} {rule.amount} --split {subset.split} --seed {subset.seed}"


def _path(name: str, subset_name: str) -> str:
    return f"datasets/{name}/{FOLDER}/{subset_name}.json"


def _parse(data: bytes, where: str, subset_name: str) -> Subset:
    """Parse the file of a subset; any file but the canonical one is damaged."""
    try:
        file = _SUBSET.validate_json(data)
    except ValidationError as error:
        raise DataError("damaged subset, or of an unknown format", where=where, fix=_FIX) from error
    subset = Subset(subset_name, file.dataset, file.split, file.rule, file.seed, file.keys)
    if subset.content != data or list(file.keys) != sorted(set(file.keys)):
        raise DataError("damaged subset: not as it was written", where=where, fix=_FIX)
    return subset
