"""The sample at each position of training, and its random numbers: pure functions.

An epoch is laid out as a line: the shards one behind the other, shuffled anew each epoch, cut into
a fixed number of equal *streams*, and each stream into *windows* in which the samples are
shuffled. A global batch takes equally many samples of every stream, and a rank takes the streams
one after the other. So a node reads few shards at a time, and its own, however many nodes there
are, and the content of a batch does not depend on ranks or nodes. Where one window holds the whole
epoch, the order is one permutation of all samples.

The permutations are keyed and computed position by position, so that any position is reached
without the ones before it. One lays 0..n-1 out row by row on a grid of about sqrt(n) x sqrt(n)
cells and lets row and column shift each other by keyed hashes (an alternating Feistel network,
each round of which is a bijection of the grid); the few positions that end in a cell past n-1 go
through the network again until they do not (cycle walking).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]

WINDOW = 2**16
MAX_STREAMS = 64
_WINDOWS_A_STREAM = 8

_ROUNDS = 16  # 8 scatter large n well; 16 make the orders of tiny n equally likely, too
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # splitmix64's increment: 2^64 / golden ratio, odd
# The bits of a window's key in one word: epoch, window in its stream, stream.
_WINDOW_BIT, _STREAM_BIT = 32, 52


class Order:
    """The endless order of the samples of a sequence of shards. It holds no position.

    Args:
        digest: names the data; other data, other order.
        seed: names the order; every epoch, the first included, depends on it.
        sizes: samples of each shard, in order, at least one in all.
        streams: how many streams each global batch is drawn from; at most 4096.
        window: samples of a stream that are shuffled together.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        digest: str,
        seed: int,
        sizes: Sequence[int] | Ints,
        *,
        streams: int = 1,
        window: int = WINDOW,
    ) -> None:
        self.sizes = np.asarray(sizes, np.int64)
        self.samples = int(self.sizes.sum())
        if self.samples < 1 or (self.sizes < 0).any():
            raise ValueError("an order needs at least one sample, and no shard of less than 0")
        if not 1 <= streams <= 1 << (64 - _STREAM_BIT) or window < 1:
            raise ValueError(f"streams={streams} must be 1 to 4096 and window={window} >= 1")
        if self.samples // streams // window >= 1 << (_STREAM_BIT - _WINDOW_BIT):
            raise ValueError(f"window={window} is too small for {self.samples} samples")
        self.streams = streams
        self.window = window
        self._starts = np.cumsum(self.sizes) - self.sizes
        self._word = _word("order", digest, seed, self.samples)
        self._shards_word = _word("shards", digest, seed, self.samples)
        # All streams have the same number of samples; the last few of an epoch, fewer than the
        # number of streams, belong to none.
        self._rows = self.samples // streams
        self._line = lru_cache(maxsize=4)(self._line_of)

    def batch(
        self, step: int, batch: int, rank: int = 0, world: int = 1, *, whole_epochs: bool = False
    ) -> tuple[Ints, Ints]:
        """Return one rank's share of a global batch.

        The shares of all ranks, one behind the other, are the batch of a single rank.

        Args:
            step: counts batches from 0.
            batch: samples of a global batch, a multiple of `streams` and of `world`.
            rank: 0 to world - 1.
            world: number of ranks.
            whole_epochs: whether each epoch begins with a new batch and leaves out the samples
                that fill none (they change from epoch to epoch); else batches span epochs.

        Returns:
            Sample indices and epochs, int64[batch // world] each.
        """
        if batch % world or batch % self.streams:
            raise ValueError(f"{batch} is no multiple of {world} ranks and {self.streams} streams")
        share, of_stream = batch // world, batch // self.streams
        slots = np.arange(rank * share, (rank + 1) * share, dtype=np.int64)
        streams, rows = np.divmod(slots, of_stream)
        first = step * batch
        if whole_epochs:
            epoch, step = divmod(step, self.samples // batch)
            first = epoch * self.samples + step * batch
        return self.at(first + rows * self.streams + streams)

    def at(self, positions: Ints) -> tuple[Ints, Ints]:
        """Return the samples at positions, and the epoch of each.

        Args:
            positions: int64[count], samples drawn since the start of training, at least 0.

        Returns:
            Sample indices int64[count] in 0..n-1 and epochs int64[count] from 0. Positions k*n to
            (k+1)*n - 1 hold every one of the n samples exactly once.
        """
        epochs, places = np.divmod(positions, self.samples)
        rows, streams = np.divmod(places, self.streams)
        windows = rows // self.window
        firsts = windows * self.window
        lengths = np.minimum(self.window, self._rows - firsts)
        tail = rows >= self._rows
        ids = epochs | windows << _WINDOW_BIT | streams << _STREAM_BIT
        known, key_rows = np.unique(ids, return_inverse=True)
        keys = _stream(_mix(self._word ^ known.astype(np.uint64)), _ROUNDS)
        offsets = _permute(
            np.where(tail, 0, rows - firsts), keys, key_rows, np.where(tail, 1, lengths)
        )
        line = np.where(tail, places, streams * self._rows + firsts + offsets)
        if self.streams > 1 or self.window < self.samples:
            for epoch in np.unique(epochs).tolist():
                those = epochs == epoch
                line[those] = self._samples_of(epoch, line[those])
        return line, epochs

    def shards_of(self, samples: Ints) -> Ints:
        """Return the numbers of the shards that hold these samples, each once, ascending."""
        return np.unique(np.searchsorted(self._starts, samples, side="right") - 1)

    def _samples_of(self, epoch: int, places: Ints) -> Ints:
        """Return the samples that lie at places of an epoch's line."""
        shards, ends = self._line(epoch)
        numbers = np.searchsorted(ends, places, side="right")
        shard = shards[numbers]
        return self._starts[shard] + places - (ends[numbers] - self.sizes[shard])

    def _line_of(self, epoch: int) -> tuple[Ints, Ints]:
        """Return an epoch's shards in order, and where on its line each of them ends."""
        count = len(self.sizes)
        keys = _stream(_mix(self._shards_word ^ np.array([epoch], np.uint64)), _ROUNDS)
        places = np.arange(count, dtype=np.int64)
        shards = _permute(places, keys, np.zeros(count, np.int64), np.array([count]))
        return shards, np.cumsum(self.sizes[shards])


def streams_for(samples: int, batch: int, window: int = WINDOW) -> int:
    """Return the default number of streams to draw batches from.

    The most that leave each stream several windows long, so that an epoch's shuffled shards mix: a
    power of two that divides the batch, at most `MAX_STREAMS`.
    """
    streams = 1
    while (
        batch % (2 * streams) == 0
        and 2 * streams <= MAX_STREAMS
        and samples // (2 * streams) >= _WINDOWS_A_STREAM * window
    ):
        streams *= 2
    return streams


def uniforms(
    seed: int, epochs: Ints, samples: Ints, view: int, count: int, *, purpose: str = ""
) -> npt.NDArray[np.float64]:
    """Return independent uniform numbers for each (epoch, sample) pair of a batch.

    They depend on the arguments alone, never on the process, the batch or the order of calls.

    Args:
        seed: any integer.
        epochs: int64[b].
        samples: int64[b].
        view: which of the sample's random views.
        count: numbers of each pair.
        purpose: names what they are for; another purpose has other numbers.

    Returns:
        float64[b, count] in [0, 1), multiples of 2^-53.
    """
    state = _mix(_word("uniforms", purpose, seed, view) ^ epochs.astype(np.uint64))
    state = _mix(state ^ samples.astype(np.uint64))
    return (_stream(state, count) >> np.uint64(11)) * np.float64(2.0**-53)


def _permute(places: Ints, keys: Words, key_rows: Ints, lengths: Ints) -> Ints:
    """Permute each place within 0..length-1, under the row of `keys` [rows, rounds] it names.

    Args:
        places: int64[count], each below its length.
        keys: uint64[rows, _ROUNDS].
        key_rows: int64[count].
        lengths: int64[count], or [1] where all are the same.
    """
    sides = np.unique(lengths)
    width_of = np.array([math.isqrt(int(n) - 1) + 1 for n in sides], np.uint64)
    widths = width_of[np.searchsorted(sides, lengths)]
    grids = [
        np.broadcast_to(column, places.shape)
        for column in (widths, _ceil_div(lengths, widths), lengths.astype(np.uint64))
    ]
    permuted = places.astype(np.uint64)
    outside = np.arange(len(places))
    while outside.size:
        width, height, length = (column[outside] for column in grids)
        permuted[outside] = _shuffle_grid(permuted[outside], keys, key_rows[outside], width, height)
        outside = outside[permuted[outside] >= length]
    return permuted.astype(np.int64)


def _shuffle_grid(
    cells: Words, keys: Words, key_rows: Ints, widths: Words, heights: Words
) -> Words:
    """Apply the network once: a bijection of the smallest near-square grid that covers n."""
    rows, columns = np.divmod(cells, widths)
    for step in range(0, _ROUNDS, 2):
        rows = (rows + _hash(columns, keys[key_rows, step])) % heights
        columns = (columns + _hash(rows, keys[key_rows, step + 1])) % widths
    return rows * widths + columns


def _ceil_div(values: Ints, by: Words) -> Words:
    return (values.astype(np.uint64) + by - np.uint64(1)) // by


def _hash(values: Words, keys: Words) -> Words:
    """Return keyed hashes of 63 bits, so that adding a row or column number cannot overflow."""
    return _mix(values + keys) >> np.uint64(1)


def _word(*parts: str | int) -> np.uint64:
    """Return a word that depends on every part and on where each part ends."""
    text = "\0".join(map(str, parts))
    return np.uint64(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()))


def _stream(states: Words, count: int) -> Words:
    """Return the first `count` words of splitmix64 from each state: [states, count]."""
    return _mix(states[:, None] + np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN)


def _mix(words: Words) -> Words:
    """Return splitmix64's finaliser of each word: a bijection that scatters every bit."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
