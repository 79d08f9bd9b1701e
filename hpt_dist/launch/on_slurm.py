"""Submit what is pending of a recipe to Slurm: a job for each trial, and then nothing stays here.

Trials with the same resources that wait for the same pending trials make one array, which waits
for these by afterok. One launch at a time submits for a store, and it looks at the queue first:
so launching again, or twice at once, submits nothing twice.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import hpt_dist
from hpt_dist.errors import HptError, RequestError
from hpt_dist.launch import launches, survey
from hpt_dist.launch.launches import Settings
from hpt_dist.launch.survey import Planned
from hpt_dist.recipe import plan
from hpt_dist.recipe.trial import Trial
from hpt_dist.slurm import commands as slurm
from hpt_dist.slurm import jobs as slurm_jobs
from hpt_dist.slurm import profile
from hpt_dist.slurm.commands import Queued, Step
from hpt_dist.slurm.jobs import Array
from hpt_dist.slurm.placement import Placement, place
from hpt_dist.slurm.profile import Profile
from hpt_dist.store import Store, lease, open_store
from hpt_dist.store.committed import is_done
from hpt_dist.store.paths import SUBMITTING, default_tracking_uri, local_path, work_folder
from hpt_dist.tracking.address import given
from hpt_dist.trial.records import Launch

_PATIENCE_S = 120.0
# Slurm's own default, for a dry run.
_LARGEST_ARRAY = 1001


@dataclass(frozen=True)
class Group:
    """Trials that are to be submitted together.

    Args:
        trials: one or more.
        placement: what each of them gets.
        parents: keys of the pending trials that all of them wait for.
    """

    trials: tuple[Trial, ...]
    placement: Placement
    parents: tuple[str, ...]


@dataclass(frozen=True)
class Submission:
    """What a launch did.

    Args:
        launch: its record; None where there was nothing to submit.
        arrays: what was submitted.
        queued: the jobs that were there already, by key.
    """

    launch: Launch | None
    arrays: Sequence[Array]
    queued: Mapping[str, Queued]


@dataclass(frozen=True)
class Site:
    """How a launch uses a cluster.

    Args:
        profile: of the cluster.
        settings: work folder and MLflow.
        ranks: processes of each trial that trains, instead of the recipe's wishes.
        held: whether jobs wait for `scontrol release`.
    """

    profile: Profile
    settings: Settings
    ranks: int | None = None
    held: bool = False

    @property
    def folder(self) -> Path:
        """The folder for scripts, logs and code, which all nodes see.

        Raises:
            RequestError: Slurm could not write there.
        """
        chosen = self.profile.shared_folder
        base = local_path(chosen) if chosen else self.settings.work / "jobs"
        return slurm.checked_folder(base)


def load(on: str) -> Profile:
    """Read a profile, and name its servers in the environment, for this process and its jobs.

    Args:
        on: its file, or the name of a shipped one.

    Raises:
        RequestError: it cannot be read, or a variable that it names is not set.
    """
    found = profile.load(on)
    os.environ.update(found.endpoints(os.environ))
    return found


def site(
    cluster_profile: Profile,
    store: Store,
    work: str,
    ranks: int | None = None,
    held: bool = False,
) -> Site:
    """Return how a launch uses a cluster; MLflow's address comes from the environment."""
    folder = work_folder(store, work)
    tracking_uri = given(os.environ.get("MLFLOW_TRACKING_URI", ""))
    settings = Settings(
        where="slurm",
        cores=0,
        gpus=(),
        work=folder,
        tracking_uri=tracking_uri or default_tracking_uri(folder),
        artifact_location="" if tracking_uri else (folder / "mlartifacts").as_uri(),
    )
    return Site(cluster_profile, settings, ranks, held)


def groups(
    trials: Sequence[Trial], pending: set[str], site: Site, largest: int = _LARGEST_ARRAY
) -> list[Group]:
    """Return what to submit together, parents first.

    Args:
        trials: to be submitted, parents first.
        pending: keys of all trials that are not done: those of `trials`, and those in the queue.
        site: how the cluster is used.
        largest: how many trials an array may have.
    """
    found: dict[tuple[str, Placement, tuple[str, ...]], list[Trial]] = {}
    for trial in trials:
        parents = tuple(key for key in trial.needs if key in pending)
        placement = place(trial, site.profile, site.ranks)
        found.setdefault((trial.stage, placement, parents), []).append(trial)
    return [
        Group(tuple(members[start : start + largest]), placement, parents)
        for (_, placement, parents), members in found.items()
        for start in range(0, len(members), largest)
    ]


def submit(
    prepared: Planned, trials: Sequence[Trial], site: Site, report: Callable[[str], None]
) -> Submission:
    """Submit every trial that is neither done nor in the queue.

    Args:
        prepared: the whole plan.
        trials: what to run of it, with its ancestors.
        site: how the cluster is used.
        report: called with a line for each array.

    Raises:
        RequestError: Slurm refuses a job; those submitted before it stay, and count next time.
        HptError: Slurm does not answer, or another launch submits for too long.
    """
    store = prepared.store
    with alone(store):
        queued = slurm_jobs.queued(store)
        left = _not_done(store, [trial for trial in trials if trial.key not in queued])
        if not left:
            return Submission(None, (), queued)
        record = launches.record(prepared.recipe, trials, store, site.settings)
        folder = site.folder / record.id
        code = copy_code(site.folder)
        _write_settings(folder, record)
        made: list[Array] = []
        jobs = {key: job.id for key, job in queued.items()}
        pending = {trial.key for trial in left} | set(queued)
        largest = int(slurm.configuration().get("MaxArraySize", _LARGEST_ARRAY))
        for number, group in enumerate(groups(left, pending, site, largest)):
            array = Array(f"{record.id}.{number}", tuple(t.key for t in group.trials), str(folder))
            slurm_jobs.write(store, record.id, [*made, array])
            made.append(_submit(prepared, record, group, array, site, code, jobs))
            slurm_jobs.write(store, record.id, made)
            jobs |= {key: made[-1].job_of(key) for key in made[-1].keys}
            report(f"job {made[-1].id}  {_summary(group)}")
        return Submission(record, made, queued)


def scripts(prepared: Planned, trials: Sequence[Trial], site: Site) -> Iterator[tuple[str, str]]:
    """Yield (what it runs, the script that sbatch would get) of what a launch would submit.

    Nothing is written, and Slurm is not asked: ids of jobs are words such as `<hpt>`.
    """
    store = prepared.store
    left = _not_done(store, trials)
    names = {trial.key: f"<{trial.name}>" for trial in left}
    for number, group in enumerate(groups(left, set(names), site)):
        folder = site.folder / prepared.recipe.name
        step = _step(prepared, group, site, folder, str(site.folder / "code"), names)
        executor = slurm.executor(f"{prepared.recipe.name}.{number}", site.profile, step)
        yield _summary(group), slurm.script_of(executor, len(group.trials))


def copy_code(base: Path) -> Path:
    """Copy this package to where the nodes see it, once for each version; return the folder.

    Jobs run this copy: editing the checkout changes nothing in the queue.
    """
    source = Path(hpt_dist.__file__).parent
    files = sorted(path for path in source.rglob("*") if _is_code(path))
    digest = hashlib.sha256()
    for path in files:
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(source)} {content}\n".encode())
    folder = base / f"code-{digest.hexdigest()[:16]}"
    if not folder.exists():
        part = base / f"part-{uuid.uuid4().hex}"
        for path in files:
            copy = part / "hpt_dist" / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
        try:
            part.rename(folder)
        except OSError:  # another launch was quicker
            shutil.rmtree(part)
    return folder


def _is_code(path: Path) -> bool:
    return path.is_file() and "__pycache__" not in path.parts


@contextlib.contextmanager
def alone(store: Store) -> Iterator[None]:
    """Be the only launch, or sharding, that submits for a store.

    Raises:
        HptError: another one submits for too long.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(lease.hold(store, SUBMITTING, patience_s=_PATIENCE_S))
        except lease.LeaseTakenError as error:
            raise HptError(
                "another launch has been submitting for a long time",
                where=error.problem.where,
                fix="see whether it hangs, and launch again",
            ) from error
        yield


def _not_done(store: Store, named: Sequence[Trial]) -> list[Trial]:
    """Return the trials that are to run, each once whatever its names."""
    trials = plan.unique(named)
    done = survey.looked_up(lambda trial: is_done(store, trial.key), trials)
    return [trial for trial, finished in zip(trials, done, strict=True) if not finished]


def _write_settings(folder: Path, record: Launch) -> None:
    """Leave the resolved recipe beside the scripts, for people."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(record.settings, indent=2) + "\n"
    (folder / "resolved.json").write_text(text, encoding="utf-8")


def _submit(
    prepared: Planned,
    record: Launch,
    group: Group,
    array: Array,
    site: Site,
    code: Path,
    jobs: Mapping[str, str],
) -> Array:
    """Submit one group; return its array with the id that Slurm gave it."""
    from hpt_dist.launch.slurm_process import TrialTask

    placement = group.placement
    step = _step(prepared, group, site, Path(array.folder), str(code), jobs)
    executor = slurm.executor(array.name, site.profile, step)
    tasks = []
    for trial in group.trials:
        job = launches.job_of(
            prepared.recipe,
            trial,
            prepared.store,
            record,
            site.settings,
            threads=placement.cpus_per_rank,
            ranks=placement.ranks,
        )
        job = replace(job, requeue_limit=site.profile.requeue_limit)
        tasks.append(TrialTask(job, os.getcwd()))  # noqa: PTH109 - a string travels
    return slurm_jobs.with_id(array, slurm.submit(executor, tasks))


def _step(
    prepared: Planned,
    group: Group,
    site: Site,
    folder: Path,
    code: str,
    jobs: Mapping[str, str],
) -> Step:
    after = tuple(jobs[key] for key in group.parents)
    visible = _visible(prepared, group, site)
    return Step(folder, group.placement, visible, code, after, held=site.held)


def _visible(prepared: Planned, group: Group, site: Site) -> tuple[str, ...]:
    """Return what a container needs to see: jobs, work, stores, weights, files of variables."""
    folders = [site.folder, site.settings.work, prepared.store.folder]
    for trial in group.trials:
        folders += [open_store(d.store).folder for d in trial.datasets.values() if d.store]
        if trial.spec.imported:
            file = Path(trial.spec.imported.partition("#")[0])
            folders.append(file.absolute().parent if file.is_file() else None)
    paths = [str(folder) for folder in folders if folder]
    return tuple(dict.fromkeys([*paths, *site.profile.files(os.environ)]))


def _summary(group: Group) -> str:
    first, count = group.trials[0], len(group.trials)
    if count == 1:
        return f"{first.name}: {group.placement}"
    return f"{first.stage}: {count} trials, {group.placement} each"


def check(otherwise: str = "use --on local") -> None:
    """Refuse to submit where that cannot work.

    Args:
        otherwise: what to do where there is no Slurm.

    Raises:
        RequestError: Slurm's commands are not here.
    """
    if not slurm_jobs.is_here() or shutil.which("sbatch") is None:
        raise RequestError(
            "sbatch is not installed here",
            where="--on",
            fix=f"run this where jobs are submitted, or {otherwise}",
        )


def make_folders(site: Site) -> None:
    """Make what a launch writes to beside the store."""
    for folder in (site.settings.work, site.folder):
        folder.mkdir(parents=True, exist_ok=True)
