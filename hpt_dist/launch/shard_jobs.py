"""Sharding split over a Slurm array: each job writes its part, one more job merges them.

The store is the truth. Parts and the merge look at what is finished there and write what is not,
so a job that is killed, preempted or out of time goes on when it is queued again, and running the
command again after anything is safe. The merge waits for the array by `afterok`: where a part
fails, Slurm drops the merge, and the part's own message is what the caller gets.

The jobs are noted in the store as those of trials are (`slurm.jobs`). Each holds a lease, which
shows its progress, and leaves `failure.json` or `DONE` beside it. After the manifest, the merge
deletes it all; the note of the jobs is the last to go.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from hpt_dist.errors import HptError, RequestError
from hpt_dist.launch import on_slurm
from hpt_dist.launch.on_slurm import Site
from hpt_dist.launch.sharding import ShardingPart, ShardingRequest
from hpt_dist.launch.survey import looked_up
from hpt_dist.slurm import commands as slurm
from hpt_dist.slurm import jobs as slurm_jobs
from hpt_dist.slurm.commands import Step
from hpt_dist.slurm.jobs import Array
from hpt_dist.slurm.placement import Placement, memory_to_shard_gb
from hpt_dist.sources import Source
from hpt_dist.store import Store, lease, marker, open_store, records
from hpt_dist.store.paths import DONE, FAILURE, LEASE, sharding_prefix
from hpt_dist.store.records import Count, DamagedRecordError
from hpt_dist.trial.records import failure

_SPEC = "spec.json"
_POLL_S = (0.5, 30.0)
# How long Slurm and the store may fail before we stop asking; a controller restarts in less.
_PATIENCE_S = 600.0
_SHOWN = 5


@dataclass(frozen=True)
class _NotedRequest:
    """What the jobs of a sharding do: its request, and how many images each part has."""

    request: dict[str, Any]
    images: tuple[Count, ...]


@dataclass(frozen=True)
class Sharding:
    """The jobs of one sharding.

    Args:
        request: what they do.
        store: the request's own, opened.
        parts: the array that writes the parts.
        merge: the job that writes the manifest.
        images: how many each part has.
    """

    request: ShardingRequest
    store: Store
    parts: Array
    merge: Array
    images: tuple[int, ...]

    @property
    def ids(self) -> tuple[str, str]:
        """The ids of the array and of the merge, as Slurm's commands take them."""
        return self.parts.id, self.merge.id

    def is_queued(self) -> bool:
        """Return whether any job is not over."""
        queue = slurm_jobs.queued(self.store)
        return any(key in queue for key in (*self.parts.keys, *self.merge.keys))

    def progress(self) -> int:
        """Return how many images are done."""
        return sum(looked_up(self._images, range(len(self.images))))

    def _images(self, part: int) -> int:
        root, there = self._noted(self.parts.keys[part])
        if DONE in there:
            return self.images[part]
        holder = lease.read(root, LEASE) if LEASE in there else None
        return int(holder.facts.get("images", 0)) if holder else 0

    def _noted(self, key: str) -> tuple[Store, set[str]]:
        root = self.store.at(sharding_prefix(key))
        return root, {info.path for info in root.list()}

    def check(self) -> None:
        """Find out how the jobs ended, all of them being over.

        Raises:
            HptError: the merge did not end well; with the messages of what failed.
        """
        if not slurm_jobs.read(self.store, self.request.id):
            return  # the merge deletes the note last, after the manifest
        # Slurm drops the merge where a part fails; and parts often fail for one reason.
        parts = [failure for failure in looked_up(self._failure, self.parts.keys) if failure]
        failed = f"{len(parts)} of {len(self.parts.keys)} parts" if parts else "the merge"
        reasons = list(dict.fromkeys(parts or [self._failure(self.merge.keys[0])]))
        more = [f"and {len(reasons) - _SHOWN} more"] if len(reasons) > _SHOWN else []
        raise HptError(
            "\n".join([*reasons[:_SHOWN], *more]),
            where=f"{failed} failed",
            fix=f"see {self.parts.folder}/*.out; the same command goes on from the finished shards",
        )

    def _failure(self, key: str) -> str:
        """Return why a job that is over has not done its work; empty for a part that has."""
        root, there = self._noted(key)
        if FAILURE in there and (message := failure(root)):
            return message
        array = self.parts if key in self.parts.keys else self.merge
        if DONE in there and array is self.parts:
            return ""
        job, logs = array.job_of(key), slurm_jobs.log_files(self.store, self.request.id, key)
        if not logs:
            return f"job {job} never began, or its node does not see {array.folder}"
        text = "\n".join(log.read_text(encoding="utf-8", errors="replace") for log in logs)
        return f"job {job} was ended; its log ends with: {slurm_jobs.last_message(text)}"


def submit(
    request: ShardingRequest,
    site: Site,
    jobs: int,
    workers: int | None = None,
    note: Callable[[Source], None] = lambda _: None,
) -> Sharding:
    """Submit the jobs of a sharding, or find those of an earlier call that are not over.

    Args:
        request: what to do.
        site: how the cluster is used.
        jobs: parts to split the work into; never more than there are shards.
        workers: processes of one job; as many as it has cores by default.
        note: receives the opened source, before jobs are submitted.

    Raises:
        RequestError: Slurm is not here or refuses the jobs, others write this dataset, or its
            name or its source cannot be used.
        DataError: the keys of the source cannot be used.
        HptError: Slurm does not answer, or another command submits for too long.
    """
    on_slurm.check("without --on")
    store = marker.begin(open_store(request.store))
    with on_slurm.alone(store):
        found = _queued(request, store)
    # Listing the source may take minutes, in which others may submit.
    sharding = found or _planned(request, store, site, jobs, note)
    with on_slurm.alone(store):
        sharding = _queued(request, store) or sharding
        return sharding if sharding.merge.id else _submit(sharding, site, workers)


def _queued(request: ShardingRequest, store: Store) -> Sharding | None:
    """Return the jobs of this dataset, if any is in Slurm's queue.

    Raises:
        RequestError: they do something else.
        DamagedRecordError: nobody can tell what they do.
    """
    queue, arrays = slurm_jobs.queued(store), slurm_jobs.read(store, request.id)
    ids = [[queue[key].id for key in array.keys if key in queue] for array in arrays]
    if not any(ids):
        return None
    # Who submitted them may have been killed before it could note their ids.
    parts, merge = (slurm_jobs.with_id(a, b) if b else a for a, b in zip(arrays, ids, strict=True))
    known = " ".join(job for job in (parts.id, merge.id) if job)
    end = f"end them, and shard again: scancel {known}"
    path = f"{sharding_prefix(request.id)}/{_SPEC}"
    noted = records.read(store, path, _NotedRequest, fix=end)
    if noted is None or len(noted.images) != len(parts.keys):
        what = f"the note of what the jobs {known} write is missing or damaged"
        raise DamagedRecordError(what, where=f"{store.uri}/{path}", fix=end)
    if _set(noted.request) != _set(json.loads(json.dumps(asdict(request)))):
        raise RequestError(
            f"the jobs {known.replace(' ', ' and ')} write {request.name} from other images or "
            "with other options",
            fix=f"wait for them, or end them: scancel {known}",
        )
    return Sharding(request, store, parts, merge, noted.images)


def _set(request: dict[str, Any]) -> dict[str, Any]:
    """Return the options that are set: an older version did not know all of the others."""
    return {name: value for name, value in request.items() if value}


def _planned(
    request: ShardingRequest, store: Store, site: Site, jobs: int, note: Callable[[Source], None]
) -> Sharding:
    """Return the sharding that is to be submitted."""
    note(source := request.open_source())
    tasks = request.check(store, source)
    count, folder = max(1, min(jobs, len(tasks))), str(site.folder / request.id)
    parts = Array(f"{request.id}.0", tuple(f"{request.id}/{n}" for n in range(count)), folder)
    merge = Array(f"{request.id}.1", (f"{request.id}/merge",), folder)
    images = (sum(len(task.samples) for task in tasks[n::count]) for n in range(count))
    return Sharding(request, store, parts, merge, tuple(images))


def _submit(sharding: Sharding, site: Site, workers: int | None) -> Sharding:
    """Submit the parts, unless they are in the queue, and their merge; both or none."""
    request, store = sharding.request, sharding.store
    # On the nodes as they are: nobody knows which folders a source needs in a container.
    profile = site.profile.model_copy(update={"container": None})
    cores, code = profile.cpus_per_task, str(on_slurm.copy_code(site.folder))
    placement = Placement(1, 1, 0, cores, memory_to_shard_gb(profile), profile.time_min)

    def submitted(array: Array, numbers: Sequence[int | None], *after: str) -> Array:
        how = (workers or cores, profile.requeue_limit)
        tasks = [
            ShardingPart(request, key, *how, number, len(sharding.parts.keys))
            for key, number in zip(array.keys, numbers, strict=True)
        ]
        step = Step(Path(array.folder), placement, code=code, after=after)
        executor = slurm.executor(array.name, profile, step)
        return slurm_jobs.with_id(array, slurm.submit(executor, tasks))

    if not sharding.parts.id:
        # Leases stay: their holders may live on where Slurm has lost them, and write.
        for key in (*sharding.parts.keys, *sharding.merge.keys):
            for name in (DONE, FAILURE):
                store.delete(f"{sharding_prefix(key)}/{name}")
        noted = _NotedRequest(asdict(request), sharding.images)
        store.put(f"{sharding_prefix(request.id)}/{_SPEC}", json.dumps(asdict(noted)).encode())
        slurm_jobs.write(store, request.id, (sharding.parts, sharding.merge))
        parts = submitted(sharding.parts, range(len(sharding.parts.keys)))
        sharding = replace(sharding, parts=parts)
        slurm_jobs.write(store, request.id, (sharding.parts, sharding.merge))
    try:
        sharding = replace(sharding, merge=submitted(sharding.merge, [None], sharding.parts.id))
    except HptError:
        slurm.cancel([sharding.parts.id])
        raise
    slurm_jobs.write(store, request.id, (sharding.parts, sharding.merge))
    return sharding


def wait(sharding: Sharding, report: Callable[[int, int], None]) -> None:
    """Return once the dataset is written.

    Args:
        sharding: from `submit`.
        report: called with (images done, images in all) from time to time.

    Raises:
        HptError: a job failed, or Slurm or the store no longer answers.
    """
    began_s = answered_s = time.monotonic()
    shortest_s, longest_s = _POLL_S
    done, total = 0, sum(sharding.images)
    while True:
        now_s = time.monotonic()
        try:
            if not sharding.is_queued():
                break
            # A part that was started again first looks at what it has.
            done = max(done, sharding.progress())
            answered_s = now_s
        except HptError:
            if now_s - answered_s > _PATIENCE_S:
                raise
        report(done, total)
        time.sleep(min(longest_s, max(shortest_s, (now_s - began_s) / 20)))
    sharding.check()
    report(total, total)
