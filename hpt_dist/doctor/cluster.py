"""Doctor's checks of a cluster: on the login node first, then by a job on the nodes.

No check ever raises, and the job is cancelled whatever happens.
"""

from __future__ import annotations

import getpass
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from hpt_dist.doctor import node_findings, preemption, probe_job
from hpt_dist.doctor.finding import Finding, failed, guarded
from hpt_dist.errors import HptError
from hpt_dist.launch import on_slurm
from hpt_dist.launch.on_slurm import Site
from hpt_dist.slurm import commands as slurm
from hpt_dist.slurm import profile
from hpt_dist.slurm.commands import Step
from hpt_dist.slurm.placement import Placement
from hpt_dist.slurm.profile import Profile
from hpt_dist.store import open_store

_SLURM_AGAIN = "see whether Slurm is up: scontrol ping"
_SRUN_TIMEOUT_S = 30.0


def load(path: str) -> tuple[Profile | None, list[Finding]]:
    """Read a profile, and name its servers in the environment, as a launch does.

    Returns:
        (the profile, or None if it cannot be used; what was found).
    """
    found: list[Profile] = []

    def check() -> Iterator[Finding]:
        read = profile.load(path)
        os.environ.update(read.endpoints(os.environ))
        found.append(read)
        yield Finding("profile", True, f"{path} can be read")

    findings = guarded("profile", check, "see slurm/profiles/ for profiles that can be read")
    return (found[0] if found else None), findings


def examine(
    cluster_profile: Profile, store_uri: str, work: str, tell: Callable[[str], None]
) -> list[Finding]:
    """Check a cluster, by a job on its nodes too.

    Args:
        cluster_profile: from `load`.
        store_uri: of the store that trials would use.
        work: folder for logs and local metrics; empty for the store's own.
        tell: called with a line for people while the job waits.
    """
    findings = guarded("slurm", _slurm, _SLURM_AGAIN)
    made: list[Site] = []
    findings += guarded(
        "shared folder",
        lambda: _folder(cluster_profile, store_uri, work, made),
        "name a folder that can be written as `shared_folder` in the profile, or by --work",
    )
    if any(finding.ok is False for finding in findings):
        return [*findings, _not_tried()]
    site = made[0]
    blocking = guarded("job", partial(_job, site), "see what sbatch --test-only says")
    blocking += guarded("container", partial(_container, site.profile), "mend `container`")
    findings += blocking
    findings += guarded("time limit", partial(_time_limit, site.profile), _SLURM_AGAIN)
    findings += guarded("preemption", partial(_preemption, site.profile), _SLURM_AGAIN)
    findings += guarded("mlflow", partial(_mlflow, site), "")
    if any(finding.ok is False for finding in blocking):
        return [*findings, _not_tried()]
    return findings + guarded("start", partial(_probe, site, store_uri, tell), _SLURM_AGAIN)


def _not_tried() -> Finding:
    mend = "mend what failed before it, and run doctor again"
    return Finding("start", None, "no job was sent to the nodes", mend)


def _probe(site: Site, store_uri: str, tell: Callable[[str], None]) -> Iterator[Finding]:
    outcome, expected = probe_job.run(site, open_store(store_uri), tell)
    yield from node_findings.judge(outcome, expected)


def _slurm() -> Iterator[Finding]:
    """See that Slurm's commands are here, and that its controller answers."""
    commands = ("sbatch", "srun", "squeue", "scontrol", "scancel", "sinfo")
    missing = [name for name in commands if shutil.which(name) is None]
    if missing:
        says = f"{', '.join(missing)} cannot be found"
        yield failed("slurm", says, "run this where jobs are submitted, or load Slurm's module")
        return
    config = slurm.configuration()
    version, name = config.get("SLURM_VERSION", "of no version"), config.get("ClusterName", "")
    yield Finding("slurm", True, f"Slurm {version} of the cluster {name} answers")


def _folder(
    cluster_profile: Profile, store_uri: str, work: str, made: list[Site]
) -> Iterator[Finding]:
    """See that scripts and logs can be written; note how the cluster is used."""
    site = on_slurm.site(cluster_profile, open_store(store_uri), work)
    on_slurm.make_folders(site)
    with tempfile.NamedTemporaryFile(dir=site.folder, prefix="doctor-"):
        yield Finding("shared folder", True, f"{site.folder} can be written")
    made.append(site)


@dataclass(frozen=True)
class _Refusal:
    """A reason of sbatch's not to take a job.

    Args:
        pattern: in what it says.
        mend: with `{}` for what there is to choose from.
        known: a command that lists that.
    """

    pattern: str
    mend: str
    known: tuple[str, ...]


_ASSOCIATIONS = ("sacctmgr", "--noheader", "--parsable2", "show", "assoc", "user={user}")
_REFUSALS = (
    _Refusal(
        "[Ii]nvalid account",
        "set `account` in the profile to one of yours, or allow it there: {}",
        (*_ASSOCIATIONS, "format=account"),
    ),
    _Refusal(
        "[Ii]nvalid qos",
        "set `qos` in the profile to one of yours: {}",
        (*_ASSOCIATIONS, "format=qos"),
    ),
    _Refusal(
        "[Ii]nvalid partition",
        "set `partition` in the profile to one of this cluster's: {}",
        ("sinfo", "--noheader", "--format=%R"),
    ),
    _Refusal(
        "[Ii]nvalid feature",
        "set `constraint` in the profile to features that nodes have: {}",
        ("sinfo", "--noheader", "--format=%f"),
    ),
    _Refusal(
        "node configuration is not available|[Nn]ode count|CPU count|[Mm]emory",
        "ask for less by nodes, gpus_per_node, cpus_per_gpu or memory_gb in the profile; "
        "nodes have {}",
        ("sinfo", "--noheader", "--format=%D of %c cores %m MB %G in %R"),
    ),
)


def _job(site: Site) -> Iterator[Finding]:
    """Ask Slurm whether it would take the largest job that a trial may be."""
    asked = site.profile
    largest = Placement(
        nodes=asked.nodes,
        ranks_per_node=asked.ranks_per_node,
        gpus_per_node=asked.gpus_per_node,
        cpus_per_rank=asked.cpus_per_gpu,
        memory_gb=asked.memory_gb,
        time_min=asked.time_min,
    )
    executor = slurm.trial_executor("hpt-doctor", asked, Step(site.folder, largest))
    with tempfile.NamedTemporaryFile("w", suffix=".sh", encoding="utf-8") as script:
        script.write(slurm.script_of(executor, 1))
        script.flush()
        try:
            slurm.call("sbatch", "--test-only", script.name)
        except HptError as error:
            yield _refused(error.problem.what)
            return
    yield Finding("job", True, f"Slurm takes the largest job that a trial may be: {largest}")


def _refused(said: str) -> Finding:
    said = said.replace("sbatch failed: ", "").replace("sbatch: error: ", "")
    for refusal in _REFUSALS:
        if re.search(refusal.pattern, said):
            return failed("job", said, refusal.mend.format(_known(refusal.known)))
    mend = "mend what it names in the profile, or ask the administrators"
    return failed("job", said, mend)


def _known(command: tuple[str, ...]) -> str:
    """Return what a command of Slurm's lists, in one line."""
    try:
        said = slurm.call(*(part.format(user=getpass.getuser()) for part in command))
    except HptError:
        return f"see {command[0]}"
    lines = [line.strip() for line in said.splitlines() if line.strip() not in ("", "(null)")]
    return "; ".join(dict.fromkeys(lines)) or f"{command[0]} lists none"


def _partitions() -> dict[str, dict[str, str]]:
    return preemption.partitions_of(slurm.call("scontrol", "show", "partition", "--oneliner"))


def _chosen(asked: Profile, partitions: dict[str, dict[str, str]]) -> list[str]:
    """Return the names of the partitions that a profile's jobs may run in."""
    if asked.partition:
        return [name for name in asked.partition.split(",") if name in partitions]
    return [name for name, facts in partitions.items() if facts.get("Default") == "YES"]


def _time_limit(asked: Profile) -> Iterator[Finding]:
    """Compare limits: many a Slurm takes a job that is too long, and never starts it."""
    partitions = _partitions()
    limits = {
        name: preemption.minutes_of(partitions[name]["MaxTime"])
        for name in _chosen(asked, partitions)
    }
    if not limits:
        return  # told elsewhere
    name = max(limits, key=lambda name: limits[name])
    if asked.time_min > limits[name]:
        says = f"time_min is {asked.time_min}, and {name} allows {limits[name]:g}"
        mend = f"set `time_min` in the profile to {limits[name]:g} or less, or another partition"
        yield failed("time limit", says, mend)
    else:
        yield Finding("time limit", True, f"{asked.time_min} minutes are within that of {name}")


def _preemption(asked: Profile) -> Iterator[Finding]:
    config = slurm.configuration()
    if config.get("PreemptType") == "preempt/qos":
        shown = "format=name,preempt,gracetime,preemptmode"
        text = slurm.call("sacctmgr", "--noheader", "--parsable2", "show", "qos", shown)
        rule = preemption.qos_rule(asked.qos or "normal", text, config.get("PreemptMode", ""))
        yield from preemption.judge(config, [rule])
        return
    partitions = _partitions()
    chosen = _chosen(asked, partitions)
    nodes = preemption.nodes_of(slurm.call("sinfo", "--noheader", "--Node", "--format=%R %N"))
    rules = preemption.partition_rules(chosen, partitions, nodes)
    rest = [name for name in partitions if name not in chosen]
    others = preemption.partition_rules(rest, partitions, nodes)
    yield from preemption.judge(config, rules, others)


def _container(asked: Profile) -> Iterator[Finding]:
    """See that the image is here, and what starts it."""
    if asked.container is None:
        yield Finding("container", None, "none: jobs run on the nodes as they are")
        return
    image, runtime = asked.container.image, asked.container.runtime
    if not image.startswith("/"):
        mend = "a .sqsh file on a shared folder starts sooner"
        yield Finding("container", None, f"{image} is fetched by the nodes", mend)
    elif missing := _missing(Path(image), runtime):
        mend = f"make it there by containers/, or mend `image` in the profile: {image}"
        yield failed("container", f"{missing} is not there", mend)
        return
    option, mend = {
        "pyxis": ("--container-image", "have the administrators install pyxis and enroot"),
        "oci": ("--container", "Slurm has that from 21.08 on, with oci.conf beside slurm.conf"),
        "apptainer": ("", ""),
    }[runtime]
    if option and not re.search(rf"{option}\b(?!-)", _help()):
        yield failed("container", f"srun has no {option}, which {runtime} needs", mend)
    else:
        yield Finding("container", True, f"{image}, for {runtime}")


def _missing(image: Path, runtime: str) -> str:
    """Return what is missing of an image's files, or an empty text."""
    wanted = [image]
    if runtime == "oci":
        wanted = [image, image / "config.json", image / "rootfs"]
    return next((str(path) for path in wanted if not path.exists()), "")


def _help() -> str:
    answer = subprocess.run(
        ["srun", "--help"], capture_output=True, text=True, timeout=_SRUN_TIMEOUT_S, check=False
    )
    return answer.stdout


def _mlflow(site: Site) -> Iterator[Finding]:
    """Tell that a database in a file is for one machine."""
    uri = site.settings.tracking_uri
    if uri.startswith("sqlite:"):
        mend = "run a server (mlflow server), and name its variable as `mlflow` in the profile"
        yield Finding("mlflow", None, f"{uri} is a file: it serves processes of one machine", mend)
