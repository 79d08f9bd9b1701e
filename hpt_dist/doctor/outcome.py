"""The findings of doctor's job: whether it started, the nodes' reports, and their differences.

The nodes check what they can themselves; only the rest is checked here. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from hpt_dist.doctor.finding import Finding, failed
from hpt_dist.doctor.node import NodeReport, Probe
from hpt_dist.doctor.services import LARGEST_SKEW_S

# Reasons for which Slurm never starts a pending job unless something is changed.
_NEVER = re.compile(
    r"BadConstraints|Invalid(Account|QOS)|Partition(Time|Node)Limit|(Account|QOS)NotAllowed|"
    r"MaxWall|MaxNode|MaxCpu|MaxGRES|JobHeld|launch failed",
    re.IGNORECASE,
)
_SETUP = re.compile(r"slurm_script: (?:line (\d+): )?(.*)")
_TRAINS = ("torch", "torchvision")


@dataclass(frozen=True)
class Outcome:
    """How doctor's job ended, or where it stood when doctor stopped waiting.

    Args:
        job: Slurm's id of the job.
        reports: reports of the processes that wrote one, by rank.
        state: the last state of the job, in Slurm's words.
        reason: why it was pending.
        log: the lines that it printed.
        pending_until_s: latest unix time on this machine at which it had not started.
        seen_s: by rank, unix time on this machine when its report was last read.
    """

    job: str
    reports: Sequence[NodeReport]
    state: str
    reason: str = ""
    log: Sequence[str] = ()
    pending_until_s: float = 0.0
    seen_s: Mapping[int, float] = field(default_factory=dict)


def judge(outcome: Outcome, probe: Probe) -> Iterator[Finding]:
    """Return what is wrong on the nodes, or differs between them, with fixes."""
    yield from _setup(outcome)
    yield _start(outcome, probe)
    yield from _merged(
        (report.node, finding)
        for report in outcome.reports
        for finding in (
            _code(report, probe),
            _versions(report, probe),
            *report.findings,
            _clock(report, outcome),
        )
    )
    yield from _differing(outcome.reports)


def _merged(findings: Iterable[tuple[str, Finding]]) -> Iterator[Finding]:
    """Return equal findings of several nodes once, and findings of one check next to each other."""
    nodes: dict[Finding, list[str]] = {}
    for node, finding in findings:
        nodes.setdefault(finding, []).append(node)
    order = list(dict.fromkeys(finding.name for finding in nodes))
    for finding in sorted(nodes, key=lambda one: order.index(one.name)):
        where = ", ".join(dict.fromkeys(nodes[finding]))
        yield replace(finding, says=f"{where}: {finding.says}")


def _setup(outcome: Outcome) -> Iterator[Finding]:
    """Report the shell's errors: a line of `setup` that fails does not end the job by itself."""
    errors = [match[2] for line in outcome.log if (match := _SETUP.search(line))]
    if errors:
        message = f"the job's script failed at: {errors[0]}"
        yield failed("setup", message, "correct `setup` in the profile")


def _start(outcome: Outcome, probe: Probe) -> Finding:
    job = f"job {outcome.job}"
    if not outcome.reports and outcome.state == "PENDING":
        return _waiting(outcome)
    if len(outcome.reports) < probe.ranks:
        return _not_started(outcome, probe)
    died = [one for one in outcome.reports if one.doing]
    if died:
        where = "; ".join(f"on {one.node} in the check `{one.doing}`" for one in died)
        message = f"{job} ({outcome.state}) ended {where}: {_last_line(outcome)}"
        return failed("start", message, "see this message; run `hpt-dist doctor` on that node")
    nodes = ", ".join(dict.fromkeys(one.node for one in outcome.reports))
    what = f" in {probe.container}" if probe.container else ""
    return Finding("start", True, f"{job}: {probe.ranks} processes started on {nodes}{what}")


def _waiting(outcome: Outcome) -> Finding:
    message = (
        f"job {outcome.job} is still in the queue: {outcome.reason or 'Slurm gives no reason'}"
    )
    if _NEVER.search(outcome.reason):
        fix = "Slurm will never start this job: change the profile, or ask the administrators"
        return failed("start", message, fix)
    fix = "the job was cancelled; if the cluster is full, run doctor again later"
    return Finding("start", None, message, fix)


def _not_started(outcome: Outcome, probe: Probe) -> Finding:
    """Return why Python did not start, from the job's log."""
    job = f"job {outcome.job} ({outcome.state})"
    if not outcome.log and not outcome.reports:
        return failed(
            "node folder",
            f"{job} wrote no log: its node cannot see {probe.folder}, or cannot write to it",
            "set `shared_folder` in the profile, or --work, to a folder that all nodes share",
        )
    fix = _start_fix(" ".join(outcome.log), probe)
    return failed("start", f"{job} did not start: {_last_line(outcome)}", fix)


def _start_fix(log: str, probe: Probe) -> str:
    where = probe.container or "the nodes"
    if re.search(r"No module named '?(hpt_dist|submitit)", log):
        return (
            f"install hpt-dist for {probe.interpreter} in {where}, or set another `python` in the "
            "profile"
        )
    if probe.container and re.search(r"container|bundle|image|runc|apptainer|pyxis|oci", log):
        return f"check that the nodes can read and start {probe.container}"
    if probe.interpreter in log and re.search(r"[Nn]o such file|not found|denied", log):
        return (
            f"there is no {probe.interpreter} in {where}: set `python` in the profile to the "
            "path of the interpreter"
        )
    return "see this message; correct `setup`, `python` or `container` in the profile"


def _last_line(outcome: Outcome) -> str:
    # Slurm also prints that it ends the job's other processes, which explains nothing.
    own = [line for line in outcome.log if not re.match(r"(srun|slurmstepd): .*(\*|Job)", line)]
    lines = own or list(outcome.log)
    return lines[-1] if lines else "it printed nothing"


def _code(report: NodeReport, probe: Probe) -> Finding:
    if report.code == probe.code:
        return Finding("code", True, "jobs run the copied code of this version")
    return failed(
        "code",
        f"jobs run hpt_dist from {report.code} instead of the copy in {probe.code}",
        "remove lines of `setup` that put the former first on PYTHONPATH; mount the folder of jobs "
        "into a container",
    )


def _versions(report: NodeReport, probe: Probe) -> Finding:
    """Compare versions with those on this machine; a difference is a note, not a fault."""
    others = [
        f"{name} {version} (here {probe.versions[name]})"
        for name, version in report.versions.items()
        if version and probe.versions.get(name, "") not in ("", version)
    ]
    if others:
        fix = "nothing if all trials run on these nodes; weights depend on torch's version"
        return Finding("versions", None, "; ".join(others), fix)
    python = report.versions.get("Python", "")
    return Finding("versions", True, f"Python {python} and packages are the same as here")


def _differing(reports: Sequence[NodeReport]) -> Iterator[Finding]:
    """Report nodes that would train one trial with different versions."""
    nodes_by_version: dict[str, list[str]] = {}
    for report in reports:
        if not all(report.versions.get(name) for name in _TRAINS):
            continue  # reported as missing
        versions = ", ".join(f"{name} {report.versions[name]}" for name in _TRAINS)
        nodes_by_version.setdefault(versions, []).append(report.node)
    if len(nodes_by_version) > 1:
        pairs = nodes_by_version.items()
        differ = "; ".join(f"{', '.join(nodes)}: {versions}" for versions, nodes in pairs)
        fix = "give all nodes the same environment, in a shared folder or a container"
        yield failed("versions", f"nodes differ: {differ}", fix)


def _clock(report: NodeReport, outcome: Outcome) -> Finding:
    """Compare clocks: a report is written after the job's start and before it is read here."""
    ahead_s = report.time_s - outcome.seen_s[report.rank]
    behind_s = outcome.pending_until_s - report.began_s
    skew_s, how = max((ahead_s, "ahead of"), (behind_s, "behind"))
    if skew_s > LARGEST_SKEW_S:
        fix = "synchronise the node's clock (chrony or ntpd): times in its logs are wrong"
        return failed("node clock", f"at least {skew_s:.0f} s {how} the clock here", fix)
    return Finding("node clock", True, "no difference from the clock here can be seen")
