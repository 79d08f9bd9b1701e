"""What came of the probe's job, and, where nothing did, why. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from hpt_dist.doctor.finding import Finding, failed
from hpt_dist.doctor.probe import Facts

# What Slurm never starts as it is.
_NEVER = re.compile(
    r"BadConstraints|Invalid(Account|QOS)|Partition(Time|Node)Limit|(Account|QOS)NotAllowed|"
    r"MaxWall|MaxNode|MaxCpu|MaxGRES|JobHeld|launch failed",
    re.IGNORECASE,
)
_SETUP = re.compile(r"slurm_script: (?:line (\d+): )?(.*)")


@dataclass(frozen=True)
class Expected:
    """What is so where doctor was started, or was asked for.

    Args:
        python: version here, such as 3.11.2.
        packages: versions here, by distribution.
        requirements: what this package needs.
        code: folder of the copied package that jobs run.
        store: whether a folder store is there; None for a remote one.
        gpus: of each node of the probe; None without real ones.
        ranks: processes of the probe.
        withheld: variables that are set here, and that the profile's `env` does not pass on.
        container: whether the job runs in one, and which.
        interpreter: path of Python on the nodes.
        folder: of the job.
    """

    python: str
    packages: Mapping[str, str]
    requirements: tuple[str, ...]
    code: str
    store: bool | None
    gpus: int | None
    ranks: int
    withheld: tuple[str, ...]
    container: str
    interpreter: str
    folder: str


@dataclass(frozen=True)
class Outcome:
    """What came of the probe's job.

    Args:
        job: Slurm's name for it.
        facts: of the processes that wrote some.
        state: Slurm's words for where the job stood when doctor stopped looking.
        reason: why it was pending.
        log: the lines that it printed.
        pending_until_s: unix time here when it had not begun yet.
        seen_s: unix time here when the last facts were there, by rank.
    """

    job: str
    facts: Sequence[Facts]
    state: str
    reason: str = ""
    log: Sequence[str] = ()
    pending_until_s: float = 0.0
    seen_s: Mapping[int, float] = field(default_factory=dict)

    @property
    def is_waiting(self) -> bool:
        """Whether it never began."""
        return not self.facts and self.state == "PENDING"


def start(outcome: Outcome, expected: Expected) -> Iterator[Finding]:
    """Say whether the probe's processes came up, or why not, and how to mend it."""
    yield from _setup(outcome)
    yield _start(outcome, expected)


def _setup(outcome: Outcome) -> Iterator[Finding]:
    """Find what the shell complained of: a line of `setup` that fails ends nothing by itself."""
    for line in outcome.log:
        if found := _SETUP.search(line):
            yield failed(
                "setup", f"the job's script complains: {found[2]}", "mend `setup` in the profile"
            )
            return


def _start(outcome: Outcome, expected: Expected) -> Finding:
    job = f"job {outcome.job}"
    if outcome.is_waiting:
        says = f"{job} still waits in the queue: {outcome.reason or 'no reason is told'}"
        if _NEVER.search(outcome.reason):
            mend = "Slurm will not start it as it is: mend the profile, or ask the administrators"
            return failed("start", says, mend)
        mend = "nothing if the cluster is full (it was cancelled); run doctor again later"
        return Finding("start", None, says, mend)
    unready = expected.ranks - len(outcome.facts)
    # What others' failures make of a process is told where these are.
    died = [one for one in outcome.facts if one["doing"]]
    if unready:
        return _not_begun(outcome, expected, f"{job} ({outcome.state})")
    if died:
        where = "; ".join(f"on {one['node']} at the step {one['doing']}" for one in died)
        says = f"{job} ({outcome.state}) ended {where}: {_last_line(outcome)}"
        return failed("start", says, "see what its log says; run the same by hand on a node")
    nodes = ", ".join(dict.fromkeys(one["node"] for one in outcome.facts))
    what = f" in {expected.container}" if expected.container else ""
    return Finding("start", True, f"{job}: {expected.ranks} processes started on {nodes}{what}")


def _not_begun(outcome: Outcome, expected: Expected, job: str) -> Finding:
    """Say why no Python of ours came up, as far as the log tells."""
    if not outcome.log and not outcome.facts:
        return failed(
            "node folder",
            f"{job} left no log: its node does not see {expected.folder}, or cannot write there",
            "name a folder that all nodes share as `shared_folder` in the profile, or by --work",
        )
    last = _last_line(outcome)
    return failed(
        "start", f"{job} did not start: {last}", _mend_of(" ".join(outcome.log), expected)
    )


def _mend_of(log: str, expected: Expected) -> str:
    if re.search(r"No module named '?(hpt_dist|submitit)", log):
        where = f"in {expected.container}" if expected.container else "on the nodes"
        return f"install hpt-dist for {expected.interpreter} {where}, or name another `python`"
    if expected.container and re.search(r"container|bundle|image|runc|apptainer|pyxis|oci", log):
        return f"see that the nodes can read and start {expected.container}"
    if expected.interpreter in log and re.search(r"[Nn]o such file|not found|denied", log):
        where = expected.container or "the nodes"
        return (
            f"there is no {expected.interpreter} in {where}: name the right interpreter as "
            "`python` in the profile"
        )
    return "see what its log says; mend `setup`, `python` or `container` in the profile"


def _last_line(outcome: Outcome) -> str:
    # Slurm tells of the end that it makes of a job's other processes, and nobody needs to know.
    telling = [line for line in outcome.log if not re.match(r"(srun|slurmstepd): .*(\*|Job)", line)]
    lines = telling or list(outcome.log)
    return lines[-1] if lines else "it printed nothing"
