"""Sharding split over a Slurm array: each task writes its part, one more job merges them.

The store is the truth. Parts and the merge look at what is finished there and write what is not,
so a job that is killed, preempted or out of time goes on when it is queued again, and running the
command again after anything is safe. The merge waits for the array by `afterok`: where a part
fails, Slurm drops the merge, and the part's own message is what the caller gets.

Jobs are submitted through submitit, which leaves its script, its pickles and the logs in one folder
for each dataset; a pickle holds a `Task`, plain values that mean the same on every node. Whether
jobs are over is asked of `squeue`, for submitit asks `sacct`, which many clusters do not have.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import submitit

from hpt_dist import sources
from hpt_dist.datasets import shards
from hpt_dist.datasets.shard_plan import plan
from hpt_dist.errors import HptError, RequestError
from hpt_dist.images.formats import Encoding
from hpt_dist.slurm import commands as slurm
from hpt_dist.slurm.profile import Profile
from hpt_dist.sources import Source
from hpt_dist.store import FolderStore, open_store

_SUBMITTED = "jobs.json"
_POLL_S = (0.5, 30.0)
_TELL_EVERY_S = 2.0
# How long squeue may fail before we stop asking; a controller that restarts takes less.
_PATIENCE_S = 600.0
_TOLD = 5
# The line of a traceback that names the exception.
_RAISED = r"^[\w.]*(?:Error|Exception)\b.*"
_SIGNALS_END = 128  # how a shell adds the number of the signal that ended a program


@dataclass(frozen=True)
class Request:
    """What is sharded, in values that mean the same on every node.

    Args:
        source: what `sources.open_source` takes.
        folder: where relative paths in `source` and `root` begin.
        store: URI of the store.
        name: of the dataset.
        shard_bytes: see `shards.write_dataset`.
        max_bad: see `shards.write_dataset`.
        encoding: how images are stored.
        root: see `sources.open_source`; empty for none.
    """

    source: str
    folder: str
    store: str
    name: str
    shard_bytes: int
    max_bad: int
    encoding: Encoding
    root: str = ""

    def open_source(self) -> Source:
        """Open the images."""
        return sources.open_source(self.source, Path(self.root) if self.root else None)


@dataclass(frozen=True)
class Task:
    """What one job does: write one part, or, without a part, what is left and the manifest."""

    request: Request
    workers: int
    parts: int
    part: int | None = None

    def __call__(self) -> None:
        """Do it, in a job's own process; a fault that its user can mend ends in a file."""
        paths = submitit.JobEnvironment().paths
        error_file = _error_file(paths)
        error_file.unlink(missing_ok=True)
        # submitit lets SIGTERM pass, and Slurm then waits for a while and kills.
        signal.signal(signal.SIGTERM, _stop)
        try:
            self._write(_Teller(_progress_file(paths)).tell)
        except HptError as error:
            sys.stderr.write(f"{error}\n")
            error_file.write_text(str(error), encoding="utf-8")
            sys.exit(error.exit_code)

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """Return what submitit queues again when the time is over: the same, for it goes on."""
        return submitit.helpers.DelayedSubmission(self)

    def _write(self, progress: Callable[[shards.Progress], None]) -> None:
        asked = self.request
        if Path(asked.folder).is_dir():
            os.chdir(asked.folder)
        options: dict[str, Any] = {
            "shard_bytes": asked.shard_bytes,
            "max_bad": asked.max_bad,
            "encoding": asked.encoding,
            "workers": self.workers,
            "progress": progress,
        }
        where = (asked.open_source(), open_store(asked.store), asked.name)
        if self.part is None:
            shards.write_dataset(*where, **options)
        else:
            shards.write_part(*where, self.part, self.parts, **options)


def _stop(number: int, _frame: Any) -> NoReturn:
    sys.exit(_SIGNALS_END + number)


@dataclass
class _Teller:
    """Writes how far a job is to a file, every so often."""

    file: Path
    told_s: float = 0.0

    def tell(self, progress: shards.Progress) -> None:
        now_s = time.monotonic()
        if progress.images == progress.total or now_s - self.told_s >= _TELL_EVERY_S:
            self.told_s = now_s
            facts = {"images": progress.images}
            FolderStore(self.file.parent).put(self.file.name, json.dumps(facts).encode())


@dataclass(frozen=True)
class Jobs:
    """The jobs of one sharding.

    Args:
        request: what they do.
        folder: of their scripts and logs.
        parts: id of each part's job.
        merge: id of the job that writes the manifest.
        images: how many the source has.
    """

    request: dict[str, Any]
    folder: Path
    parts: tuple[str, ...]
    merge: str
    images: int

    @property
    def ids(self) -> tuple[str, str]:
        """The ids of the array and of the merge, as Slurm's commands take them."""
        return self.parts[0].partition("_")[0], self.merge

    def states(self) -> dict[str, str]:
        """Return the state of each job that is not over, by its id.

        Raises:
            HptError: Slurm does not answer.
        """
        result = subprocess.run(
            ["squeue", "--noheader", "--array", "--format=%i %T", f"--jobs={','.join(self.ids)}"],
            capture_output=True,
            text=True,
            check=False,
        )
        # A job that is over is soon forgotten.
        if result.returncode and "Invalid job id" not in result.stderr:
            raise HptError(f"squeue failed: {result.stderr.strip()}", fix="see whether Slurm is up")
        return dict(line.split() for line in result.stdout.splitlines())

    def progress(self) -> tuple[int, int]:
        """Return (images done, images in all)."""
        files = [_progress_file(self._job(part).paths) for part in self.parts]
        facts = [json.loads(file.read_bytes()) for file in files if file.exists()]
        return sum(one["images"] for one in facts), self.images

    def check(self) -> None:
        """Find out how the jobs ended, all of them being over.

        Raises:
            HptError: the merge did not end well; with the messages of what failed.
        """
        # Listing a folder makes NFS look at it anew.
        there = set(os.listdir(self.folder))  # noqa: PTH208 - names are enough
        merge = self._failure(self.merge, there)
        if not merge:
            return
        # Slurm drops the merge where a part fails; and parts often fail for one reason.
        parts = [failure for part in self.parts if (failure := self._failure(part, there))]
        failed = f"{len(parts)} of {len(self.parts)} parts" if parts else "the merge"
        told = list(dict.fromkeys(parts or [merge]))
        more = [f"and {len(told) - _TOLD} more"] if len(told) > _TOLD else []
        raise HptError(
            "\n".join([*told[:_TOLD], *more]),
            where=f"{failed} failed",
            fix=f"see {self.folder}/*.out; the same command goes on from the finished shards",
        )

    def _failure(self, job_id: str, there: set[str]) -> str:
        """Return why a job that is over has not done its work; empty if it has."""
        job = self._job(job_id)
        if _error_file(job.paths).name in there:
            return _error_file(job.paths).read_text(encoding="utf-8")
        if job.paths.result_pickle.name in there:
            error = job.exception()
            lines = re.findall(_RAISED, str(error), re.MULTILINE) or ["see its log"]
            return f"job {job_id} failed: {lines[-1]}" if error else ""
        if job.paths.stdout.name in there:
            lines = job.paths.stdout.read_text(errors="replace").splitlines()
            return f"job {job_id} was ended; its log ends with: {lines[-1] if lines else ''}"
        return f"job {job_id} never began, or its node does not see shared_folder"

    def _job(self, job_id: str) -> submitit.SlurmJob[None]:
        return submitit.SlurmJob(self.folder, job_id)


def _error_file(paths: Any) -> Path:
    return Path(paths.result_pickle).with_suffix(".error")


def _progress_file(paths: Any) -> Path:
    return Path(paths.result_pickle).with_suffix(".progress")


def jobs_folder(request: Request, work: Path, profile: Profile) -> Path:
    """Return the folder for the jobs of a dataset.

    Raises:
        RequestError: Slurm could not write there.
    """
    base = Path(profile.shared_folder).expanduser() if profile.shared_folder else work / "jobs"
    base = slurm.checked_folder(base)
    place = hashlib.sha256(f"{request.store}\n{request.name}".encode()).hexdigest()
    return base / f"{slurm.plain(request.name)}-{place[:12]}"


def submit(
    request: Request, profile: Profile, jobs: int, folder: Path, workers: int | None = None
) -> Jobs:
    """Submit the jobs of a sharding, or find those of an earlier call that are not over.

    Args:
        request: what to do.
        profile: how the cluster is used.
        jobs: parts to split the work into; never more than there are shards.
        folder: from `jobs_folder`.
        workers: processes of one job; as many as it has cores by default.

    Raises:
        RequestError: Slurm is not here or refuses the jobs, others write this dataset, or its
            name or its source cannot be used.
        DataError: the keys of the source cannot be used.
    """
    if shutil.which("sbatch") is None:
        raise RequestError(
            "sbatch is not installed here",
            where="--on",
            fix="run this where jobs are submitted, or without --on",
        )
    described = dataclasses.asdict(request)
    running = _submitted(folder)
    if running and running.states():
        if running.request == described:
            return running
        raise RequestError(
            f"the jobs {' and '.join(running.ids)} write {request.name} from other images or "
            "with other options",
            fix=f"wait for them, or end them: scancel {' '.join(running.ids)}",
        )
    stem = shards.stem_of(request.name)
    planned = plan(request.open_source(), stem, request.shard_bytes)
    count = max(1, min(jobs, len(planned)))
    parts, merge = _submit(request, profile, count, folder, workers or profile.cpus_per_task)
    images = sum(len(task.samples) for task in planned)
    submitted = Jobs(described, folder, parts, merge, images)
    record = dataclasses.asdict(submitted) | {"folder": str(folder)}
    FolderStore(folder).put(_SUBMITTED, json.dumps(record, indent=2).encode())
    return submitted


def _submit(
    request: Request, profile: Profile, count: int, folder: Path, workers: int
) -> tuple[tuple[str, ...], str]:
    """Submit the parts and their merge, both or none; return their ids."""
    folder.mkdir(parents=True, exist_ok=True)
    tasks = [Task(request, workers, count, part) for part in range(count)]
    name = f"hpt-shard-{slurm.plain(request.name)}"
    parts = slurm.submit(slurm.shard_executor(folder, f"{name}-part", profile), tasks)
    array = parts[0].partition("_")[0]
    try:
        executor = slurm.shard_executor(folder, f"{name}-merge", profile, after=array)
        [merge] = slurm.submit(executor, [Task(request, workers, count)])
    except RequestError:
        slurm.cancel([array])
        raise
    return tuple(parts), merge


def wait(jobs: Jobs, tell: Callable[[int, int], None]) -> None:
    """Return once the dataset is written.

    Args:
        jobs: from `submit`.
        tell: called with (images done, images in all) from time to time.

    Raises:
        HptError: a job failed, or Slurm no longer answers.
    """
    began_s = answered_s = time.monotonic()
    while True:
        now_s = time.monotonic()
        try:
            if not jobs.states():
                break
            answered_s = now_s
        except HptError:
            if now_s - answered_s > _PATIENCE_S:
                raise
        tell(*jobs.progress())
        shortest_s, longest_s = _POLL_S
        time.sleep(min(longest_s, max(shortest_s, (now_s - began_s) / 20)))
    tell(*jobs.progress())
    jobs.check()


def _submitted(folder: Path) -> Jobs | None:
    store = FolderStore(folder)
    if store.stat(_SUBMITTED) is None:
        return None
    record = json.loads(store.get(_SUBMITTED))
    return Jobs(**record | {"folder": folder, "parts": tuple(record["parts"])})
