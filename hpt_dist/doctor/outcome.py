"""What came of doctor's job: whether it started, what the nodes found, and how they differ.

Only what nodes cannot know is judged here. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from hpt_dist.doctor.finding import Finding, failed
from hpt_dist.doctor.node import NodeReport, Probe
from hpt_dist.doctor.services import LARGEST_SKEW_S

# What Slurm never starts as it is.
_NEVER = re.compile(
    r"BadConstraints|Invalid(Account|QOS)|Partition(Time|Node)Limit|(Account|QOS)NotAllowed|"
    r"MaxWall|MaxNode|MaxCpu|MaxGRES|JobHeld|launch failed",
    re.IGNORECASE,
)
_SETUP = re.compile(r"slurm_script: (?:line (\d+): )?(.*)")
_TRAINS = ("torch", "torchvision")


@dataclass(frozen=True)
class Outcome:
    """What came of the probe's job.

    Args:
        job: Slurm's name for it.
        reports: of the processes that wrote one, by rank.
        state: Slurm's words for where the job stood when doctor stopped looking.
        reason: why it was pending.
        log: the lines that it printed.
        pending_until_s: unix time here when it had not begun yet.
        seen_s: unix time here when the last report was there, by rank.
    """

    job: str
    reports: Sequence[NodeReport]
    state: str
    reason: str = ""
    log: Sequence[str] = ()
    pending_until_s: float = 0.0
    seen_s: Mapping[int, float] = field(default_factory=dict)


def judge(outcome: Outcome, probe: Probe) -> Iterator[Finding]:
    """Say what is wrong on the nodes, or between them, and how to fix it."""
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
    yield from _unlike(outcome.reports)


def _merged(findings: Iterable[tuple[str, Finding]]) -> Iterator[Finding]:
    """Say once what several nodes found, and side by side what they found by one check."""
    nodes: dict[Finding, list[str]] = {}
    for node, finding in findings:
        nodes.setdefault(finding, []).append(node)
    order = list(dict.fromkeys(finding.name for finding in nodes))
    for finding in sorted(nodes, key=lambda one: order.index(one.name)):
        where = ", ".join(dict.fromkeys(nodes[finding]))
        yield replace(finding, says=f"{where}: {finding.says}")


def _setup(outcome: Outcome) -> Iterator[Finding]:
    """Find what the shell complained of: a line of `setup` that fails ends nothing by itself."""
    complaints = [found[2] for line in outcome.log if (found := _SETUP.search(line))]
    if complaints:
        says = f"the job's script complains: {complaints[0]}"
        yield failed("setup", says, "correct `setup` in the profile")


def _start(outcome: Outcome, probe: Probe) -> Finding:
    job = f"job {outcome.job}"
    if not outcome.reports and outcome.state == "PENDING":
        return _waiting(outcome)
    if len(outcome.reports) < probe.ranks:
        return _not_begun(outcome, probe)
    # What others' failures make of a process is said where these are.
    died = [one for one in outcome.reports if one.doing]
    if died:
        where = "; ".join(f"on {one.node} at the check {one.doing}" for one in died)
        says = f"{job} ({outcome.state}) ended {where}: {_last_line(outcome)}"
        return failed("start", says, "see what its log says; run the same by hand on a node")
    nodes = ", ".join(dict.fromkeys(one.node for one in outcome.reports))
    what = f" in {probe.container}" if probe.container else ""
    return Finding("start", True, f"{job}: {probe.ranks} processes started on {nodes}{what}")


def _waiting(outcome: Outcome) -> Finding:
    says = (
        f"job {outcome.job} still waits in the queue: {outcome.reason or 'Slurm gives no reason'}"
    )
    if _NEVER.search(outcome.reason):
        fix = "Slurm will not start it as it is: change the profile, or ask the administrators"
        return failed("start", says, fix)
    fix = "nothing if the cluster is full (it was cancelled); run doctor again later"
    return Finding("start", None, says, fix)


def _not_begun(outcome: Outcome, probe: Probe) -> Finding:
    """Say why no Python of ours came up, as far as the log tells."""
    job = f"job {outcome.job} ({outcome.state})"
    if not outcome.log and not outcome.reports:
        return failed(
            "node folder",
            f"{job} left no log: its node does not see {probe.folder}, or cannot write there",
            "name a folder that all nodes share as `shared_folder` in the profile, or by --work",
        )
    fix = _start_fix(" ".join(outcome.log), probe)
    return failed("start", f"{job} did not start: {_last_line(outcome)}", fix)


def _start_fix(log: str, probe: Probe) -> str:
    where = probe.container or "the nodes"
    if re.search(r"No module named '?(hpt_dist|submitit)", log):
        return f"install hpt-dist for {probe.interpreter} in {where}, or name another `python`"
    if probe.container and re.search(r"container|bundle|image|runc|apptainer|pyxis|oci", log):
        return f"see that the nodes can read and start {probe.container}"
    if probe.interpreter in log and re.search(r"[Nn]o such file|not found|denied", log):
        return (
            f"there is no {probe.interpreter} in {where}: name the right interpreter as "
            "`python` in the profile"
        )
    return "see what its log says; correct `setup`, `python` or `container` in the profile"


def _last_line(outcome: Outcome) -> str:
    # Slurm prints the end that it makes of a job's other processes, and nobody needs to know.
    telling = [line for line in outcome.log if not re.match(r"(srun|slurmstepd): .*(\*|Job)", line)]
    lines = telling or list(outcome.log)
    return lines[-1] if lines else "it printed nothing"


def _code(report: NodeReport, probe: Probe) -> Finding:
    if report.code == probe.code:
        return Finding("code", True, "jobs run the copy of this version")
    return failed(
        "code",
        f"jobs run hpt_dist from {report.code} instead of the copy in {probe.code}",
        "let no line of `setup` put that first on PYTHONPATH; a container needs to see the "
        "folder of jobs",
    )


def _versions(report: NodeReport, probe: Probe) -> Finding:
    """Compare with here; pickles that travel name what they need, so a difference is no fault."""
    others = [
        f"{name} {version} (here {probe.versions[name]})"
        for name, version in report.versions.items()
        if version and probe.versions.get(name, "") not in ("", version)
    ]
    if others:
        fix = "fine as long as all that trains is there; weights depend on torch's version"
        return Finding("versions", None, "; ".join(others), fix)
    python = report.versions.get("Python", "")
    return Finding("versions", True, f"Python {python} and packages are those of here")


def _unlike(reports: Sequence[NodeReport]) -> Iterator[Finding]:
    """Find ranks that would train one trial by different versions."""
    found: dict[str, list[str]] = {}
    for report in reports:
        if not all(report.versions.get(name) for name in _TRAINS):
            continue  # reported as missing
        versions = ", ".join(f"{name} {report.versions[name]}" for name in _TRAINS)
        found.setdefault(versions, []).append(report.node)
    if len(found) > 1:
        differ = "; ".join(f"{', '.join(nodes)}: {versions}" for versions, nodes in found.items())
        fix = "give all nodes the same environment, on a shared folder or in a container"
        yield failed("versions", f"nodes differ: {differ}", fix)


def _clock(report: NodeReport, outcome: Outcome) -> Finding:
    """Judge by what is certain: a report was written after the start, and before it came."""
    ahead_s = report.time_s - outcome.seen_s[report.rank]
    behind_s = outcome.pending_until_s - report.began_s
    skew_s, how = max((ahead_s, "ahead of"), (behind_s, "behind"))
    if skew_s > LARGEST_SKEW_S:
        fix = "synchronise the node's clock (chrony or ntpd), or leave it out: its logs mislead"
        return failed("node clock", f"at least {skew_s:.0f} s {how} the clock here", fix)
    return Finding("node clock", True, "in step with the clock here, as far as can be seen")
