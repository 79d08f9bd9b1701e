"""The JSON files that describe a dataset: its manifest, and the index of each shard.

This module reads and writes them; `shards.py` fills them, `verify.py` checks the tars against them.

```
datasets/<name>/manifest.json                          counts, classes, mean and std, digests
datasets/<name>/<split>/<stem>-<split>-000000.tar      plain WebDataset, see below
datasets/<name>/<split>/<stem>-<split>-000000.index.json
datasets/<name>/<split>/<stem>-<split>-000000.origins.json    see `origins`
datasets/<name>/version-<digest>/<split>/...           the same of a dataset that replaced another
```
`<stem>` is the last part of the name. A tar holds KEY.jpg or KEY.png, then KEY.cls with the class
id of a single label, or KEY.json with `{"labels": [ids], ...}` of several and the rest of the
source's annotation (see `sources.sample.Sample`), or with the objects of a dataset of boxes as
`images.boxes` writes them. Both JSON files are canonical, so that
equal contents are equal bytes and the digest of a manifest names a dataset.
"""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from typing import Annotated, Any, Final, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from pydantic_core import to_jsonable_python

from hpt_dist.datasets import tar
from hpt_dist.errors import DataError, RequestError, nearest
from hpt_dist.store import Store

FORMAT: Final = 2
NO_LABEL = -1
_WRONG_INDEX = "the manifest was changed, or is of another dataset: shard the dataset again"
_READS = 2  # a file may arrive damaged by the network: it counts as damaged after two reads

_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

# These files may come from anywhere: a value that no sharding writes must not get further.
_MAX_COUNT = 2**48
_Count = Annotated[int, Field(ge=0, le=_MAX_COUNT)]
_Checksum = Annotated[int, Field(ge=0, lt=2**32)]
_ClassId = Annotated[int, Field(ge=0, le=_MAX_COUNT)]
_Label = Annotated[int, Field(ge=NO_LABEL, le=_MAX_COUNT)]
_Share = Annotated[float, Field(ge=0, le=1)]
_Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_PART = r"[^./\\\x00-\x1f\x7f][^/\\\x00-\x1f\x7f]*"
_Path = Annotated[str, Field(pattern=rf"^{_PART}(/{_PART})*$")]
_Key = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$", max_length=100)]
_Folder = Annotated[str, Field(pattern=r"^(version-[0-9a-f]{12})?$")]


@dataclass(frozen=True, config=_STRICT)
class Shard:
    """One tar and its index; paths are below the dataset's folder."""

    path: _Path
    images: _Count
    bytes: _Count
    sha256: _Digest
    index: _Path
    index_sha256: _Digest


@dataclass(frozen=True, config=_STRICT)
class Split:
    """The shards of one split in order, and how many of its images belong to each class."""

    images: _Count
    class_counts: tuple[_Count, ...]
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
            classes, "boxes", any number of objects of the classes, or "none".
        metric: the metric of its evaluations: one of `recipe.metrics`, or empty without labels.
        classes: class names in the order of their ids.
        mean: of the red, green and blue of all pixels of train (without it: of all), 0 to 1.
        std: the standard deviation of the same pixels.
        source: where the images come from.
        splits: by name.
        quarantined: images that do not decode, or that a list left out, sorted.
        folder: where the paths of its shards start, below the dataset's folder: empty, or the
            folder of a dataset that replaced another. The digest does not depend on it.
        masks: of "boxes", whether each object has a mask; only then is it in the file.
    """

    format: Literal[2]
    name: _Path
    label: Literal["single", "multi", "boxes", "none"]
    metric: str
    classes: tuple[str, ...]
    mean: tuple[_Share, _Share, _Share]
    std: tuple[_Share, _Share, _Share]
    source: Origin
    splits: dict[str, Split]
    quarantined: tuple[Quarantined, ...]
    folder: _Folder = ""
    masks: bool = False

    def __post_init__(self) -> None:
        if self.masks and self.label != "boxes":
            raise ValueError(f"labels that are {self.label} have no masks")
        paths = [shard.path for split in self.splits.values() for shard in split.shards]
        if len(set(paths)) < len(paths):
            raise ValueError("a shard is listed twice")
        for name, split in self.splits.items():
            if len(split.class_counts) != len(self.classes):
                counts = f"{len(split.class_counts)} class counts for {len(self.classes)} classes"
                raise ValueError(f"the split {name} has {counts}")
            if split.images != (images := sum(shard.images for shard in split.shards)):
                raise ValueError(f"{split.images} images in {name}, and {images} in its shards")

    @cached_property
    def digest(self) -> str:
        """SHA-256 of manifest.json without its folder.

        `parse_manifest` computes it from the bytes that it read.
        """
        value = self.as_json()
        value.pop("folder", None)
        return sha256(canonical_json(value))

    @property
    def content(self) -> bytes:
        """The bytes of manifest.json."""
        return canonical_json(self.as_json())

    def as_json(self) -> dict[str, Any]:
        """Return manifest.json as a JSON value."""
        value: dict[str, Any] = to_jsonable_python(self)
        later = {"folder", "masks"}  # came later: manifests without them have the bytes they had
        return {k: v for k, v in value.items() if v or k not in later}

    def shards_in(self, dataset: Store) -> Store:
        """Return the folder that the paths of its shards start from.

        Args:
            dataset: the folder of the dataset in its store.
        """
        return dataset.at(self.folder) if self.folder else dataset

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
        labels: class ids, -1 for none; of a dataset of several labels or of boxes, tuples of
            ascending ids.
        boxes: of a dataset of boxes: width and height of the upright image, then the length of
            KEY.json, which follows it, and its CRC-32; four times 0 for an image without a label.
    """

    keys: tuple[_Key, ...]
    extensions: tuple[Literal["jpg", "png"], ...]
    offsets: tuple[_Count, ...]
    lengths: tuple[_Count, ...]
    crc32s: tuple[_Checksum, ...]
    labels: tuple[_Label | tuple[_ClassId, ...], ...]
    boxes: tuple[tuple[_Count, _Count, _Count, _Checksum], ...] = ()

    def __post_init__(self) -> None:
        columns = [column for name, column in vars(self).items() if name != "boxes" or column]
        if len({len(column) for column in columns}) > 1:
            raise ValueError("the lists of an index are not equally long")
        ends = [self._end(row) for row in range(len(self.keys))]
        if any(start < end for end, start in zip(ends, self.offsets[1:], strict=False)):
            raise ValueError("images overlap, or are not in the order of their offsets")

    @property
    def content(self) -> bytes:
        """The bytes of the file; those of a dataset without boxes have no list of them."""
        value = to_jsonable_python(self)
        return canonical_json({k: v for k, v in value.items() if k != "boxes" or self.boxes})

    def place_of_boxes(self, row: int) -> tuple[int, int, int]:
        """Return position, length and CRC-32 of the boxes of an image; its label is not -1."""
        _, _, length, crc32 = self.boxes[row]
        padding = -self.lengths[row] % tar.BLOCK_BYTES
        return self.offsets[row] + self.lengths[row] + padding + tar.BLOCK_BYTES, length, crc32

    def _end(self, row: int) -> int:
        if self.boxes and any(self.boxes[row]):
            start, length, _ = self.place_of_boxes(row)
            return start + length
        return self.offsets[row] + self.lengths[row]

    def fault(self, shard: Shard, classes: int) -> str:
        """Return what contradicts the manifest, or an empty string.

        Args:
            shard: from the manifest.
            classes: how many classes the manifest has.
        """
        if len(self.keys) != shard.images:
            return f"{len(self.keys)} images are in it; the manifest says {shard.images}"
        if self.keys and self._end(-1) > shard.bytes:
            return f"its last image ends behind the {shard.bytes} bytes of the shard"
        ids = {
            one
            for label in self.labels
            for one in (label if isinstance(label, tuple) else (label,))
        }
        if ids and max(ids) >= classes:
            return f"it has a label {max(ids)}; the manifest has {classes} classes"
        return ""


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
                    f"manifest format {str(detail['input'])[:20]} is not known",
                    where=where,
                    allowed=str(FORMAT),
                    fix="update hpt-dist, or shard the dataset again",
                ) from error
        raise DataError(f"damaged manifest: {_first(error)}", where=where) from error
    if not manifest.folder:
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
            fix=nearest(name, known) or f"hpt-dist shard SOURCE {store.uri}/datasets/{name}",
        )
    return parse_manifest(store.get(path), f"{store.uri}/{path}")


def read_index(store: Store, shard: Shard, classes: int) -> Index:
    """Read the index of a shard, checked against its manifest.

    Args:
        store: the folder of the dataset's shards in its store.
        shard: from its manifest.
        classes: how many classes the manifest has.

    Raises:
        StoreError: it does not exist.
        DataError: it is damaged, or contradicts the manifest.
    """
    where = f"{store.uri}/{shard.index}"
    for _ in range(_READS):
        data = store.get(shard.index)
        if sha256(data) == shard.index_sha256:
            index = parse_index(data, where)
            if fault := index.fault(shard, classes):
                raise DataError(fault, where=where, fix=_WRONG_INDEX)
            return index
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
    detail = error.errors(include_url=False, include_input=False)[0]
    what = detail["msg"].removeprefix("Value error, ")
    return f"{'.'.join(map(str, detail['loc']))} {what}".strip()
