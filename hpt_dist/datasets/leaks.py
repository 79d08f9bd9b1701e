"""Images that are in two splits: above all, images of a test split that are also trained on.

Exact copies are found by the lengths and CRC-32s of the indexes, and confirmed by SHA-256: hardly
an image is read. Look-alikes are found by `lookalikes`: every image is read and decoded once, by
several processes.

A pair is a *leak* if its sides have different roles (`test`, `val` or any other): a model is then
judged by images that it was trained on or chosen by. The side of the higher role stays, the other
one goes.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations, product
from typing import Literal

import numpy as np
import numpy.typing as npt

from hpt_dist.datasets.inventory import (
    Inventory,
    Part,
    Progress,
    SplitName,
    StoredDataset,
    map_parts,
    read_inventory,
)
from hpt_dist.errors import DamagedImageError, DataError
from hpt_dist.images import lookalikes
from hpt_dist.images.lookalikes import DISTANCE, Ints, Words, near_pairs

Kind = Literal["exact", "near"]

MAX_PAIRS = 2_000_000
_READERS = 8


@dataclass(frozen=True)
class Pair:
    """Two images that are the same (`exact`, distance 0) or look alike (`near`).

    Of many equal images not every pair is listed, but every image in one pair for each other
    split that has it. `a` is of the lower role, so it is the one that goes if this is a leak.
    """

    kind: Kind
    a: SplitName
    a_key: str
    b: SplitName
    b_key: str
    distance: int

    @property
    def leak(self) -> bool:
        """Whether one side is judged by what the other side was used for."""
        return self.a.role != self.b.role


@dataclass(frozen=True)
class Findings:
    """The result of `find`.

    Args:
        pairs: in order of splits and keys.
        images: how many images were compared.
        flat: how many of them show too little contrast, so that only their bytes were compared.
    """

    pairs: tuple[Pair, ...]
    images: int
    flat: int

    @property
    def leaks(self) -> list[Pair]:
        """The pairs that are leaks."""
        return [pair for pair in self.pairs if pair.leak]

    def groups(self) -> dict[tuple[SplitName, SplitName, Kind], list[Pair]]:
        """Return the pairs by their two splits and kind, leaks first."""
        groups = defaultdict(list)
        for pair in self.pairs:
            groups[pair.a, pair.b, pair.kind].append(pair)
        return dict(sorted(groups.items(), key=lambda item: (not item[1][0].leak, item[0])))

    def leave_out(self) -> list[tuple[SplitName, str]]:
        """Return the splits and keys of the images to leave out, so that no leak remains."""
        return sorted({(pair.a, pair.a_key) for pair in self.leaks})


def find(
    datasets: Sequence[StoredDataset],
    against: Sequence[StoredDataset] = (),
    *,
    distance: int | None = DISTANCE,
    workers: int = 1,
    progress: Progress = lambda _what, _done, _total: None,
) -> Findings:
    """Find the images that are in some datasets more than once.

    Args:
        datasets: all their splits are compared with one another, and each within itself.
        against: if there are any, the splits of `datasets` are compared with theirs alone.
        distance: look-alikes differ in at most so many of 64 bits; None finds exact copies only.
        workers: processes that decode.
        progress: called with (name of the step, images done, images to do).

    Raises:
        RequestError: a dataset is named twice.
        DataError: an index or an image is damaged, or pairs are too many to list.
        StoreError: a store refused.
    """
    images = read_inventory([*datasets, *against], progress)
    sides = [0] * _count_splits(datasets) + [1] * _count_splits(against) if against else None
    contents = _contents(images, progress)
    matches = _Matches(images, contents, sides)
    matches.add_exact()
    flat = 0
    if distance is not None:
        numbers = np.unique(contents)
        words, contrasts = _hash_images(images, numbers, workers, progress)
        shown = contrasts >= lookalikes.MIN_CONTRAST
        flat = int(np.isin(contents, numbers[~shown]).sum())
        matches.add_near(numbers[shown], words[shown], distance)
    pairs = sorted(matches.pairs, key=lambda pair: (pair.a, pair.b, pair.a_key, pair.b_key))
    return Findings(tuple(pairs), len(images.keys), flat)


def _count_splits(datasets: Sequence[StoredDataset]) -> int:
    return sum(len(dataset.manifest.splits) for dataset in datasets)


def _contents(images: Inventory, progress: Progress) -> Ints:
    """Return for each image the lowest number of those with the same bytes."""
    lengths = np.concatenate([part.lengths for part in images.parts])
    checksums = lengths << 32 | np.concatenate([part.crc32s for part in images.parts])
    contents = np.arange(len(checksums))
    _, groups, counts = np.unique(checksums, return_inverse=True, return_counts=True)
    numbers = np.flatnonzero(counts[groups] > 1)
    first: dict[bytes, int] = {}
    done = 0
    with ThreadPoolExecutor(_READERS) as threads:
        for digests in threads.map(_digests, images.parts_of(numbers)):
            for digest in digests:
                contents[numbers[done]] = first.setdefault(digest, int(numbers[done]))
                done += 1
            progress("compare images of equal checksums", done, len(numbers))
    return contents


def _digests(part: Part) -> list[bytes]:
    return [hashlib.sha256(image).digest() for image in part.read()]


def _hash_images(
    images: Inventory, numbers: Ints, workers: int, progress: Progress
) -> tuple[Words, npt.NDArray[np.float32]]:
    """Return the hash of each of these images, and how much contrast it shows."""
    words, contrasts = np.empty(len(numbers), np.uint64), np.empty(len(numbers), np.float32)
    parts = list(images.parts_of(numbers))
    done = 0
    for part_words, part_contrasts in map_parts(_hash_part, parts, workers):
        end = done + len(part_words)
        words[done:end], contrasts[done:end] = part_words, part_contrasts
        done = end
        progress("hash images", done, len(numbers))
    return words, contrasts


def _hash_part(part: Part) -> tuple[Words, npt.NDArray[np.float32]]:
    pictures = []
    for row, image in enumerate(part.read()):
        try:
            pictures.append(lookalikes.greys(image))
        except DamagedImageError as error:
            raise part.damaged(row, error.problem.what) from error
    stacked = np.stack(pictures)
    return lookalikes.hashes(stacked), lookalikes.contrasts(stacked)


class _Matches:
    """Collects pairs.

    Args:
        images: all images.
        contents: for each image the lowest number of those with the same bytes.
        sides: the side of each split, to pair images across two sides only; None pairs all.
    """

    def __init__(self, images: Inventory, contents: Ints, sides: Sequence[int] | None) -> None:
        self.pairs: list[Pair] = []
        self._images, self._contents, self._sides = images, contents, sides
        order = np.argsort(contents, kind="stable")
        firsts = np.flatnonzero(np.diff(contents[order], prepend=-1))
        groups = np.split(order, firsts[1:]) if len(order) else []
        self._copies = {int(group[0]): group.tolist() for group in groups if len(group) > 1}

    def add_exact(self) -> None:
        """Pair the images of equal bytes."""
        for numbers in self._copies.values():
            self._pair_within("exact", numbers)

    def add_near(self, numbers: Ints, words: Words, distance: int) -> None:
        """Pair images by their hashes.

        Args:
            numbers: [n] of one image of each content.
            words: [n] their hashes.
            distance: see `find`.
        """
        unique, group_of = np.unique(words, return_inverse=True)
        by_word = np.split(
            numbers[np.argsort(group_of, kind="stable")], np.cumsum(np.bincount(group_of))[:-1]
        )
        for group in by_word:
            if len(group) > 1:
                self._pair_within("near", self._with_copies(group))
        for i, j in zip(*map(np.ndarray.tolist, near_pairs(unique, distance)), strict=True):
            left, right = self._with_copies(by_word[i]), self._with_copies(by_word[j])
            bits = int(unique[i] ^ unique[j]).bit_count()
            for a, b in product(self._by_split(left).items(), self._by_split(right).items()):
                self._pair_splits("near", a, b, bits)

    def _with_copies(self, numbers: Ints) -> list[int]:
        return [copy for one in numbers.tolist() for copy in self._copies.get(one, [one])]

    def _by_split(self, numbers: Sequence[int]) -> dict[int, list[int]]:
        grouped = defaultdict(list)
        for number in numbers:
            grouped[int(self._images.split_of[number])].append(number)
        return grouped

    def _pair_within(self, kind: Kind, numbers: Sequence[int]) -> None:
        by_split = self._by_split(numbers)
        for split, (first, *others) in by_split.items():
            if others:
                self._pair_splits(kind, (split, [first]), (split, others), 0)
        for a, b in combinations(by_split.items(), 2):
            self._pair_splits(kind, a, b, 0)

    def _pair_splits(
        self, kind: Kind, a: tuple[int, list[int]], b: tuple[int, list[int]], distance: int
    ) -> None:
        """Pair the images of two splits so that each image is in at least one pair."""
        (split_a, left), (split_b, right) = a, b
        if self._sides is not None and self._sides[split_a] == self._sides[split_b]:
            return
        for one, other in [(left[0], r) for r in right] + [(x, right[0]) for x in left[1:]]:
            if kind == "exact" or self._contents[one] != self._contents[other]:
                self._add(kind, one, other, distance)

    def _add(self, kind: Kind, one: int, other: int, distance: int) -> None:
        if len(self.pairs) == MAX_PAIRS:
            raise DataError(
                f"more than {MAX_PAIRS:,} pairs of images look alike",
                fix="ask for a smaller --distance, or for exact copies only",
            )

        def side(number: int) -> tuple[int, SplitName, str]:
            split = self._images.splits[self._images.split_of[number]]
            return split.role, split, self._images.keys[number]

        (_, a, a_key), (_, b, b_key) = sorted([side(one), side(other)])
        self.pairs.append(Pair(kind, a, a_key, b, b_key, distance))
