"""From opening a dataset to the first batch: at the start of training and far into it."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measure import ROUNDS, Row, print_rows
from benchmarks.reading import SHARD_BYTES, write_photos
from hpt_dist.datasets.shards import write_dataset
from hpt_dist.reading.stream import Pool, Stream, View, open_split
from hpt_dist.store import Store, open_store

LATE = 10**6
GOAL_S = 1.0


def first_batch_s(store: Store, step: int) -> float:
    """Open everything anew and return how long the batch of a step took, seconds."""
    began = time.perf_counter()
    pool = Pool([open_split(store, "photos", "train")])
    with Stream(pool, batch=64, seed=0, views=[View(224, (0.2, 1.0))] * 2, prefetch=0) as stream:
        stream.load_state_dict({"step": step})
        next(stream)
    return time.perf_counter() - began


def rows() -> Iterator[Row]:
    """Yield the rows of this module."""
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(f"{folder}/store")
        write_dataset(
            write_photos(Path(folder) / "photos"), store, "photos", shard_bytes=SHARD_BYTES
        )
        first_batch_s(store, 0)
        times = [(first_batch_s(store, 0), first_batch_s(store, LATE)) for _ in range(ROUNDS)]
    early_s, late_s = (statistics.median(column) for column in zip(*times, strict=True))
    note = f"batch 1 after {early_s:.2f} s, batch {LATE:,} after {late_s:.2f} s (64 images)"
    yield Row("resume_to_first_batch_under_1_s", GOAL_S / late_s, 1, note)
    yield Row("resume_late_as_fast_as_early", early_s / late_s, 0.8, note)


if __name__ == "__main__":
    print_rows(rows())
