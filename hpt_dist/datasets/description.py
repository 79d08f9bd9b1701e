"""The manifest of a dataset from the records of its shards: counts, moments, what was left out."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from hpt_dist.datasets import leave_out
from hpt_dist.datasets.manifest import FORMAT, Manifest, Origin, Quarantined, Shard, Split
from hpt_dist.datasets.shard_plan import ShardToWrite
from hpt_dist.datasets.shard_writer import ShardRecord
from hpt_dist.errors import DataError
from hpt_dist.images.formats import Encoding
from hpt_dist.sources.sample import Sample, Source


@dataclass(frozen=True)
class WrittenShard:
    """A shard that this run or an earlier one wrote."""

    task: ShardToWrite
    record: ShardRecord

    @property
    def labels(self) -> list[int]:
        """The labels of its images; an image with several labels contributes each."""
        bad = self.record.quarantined
        return [
            label
            for sample in self.task.samples
            if sample.key not in bad
            for label in _labels(sample)
        ]

    @property
    def left_out(self) -> list[Quarantined]:
        """The images that are not in it, each with the reason."""
        reasons = self.record.quarantined
        samples = (one for one in self.task.samples if one.key in reasons)
        return [Quarantined(one.origin, reasons[one.key]) for one in samples]

    @property
    def manifest_entry(self) -> Shard:
        """Its part of the manifest."""
        return Shard(
            path=self.task.tar,
            images=len(self.task.samples) - len(self.record.quarantined),
            bytes=self.record.bytes,
            sha256=self.record.sha256,
            index=self.task.index,
            index_sha256=self.record.index_sha256,
        )


def describe(
    source: Source,
    name: str,
    shards: Sequence[WrittenShard],
    encoding: Encoding,
    folder: str,
    listed: Sequence[Sample],
) -> Manifest:
    """Return the manifest of a dataset whose shards are all written.

    Args:
        source: of the images.
        name: of the dataset.
        shards: all of them.
        encoding: how images are stored.
        folder: where the paths of the shards start, below the dataset's folder.
        listed: images of the source that a list left out.

    Raises:
        DataError: no image is left in a split.
    """
    by_split: dict[str, list[WrittenShard]] = {}
    for shard in sorted(shards, key=lambda shard: shard.task.stem):
        by_split.setdefault(shard.task.split, []).append(shard)
    splits = {split: _split(those, len(source.classes)) for split, those in by_split.items()}
    empty = [split for split in splits if not splits[split].images]
    if empty or not splits:
        raise DataError(f"no image is left in {', '.join(empty) or source.name}")
    rule = "; ".join(filter(None, [source.rule, str(encoding)]))
    bad = [one for shard in shards for one in shard.left_out]
    mean, std = _moments([shard.record for shard in by_split.get("train", shards)])
    return Manifest(
        format=FORMAT,
        name=name,
        label=source.label,
        metric=source.metric,
        classes=tuple(source.classes),
        mean=mean,
        std=std,
        source=Origin(source.name, source.licence, source.credit, rule),
        splits=splits,
        quarantined=tuple(in_order(bad + leave_out.quarantined(listed))),
        folder=folder,
        masks=any(one.boxes == "masks" for shard in shards for one in shard.task.samples),
    )


def in_order(bad: Sequence[Quarantined]) -> list[Quarantined]:
    """Return images that were left out, as a manifest lists them."""
    return sorted(bad, key=lambda one: (one.origin, one.reason))


def _split(shards: Sequence[WrittenShard], classes: int) -> Split:
    entries = tuple(shard.manifest_entry for shard in shards)
    counts = Counter(label for shard in shards for label in shard.labels)
    return Split(
        images=sum(shard.images for shard in entries),
        class_counts=tuple(counts[label] for label in range(classes)),
        shards=entries,
    )


def _labels(sample: Sample) -> tuple[int, ...]:
    if sample.label is None:
        return ()
    return (sample.label,) if isinstance(sample.label, int) else sample.label


def _moments(
    records: Sequence[ShardRecord],
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Return mean and standard deviation of each channel, 0 to 1, from exact sums."""
    pixels = sum(record.pixels for record in records)

    def moments(channel: int) -> tuple[float, float]:
        total = sum(record.sums[channel] for record in records)
        squares = sum(record.squares[channel] for record in records)
        variance = (pixels * squares - total**2) / pixels**2
        return total / pixels / 255, math.sqrt(variance) / 255

    (r, r_std), (g, g_std), (b, b_std) = map(moments, range(3))
    return (r, g, b), (r_std, g_std, b_std)
