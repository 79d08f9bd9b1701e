"""The images of several splits as one sequence."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

import numpy as np
import numpy.typing as npt
from torch import Tensor

from hpt_dist.datasets.manifest import NO_LABEL
from hpt_dist.errors import RequestError
from hpt_dist.images.boxes import Boxes
from hpt_dist.reading.order import Ints
from hpt_dist.reading.split import Bools, ReadableSplit


class Pool:
    """The images of one or several splits as one sequence, or some of them.

    Args:
        splits: at least one, in order.
        indices: int64, which samples of the concatenated splits, in order; None is all.

    Raises:
        RequestError: it holds no image.
    """

    def __init__(self, splits: Sequence[ReadableSplit], indices: Ints | None = None) -> None:
        self.splits = tuple(splits)
        self._ends = list(accumulate(len(split) for split in self.splits))
        self._indices = indices
        if not len(self):
            raise RequestError(f"no image in {', '.join(split.name for split in splits)}")
        digest = hashlib.sha256("\n".join(split.digest for split in self.splits).encode())
        if indices is not None:
            digest.update(indices.astype("<i8").tobytes())
        self.digest = digest.hexdigest()

    def __len__(self) -> int:
        return self._ends[-1] if self._indices is None else len(self._indices)

    @property
    def shard_sizes(self) -> Ints:
        """int64, the length of each run of neighbours from one shard, in order."""
        if self._indices is None:
            return np.concatenate([split.sizes for split in self.splits])
        shard_ends = np.cumsum(np.concatenate([split.sizes for split in self.splits]))
        shards = np.searchsorted(shard_ends, self._indices, side="right")
        changes = np.flatnonzero(np.diff(shards)) + 1
        return np.diff(np.concatenate([[0], changes, [len(shards)]]))

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of their ids; empty if the splits do not share them."""
        first, *others = (split.classes for split in self.splits)
        return first if all(other == first for other in others) else ()

    @property
    def labels(self) -> Ints:
        """int64 [n], class ids; -1 is none. If the splits do not share classes, all are -1."""
        if not self.classes:
            return np.full(len(self), NO_LABEL)
        labels = np.concatenate([split.labels for split in self.splits])
        return labels if self._indices is None else labels[self._indices]

    @property
    def members(self) -> Bools:
        """Which classes each sample has, bool [n, num_classes]; the splits share their classes."""
        members = np.concatenate([split.members for split in self.splits])
        return members if self._indices is None else members[self._indices]

    @property
    def image_sizes(self) -> Ints:
        """Width and height of each image, int64 [n, 2]; the splits have boxes."""
        sizes = np.concatenate([split.image_sizes for split in self.splits])
        return sizes if self._indices is None else sizes[self._indices]

    @property
    def keys(self) -> list[str]:
        """The keys of the samples."""
        keys = [key for split in self.splits for key in split.keys]
        return keys if self._indices is None else [keys[i] for i in self._indices.tolist()]

    def key(self, i: int) -> str:
        """Return the key of sample i."""
        split, i = self.locate(i)
        return split.key(i)

    def name(self, i: int) -> str:
        """Return dataset/split/key of sample i."""
        split, i = self.locate(i)
        return f"{split.name}/{split.key(i)}"

    def label(self, i: int) -> int:
        """Return the class id of sample i; -1 is none."""
        split, i = self.locate(i)
        return split.label(i) if self.classes else NO_LABEL

    def read(self, i: int) -> bytes:
        """Return the encoded image of sample i; raises as `ReadableSplit.read`."""
        split, i = self.locate(i)
        return split.read(i)

    def image(self, i: int) -> Tensor:
        """Return sample i decoded; raises as `ReadableSplit.image`."""
        split, i = self.locate(i)
        return split.image(i)

    def boxes(self, i: int) -> Boxes:
        """Return the objects of sample i; raises as `ReadableSplit.boxes`."""
        split, i = self.locate(i)
        return split.boxes(i)

    def prefetch(self, indices: Ints) -> None:
        """Start to download the shards of these samples to the node's cache, if there is one."""
        places = indices if self._indices is None else self._indices[indices]
        first = 0
        for split in self.splits:
            inside = places[(places >= first) & (places < first + len(split))] - first
            split.prefetch(inside)
            first += len(split)

    def is_cached(self, i: int) -> bool:
        """Return whether the cache holds sample i, so that it need not be read."""
        split, i = self.locate(i)
        return split.cached_image(i) is not None

    def subset(self, indices: npt.ArrayLike) -> Pool:
        """Return the samples with these indices, in their order."""
        selected = np.asarray(indices, dtype=np.int64)
        return Pool(self.splits, selected if self._indices is None else self._indices[selected])

    def locate(self, i: int) -> tuple[ReadableSplit, int]:
        """Return the split that holds sample i, and its index there."""
        index = i if self._indices is None else int(self._indices[i])
        number = bisect_right(self._ends, index)
        split = self.splits[number]
        return split, index - self._ends[number] + len(split)

    def close(self) -> None:
        """Close files and connections; reading opens them again."""
        for split in self.splits:
            split.close()
