"""The JSON files that describe a dataset: its manifest, and the index of each shard.

This module reads and writes them; `shards.py` fills them, `verify.py` checks the tars against them.

```
datasets/<name>/manifest.json                          counts, classes, mean and std, digests
datasets/<name>/<split>/<stem>-<split>-000000.tar      plain WebDataset, see below
datasets/<name>/<split>/<stem>-<split>-000000.index.json
```
`<stem>` is the last part of the name. A tar holds KEY.jpg or KEY.png, then KEY.cls with the class
id of a single label, or KEY.json with `{"labels": [ids], ...}` of several and the rest of the
source's annotation (see `sources.sample.Sample`). Both JSON files are canonical, so that
equal contents are equal bytes and the digest of a manifest names a dataset.
"""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from typing import Any, Final, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from pydantic_core import to_jsonable_python

from hpt_dist.errors import DataError, RequestError, nearest
from hpt_dist.store import Store

FORMAT: Final = 2
NO_LABEL = -1
_READS = 2  # a file may arrive damaged by the network: it counts as damaged after two reads

_STRICT = ConfigDict(extra="forbid", strict=True)


@dataclass(frozen=True, config=_STRICT)
class Shard:
    """One tar and its index; paths are below the dataset's folder."""

    path: str
    images: int
    bytes: int
    sha256: str
    index: str
    index_sha256: str


@dataclass(frozen=True, config=_STRICT)
class Split:
    """The shards of one split in order, and how many of its images belong to each class."""

    images: int
    class_counts: tuple[int, ...]
    shards: tuple[Shard, ...]


@dataclass(frozen=True, config=_STRICT)
class Origin:
    """Where the images come from, whom to credit, and how they were chosen and split."""

    name: str
    licence: str
    credit: str
    rule: str


@dataclass(frozen=True, config=_STRICT)
class Quarantined:
    """An image of the source that is not in the dataset."""

    origin: str
    reason: str


@dataclass(frozen=True, config=_STRICT)
class Manifest:
    """A dataset.

    Args:
        format: version of this file's format.
        name: the dataset's name in its store.
        label: "single", one class for each image (-1 where it has none), "multi", any number of
            classes, or "none".
        metric: the metric of its evaluations: "top1", "auroc", or empty without labels.
        classes: class names in the order of their ids.
        mean: of the red, green and blue of all pixels of train (without it: of all), 0 to 1.
        std: the standard deviation of the same pixels.
        source: where the images come from.
        splits: by name.
        quarantined: images that do not decode, sorted.
    """

    format: Literal[2]
    name: str
    label: Literal["single", "multi", "none"]
    metric: str
    classes: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    source: Origin
    splits: dict[str, Split]
    quarantined: tuple[Quarantined, ...]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of manifest.json; `parse_manifest` computes it from the bytes that it read."""
        return sha256(canonical_json(self))

    def as_json(self) -> Any:
        """Return manifest.json as a JSON value."""
        return to_jsonable_python(self)

    def images(self, split: str) -> int:
        """Return the number of images of a split.

        Raises:
            RequestError: the dataset has no such split.
        """
        if split not in self.splits:
            raise RequestError(
                f"dataset {self.name} has no split {split}",
                allowed=", ".join(self.splits),
                fix=nearest(split, self.splits),
            )
        return self.splits[split].images


@dataclass(frozen=True, config=_STRICT)
class Index:
    """Where the images of one shard are; equally long lists, one entry for each image.

    Args:
        keys: unique in the dataset.
        extensions: "png" or "jpg".
        offsets: position of the image's first byte in the tar.
        lengths: of the image, bytes.
        crc32s: of the image's bytes, as `zlib.crc32` gives it.
        labels: class ids, -1 for none; of a multi-label dataset tuples of ascending ids.
    """

    keys: tuple[str, ...]
    extensions: tuple[str, ...]
    offsets: tuple[int, ...]
    lengths: tuple[int, ...]
    crc32s: tuple[int, ...]
    labels: tuple[int | tuple[int, ...], ...]

    def __post_init__(self) -> None:
        if len({len(column) for column in vars(self).values()}) > 1:
            raise ValueError("the lists of an index are not equally long")


_MANIFEST: TypeAdapter[Manifest] = TypeAdapter(Manifest)
_INDEX: TypeAdapter[Index] = TypeAdapter(Index)


def canonical_json(value: Any) -> bytes:
    """Return the canonical JSON of a dataclass or a JSON value: sorted keys, no spaces."""
    json_value = to_jsonable_python(value)
    return json.dumps(json_value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def parse_manifest(data: bytes, where: str) -> Manifest:
    """Parse manifest.json.

    Args:
        data: its bytes.
        where: how messages name it.

    Raises:
        DataError: it is damaged, or of a format that this version does not know.
    """
    try:
        manifest = _MANIFEST.validate_json(data)
    except ValidationError as error:
        for detail in error.errors():
            if detail["loc"] == ("format",):
                raise DataError(
                    f"manifest format {detail['input']!r} is not known",
                    where=where,
                    allowed=str(FORMAT),
                    fix="update hpt-dist, or shard the dataset again",
                ) from error
        raise DataError(f"damaged manifest: {_first(error)}", where=where) from error
    vars(manifest)["digest"] = sha256(data)  # `cached_property` keeps its value here
    return manifest


def parse_index(data: bytes, where: str) -> Index:
    """Parse the index of a shard.

    Raises:
        DataError: it is damaged.
    """
    try:
        return _INDEX.validate_json(data)
    except ValidationError as error:
        raise DataError(f"damaged shard index: {_first(error)}", where=where) from error


def read_manifest(store: Store, name: str) -> Manifest:
    """Read the manifest of a dataset.

    Args:
        store: the root of the store.
        name: such as `openmoji/line`.

    Raises:
        RequestError: the store has no such dataset.
        DataError: its manifest is damaged.
    """
    path = f"datasets/{name}/manifest.json"
    if store.stat(path) is None:
        known = dataset_names(store)
        raise RequestError(
            f"no dataset {name} in {store.uri}",
            allowed=", ".join(known) or "none yet",
            fix=nearest(name, known) or "hpt-dist shard SOURCE DEST",
        )
    return parse_manifest(store.get(path), f"{store.uri}/{path}")


def read_index(store: Store, shard: Shard) -> Index:
    """Read the index of a shard, its digest checked.

    Args:
        store: the folder of the dataset in its store.
        shard: from its manifest.

    Raises:
        StoreError: it does not exist.
        DataError: it is damaged.
    """
    where = f"{store.uri}/{shard.index}"
    for _ in range(_READS):
        data = store.get(shard.index)
        if sha256(data) == shard.index_sha256:
            return parse_index(data, where)
    raise DataError(
        "its SHA-256 differs from that in the manifest",
        where=where,
        fix="delete it and run the same hpt-dist shard again",
    )


def dataset_names(store: Store) -> list[str]:
    """Return the names of the finished datasets of a store, sorted."""
    prefix, suffix = "datasets/", "/manifest.json"
    paths = (info.path for info in store.list(prefix))
    return [p.removeprefix(prefix).removesuffix(suffix) for p in paths if p.endswith(suffix)]


def sha256(data: bytes | bytearray) -> str:
    """Return a digest as manifests write it."""
    return hashlib.sha256(data).hexdigest()


def _first(error: ValidationError) -> str:
    detail = error.errors()[0]
    return f"{'.'.join(map(str, detail['loc']))} {detail['msg']}".strip()
