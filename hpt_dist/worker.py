"""The function that a trial's own process runs; importing it is cheap, calling it imports torch."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

from hpt_dist.errors import HptError, Interrupted
from hpt_dist.interrupt import Interrupt, listening
from hpt_dist.lease import LeaseTakenError
from hpt_dist.memory import keep_freed_memory
from hpt_dist.stage import Job


@dataclass(frozen=True)
class Outcome:
    """What a trial's process answers.

    Args:
        status: taken means that another process is at it.
        error: for the person who launched it; empty when all is well.
    """

    status: Literal["done", "taken", "interrupted", "failed"]
    error: str = ""


def work(job: Job) -> Outcome:
    """Run one trial."""
    with prepared() as interrupt:
        return _worked(job, interrupt)


def follow(job: Job) -> None:
    """Take part in a trial; rank 0, which decides of it and tells of it, started this process."""
    with prepared() as interrupt:
        try:
            take_part(job, interrupt)
        except Interrupted:
            pass  # rank 0 tells of it
        except HptError as error:
            # Where rank 0 has the same error it tells of it; else, as of an image in this rank's
            # share, this log does, and the exit code tells rank 0 why nobody answers.
            logging.getLogger(__name__).error("%s", error)  # noqa: TRY400 - no bug, so no traceback
            sys.exit(1)


def take_part(job: Job, interrupt: Interrupt) -> None:
    """Compute a share of a trial, as a rank that writes nothing."""
    from hpt_dist import stage
    from hpt_dist.assemble import RUNNERS

    stage.follow(job, RUNNERS[job.trial.spec.kind], interrupt)


@contextlib.contextmanager
def prepared() -> Iterator[Interrupt]:
    """Set up this process for training, and listen for signals."""
    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stdout,
        format="%(asctime)s %(levelname)s %(message)s",
        datefmt="%H:%M:%S",
        force=True,
    )
    # submitit has a handler of its own, which would repeat each of its lines.
    logging.getLogger("submitit").propagate = False
    # GNU OpenMP's threads spin for milliseconds while they wait for each other. With other busy
    # processes on the machine a training step then takes 6 times as long (measured: 0.14 s alone,
    # 0.86 s beside two others, and 0.14 s in both cases when they soon go to sleep). torch reads
    # this when it loads the library.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    keep_freed_memory()
    # Listening starts before the seconds that importing torch takes.
    with listening() as interrupt:
        yield interrupt


def _worked(job: Job, interrupt: Interrupt) -> Outcome:
    from hpt_dist import ranks, stage
    from hpt_dist.assemble import RUNNERS

    together = partial(ranks.together, job.ranks, job.threads, follow, job)
    try:
        stage.run(job, RUNNERS[job.trial.spec.kind], interrupt, together)
    except LeaseTakenError as error:
        return Outcome("taken", str(error))
    except Interrupted as error:
        return Outcome("interrupted", str(error))
    except HptError as error:
        logging.getLogger(__name__).error("%s", error)  # noqa: TRY400 - no bug, so no traceback
        return Outcome("failed", str(error))
    return Outcome("done")
