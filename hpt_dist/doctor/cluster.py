"""Doctor's checks of a cluster: on the login node first, then by a job on the nodes.

No check ever raises, and the job is cancelled whatever happens.
"""

from __future__ import annotations

import getpass
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from hpt_dist.doctor import job, outcome, preemption
from hpt_dist.doctor.finding import Finding, error_finding, failed, guarded, judged
from hpt_dist.errors import HptError
from hpt_dist.launch import on_slurm
from hpt_dist.launch.on_slurm import Site
from hpt_dist.slurm import commands as slurm
from hpt_dist.slurm import profile
from hpt_dist.slurm.commands import Step
from hpt_dist.slurm.profile import Profile
from hpt_dist.store import open_store

_SLURM_AGAIN = "see whether Slurm is up: scontrol ping"
_FOLDER_FIX = "name a folder that can be written as `shared_folder` in the profile, or by --work"


def load(path: str) -> tuple[Profile | None, list[Finding]]:
    """Read a profile, and name its servers in the environment, as a launch does.

    Returns:
        (the profile, or None if it cannot be used; what was found).
    """
    try:
        found = profile.load(path)
        os.environ.update(found.endpoints(os.environ))
    except Exception as error:  # noqa: BLE001 - whatever it is, doctor reports it
        fix = "see slurm/profiles/ for profiles that can be read"
        return None, [error_finding("profile", error, fix)]
    return found, [Finding("profile", True, f"{path} can be read")]


def examine(
    cluster_profile: Profile, store_uri: str, work: str, report: Callable[[str], None]
) -> list[Finding]:
    """Check a cluster, by a job on its nodes too.

    Args:
        cluster_profile: from `load`.
        store_uri: of the store that trials would use.
        work: folder for logs and local metrics; empty for the store's own.
        report: called with a line for people while the job waits.
    """
    findings = guarded("slurm", _slurm, _SLURM_AGAIN)
    try:
        site = _site(cluster_profile, store_uri, work)
    except Exception as error:  # noqa: BLE001 - whatever it is, doctor reports it
        return [*findings, error_finding("shared folder", error, _FOLDER_FIX), _not_tried()]
    findings.append(Finding("shared folder", True, f"{site.folder} can be written"))
    if _any_failed(findings):
        return [*findings, _not_tried()]
    blocking = guarded("job", partial(_job, site), "see what sbatch --test-only says")
    blocking += guarded("container", partial(_container, site.profile), "correct `container`")
    findings += blocking
    findings += guarded("time limit", partial(_time_limit, site.profile), _SLURM_AGAIN)
    findings += guarded("preemption", partial(_preemption, site.profile), _SLURM_AGAIN)
    findings += guarded("mlflow", partial(_mlflow, site), "")
    if _any_failed(blocking):
        return [*findings, _not_tried()]
    return findings + guarded("start", partial(_nodes, site, store_uri, report), _SLURM_AGAIN)


def _any_failed(findings: Sequence[Finding]) -> bool:
    return any(finding.ok is False for finding in findings)


def _not_tried() -> Finding:
    fix = "fix what failed before it, and run doctor again"
    return Finding("start", None, "no job was sent to the nodes", fix)


def _site(cluster_profile: Profile, store_uri: str, work: str) -> Site:
    """Return how the cluster is used, once scripts and logs can be written."""
    site = on_slurm.site(cluster_profile, open_store(store_uri), work)
    on_slurm.make_folders(site)
    with tempfile.NamedTemporaryFile(dir=site.folder, prefix="doctor-"):
        return site


def _nodes(site: Site, store_uri: str, report: Callable[[str], None]) -> Iterator[Finding]:
    yield from outcome.judge(*job.run(site, open_store(store_uri), report))


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


_ASSOCIATIONS = ("sacctmgr", "--noheader", "--parsable2", "show", "assoc", "user={user}")
_SINFO = ("sinfo", "--noheader")
# Why sbatch refuses a job: what it says, the fix, and the command that lists the choice for that.
_REFUSALS = (
    (
        "[Ii]nvalid account",
        "set `account` in the profile to one of yours, or allow it there: {}",
        (*_ASSOCIATIONS, "format=account"),
    ),
    (
        "[Ii]nvalid qos",
        "set `qos` in the profile to one of yours: {}",
        (*_ASSOCIATIONS, "format=qos"),
    ),
    (
        "[Ii]nvalid partition",
        "set `partition` in the profile to one of this cluster's: {}",
        (*_SINFO, "--format=%R"),
    ),
    (
        "[Ii]nvalid feature",
        "set `constraint` in the profile to features that nodes have: {}",
        (*_SINFO, "--format=%f"),
    ),
    (
        "node configuration is not available|[Nn]ode count|CPU count|[Mm]emory",
        "ask for less by nodes, gpus_per_node, cpus_per_gpu or memory_gb in the profile; "
        "nodes have {}",
        (*_SINFO, "--format=%D of %c cores %m MB %G in %R"),
    ),
)


def _job(site: Site) -> Iterator[Finding]:
    """Ask Slurm whether it would take the largest job that a trial may be."""
    largest = job.largest(site.profile)
    executor = slurm.executor(job.NAME, site.profile, Step(site.folder, largest))
    with tempfile.NamedTemporaryFile("w", suffix=".sh", encoding="utf-8") as script:
        script.write(slurm.script_of(executor, 1))
        script.flush()
        try:
            slurm.call("sbatch", "--test-only", script.name)
        except HptError as error:
            yield _refused(error.problem.what)
            return
    yield Finding("job", True, f"Slurm takes the largest job that a trial may be: {largest}")


def _refused(error: str) -> Finding:
    says = error.replace("sbatch failed: ", "").replace("sbatch: error: ", "")
    for pattern, fix, command in _REFUSALS:
        if re.search(pattern, says):
            return failed("job", says, fix.format(_known(command)))
    return failed("job", says, "change what it names in the profile, or ask the administrators")


def _known(command: tuple[str, ...]) -> str:
    """Return what a command of Slurm's lists, in one line."""
    try:
        printed = slurm.call(*(part.format(user=getpass.getuser()) for part in command))
    except HptError:
        return f"see {command[0]}"
    lines = [line.strip() for line in printed.splitlines() if line.strip() not in ("", "(null)")]
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
    limits = {name: partitions[name]["MaxTime"] for name in _chosen(asked, partitions)}
    if not limits:
        return  # sbatch refuses it
    name = max(limits, key=lambda name: preemption.minutes_of(limits[name]))
    limit = preemption.minutes_of(limits[name])
    says = f"time_min is {asked.time_min}, and {name} allows {limits[name]}"
    fix = f"set `time_min` in the profile to {limit:g} or less, or another partition"
    yield judged("time limit", asked.time_min <= limit, says, fix)


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
        fix = "a .sqsh file on a shared folder starts sooner"
        yield Finding("container", None, f"{image} is fetched by the nodes", fix)
    elif missing := _missing(Path(image), runtime):
        fix = f"make it there by containers/, or correct `image` in the profile: {image}"
        yield failed("container", f"{missing} is not there", fix)
        return
    option, fix = {
        "pyxis": ("--container-image", "have the administrators install pyxis and enroot"),
        "oci": ("--container", "Slurm has that from 21.08 on, with oci.conf beside slurm.conf"),
        "apptainer": ("", ""),
    }[runtime]
    if option and not re.search(rf"{option}\b(?!-)", slurm.call("srun", "--help")):
        yield failed("container", f"srun has no {option}, which {runtime} needs", fix)
    else:
        yield Finding("container", True, f"{image}, for {runtime}")


def _missing(image: Path, runtime: str) -> str:
    """Return what is missing of an image's files, or an empty text."""
    wanted = [image]
    if runtime == "oci":
        wanted = [image, image / "config.json", image / "rootfs"]
    return next((str(path) for path in wanted if not path.exists()), "")


def _mlflow(site: Site) -> Iterator[Finding]:
    """Note that a database in a file is for one machine."""
    uri = site.settings.tracking_uri
    if uri.startswith("sqlite:"):
        fix = "run a server (mlflow server), and name its variable as `mlflow` in the profile"
        yield Finding("mlflow", None, f"{uri} is a file: it serves processes of one machine", fix)
