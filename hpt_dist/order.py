"""Which sample stands at which position of training, and its random numbers: pure functions.

The order of an epoch is a keyed permutation of 0..n-1 that is computed position by position, so
that any position is reached without the ones before it. It lays 0..n-1 out row by row on a grid
of about sqrt(n) x sqrt(n) cells and lets row and column shift each other by keyed hashes (an
alternating Feistel network, each round of which is a bijection of the grid); the few positions
that end in a cell past n-1 go through the network again until they do not (cycle walking).
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]

_ROUNDS = 16  # 8 scatter large n well; 16 make the orders of tiny n equally likely, too
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # splitmix64's increment: 2^64 / golden ratio, odd


def samples_at(digest: str, seed: int, n: int, position: int, count: int) -> tuple[Ints, Ints]:
    """Return the samples at `count` positions of training, and the epoch of each.

    Args:
        digest: names the data; other data, other order.
        seed: names the order; every epoch, the first included, depends on it.
        n: samples of an epoch, at least 1.
        position: samples drawn since the start of training, at least 0.
        count: number of positions, at least 0.

    Returns:
        Sample indices int64[count] in 0..n-1 and epochs int64[count] from 0. Positions k*n to
        (k+1)*n - 1 hold every sample exactly once.

    Raises:
        ValueError: n, position or count is below its least value.
    """
    if n < 1 or position < 0 or count < 0:
        raise ValueError(f"n={n} must be >= 1, position={position} and count={count} >= 0")
    positions = np.arange(position, position + count, dtype=np.int64)
    epochs, places = np.divmod(positions, n)
    first = position // n
    last = (position + max(count, 1) - 1) // n
    touched = np.arange(first, last + 1, dtype=np.uint64)
    keys = _stream(_mix(_word("order", digest, seed, n) ^ touched), _ROUNDS)  # [epochs, rounds]
    samples = _permute(places.astype(np.uint64), keys, epochs - first, n)
    return samples.astype(np.int64), epochs


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


def _permute(places: Words, keys: Words, key_rows: Ints, n: int) -> Words:
    """Permute `places` in 0..n-1, each under the row of `keys` [rows, rounds] that it names."""
    samples = _shuffle_grid(places, keys, key_rows, n)
    outside = np.flatnonzero(samples >= n)
    while outside.size:
        samples[outside] = _shuffle_grid(samples[outside], keys, key_rows[outside], n)
        outside = outside[samples[outside] >= n]
    return samples


def _shuffle_grid(cells: Words, keys: Words, key_rows: Ints, n: int) -> Words:
    """Apply the network once: a bijection of the smallest near-square grid that covers n."""
    width = np.uint64(math.isqrt(n - 1) + 1)
    height = np.uint64(-(-n // int(width)))
    rows, columns = np.divmod(cells, width)
    for step in range(0, _ROUNDS, 2):
        rows = (rows + _hash(columns, keys[key_rows, step])) % height
        columns = (columns + _hash(rows, keys[key_rows, step + 1])) % width
    return rows * width + columns


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
