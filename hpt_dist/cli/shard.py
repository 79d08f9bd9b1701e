"""What `shard` does between the command line and the machinery."""

from __future__ import annotations

from pathlib import Path

from hpt_dist.cli import console
from hpt_dist.datasets import shards
from hpt_dist.datasets.manifest import Manifest, read_manifest
from hpt_dist.datasets.shard_workers import cores
from hpt_dist.images.formats import Encoding
from hpt_dist.launch import shard_jobs
from hpt_dist.launch.shard_jobs import Jobs, Request
from hpt_dist.launch.survey import dataset_store
from hpt_dist.slurm import profile
from hpt_dist.store import open_store
from hpt_dist.store.paths import work_folder

_LEFT_OUT_SHOWN = 5


def requested(
    source: str,
    destination: str,
    shard_mb: float,
    max_bad: int,
    encoding: Encoding,
    root: Path | None = None,
) -> Request:
    """Return what the options ask for.

    Raises:
        RequestError: the destination is no place for a dataset.
    """
    where = destination if "://" in destination else str(Path(destination).absolute())
    store, name = dataset_store(where)
    shard_bytes = round(shard_mb * 1_000_000)
    return Request(
        source=source,
        folder=str(Path.cwd()),
        store=store,
        name=name,
        shard_bytes=shard_bytes,
        max_bad=max_bad,
        encoding=encoding,
        root=str(root) if root else "",
    )


def write_here(request: Request, workers: int | None) -> Manifest:
    """Shard in processes of this machine, by default as many as there are cores."""
    with console.counting(f"shard {request.source}") as tell:
        return shards.write_dataset(
            request.open_source(),
            open_store(request.store),
            request.name,
            shard_bytes=request.shard_bytes,
            max_bad=request.max_bad,
            encoding=request.encoding,
            workers=workers or cores(),
            progress=lambda progress: tell(progress.images, progress.total),
        )


def write_by_jobs(
    request: Request, on: str, jobs: int | None, workers: int | None, work: str, no_wait: bool
) -> Manifest | None:
    """Shard in jobs of a cluster; return the manifest, or nothing without waiting.

    Args:
        request: what to do.
        on: file of the profile.
        jobs: parts to split the work into; by default as many as may run at the same time.
        workers: processes of one job; by default as many as it has cores.
        work: folder for what jobs leave, unless the profile names one.
        no_wait: return when the jobs are submitted.
    """
    cluster = profile.load(on)
    store = open_store(request.store)
    folder = shard_jobs.jobs_folder(request, work_folder(store, work), cluster)
    parts = jobs or cluster.max_parallel_jobs
    submitted = shard_jobs.submit(request, cluster, parts, folder, workers)
    array, merge = submitted.ids
    console.note(f"{len(submitted.parts)} parts in job {array}, the manifest in job {merge}")
    console.note(f"logs in {submitted.folder}")
    if no_wait:
        _tell_how_to_look(submitted)
        return None
    try:
        with console.counting(f"shard {request.source}") as tell:
            shard_jobs.wait(submitted, tell)
    except KeyboardInterrupt:
        _tell_how_to_look(submitted)
        raise
    return read_manifest(store, request.name)


def _tell_how_to_look(jobs: Jobs) -> None:
    console.note("the jobs go on; the same command waits for them again")
    console.note(f"  look: squeue --jobs {','.join(jobs.ids)}")
    console.note(f"  stop: scancel {' '.join(jobs.ids)}")


def print_written(manifest: Manifest, destination: str, seconds: float, json_: bool) -> None:
    """Say what was written, and which images were left out."""
    images = sum(split.images for split in manifest.splits.values())
    left_out = [vars(one) for one in manifest.quarantined]
    if json_:
        told = {"name": manifest.name, "digest": manifest.digest, "uri": destination}
        console.print_json(told | {"images": images, "quarantined": left_out})
        return
    console.say(f"{manifest.name}: {images:,} images in {destination} ({seconds:.1f} s)")
    if left_out:
        console.say(f"left out: {len(left_out):,} of {images + len(left_out):,} images")
        for one in left_out[:_LEFT_OUT_SHOWN]:
            console.say(f"  {one['origin']}: {one['reason']}")
    if len(left_out) > _LEFT_OUT_SHOWN:
        console.say(f"all of them: hpt-dist data show {destination} --json, under quarantined")
