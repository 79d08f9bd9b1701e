"""Doctor's job on a cluster's nodes: it is submitted like a trial, watched, and cancelled."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path

from hpt_dist.doctor import machine
from hpt_dist.doctor.node import NodeReport, Probe
from hpt_dist.doctor.outcome import Outcome
from hpt_dist.errors import HptError
from hpt_dist.launch.on_slurm import Site, copy_code
from hpt_dist.slurm import commands as slurm
from hpt_dist.slurm.commands import Step
from hpt_dist.slurm.placement import Placement
from hpt_dist.slurm.profile import Profile
from hpt_dist.store import Store

NAME = "hpt-doctor"
_PENDING_S = 120.0
# A node may first have to fetch an image of gigabytes.
_RUNNING_S = 900.0
_POLL_S = 0.5
_TIME_MIN = 15
_WAITS = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT")


def run(site: Site, store: Store, report: Callable[[str], None]) -> tuple[Outcome, Probe]:
    """Run the checks on nodes and wait for their reports; the job is always cancelled.

    Args:
        site: how the cluster is used.
        store: the store that trials would use.
        report: called with lines to print.

    Returns:
        The job's outcome, and the probe that its processes ran.

    Raises:
        RequestError: Slurm refuses the job.
        HptError: Slurm does not answer.
    """
    placement = _smallest(site.profile)
    folder = site.folder / f"doctor-{uuid.uuid4().hex[:12]}"
    folder.mkdir(parents=True)
    visible = [site.folder, site.settings.work, *([store.folder] if store.folder else [])]
    probe = _probe(site, store, folder, placement)
    paths = [*map(str, visible), *site.profile.files(os.environ)]
    step = Step(folder, placement, tuple(dict.fromkeys(paths)), probe.code, goes_on=False)
    [job] = slurm.submit(slurm.executor(NAME, site.profile, step), [probe])
    try:
        report(
            f"probe: job {job} on {placement}; doctor waits up to {_PENDING_S:.0f} s for its start"
        )
        return _Watch(job, folder, placement.ranks, report).outcome(), probe
    finally:
        with contextlib.suppress(HptError):
            slurm.cancel([job])
        shutil.rmtree(folder, ignore_errors=True)


def largest(profile: Profile) -> Placement:
    """Return the largest allocation that a trial may get."""
    return Placement(
        nodes=profile.nodes,
        ranks_per_node=profile.ranks_per_node,
        gpus_per_node=profile.gpus_per_node,
        cpus_per_rank=profile.cpus_per_gpu,
        memory_gb=profile.memory_gb,
        time_min=profile.time_min,
    )


def _smallest(profile: Profile) -> Placement:
    """Return the smallest allocation with two processes, or with one if trials have only one."""
    per_node = 1 if profile.nodes > 1 else min(2, profile.ranks_per_node)
    # With less time than signal_lead_s Slurm would send the signal at once.
    wanted_min = _TIME_MIN + -(-profile.signal_lead_s // 60)
    return replace(
        largest(profile),
        nodes=min(2, profile.nodes),
        ranks_per_node=per_node,
        gpus_per_node=per_node if profile.gpus_per_node else 0,
        time_min=min(profile.time_min, wanted_min),
    )


def _probe(site: Site, store: Store, folder: Path, placement: Placement) -> Probe:
    profile = site.profile
    requirements: tuple[str, ...] = ()
    with contextlib.suppress(PackageNotFoundError):  # reported by the checks of this machine
        requirements = machine.requirements()
    return Probe(
        folder=str(folder),
        work=str(site.settings.work),
        store=store.uri,
        store_exists=store.folder.is_dir() if store.folder else None,
        tracking_uri=site.settings.tracking_uri,
        code=str(copy_code(site.folder)),
        requirements=requirements,
        versions=machine.versions(requirements),
        withheld=_withheld(profile, os.environ),
        ranks=placement.ranks,
        gpus=placement.gpus_per_node if profile.accelerator == "nvidia" else 0,
        container=profile.container.image if profile.container else "",
        interpreter=profile.interpreter,
    )


def _withheld(profile: Profile, environment: Mapping[str, str]) -> tuple[str, ...]:
    ours = {name for name in environment if name.startswith(("AWS_", "MLFLOW_"))}
    return tuple(sorted(ours - set(profile.exported(environment))))


@dataclass
class _Watch:
    """Watches the job until it is complete, has ended, or takes too long."""

    job: str
    folder: Path
    ranks: int
    report: Callable[[str], None]
    reports: dict[int, NodeReport] = field(default_factory=dict)
    seen_s: dict[int, float] = field(default_factory=dict)
    pending_until_s: float = field(default_factory=time.time)
    last: str = ""

    def outcome(self) -> Outcome:
        began = time.monotonic()
        state = reason = ""
        while True:
            polled_s = time.time()
            queued = next((one for one in slurm.queue() if one.id == self.job), None)
            self._read()  # after the queue, so that reports of an ended job are not missed
            if self._is_complete() or queued is None or queued.state == "COMPLETING":
                break
            state, reason = queued.state, queued.reason if queued.reason != "None" else ""
            waits = state in _WAITS
            if waits:
                self.pending_until_s = polled_s
            if time.monotonic() - began > (_PENDING_S if waits else _PENDING_S + _RUNNING_S):
                break
            self._print(f"job {self.job} is {state.lower()}" + (f" ({reason})" if reason else ""))
            time.sleep(_POLL_S)
        if not self._is_complete() and (queued is None or queued.state == "COMPLETING"):
            state = self._ending()
        return Outcome(
            job=self.job,
            reports=[self.reports[rank] for rank in sorted(self.reports)],
            state=state,
            reason=reason,
            log=_log(self.folder),
            pending_until_s=self.pending_until_s,
            seen_s=self.seen_s,
        )

    def _print(self, text: str) -> None:
        """Print a line, unless it is the same as the last."""
        if text != self.last:
            self.last = text
            self.report(f"probe: {text}")

    def _is_complete(self) -> bool:
        return len(self.reports) == self.ranks and not any(x.doing for x in self.reports.values())

    def _read(self) -> None:
        for rank in range(self.ranks):
            if report := NodeReport.read(self.folder, rank):
                self.reports[rank] = report
                self.seen_s[rank] = time.time()

    def _ending(self) -> str:
        """Return how the job ended, in Slurm's words."""
        try:
            text = slurm.call("scontrol", "show", "job", self.job)
        except HptError:
            return "ended"
        facts = dict(word.partition("=")[::2] for word in text.split())
        return f"exit code {facts.get('ExitCode', 'unknown')}"


def _log(folder: Path) -> list[str]:
    """Return the lines that the job printed, rank by rank, without empty ones."""
    lines: list[str] = []
    for file in sorted(folder.glob("*_log.out")):
        lines += file.read_text(encoding="utf-8", errors="replace").splitlines()
    return [line.strip() for line in lines if line.strip()]
