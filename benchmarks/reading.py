"""Reading shards without decoding: images/s of one process, against webdataset and litdata.

Everybody reads the same photographs from its own format. hpt-dist reads them in its exact,
shuffled order and checks every image's CRC; the peers read in the order of the files and check
nothing, which is the fastest that they can do.
"""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from services import run_ceph

from benchmarks.measure import Row, in_words, print_rows, rates
from benchmarks.photos import photos
from hpt_dist.datasets.manifest import read_manifest
from hpt_dist.datasets.shards import write_dataset
from hpt_dist.reading.node_cache import NodeCache
from hpt_dist.reading.order import Order
from hpt_dist.reading.pool import Pool
from hpt_dist.reading.split import ReadableSplit
from hpt_dist.reading.stream import open_split
from hpt_dist.sources.sample import FileSource, file_sample
from hpt_dist.store import Store, open_store

IMAGES = 4_000
REMOTE_IMAGES = 12_000  # more, so that what it takes to begin and to end weighs little
BATCH = 256
SHARD_BYTES = 16 << 20
WINDOW = 1024  # several windows in an epoch, as at scale
AHEAD = 3 * WINDOW  # samples between asking for a shard and its use


def write_photos(folder: Path, count: int = IMAGES) -> FileSource:
    """Write photographs as files, and return them as a source of one split."""
    folder.mkdir()
    for k, data in enumerate(photos(count)):
        (folder / f"{k:05d}.jpg").write_bytes(data)
    files = [file_sample(path, path.name, "train", 0) for path in sorted(folder.iterdir())]
    return FileSource("photos", "none", ["photo"], files)


def ours(store: Store) -> Callable[[], int]:
    """Read an epoch in training's order."""
    pool = Pool([open_split(store, "photos", "train")])
    order = Order(pool.digest, 0, pool.shard_sizes)
    epochs = itertools.count()

    def epoch() -> int:
        samples, _ = order.at(next(epochs) * len(pool) + np.arange(len(pool)))
        for i in samples.tolist():
            pool.read(i)
        return len(pool)

    return epoch


def webdatasets(urls: list[str]) -> Callable[[], int]:
    """Read all shards with webdataset."""
    import webdataset

    def epoch() -> int:
        dataset = webdataset.WebDataset(urls, shardshuffle=False, empty_check=False)
        return sum(1 for _ in dataset)

    return epoch


def litdatas(folder: Path) -> Callable[[], int]:
    """Write the photographs with litdata, and read them all."""
    import litdata

    cache = litdata.streaming.Cache(str(folder), chunk_bytes=SHARD_BYTES)
    for k, data in enumerate(photos(IMAGES)):
        cache[k] = {"image": data, "label": 0}
    cache.done()
    cache.merge()
    dataset = litdata.StreamingDataset(str(folder))

    def epoch() -> int:
        return sum(1 for _ in dataset)

    return epoch


def local_rows(folder: Path) -> Iterator[Row]:
    store = open_store(str(folder / "store"))
    manifest = write_dataset(
        write_photos(folder / "photos"), store, "photos", shard_bytes=SHARD_BYTES
    )
    urls = [str(store.local(f"datasets/photos/{s.path}")) for s in manifest.splits["train"].shards]
    speeds = rates(
        {
            "hpt-dist": ours(store),
            "webdataset": webdatasets(urls),
            "litdata": litdatas(folder / "litdata"),
        }
    )
    yield Row(
        "tar_reading_local_vs_webdataset",
        speeds["hpt-dist"] / speeds["webdataset"],
        3,
        in_words(speeds),
    )
    yield Row(
        "tar_reading_local_vs_litdata",
        speeds["hpt-dist"] / speeds["litdata"],
        0.8,
        in_words(speeds),
    )


def ours_remote(store: Store, folder: Path) -> Callable[[], int]:
    """Read an epoch from S3 in training's order, through a node cache that is empty at first."""
    manifest = read_manifest(store, "photos")
    dataset = store.at("datasets/photos")
    epochs = itertools.count()

    def epoch() -> int:
        number = next(epochs)
        cache = NodeCache(folder / str(number), limit_bytes=1 << 30)
        split = ReadableSplit(dataset, manifest, "train", node_cache=cache)
        order = Order(split.digest, 0, split.sizes, window=WINDOW)
        samples, _ = order.at(number * len(split) + np.arange(len(split)))
        for start in range(0, len(split), BATCH):
            split.prefetch(samples[start : start + AHEAD])
            for i in samples[start : start + BATCH].tolist():
                split.read(i)
        split.close()
        shutil.rmtree(cache.folder)
        return len(split)

    return epoch


def webdatasets_remote(bucket: str, keys: list[str]) -> Callable[[], int]:
    """Read all shards with webdataset, which gets them from boto3 as streams."""
    import boto3
    import webdataset

    client = boto3.client("s3")

    def opened(url: str, *_: object) -> object:
        return client.get_object(Bucket=bucket, Key=url.partition(":")[2])["Body"]

    webdataset.gopen_schemes["boto3"] = opened
    return webdatasets([f"boto3:{key}" for key in keys])


def s3_rows(folder: Path) -> Iterator[Row]:
    """Yield what is read from a real S3 server, Ceph, that runs on the same machine."""
    ceph_folder = folder / "ceph"
    ceph_folder.mkdir()
    with run_ceph(ceph_folder) as ceph:
        os.environ.update(ceph.http.environment)
        bucket = ceph.http.make_bucket()
        store = open_store(f"s3://{bucket}")
        manifest = write_dataset(
            write_photos(folder / "remote", REMOTE_IMAGES), store, "photos", shard_bytes=SHARD_BYTES
        )
        keys = [f"datasets/photos/{shard.path}" for shard in manifest.splits["train"].shards]
        speeds = rates(
            {
                "hpt-dist": ours_remote(store, folder / "cache"),
                "webdataset": webdatasets_remote(bucket, keys),
            }
        )
    ratio = speeds["hpt-dist"] / speeds["webdataset"]
    yield Row("tar_reading_s3_vs_webdataset", ratio, 3, in_words(speeds))


def rows() -> Iterator[Row]:
    """Yield the rows of this module."""
    with tempfile.TemporaryDirectory() as folder:
        yield from local_rows(Path(folder))
        yield from s3_rows(Path(folder))


if __name__ == "__main__":
    print_rows(rows())
