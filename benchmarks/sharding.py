"""Sharding against `webdataset.ShardWriter`: `python -m benchmarks.sharding`.

The peer does the same job in the plainest way: a loop in one process that reads each file, decodes
it to be sure that it is an image, sums its pixels by Pillow's `ImageStat` for mean and standard
deviation, and writes it. The note also gives the speed of that loop without sums, and without any
look at the images.
"""

from __future__ import annotations

import io
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import webdataset
from PIL import Image, ImageStat

from benchmarks.measure import Row, in_words, print_rows, rates
from benchmarks.photos import photos
from hpt_dist.datasets.shard_workers import cores
from hpt_dist.datasets.shards import write_dataset
from hpt_dist.sources import open_source
from hpt_dist.store import open_store

IMAGES = 2400
CLASSES = 10
SHARD_BYTES = 4_000_000  # some shards for every worker, as a larger dataset would have
ROUNDS = 3
GOAL, GOAL_PER_CORE = 1.5, 1.0


def rows() -> Iterator[Row]:
    """Measure with all cores and with one."""
    with tempfile.TemporaryDirectory() as folder:
        source, place = Path(folder, "source"), Path(folder, "place")
        _write_photos(source)
        speeds = rates(
            {
                f"hpt-dist on {cores()} cores": _ours(source, place, cores()),
                "hpt-dist on 1": _ours(source, place, 1),
                "ShardWriter with decode, mean and std": _theirs(source, place, _summed),
                "ShardWriter with decode": _theirs(source, place, _decoded),
                "ShardWriter, bytes unseen": _theirs(source, place, lambda _: None),
            },
            ROUNDS,
        )
    all_cores, one, peer, _, _ = speeds.values()
    note = f"{in_words(speeds)}; {IMAGES} photos of 500 x 375, durable writes for hpt-dist alone"
    yield Row("sharding_vs_shardwriter", all_cores / peer, GOAL, note)
    yield Row("sharding_per_core_vs_shardwriter", one / peer, GOAL_PER_CORE)


def _write_photos(source: Path) -> None:
    for i, photo in enumerate(photos(IMAGES)):
        file = source / "train" / f"{i % CLASSES}" / f"{i}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(photo)


def _ours(source: Path, place: Path, workers: int) -> Callable[[], int]:
    def work() -> int:
        shutil.rmtree(place, ignore_errors=True)
        opened = open_source(str(source))
        manifest = write_dataset(
            opened, open_store(str(place)), "photos", shard_bytes=SHARD_BYTES, workers=workers
        )
        return manifest.images("train")

    return work


def _theirs(source: Path, place: Path, look: Callable[[bytes], object]) -> Callable[[], int]:
    def work() -> int:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        pattern = os.path.join(place, "%06d.tar")  # noqa: PTH118 - it takes no Path
        with webdataset.ShardWriter(pattern, maxsize=SHARD_BYTES, verbose=0) as sink:
            for file in sorted(source.rglob("*.jpg")):
                data = file.read_bytes()
                look(data)
                sink.write({"__key__": file.stem, "jpg": data, "cls": int(file.parent.name)})
        return IMAGES

    return work


def _decoded(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data)) as image:
        return image.convert("RGB")


def _summed(data: bytes) -> tuple[list[float], list[float]]:
    sums = ImageStat.Stat(_decoded(data))
    return sums.sum, sums.sum2


if __name__ == "__main__":
    sys.exit(not print_rows(rows()))
