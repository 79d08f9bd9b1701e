"""hpt-dist shard, here or by jobs on a cluster."""

from __future__ import annotations

import dataclasses
import os
import re
import time
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from hpt_dist.cli import console
from hpt_dist.cli.options import (
    BoxesOption,
    ClassesOption,
    ClusterOption,
    ColumnsOption,
    DestinationArgument,
    GroupOption,
    ImageOption,
    JobsOption,
    JsonOption,
    LabelOption,
    LayoutOption,
    LeaveOutOption,
    MaxBadOption,
    QualityOption,
    ReplaceOption,
    ResizeOption,
    RootOption,
    ScaleOption,
    SourceArgument,
    SplitOption,
    WorkersOption,
    WorkOption,
)
from hpt_dist.cli.requested import begun, explained, profile_file
from hpt_dist.datasets import shards
from hpt_dist.datasets.manifest import Manifest, read_manifest
from hpt_dist.datasets.shard_workers import cores
from hpt_dist.errors import RequestError
from hpt_dist.images import depth
from hpt_dist.images.formats import Encoding
from hpt_dist.launch import on_slurm, shard_jobs
from hpt_dist.launch.lookup import dataset_store
from hpt_dist.launch.shard_jobs import Sharding
from hpt_dist.launch.sharding import ShardingRequest
from hpt_dist.slurm import profile
from hpt_dist.sources import Source, TarOptions, other_files, tars, understood
from hpt_dist.store import open_store
from hpt_dist.store.paths import usual_store

_LEFT_OUT_SHOWN = 5


def shard(
    sources: SourceArgument,
    destination: DestinationArgument,
    root: RootOption = None,
    layout: LayoutOption = "",
    columns: ColumnsOption = "",
    group_by: GroupOption = None,
    image: ImageOption = "",
    label: LabelOption = "",
    classes: ClassesOption = "",
    split: SplitOption = "",
    boxes: BoxesOption = False,
    max_bad: MaxBadOption = 10,
    shard_mb: Annotated[float, typer.Option(help="Size of one tar, MB.", min=0.001)] = 256,
    resize: ResizeOption = None,
    quality: QualityOption = None,
    scale: ScaleOption = "",
    replace: ReplaceOption = False,
    leave_out: LeaveOutOption = None,
    workers: WorkersOption = None,
    on: ClusterOption = "",
    jobs: JobsOption = None,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Submit the jobs and return.")] = False,
    work: WorkOption = "",
    json_: JsonOption = False,
) -> None:
    """Write images as WebDataset tars with a manifest. Run it again to continue after a stop.

    JPEG and PNG files are copied byte by byte unless --resize, --quality or --scale changes them;
    WebP, TIFF, AVIF, HEIC and others become PNG with the same pixels. A dataset of other images or
    options is only replaced with --replace. Boxes are stored as they are, or with --boxes to be
    detected. How the source was understood is printed first, and what was set aside.

    \b
    Examples:
      hpt-dist shard ~/photos ./hpt-store/datasets/photos
      hpt-dist shard labels.csv s3://bucket/hpt/datasets/flowers
      hpt-dist shard birds.parquet ./hpt-store/datasets/birds --columns path=photo,label=species
      hpt-dist shard openmoji/line ./hpt-store/datasets/openmoji/line
      hpt-dist shard cars/instances.json ./hpt-store/datasets/cars --boxes
      hpt-dist shard resisc45 ./hpt-store/datasets/resisc45 --root /data/NWPU-RESISC45
      hpt-dist shard ~/photos ./hpt-store/datasets/small --resize 256 --quality 85
      hpt-dist shard ~/scans ./hpt-store/datasets/scans --scale 0..4095 --replace
      hpt-dist shard ~/scans ./hpt-store/datasets/scans --group-by '(patient[0-9]+)'
      hpt-dist shard 's3://b/cars/train-{000000..000146}.tar' ./hpt-store/datasets/cars
      hpt-dist shard ~/photos ./hpt-store/datasets/photos --replace --leave-out leaks.csv
      hpt-dist shard s.csv s3://b/hpt/datasets/s --on slurm/profiles/generic-cpu.yaml --jobs 16
    """
    _refuse_jobs_here(on, jobs, no_wait)
    began_s = time.perf_counter()
    encoding = Encoding(resize, quality, depth.parse(scale))
    request = requested(
        tars.listed(sources), destination, shard_mb, max_bad, encoding, root, replace
    )
    request = dataclasses.replace(
        request,
        layout=layout,
        columns=columns,
        group_by=group_by,
        tars=tar_options(image, label, classes, split),
        boxes=boxes,
        leave_out=str(leave_out) if leave_out else "",
    )
    with explained(lambda fix: other_files.for_destination(fix, destination)):
        if on:
            manifest = _write_by_jobs(request, profile_file(on), jobs, workers, work, no_wait)
        else:
            manifest = write(request, understood_source(request), workers)
    if manifest:
        print_written(manifest, destination, time.perf_counter() - began_s, json_)


def _refuse_jobs_here(on: str, jobs: int | None, no_wait: bool) -> None:
    if not on and (jobs or no_wait):
        raise RequestError("--jobs and --no-wait need a cluster", fix="name it with --on PROFILE")


def tar_options(image: str, label: str, classes: str, split: str) -> TarOptions | None:
    """Return how tars are read; None where no option says it."""
    options = TarOptions(image, label, classes, split)
    return options if any(vars(options).values()) else None


def requested(
    source: str,
    destination: str,
    shard_mb: float,
    max_bad: int,
    encoding: Encoding,
    root: Path | None = None,
    replace: bool = False,
) -> ShardingRequest:
    """Return what the options ask for.

    Raises:
        RequestError: the destination cannot hold a dataset.
    """
    where = destination if "://" in destination else str(Path(destination).absolute())
    try:
        store, name = dataset_store(where)
        shards.stem_of(name)
    except RequestError as error:
        proper = re.sub(r"[^A-Za-z0-9_.-]+", "_", Path(destination).name).lstrip("_.-") or "NAME"
        raise RequestError(
            f"a dataset cannot lie at {destination}",
            where="DEST",
            allowed="STORE/datasets/NAME; NAME of letters, digits, '.', '_', '-' and '/'",
            fix=f"such as {usual_store()}/datasets/{proper}",
        ) from error
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
        replace=replace,
    )


def understood_source(request: ShardingRequest) -> Source:
    """Open the images, and print how they were understood."""
    source = _opened(request)
    _print_understood(request, source)
    return source


def write(request: ShardingRequest, source: Source, workers: int | None) -> Manifest:
    """Shard in processes of this machine, by default as many as there are cores."""
    store = begun(open_store(request.store))
    with console.counting(f"shard {tars.in_short(request.source)}") as update:
        request.write(
            source,
            store,
            workers or cores(),
            lambda progress: update(progress.images, progress.total),
        )
    return read_manifest(store, request.name)


def _opened(request: ShardingRequest) -> Source:
    """Open the images; tars take a while, and show how far they are."""
    if not request.are_tars:
        return request.open_source()
    with console.counting(f"read {tars.in_short(request.source)}") as update:
        return request.open_source(update)


def _write_by_jobs(
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
    if left_out := cluster.left_out(os.environ):
        console.print_note(f"not passed on to sbatch: {left_out}")
    on_slurm.check("without --on")
    store = begun(store)
    sharding = shard_jobs.submit(
        *(request, site, jobs or cluster.max_parallel_jobs, workers),
        note=lambda source: _print_understood(request, source),
    )
    array, merge = sharding.ids
    count = len(sharding.parts.keys)
    console.print_note(f"{count} parts in job {array}, the manifest in job {merge}")
    console.print_note(f"logs in {sharding.parts.folder}")
    if no_wait:
        _print_how_to_look(sharding)
        return None
    try:
        with console.counting(f"shard {tars.in_short(request.source)}") as update:
            shard_jobs.wait(sharding, update)
    except KeyboardInterrupt:
        _print_how_to_look(sharding)
        raise
    return read_manifest(store, request.name)


def _print_understood(request: ShardingRequest, source: Source) -> None:
    for line in understood.in_words(source):
        console.print_note(line)
    left_out = list(request.left_out(source).values())
    if request.leave_out and not left_out:
        console.print_note(f"{request.leave_out} lists no image")
    if left_out:
        counts = Counter(sample.split for sample in left_out)
        of_splits = ", ".join(f"{split} {count:,}" for split, count in sorted(counts.items()))
        named = ", ".join(sample.origin for sample in left_out[:_LEFT_OUT_SHOWN])
        more = ", ..." if len(left_out) > _LEFT_OUT_SHOWN else ""
        console.print_note(f"left out by {request.leave_out}: {of_splits} ({named}{more})")


def _print_how_to_look(sharding: Sharding) -> None:
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
