"""Doctor's probe as a job of the cluster: submitted as trials are, waited for, and cancelled."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from hpt_dist.doctor.probe import Facts, Probe, facts_file
from hpt_dist.doctor.probe_outcome import Expected, Outcome
from hpt_dist.errors import HptError
from hpt_dist.launch.on_slurm import Site, copy_code
from hpt_dist.slurm import commands as slurm
from hpt_dist.slurm.commands import Step
from hpt_dist.slurm.placement import Placement
from hpt_dist.slurm.profile import Profile
from hpt_dist.store import Store

_NAME = "hpt-doctor"
_PENDING_S = 120.0
# A node may first have to fetch an image of gigabytes.
_RUNNING_S = 900.0
_POLL_S = 0.5
_TIME_MIN = 15
_WAITS = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT")


def placement(profile: Profile) -> Placement:
    """Return the smallest part of a cluster on which two processes meet, if they can at all."""
    nodes = min(2, profile.nodes)
    per_node = 1 if nodes > 1 else min(2, profile.ranks_per_node)
    # Slurm sends the signal before the end at once if the job has less time than that.
    wanted_min = _TIME_MIN + -(-profile.signal_lead_s // 60)
    return Placement(
        nodes=nodes,
        ranks_per_node=per_node,
        gpus_per_node=per_node if profile.gpus_per_node else 0,
        cpus_per_rank=profile.cpus_per_gpu,
        memory_gb=profile.memory_gb,
        time_min=min(profile.time_min, wanted_min),
    )


def run(site: Site, store: Store, tell: Callable[[str], None]) -> tuple[Outcome, Expected]:
    """Let the nodes look around, and wait for what they find; the job is always cancelled.

    Args:
        site: how the cluster is used.
        store: that trials would use.
        tell: called with a line for people now and then.

    Raises:
        RequestError: Slurm refuses the job.
        HptError: Slurm does not answer.
    """
    profile, part = site.profile, placement(site.profile)
    folder = site.folder / f"doctor-{uuid.uuid4().hex[:12]}"
    folder.mkdir(parents=True)
    code = copy_code(site.folder)
    expected = _expected(site, store, folder, code, part)
    visible = [site.folder, site.settings.work, *([store.folder] if store.folder else [])]
    step = Step(folder, part, tuple(dict.fromkeys(map(str, visible))), str(code))
    probe = Probe(
        folder=str(folder),
        work=str(site.settings.work),
        store=store.uri,
        tracking_uri=site.settings.tracking_uri,
        packages=tuple(expected.packages),
        ranks=part.ranks,
        threads=part.cpus_per_rank,
        gpus=expected.gpus is not None,
    )
    [job] = slurm.submit(slurm.trial_executor(_NAME, profile, step), [probe])
    try:
        tell(f"probe: job {job}, {part}; it may wait {_PENDING_S:.0f} s in the queue")
        watch = _Watch(job, folder, part.ranks, tell)
        return watch.outcome(), expected
    finally:
        with contextlib.suppress(HptError):
            slurm.cancel([job])
        shutil.rmtree(folder, ignore_errors=True)


@dataclass
class _Watch:
    """Looks at the job until it is over, or nothing more is to be expected."""

    job: str
    folder: Path
    ranks: int
    tell: Callable[[str], None]

    def __post_init__(self) -> None:
        self.pending_until_s = time.time()
        self.facts: dict[int, Facts] = {}
        self.seen_s: dict[int, float] = {}
        self.told = ""

    def outcome(self) -> Outcome:
        began = time.monotonic()
        state = reason = ""
        while True:
            asked_s = time.time()
            found = next((one for one in slurm.queue() if one.id == self.job), None)
            self._read()  # what a job wrote before it was seen to be over is there
            if self._is_complete() or found is None or found.state == "COMPLETING":
                break
            state, reason = found.state, found.reason if found.reason != "None" else ""
            waits = state in _WAITS
            if waits:
                self.pending_until_s = asked_s
            if time.monotonic() - began > (_PENDING_S if waits else _PENDING_S + _RUNNING_S):
                break
            self._say(f"job {self.job} is {state.lower()}" + (f" ({reason})" if reason else ""))
            time.sleep(_POLL_S)
        if not self._is_complete() and (found is None or found.state == "COMPLETING"):
            state = self._ending()
        return Outcome(
            job=self.job,
            facts=[self.facts[rank] for rank in sorted(self.facts)],
            state=state,
            reason=reason,
            log=_log(self.folder),
            pending_until_s=self.pending_until_s,
            seen_s=self.seen_s,
        )

    def _say(self, text: str) -> None:
        if text != self.told:
            self.told = text
            self.tell(f"probe: {text}")

    def _is_complete(self) -> bool:
        return len(self.facts) == self.ranks and not any(f["doing"] for f in self.facts.values())

    def _read(self) -> None:
        for rank in range(self.ranks):
            file = facts_file(self.folder, rank)
            with contextlib.suppress(FileNotFoundError):
                self.facts[rank] = json.loads(file.read_text(encoding="utf-8"))
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
    """Return what the job printed, rank by rank, without empty lines."""
    lines: list[str] = []
    for file in sorted(folder.glob("*_log.out")):
        lines += file.read_text(encoding="utf-8", errors="replace").splitlines()
    return [line.strip() for line in lines if line.strip()]


def _expected(site: Site, store: Store, folder: Path, code: Path, part: Placement) -> Expected:
    profile = site.profile
    requirements = _requirements()
    names = sorted({Requirement(text).name for text in requirements})
    return Expected(
        python=platform.python_version(),
        packages={name: _version(name) for name in names},
        requirements=requirements,
        code=str(code),
        store=store.folder.is_dir() if store.folder else None,
        gpus=part.gpus_per_node if part.gpus_per_node and profile.accelerator == "nvidia" else None,
        ranks=part.ranks,
        withheld=_withheld(profile, os.environ),
        container=profile.container.image if profile.container else "",
        interpreter=profile.interpreter,
        folder=str(folder),
    )


def _withheld(profile: Profile, environment: Mapping[str, str]) -> tuple[str, ...]:
    ours = [name for name in environment if name.startswith(("AWS_", "MLFLOW_"))]
    passed: Sequence[str] = profile.exported(environment)
    return tuple(sorted(set(ours) - set(passed)))


def _requirements() -> tuple[str, ...]:
    """Return what this package needs on any machine; nothing where it is not installed."""
    try:
        asked = [Requirement(text) for text in metadata.requires("hpt-dist") or []]
    except metadata.PackageNotFoundError:
        return ()
    needed = [one for one in asked if one.marker is None or one.marker.evaluate({"extra": ""})]
    return tuple(f"{one.name}{one.specifier}" for one in needed)


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""
