"""What `shard` does, here or by jobs on a cluster, with its output."""

from __future__ import annotations

from pathlib import Path

from hpt_dist.cli import console
from hpt_dist.datasets.manifest import Manifest, read_manifest
from hpt_dist.datasets.shard_workers import cores
from hpt_dist.images.formats import Encoding
from hpt_dist.launch import on_slurm, shard_jobs
from hpt_dist.launch.shard_jobs import Sharding, ShardingRequest
from hpt_dist.launch.survey import dataset_store
from hpt_dist.slurm import profile
from hpt_dist.store import open_store

_LEFT_OUT_SHOWN = 5


def requested(
    source: str,
    destination: str,
    shard_mb: float,
    max_bad: int,
    encoding: Encoding,
    root: Path | None = None,
) -> ShardingRequest:
    """Return what the options ask for.

    Raises:
        RequestError: the destination cannot hold a dataset.
    """
    where = destination if "://" in destination else str(Path(destination).absolute())
    store, name = dataset_store(where)
    shard_bytes = round(shard_mb * 1_000_000)
    return ShardingRequest(
        source=source,
        folder=str(Path.cwd()),
        store=store,
        name=name,
        shard_bytes=shard_bytes,
        max_bad=max_bad,
        encoding=encoding,
        root=str(root) if root else "",
    )


def write_here(request: ShardingRequest, workers: int | None) -> Manifest:
    """Shard in processes of this machine, by default as many as there are cores."""
    with console.counting(f"shard {request.source}") as tell:
        request.write(workers or cores(), lambda progress: tell(progress.images, progress.total))
    return read_manifest(open_store(request.store), request.name)


def write_by_jobs(
    request: ShardingRequest,
    on: str,
    jobs: int | None,
    workers: int | None,
    work: str,
    no_wait: bool,
) -> Manifest | None:
    """Shard by jobs on a cluster; return the manifest, or None with `no_wait`.

    Args:
        request: what to do.
        on: path of the profile.
        jobs: parts to split the work into; by default as many as may run at the same time.
        workers: processes of one job; by default as many as it has cores.
        work: folder for scripts and logs of jobs, unless the profile names one.
        no_wait: return when the jobs are submitted.
    """
    cluster = profile.load(on)
    store = open_store(request.store)
    site = on_slurm.site(cluster, store, work)
    sharding = shard_jobs.submit(request, site, jobs or cluster.max_parallel_jobs, workers)
    array, merge = sharding.ids
    count = len(sharding.parts.keys)
    console.print_note(f"{count} parts in job {array}, the manifest in job {merge}")
    console.print_note(f"logs in {sharding.parts.folder}")
    if no_wait:
        _tell_how_to_look(sharding)
        return None
    try:
        with console.counting(f"shard {request.source}") as tell:
            shard_jobs.wait(sharding, tell)
    except KeyboardInterrupt:
        _tell_how_to_look(sharding)
        raise
    return read_manifest(store, request.name)


def _tell_how_to_look(sharding: Sharding) -> None:
    console.print_note("the jobs go on; the same command waits for them again")
    console.print_note(f"  look: squeue --jobs {','.join(sharding.ids)}")
    console.print_note(f"  stop: scancel {' '.join(sharding.ids)}")


def print_written(manifest: Manifest, destination: str, seconds: float, json_: bool) -> None:
    """Print what was written, and which images were left out."""
    images = sum(split.images for split in manifest.splits.values())
    left_out = [vars(one) for one in manifest.quarantined]
    if json_:
        written = {"name": manifest.name, "digest": manifest.digest, "uri": destination}
        console.print_json(written | {"images": images, "quarantined": left_out})
        return
    console.print_line(f"{manifest.name}: {images:,} images in {destination} ({seconds:.1f} s)")
    if left_out:
        console.print_line(f"left out: {len(left_out):,} of {images + len(left_out):,} images")
        for one in left_out[:_LEFT_OUT_SHOWN]:
            console.print_line(f"  {one['origin']}: {one['reason']}")
    if len(left_out) > _LEFT_OUT_SHOWN:
        command = f"hpt-dist data show {destination} --json"
        console.print_line(f"to list all of them: {command}, under quarantined")
