"""`python -m evidence.shared`: openclipart and OpenMoji's lines as domains of the same classes.

Seven of openclipart's 13 classes are subgroups of OpenMoji of at least 15 drawings. Of the others,
OpenMoji has the fish among whales and crabs, the planets in the weather, and of flowers, musical
instruments, road signs and tableware fewer drawings. Subgroups are Unicode's: a snail is an insect
there, and a tomato a fruit.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from evidence import into_store
from hpt_dist.datasets import shards
from hpt_dist.datasets.shard_workers import cores
from hpt_dist.sources import Source, open_source
from hpt_dist.sources.families import UNLABELED
from hpt_dist.sources.sample import FileSource, Label, Sample
from hpt_dist.store import Store

# By openclipart's name what OpenMoji calls it.
CLASSES = {
    "bird": "animal-bird",
    "fruit": "food-fruit",
    "insect": "animal-bug",
    "mammal": "animal-mammal",
    "tool": "tool",
    "vegetable": "food-vegetable",
    "vehicle": "transport-ground",
}
CLIPART, LINE = "shared/clipart", "shared/line"
_LEARNED_FROM = ("train", UNLABELED)
_RULE = (
    "the {count} classes of {source} that {other} has, too; unlabeled: images of its others; {how}"
)


def clipart(source: Source) -> FileSource:
    """Return openclipart's drawings as a source domain: all of them are learned from."""
    how = "all splits are train: only another domain is tested"
    return _shared(source, CLIPART, {name: name for name in CLASSES}, "OpenMoji", how)


def line(source: Source) -> FileSource:
    """Return OpenMoji's line drawings as a target domain, in the splits that they have."""
    how = "splits are as there, and val and test of its others are left out"
    names = {theirs: name for name, theirs in CLASSES.items()}
    return _shared(source, LINE, names, "openclipart", how)


def write(store: Store) -> None:
    """Write both domains into a store, or what is missing of them.

    Raises:
        RequestError: images are not installed, or other datasets have these names.
    """
    for domain in (clipart(open_source("openclipart")), line(open_source("openmoji/line"))):
        manifest = shards.write_dataset(domain, store, domain.name, workers=cores())
        counts = ", ".join(f"{name} {split.images:,}" for name, split in manifest.splits.items())
        print(f"{domain.name}: {len(domain.classes)} classes; {counts}")


def _shared(
    source: Source, name: str, names: Mapping[str, str], other: str, how: str
) -> FileSource:
    """Return a source with the shared classes alone.

    Args:
        source: with classes of its own.
        name: of the domain.
        names: the shared class of some of its classes.
        other: whose classes are shared.
        how: what becomes of its splits.
    """
    classes = sorted(CLASSES)
    ids: dict[Label, int] = {
        number: classes.index(names[theirs])
        for number, theirs in enumerate(source.classes)
        if theirs in names
    }
    rule = _RULE.format(count=len(classes), source=source.name, other=other, how=how)
    samples = list(_placed(source.samples(), ids, is_source=name == CLIPART))
    return FileSource(name, rule, classes, samples, source.licence, source.credit)


def _placed(
    samples: Iterable[Sample], ids: Mapping[Label, int], *, is_source: bool
) -> Iterator[Sample]:
    for sample in samples:
        if sample.label in ids:
            split = "train" if is_source else sample.split
            yield replace(sample, label=ids[sample.label], split=split)
        elif is_source or sample.split in _LEARNED_FROM:
            yield replace(sample, label=None, split=UNLABELED)


def main(words: Sequence[str] | None = None) -> int:
    """Write both domains; return the exit status."""
    return into_store.main(write, "python -m evidence.shared", __doc__, words)


if __name__ == "__main__":
    sys.exit(main())
