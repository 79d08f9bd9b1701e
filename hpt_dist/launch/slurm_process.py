"""What each process of a trial's Slurm job runs.

Slurm starts one process for each rank. Rank 0 holds the trial's lease and decides: whether there is
anything to do, and, when the processes were asked to stop, whether the job is to be queued again.
It notes that in a file that the job's script reads after them all: in a container there may be no
Slurm to ask, and a program started from here would get Slurm's signals too.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import submitit

from hpt_dist.errors import Interrupted, TrainingError
from hpt_dist.launch import launches, parent_run, process
from hpt_dist.launch.closing import finish_if_last_trial
from hpt_dist.launch.launches import is_cancelled
from hpt_dist.processes import environment
from hpt_dist.slurm import commands as slurm
from hpt_dist.slurm.script import AGAIN
from hpt_dist.store import lease, marker, open_store
from hpt_dist.store.paths import LEASE, stage_prefix
from hpt_dist.train.interrupt import Interrupt
from hpt_dist.trial import ranks
from hpt_dist.trial.context import TrialOrder
from hpt_dist.trial.run import Together

_POLL_S = 5.0
# Far from the ids of jobs that run at the same time, whose places these are.
_NEXT_START = 5_003

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrialTask:
    """A trial, as submitit carries it to the nodes.

    Args:
        job: what to run; the scheduler's part is filled in on the node.
        folder: where the launch was made, and relative paths begin.
    """

    order: TrialOrder
    folder: str

    def __call__(self) -> None:
        """Be one of the trial's processes; exit 1 where it fails."""
        job = submitit.JobEnvironment()
        if Path(self.folder).is_dir():
            os.chdir(self.folder)
        with slurm.failures_are_final(), _going_on_after_losses():
            _clean_environment(self.order.threads)
            name_ranks(job)
            if job.global_rank:
                _follow(self.order)
            else:
                job_id, term = job.job_id, slurm.restarts()
                _lead(dataclasses.replace(self.order, scheduled=job_id, term=term))

    def checkpoint(self) -> NoReturn:
        """Answer a signal that came before training listens; submitit calls this on rank 0."""
        slurm.go_on()
        # Nonzero, so that Slurm ends the other processes too.
        sys.exit(AGAIN)


@contextlib.contextmanager
def _going_on_after_losses() -> Iterator[None]:
    """Ask for another start where another process of the job was lost."""
    try:
        yield
    except ranks.ProcessLostError as error:
        # The one that failed has reported it; one that was killed is worth another start.
        log.error("%s", error)  # noqa: TRY400 - no bug, so no traceback
        slurm.go_on(str(error))
        sys.exit(AGAIN)


def _lead(order: TrialOrder) -> None:
    """Be rank 0."""
    store = marker.existing(open_store(order.store))
    with process.listening_process() as interrupt:
        if is_cancelled(store, order.launch):
            log.info("this launch was cancelled before this start")
            sys.exit(1)
        try:
            with ranks.hosting(order.ranks) as together:
                launch = launches.read(store, order.launch)
                parent = parent_run.opened_once(store, launch, order.artifact_location)
                _run(dataclasses.replace(order, parent_run=parent), interrupt, together)
        except ranks.PortTakenError as error:
            log.warning("%s; the next start will use another one", error)
            slurm.go_on(str(error))
            sys.exit(AGAIN)
        except Interrupted as error:
            log.info("%s", error.problem.what)
            if is_cancelled(store, order.launch):
                sys.exit(1)  # so that what depends on it does not start
            slurm.go_on()
            log.info("the job is queued again, and goes on from there")
        else:
            finish_if_last_trial(store, order.launch)


def _follow(order: TrialOrder) -> None:
    """Be another rank."""
    with process.listening_process() as interrupt:
        if ranks.is_begun():
            # Rank 0 reports an interruption.
            with contextlib.suppress(Interrupted), ranks.taking_part():
                process.take_part(order, interrupt)
    ranks.leave()


def _run(order: TrialOrder, interrupt: Interrupt, together: Together) -> None:
    """Run the trial, waiting for whoever else is at it."""
    from hpt_dist.stages.runners import runner_of
    from hpt_dist.trial import run as trial

    root = marker.existing(open_store(order.store)).at(stage_prefix(order.trial.key))
    watch, silent = lease.LeaseWatch(), ""
    while True:
        order = dataclasses.replace(order, silent=silent)
        try:
            trial.run(order, runner_of(order.trial), interrupt, together)
        except lease.LeaseTakenError as error:
            log.info("waits: %s", error.problem.what)
        else:
            return
        holder, silent = watch.look(root, LEASE)
        while holder:
            if interrupt:
                raise Interrupted(f"stopped by {interrupt.cause} before it began")
            time.sleep(_POLL_S)
            holder, silent = watch.look(root, LEASE)


def _clean_environment(threads: int) -> None:
    """Drop what could change the result, whoever set it, and say so; before torch is loaded."""
    environment.provide_home()
    kept, dropped = environment.for_trials(os.environ, scheduled=True)
    own = environment.threads(threads)
    # The job's script has set ours.
    dropped = [name for name in dropped if os.environ[name] != own.get(name)]
    os.environ.clear()
    os.environ.update(kept | own)
    if dropped:
        sys.stdout.write(f"left out of the environment: {', '.join(dropped)}\n")


def name_ranks(job: submitit.JobEnvironment) -> None:
    """Say in the environment who is who, in torch's words; a process alone needs none of them."""
    if job.num_tasks == 1:
        return
    os.environ.update(
        RANK=str(job.global_rank),
        WORLD_SIZE=str(job.num_tasks),
        LOCAL_RANK=str(job.local_rank),
        LOCAL_WORLD_SIZE=str(job.num_tasks // job.num_nodes),
        MASTER_ADDR=_address(job.hostnames[0]),
        MASTER_PORT=str(_port(int(job.raw_job_id))),
    )


def _port(job_id: int) -> int:
    """Return where the ranks of a job meet: each job, and each start of it, has its own place."""
    return ranks.PORTS[(job_id + _NEXT_START * slurm.restarts()) % len(ranks.PORTS)]


def _address(host: str) -> str:
    """Return the address of the first node: its name, or where Slurm launched from, which it is.

    Raises:
        TrainingError: this node knows neither; without this, it would wait for ever.
    """
    for candidate in (host, os.environ.get("SLURM_LAUNCH_NODE_IPADDR", "")):
        if candidate:
            with contextlib.suppress(OSError):
                return str(socket.getaddrinfo(candidate, None)[0][4][0])
    raise TrainingError(
        f"the name of the first node, {host}, has no address here",
        where=socket.gethostname(),
        fix="add it to the nodes' DNS or /etc/hosts, or the image's: hpt-dist doctor PROFILE",
    )
