"""Write shards in several processes at once, or in this one alone."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field

from hpt_dist.datasets.manifest import Quarantined
from hpt_dist.datasets.shard_plan import ShardToWrite
from hpt_dist.datasets.shard_writer import ShardRecord, write_shard
from hpt_dist.errors import RequestError
from hpt_dist.images.formats import Encoding
from hpt_dist.processes.children import NotSentError
from hpt_dist.processes.workers import Report as ReportProgress
from hpt_dist.processes.workers import fed
from hpt_dist.store import Store

Report = Callable[[int, Sequence[Quarantined]], None]
"""Takes the number of images done since the last call, and those of them that were left out."""

_REPORT_EVERY_S = 0.1
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # no numpy here needs more


def cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def write_shards(
    tasks: Sequence[ShardToWrite], dataset: Store, encoding: Encoding, workers: int, report: Report
) -> Generator[tuple[ShardToWrite, ShardRecord], None, None]:
    """Write shards, and yield each as it is finished.

    Close it (`contextlib.closing`), so that no worker outlives an error of its caller.

    Args:
        tasks: the shards.
        dataset: the folder of the dataset in its store.
        encoding: how images are stored.
        workers: processes at once; with one, or one task, everything happens in this process.
        report: called as images are done.

    Raises:
        RequestError: the samples cannot be sent to another process.
        StoreError: the store refused.
        HptError: a worker died.
    """
    workers = min(workers, len(tasks))
    if workers <= 1:
        for task in tasks:
            yield (
                task,
                write_shard(
                    task, dataset, encoding, lambda bad: report(1, [] if bad is None else [bad])
                ),
            )
        return
    jobs = [(task, dataset, encoding) for task in tasks]
    answers = fed(_write, jobs, workers, _ONE_THREAD | dict(os.environ))
    with contextlib.closing(answers):
        try:
            for answer in answers:
                if answer.is_last:
                    yield tasks[answer.task], answer.value
                else:
                    report(*answer.value)
        except NotSentError as error:
            why = error.problem.what
            raise RequestError(
                f"the images of this source cannot be sent to worker processes: {why}",
                fix="put what reads them into a module of its own, or use one worker",
            ) from error


def _write(job: tuple[ShardToWrite, Store, Encoding], tell: ReportProgress) -> ShardRecord:
    """Write one shard, in a worker."""
    reporter = _Reporter(tell)
    record = write_shard(*job, reporter.after_each)
    reporter.report([])
    return record


@dataclass
class _Reporter:
    """Reports images to the parent every so often, those left out at once."""

    tell: ReportProgress
    images: int = 0
    reported_s: float = field(default_factory=time.monotonic)

    def after_each(self, bad: Quarantined | None) -> None:
        self.images += 1
        if bad is not None or time.monotonic() - self.reported_s >= _REPORT_EVERY_S:
            self.report([] if bad is None else [bad])

    def report(self, bad: Sequence[Quarantined]) -> None:
        self.tell((self.images, bad))
        self.images, self.reported_s = 0, time.monotonic()
