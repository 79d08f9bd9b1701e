"""Batches of images that lie the same way: a pure function of the step, as `order.Order` is.

Images of different proportions are padded to share a tensor, which wastes much where one is wide
and the next is high. So the endless order of samples is dealt into two lines, wide images and high
ones, and whenever a line holds `together` of them, these are the next *cell*. That is what a
loader with two buckets does (Detectron2's `AspectRatioGroupedDataset`), but here nothing is held:
an epoch holds every image once, so the number of wide and high images that came before any epoch
follows from its number alone, and so does what its buckets hold at its start.

A batch is `batch / together` cells in a row. Every line holds each of its images once an epoch of
its own, so that no image is left out and none comes more often than another.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hpt_dist.reading.order import Ints, Order

Bools = npt.NDArray[np.bool_]
_EPOCHS_KEPT = 4


class _Epoch(NamedTuple):
    """One epoch of the order.

    Args:
        lines: the samples of each line, in order.
        cells: int64 [c, 2], the cells that are full in it: the line, and the number of the cell
            in the line since the start of training.
    """

    lines: tuple[Ints, Ints]
    cells: Ints


class AspectOrder:
    """The endless order of batches. It holds no position.

    Args:
        order: of the samples.
        wide: bool [n], which samples are wider than high.
        batch: samples of a global batch.
        together: samples that lie the same way, one cell; it divides the batch. None is the batch.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self, order: Order, wide: Bools, batch: int, *, together: int | None = None
    ) -> None:
        self._order = order
        self._wide = np.asarray(wide, np.bool_)
        self.batch = batch
        self._together = batch if together is None else together
        if len(self._wide) != order.samples:
            raise ValueError(f"{len(self._wide)} forms for {order.samples} samples")
        if self._together < 1 or batch < 1 or batch % self._together:
            raise ValueError(f"a batch of {batch} is no number of cells of {self._together}")
        wide_ones = int(self._wide.sum())
        self._counts = (wide_ones, order.samples - wide_ones)
        self._epoch = lru_cache(maxsize=_EPOCHS_KEPT)(self._epoch_of)

    def at(self, step: int, rank: int = 0, world: int = 1) -> tuple[Ints, Ints]:
        """Return one rank's share of a global batch.

        The shares of all ranks, one behind the other, are the batch of a single rank.

        Args:
            step: counts batches from 0.
            rank: 0 to world - 1.
            world: number of ranks; it divides the batch.

        Returns:
            Sample indices and epochs, int64 [batch // world] each. The epoch counts how often the
            sample came before.
        """
        if self.batch % world or not 0 <= rank < world:
            raise ValueError(f"rank {rank} has no share of {self.batch} samples of {world} ranks")
        share = self.batch // world
        slots = range(step * self.batch + rank * share, step * self.batch + (rank + 1) * share)
        first, last = slots[0] // self._together, slots[-1] // self._together
        cells = [self._cell(number) for number in range(first, last + 1)]
        indices, epochs = (np.concatenate(column) for column in zip(*cells, strict=True))
        part = slice(slots[0] - first * self._together, slots[-1] + 1 - first * self._together)
        return indices[part], epochs[part]

    def steps_of(self, epochs: int) -> int:
        """Return how many whole batches the first epochs fill."""
        return self._full_before(epochs) * self._together // self.batch

    def _full_before(self, epoch: int) -> int:
        """Return how many cells are full before an epoch begins."""
        return sum(epoch * count // self._together for count in self._counts)

    def _cell(self, number: int) -> tuple[Ints, Ints]:
        """Return the samples of a cell, and the epoch of each."""
        epoch = self._epoch_with(number)
        line, of_line = self._epoch(epoch).cells[number - self._full_before(epoch)].tolist()
        places = np.arange(of_line * self._together, (of_line + 1) * self._together)
        epochs, rows = np.divmod(places, self._counts[line])
        indices = np.empty_like(places)
        for one in np.unique(epochs).tolist():
            those = epochs == one
            indices[those] = self._epoch(one).lines[line][rows[those]]
        return indices, epochs

    def _epoch_with(self, cell: int) -> int:
        """Return the epoch in which a cell is full."""
        # At most one cell of each line is not yet full, so the guess is at most a few epochs off.
        epoch = max(0, cell * self._together // self._order.samples - 1)
        while self._full_before(epoch + 1) <= cell:
            epoch += 1
        return epoch

    def _epoch_of(self, epoch: int) -> _Epoch:
        count = self._order.samples
        samples, _ = self._order.at(np.arange(epoch * count, (epoch + 1) * count))
        wide = self._wide[samples]
        full = []
        for line, those in enumerate((wide, ~wide)):
            places = np.flatnonzero(those)
            came = epoch * self._counts[line] + np.arange(len(places)) + 1
            ends = came % self._together == 0
            numbers = came[ends] // self._together - 1
            full.append(np.stack([places[ends], np.full(len(numbers), line), numbers], axis=1))
        cells = np.concatenate(full)
        return _Epoch((samples[wide], samples[~wide]), cells[np.argsort(cells[:, 0]), 1:])
