"""The Slurm jobs of launches: which trial is which job, its state, its output.

A launch notes its arrays before it submits them, under names that occur once: `<launch>.<number>`.
So whoever reads Slurm's queue, from any node, knows the trial of each job in it, even if the launch
was killed in between. The parts of a sharding are noted as trials are: it is a launch of them.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
import signal
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from hpt_dist.errors import HptError
from hpt_dist.slurm import commands as slurm
from hpt_dist.slurm.commands import Queued
from hpt_dist.slurm.script import START_OF_JOB
from hpt_dist.store import Store, records
from hpt_dist.store.lease import LeaseInfo
from hpt_dist.store.paths import LAUNCHES
from hpt_dist.store.records import DamagedRecordError, Line

# Jobs of other software, with any names, are in the queue too.
_LAUNCH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")

# What srun, its daemons and the shell add to a job's log after its own last words, unlike why a
# step could not be made.
_NOISE = re.compile(
    r"srun: (Job step aborted|launch/slurm|got SIG|forcing|Force Terminated|error: \S+: tasks? )|"
    r"slurmstepd.* DUE TO JOB REQUEUE|Terminated|Killed"
)
# Exit codes above it are signals.
_SIGNALLED = 128
_SIGNALS = {
    "SIGXCPU": "its limit of CPU time on the node (ulimit -t); raise it in `setup`",
    "SIGXFSZ": "its limit of the size of files on the node (ulimit -f); raise it in `setup`",
    "SIGKILL": "perhaps for want of memory; raise memory_gb in the profile",
    "SIGBUS": "perhaps /dev/shm or a disk of the node is full",
}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Array:
    """Trials that were submitted together; a single one is a job of its own.

    Args:
        name: of the job, `<launch>.<number>`.
        keys: of its trials, by their number in the array.
        folder: of its scripts and logs.
        id: Slurm's; empty until it is known.
    """

    name: Line
    keys: tuple[Line, ...]
    folder: Line
    id: Line = ""

    def job_of(self, key: str) -> str:
        """Return Slurm's name for the job of a trial."""
        return f"{self.id}_{self.keys.index(key)}" if len(self.keys) > 1 else self.id


def write(store: Store, launch: str, arrays: Iterable[Array]) -> None:
    """Note the arrays of a launch."""
    data = json.dumps([asdict(array) for array in arrays], indent=2).encode()
    store.put(f"{LAUNCHES}/{launch}.jobs", data)


def read(store: Store, launch: str) -> list[Array]:
    """Return the arrays of a launch; none for one that ran elsewhere.

    Raises:
        DamagedRecordError: the note of its arrays is damaged.
    """
    path = f"{LAUNCHES}/{launch}.jobs"
    return (
        records.read(store, path, list[Array], fix="end its jobs by scancel, and delete it") or []
    )


def _readable(store: Store, launch: str) -> list[Array]:
    """Return the arrays of a launch; none, with a warning, if the note of them is damaged."""
    try:
        return read(store, launch)
    except DamagedRecordError as error:
        log.warning("%s is left out: %s", error.problem.where, error.problem.what)
        return []


def forget(store: Store, launch: str) -> None:
    """Delete the note of a launch's arrays."""
    store.delete(f"{LAUNCHES}/{launch}.jobs")


def is_here() -> bool:
    """Return whether there is a Slurm to ask."""
    return shutil.which("squeue") is not None


def queued(store: Store) -> dict[str, Queued]:
    """Return the jobs of this store's trials that are not over, by the trials' keys.

    Raises:
        HptError: Slurm is not here, or does not answer.
    """
    found: dict[str, Queued] = {}
    arrays: dict[str, Array] = {}
    seen: set[str] = set()
    for job in slurm.queue():
        launch, dot, _ = job.name.rpartition(".")
        if dot and launch not in seen and _LAUNCH.fullmatch(launch):
            seen.add(launch)
            arrays |= {array.name: array for array in _readable(store, launch)}
        array, index = arrays.get(job.name), int(job.id.partition("_")[2] or "0")
        if array and index < len(array.keys):
            found[array.keys[index]] = job
    return found


def known_queue(store: Store) -> dict[str, Queued] | None:
    """Return the same, or None where Slurm is not here or does not answer."""
    try:
        return queued(store) if is_here() else None
    except HptError:
        return None


def lives(holder: LeaseInfo, key: str, queue: Mapping[str, Queued] | None) -> bool:
    """Return whether the holder of a trial's lease lives, as far as a single look can tell.

    A process of this host can be seen, and a job of Slurm's is in its queue. Any other counts as
    living: only watching its lease would show it.

    Args:
        holder: of the lease.
        key: of the trial.
        queue: see `known_queue`.
    """
    if holder.on_this_host or not holder.job or queue is None:
        return not holder.died
    job = queue.get(key)
    return job is not None and job.id == holder.job and job.state != "PENDING"


def log_files(store: Store, launch: str, key: str) -> list[Path]:
    """Return what the processes of a trial's job wrote, rank by rank."""
    files: list[Path] = []
    for array in _readable(store, launch):
        if key in array.keys and array.id:
            files += _outputs(Path(array.folder), array.job_of(key))
    return files


def _outputs(folder: Path, job: str) -> list[Path]:
    found = folder.glob(f"{job}_*_log.out")
    return sorted(found, key=lambda path: int(path.name.split("_")[-2]))


@dataclass(frozen=True)
class Ending:
    """How the last start of a trial's job ended, as its script noted it.

    Args:
        job: Slurm's name for it.
        start: how often Slurm had started it before.
        code: exit code of its step.
        goes_on: whether the script asked Slurm for another start.
        rough: away, unbegun or killed; empty where a process decided.
        says: what one of its processes said of it; empty if none did.
        log: the last message of its log.
    """

    job: str
    start: int
    code: int
    goes_on: bool
    rough: str
    says: str
    log: str

    @property
    def is_failure(self) -> bool:
        """Whether the trial failed with it; cancelled ones, and those that go on, have not."""
        return not self.goes_on and bool(self.says or self.rough or self.code > _SIGNALLED)

    @property
    def reason(self) -> str:
        """Why it ended, in one line, with the next thing to do."""
        given_up = "; it was started too often" if self.rough and not self.goes_on else ""
        if self.says:
            return f"{self.says.splitlines()[0]}{given_up}"
        job = f"job {self.job}"
        if self.rough == "away":
            return f"the folder of {job}, or its store, was out of reach{given_up}"
        if self.code > _SIGNALLED:
            number = self.code - _SIGNALLED
            known = number in {one.value for one in signal.Signals}
            name = signal.Signals(number).name if known else f"signal {number}"
            hint = _SIGNALS.get(name, "see its log: hpt-dist logs")
            return f"{job} was ended by {name} (exit code {self.code}): {hint}{given_up}"
        when = " before it began" if self.rough == "unbegun" else ""
        last = self.log or "its log is empty"
        return f"{job} ended{when} with exit code {self.code}: {last}{given_up}"


def last_starts(folder: str) -> dict[str, int]:
    """Return the last start of each job of a folder that has ended, by Slurm's name for the job."""
    found: dict[str, int] = {}
    for file in Path(folder).glob("*.end"):
        job, _, start = file.stem.partition(".")
        if start.isdecimal():
            found[job] = max(int(start), found.get(job, 0))
    return found


def ending(array: Array, key: str, last: Mapping[str, int]) -> Ending | None:
    """Return how the last start of a trial's job ended; None if nobody noted it.

    Args:
        array: of the trial.
        key: of the trial.
        last: see `last_starts`.
    """
    job, folder = array.job_of(key), Path(array.folder)
    start = last.get(job) if array.id else None
    if start is None:
        return None
    try:
        text = (folder / f"{job}.{start}.end").read_text(encoding="utf-8", errors="replace")
        files = _outputs(folder, job)
        logs = [one.read_text(encoding="utf-8", errors="replace") for one in files]
        # The log of rank 0 has what all starts printed.
        log = "\n".join(one.rpartition(START_OF_JOB)[2] for one in logs)
    except OSError:
        return None
    head, _, says = text.partition("\n")
    code, next_, *rough = [*head.split(" "), ""]
    if not code.isdecimal():
        return None  # it is being written
    message = (last_message(log).splitlines() or [""])[0]
    says = says.strip()
    return Ending(job, start, int(code), next_ == "again", rough[0], says, message)


def arrays_of(store: Store, launch: str) -> dict[str, Array]:
    """Return the array of each trial of a launch, by key."""
    return {key: array for array in _readable(store, launch) for key in array.keys}


def last_message(log: str) -> str:
    """Return the last line that is not indented, with what follows it."""
    lines = [line for line in log.splitlines() if line.strip() and not _NOISE.match(line)]
    begins = [number for number, line in enumerate(lines) if not line[0].isspace()]
    return "\n".join(lines[begins[-1] :]) if begins else ""


def cancel(store: Store, keys: Sequence[str]) -> tuple[list[str], list[str]]:
    """End the jobs of trials: running jobs save first, waiting ones are dropped.

    Returns:
        The keys of (the former, the latter).

    Raises:
        HptError: Slurm does not answer.
    """
    jobs = {key: job for key, job in queued(store).items() if key in keys}
    waiting = [key for key, job in jobs.items() if job.state == "PENDING"]
    # Those that wait first, or one might start when another ends.
    slurm.cancel([jobs[key].id for key in waiting])
    running = [key for key in jobs if key not in waiting]
    slurm.cancel([jobs[key].id for key in running], "--signal=TERM")
    return running, waiting


def with_id(array: Array, job_ids: Sequence[str]) -> Array:
    """Return an array with its id, from those of its tasks, or some of them."""
    return replace(array, id=job_ids[0].partition("_")[0])
