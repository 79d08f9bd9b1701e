"""Which images share a shard, decided before any of them is read.

So any process can write each shard on its own, in any order, with the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from hpt_dist.datasets import tar
from hpt_dist.datasets.manifest import canonical_json, sha256
from hpt_dist.errors import DataError
from hpt_dist.images.formats import Encoding
from hpt_dist.sources.sample import Sample, Source

# Raise it when the same images become other tars: it is part of each shard's inputs.
_WRITER = 2
_MAX_KEY = tar.MAX_NAME_BYTES - len(".json")
_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class ShardToWrite:
    """One planned shard.

    Args:
        stem: its paths below the dataset's folder, without the ends.
        split: of its samples.
        samples: one at least.
        sha256: that its tar must have, where it repairs a dataset that is there.
    """

    stem: str
    split: str
    samples: tuple[Sample, ...]
    sha256: str = ""

    @property
    def tar(self) -> str:
        """The path of the tar."""
        return f"{self.stem}.tar"

    @property
    def index(self) -> str:
        """The path of the index."""
        return f"{self.stem}.index.json"

    @property
    def origins(self) -> str:
        """The path of the note of which file each image came from."""
        return f"{self.stem}.origins.json"

    @property
    def record(self) -> str:
        """The path of the record; its existence marks the shard as finished."""
        return f"{self.stem}.done.json"

    def inputs(self, encoding: Encoding) -> str:
        """Return a digest of everything that decides the bytes of this shard."""
        facts = [
            (one.key, one.label, one.version, one.annotation, *([one.boxes] if one.boxes else []))
            for one in self.samples
        ]
        return sha256(canonical_json([_WRITER, encoding.as_json(), facts]))


def plan(
    source: Source, stem: str, shard_bytes: int, leave_out: Collection[str] = ()
) -> list[ShardToWrite]:
    """Decide which samples share a shard.

    They are ordered by a hash, so that a reader that shuffles only within shards mixes classes.

    Args:
        source: the images.
        stem: how the names of its shards begin.
        shard_bytes: a shard ends before the image that would make it larger.
        leave_out: keys of samples that are in no shard.

    Raises:
        DataError: a key cannot be used, or two samples have the same.
    """
    origins: dict[str, str] = {}
    splits: dict[str, list[Sample]] = {}
    for sample in source.samples():
        if len(sample.key) > _MAX_KEY or not _KEY.fullmatch(sample.key):
            raise DataError(
                f"the key {sample.key!r} of {sample.origin} cannot be used",
                allowed=f"letters, digits, '_' and '-', at most {_MAX_KEY} of them, no '-' first",
            )
        if sample.key in origins:
            raise DataError(
                f"{origins[sample.key]} and {sample.origin} have the same key {sample.key}",
                fix="rename one of them; names that look equal differ in their form of Unicode",
            )
        origins[sample.key] = sample.origin
        if sample.key not in leave_out:
            splits.setdefault(sample.split, []).append(sample)
    return [
        ShardToWrite(f"{split}/{stem}-{split}-{number:06d}", split, part)
        for split, samples in sorted(splits.items())
        for number, part in enumerate(
            _parts(sorted(samples, key=lambda one: sha256(one.key.encode())), shard_bytes)
        )
    ]


def _parts(samples: Sequence[Sample], shard_bytes: int) -> Iterator[tuple[Sample, ...]]:
    part: list[Sample] = []
    size = 0
    for sample in samples:
        # A header and padding for the image, and as much for its class.
        length = sample.size_bytes + 4 * tar.BLOCK_BYTES
        if part and size + length > shard_bytes:
            yield tuple(part)
            part, size = [], 0
        part.append(sample)
        size += length
    yield tuple(part)
