"""How often the processes of a job's work have started, and whether that leads anywhere."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from typing import Annotated

from pydantic import Field

from hpt_dist.errors import TrainingError
from hpt_dist.store import Store, records
from hpt_dist.store.records import Count, DamagedRecordError

STARTS = "starts.json"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Starts:
    """The starts of a trial so far.

    Args:
        count: of its processes, this one included.
        step: of the state that the last one went on from.
        job: the scheduler's name for the job of the last one; empty without a scheduler.
        in_vain: how many restarts in a row, by one job, found no newer state than the start before.
    """

    count: Count = 0
    step: Annotated[int, Field(ge=-1, lt=2**53)] = -1
    job: str = ""
    in_vain: Count = 0

    def again(self, step: int, job: str) -> Starts:
        """Return what holds after one more start."""
        stuck = bool(job) and job == self.job and step <= self.step
        return Starts(self.count + 1, step, job, self.in_vain + 1 if stuck else 0)


def note(root: Store, step: int, job: str, limit: int, unit: str = "step") -> Starts:
    """Count a start in the prefix of a trial, or of a part of a sharding.

    Args:
        root: the store at that prefix, whose lease this process holds.
        step: of the state that it goes on from.
        job: the scheduler's name for its job; empty without a scheduler.
        limit: restarts in a row that may lead nowhere.
        unit: what a step is, in words.

    Raises:
        TrainingError: there were more; a scheduler would go on for ever.
    """
    starts = _read(root).again(step, job)
    root.put(STARTS, json.dumps(asdict(starts)).encode())
    if starts.in_vain > limit:
        raise TrainingError(
            f"{starts.in_vain} restarts in a row saved nothing after {unit} {step}",
            fix="save more often (checkpoint_every, --shard-mb), give the job more time (time_min, "
            "signal_lead_s), or raise requeue_limit in the profile; then launch again",
        )
    return starts


def _read(root: Store) -> Starts:
    """Return the starts so far; a damaged record is no reason to stop, and they count from 0."""
    if root.stat(STARTS) is None:
        return Starts()
    try:
        return records.decoded(root.get(STARTS), Starts, where=f"{root.uri}/{STARTS}")
    except DamagedRecordError as error:
        log.warning("%s: %s; starts count from 0", error.problem.where, error.problem.what)
        return Starts()
