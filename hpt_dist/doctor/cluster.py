"""Doctor's checks of a cluster: first on the login node, then by a job on the nodes.

No check ever raises, and the job is always cancelled in the end.
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

_SLURM_FIX = "check whether Slurm is up: scontrol ping"
_FOLDER_FIX = "set `shared_folder` in the profile, or --work, to a folder that you can write to"


def load(path: str) -> tuple[Profile | None, list[Finding]]:
    """Read a profile, and set the variables of its servers in the environment, as a launch does.

    Returns:
        (the profile, or None if it cannot be used; the findings).
    """
    try:
        loaded = profile.load(path)
        os.environ.update(loaded.endpoints(os.environ))
    except Exception as error:  # noqa: BLE001 - doctor reports any error
        fix = "see the profiles in slurm/profiles/ for examples"
        return None, [error_finding("profile", error, fix)]
    return loaded, [Finding("profile", True, f"{path} is valid")]


def examine(
    cluster_profile: Profile, store_uri: str, work: str, report: Callable[[str], None]
) -> list[Finding]:
    """Check a cluster on this login node, then by a job on its nodes.

    Args:
        cluster_profile: from `load`.
        store_uri: URI of the store that trials would use.
        work: folder for logs and local metrics; empty for the default.
        report: called with a line to print while the job waits.
    """
    findings = guarded("slurm", _slurm, _SLURM_FIX)
    try:
        site = _site(cluster_profile, store_uri, work)
    except Exception as error:  # noqa: BLE001 - doctor reports any error
        return [*findings, error_finding("shared folder", error, _FOLDER_FIX), _no_job()]
    findings.append(Finding("shared folder", True, f"{site.folder} can be written"))
    if _any_failed(findings):
        return [*findings, _no_job()]
    blocking = guarded("job", partial(_job, site), "see the error of sbatch --test-only")
    fix = "correct `container` in the profile"
    blocking += guarded("container", partial(_container, site.profile), fix)
    findings += blocking
    findings += guarded("time limit", partial(_time_limit, site.profile), _SLURM_FIX)
    findings += guarded("preemption", partial(_preemption, site.profile), _SLURM_FIX)
    findings += guarded("mlflow", partial(_mlflow, site), "")
    if _any_failed(blocking):
        return [*findings, _no_job()]
    return findings + guarded("start", partial(_nodes, site, store_uri, report), _SLURM_FIX)


def _any_failed(findings: Sequence[Finding]) -> bool:
    return any(finding.ok is False for finding in findings)


def _no_job() -> Finding:
    fix = "fix the faults above, and run doctor again"
    return Finding("start", None, "no job was submitted, so the nodes are not checked", fix)


def _site(cluster_profile: Profile, store_uri: str, work: str) -> Site:
    """Return how the cluster is used; raise if scripts and logs cannot be written."""
    site = on_slurm.site(cluster_profile, open_store(store_uri), work)
    on_slurm.make_folders(site)
    with tempfile.NamedTemporaryFile(dir=site.folder, prefix="doctor-"):
        return site


def _nodes(site: Site, store_uri: str, report: Callable[[str], None]) -> Iterator[Finding]:
    yield from outcome.judge(*job.run(site, open_store(store_uri), report))


def _slurm() -> Iterator[Finding]:
    """Check that Slurm's commands are installed and its controller answers."""
    commands = ("sbatch", "srun", "squeue", "scontrol", "scancel", "sinfo")
    missing = [name for name in commands if shutil.which(name) is None]
    if missing:
        message = f"{', '.join(missing)} cannot be found"
        yield failed("slurm", message, "run doctor on a login node, or load Slurm's module")
        return
    config = slurm.configuration()
    version, name = config.get("SLURM_VERSION", "(unknown version)"), config.get("ClusterName", "")
    yield Finding("slurm", True, f"Slurm {version} of the cluster {name} answers")


_ASSOCIATIONS = ("sacctmgr", "--noheader", "--parsable2", "show", "assoc", "user={user}")
_SINFO = ("sinfo", "--noheader")
# Why sbatch refuses a job: its error, the fix, and the command that lists the allowed values.
_REFUSALS = (
    (
        "[Ii]nvalid account",
        "set `account` in the profile to one of your accounts: {}",
        (*_ASSOCIATIONS, "format=account"),
    ),
    (
        "[Ii]nvalid qos",
        "set `qos` in the profile to a QOS that you may use: {}",
        (*_ASSOCIATIONS, "format=qos"),
    ),
    (
        "[Ii]nvalid partition",
        "set `partition` in the profile to one of this cluster's: {}",
        (*_SINFO, "--format=%R"),
    ),
    (
        "[Ii]nvalid feature",
        "set `constraint` in the profile to features of the nodes: {}",
        (*_SINFO, "--format=%f"),
    ),
    (
        "[Rr]eservation",
        "set `sbatch: {{reservation: ...}}` in the profile to one that you may use: {}",
        ("scontrol", "show", "reservation", "--oneliner"),
    ),
    (
        "[Ii]nvalid license",
        "set `sbatch: {{licenses: ...}}` in the profile to licences of this cluster: {}",
        ("scontrol", "show", "licenses", "--oneliner"),
    ),
    (
        "[Ii]nvalid node name",
        "set nodelist and exclude below `sbatch` in the profile to nodes of this cluster: {}",
        (*_SINFO, "--format=%N"),
    ),
    (
        "gres|TRES",
        "correct gpus_per_node, or gres below `sbatch` in the profile (`none` where Slurm knows no "
        "GPUs); nodes have {}",
        (*_SINFO, "--format=%G on %N"),
    ),
    (
        "node configuration is not available|[Nn]ode count|CPU count|[Mm]emory",
        "lower nodes, gpus_per_node, cpus_per_gpu or memory_gb in the profile; nodes have {}",
        (*_SINFO, "--format=%D of %c cores %m MB %G in %R"),
    ),
)


def _job(site: Site) -> Iterator[Finding]:
    """Check that Slurm accepts the largest job that a trial may need."""
    if left_out := site.profile.left_out(os.environ):
        fix = "write them into the profile, if jobs need them"
        yield Finding("job", None, f"not passed on to sbatch: {left_out}", fix)
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
    yield Finding("job", True, f"Slurm accepts the largest job that a trial may need: {largest}")


def _refused(error: str) -> Finding:
    message = error.replace("sbatch failed: ", "").replace("sbatch: error: ", "")
    for pattern, fix, command in _REFUSALS:
        if re.search(pattern, message):
            return failed("job", message, fix.format(_listed(command)))
    return failed("job", message, "change that setting in the profile, or ask the administrators")


def _listed(command: tuple[str, ...]) -> str:
    """Return the output of a Slurm command that lists something, in one line."""
    try:
        printed = slurm.call(*(part.format(user=getpass.getuser()) for part in command))
    except HptError:
        return f"see {command[0]}"
    lines = [line.strip() for line in printed.splitlines() if line.strip() not in ("", "(null)")]
    return "; ".join(dict.fromkeys(lines)) or f"{command[0]} lists none"


def _partitions() -> dict[str, dict[str, str]]:
    return preemption.partitions_of(slurm.call("scontrol", "show", "partition", "--oneliner"))


def _chosen(wanted: Profile, partitions: dict[str, dict[str, str]]) -> list[str]:
    """Return the names of the partitions that a profile's jobs may run in."""
    if wanted.partition:
        return [name for name in wanted.partition.split(",") if name in partitions]
    return [name for name, facts in partitions.items() if facts.get("Default") == "YES"]


def _time_limit(wanted: Profile) -> Iterator[Finding]:
    """Compare time limits: many clusters accept a job that is too long, and never start it."""
    partitions = _partitions()
    limits = {name: partitions[name]["MaxTime"] for name in _chosen(wanted, partitions)}
    if not limits:
        return  # the check `job` reports a partition that does not exist
    name = max(limits, key=lambda name: preemption.minutes_of(limits[name]))
    limit = preemption.minutes_of(limits[name])
    message = f"time_min is {wanted.time_min}, and the partition {name} allows {limits[name]}"
    fix = f"set `time_min` in the profile to {limit:g} or less, or use another partition"
    yield judged("time limit", wanted.time_min <= limit, message, fix)


def _preemption(wanted: Profile) -> Iterator[Finding]:
    config = slurm.configuration()
    if config.get("PreemptType") == "preempt/qos":
        shown = "format=name,preempt,gracetime,preemptmode"
        text = slurm.call("sacctmgr", "--noheader", "--parsable2", "show", "qos", shown)
        rule = preemption.qos_rule(wanted.qos or "normal", text, config.get("PreemptMode", ""))
        yield from preemption.judge(config, [rule])
        return
    partitions = _partitions()
    chosen = _chosen(wanted, partitions)
    nodes = preemption.nodes_of(slurm.call("sinfo", "--noheader", "--Node", "--format=%R %N"))
    rules = preemption.partition_rules(chosen, partitions, nodes)
    rest = [name for name in partitions if name not in chosen]
    others = preemption.partition_rules(rest, partitions, nodes)
    yield from preemption.judge(config, rules, others)


def _container(wanted: Profile) -> Iterator[Finding]:
    """Check that the image exists and that Slurm can start it."""
    if wanted.container is None:
        yield Finding("container", None, "none: jobs run on the nodes without a container")
        return
    image, runtime = wanted.container.image, wanted.container.runtime
    if not image.startswith("/"):
        fix = "use a .sqsh file in a shared folder, which starts faster"
        yield Finding("container", None, f"the nodes fetch {image} from a registry", fix)
    elif missing := _missing(Path(image), runtime):
        fix = f"create it (docs/containers.md), or correct `image` in the profile: {image}"
        yield failed("container", f"{missing} does not exist", fix)
        return
    option, fix = {
        "pyxis": ("--container-image", "ask the administrators to install pyxis and enroot"),
        "oci": ("--container", "use Slurm 21.08 or newer, with oci.conf beside slurm.conf"),
        "apptainer": ("", ""),
    }[runtime]
    if option and not re.search(rf"{option}\b(?!-)", slurm.call("srun", "--help")):
        yield failed("container", f"srun has no {option}, which {runtime} needs", fix)
    else:
        yield Finding("container", True, f"{image}, for {runtime}")


def _missing(image: Path, runtime: str) -> str:
    """Return the first missing file of an image, or an empty string."""
    wanted = [image]
    if runtime == "oci":
        wanted = [image, image / "config.json", image / "rootfs"]
    return next((str(path) for path in wanted if not path.exists()), "")


def _mlflow(site: Site) -> Iterator[Finding]:
    """Report a database in a file, which processes of one machine only can use."""
    uri = site.settings.tracking_uri
    if uri.startswith("sqlite:"):
        fix = (
            "run a server (mlflow server), and set `mlflow` in the profile to the name of the "
            "variable with its address"
        )
        message = f"{uri} is a file: only processes of one machine can use it"
        yield Finding("mlflow", None, message, fix)
