"""The record of a launch: what was asked for, under which keys, and where it is watched."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import signal
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

from hpt_dist.errors import HptError, RequestError, nearest
from hpt_dist.errors.secrets import public_address, without_secrets
from hpt_dist.launch import parent_run, pasted, report_settings
from hpt_dist.recipe import shipped, written
from hpt_dist.recipe.file import Recipe
from hpt_dist.recipe.trial import Trial
from hpt_dist.store import Store, absent, lease, records
from hpt_dist.store.paths import LAUNCHES, LEASE, filled_trial_folder, stage_prefix
from hpt_dist.store.records import DamagedRecordError
from hpt_dist.tracking.address import EXPERIMENT_VARIABLE
from hpt_dist.tracking.tracker import FinalStatus
from hpt_dist.trial.context import TrialOrder
from hpt_dist.trial.records import Launch, Where

_LONGEST_STATUS = 20  # bytes

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """How a launch uses this machine.

    Args:
        where: worker processes, inline in this process (for debugging), or Slurm, where cores,
            GPUs and ranks are the profile's affair.
        cores: CPU cores to share out.
        gpus: which GPUs to share out, by index or UUID, one for each process of a trial.
        work: the local work folder.
        tracking_uri: of MLflow; empty for none.
        artifact_location: of a new MLflow experiment; empty for MLflow's default.
        ranks: processes that share the training of a trial.
        fresh: start each process of a trial as an interpreter of its own.
    """

    where: Where
    cores: int
    gpus: tuple[str, ...]
    work: Path
    tracking_uri: str
    artifact_location: str = ""
    ranks: int = 1
    fresh: bool = False

    @property
    def is_warm(self) -> bool:
        """Whether trials are forked from a server that has imported torch.

        Not where there are GPUs: nobody has measured yet what a CUDA driver makes of it.
        """
        return self.where == "local" and not self.fresh and not self.gpus


def record(recipe: Recipe, trials: Sequence[Trial], store: Store, settings: Settings) -> Launch:
    """Write a new launch record and open its MLflow run, if MLflow can be reached.

    Raises:
        RequestError: a name or a path holds what no record may hold.
    """
    now = datetime.now(UTC)
    name = f"{recipe.name}-{now:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    launch = Launch(
        id=name,
        recipe=recipe.name,
        file=recipe.document.file,
        created=now.isoformat(timespec="seconds"),
        trials={trial.name: trial.key for trial in trials},
        report=report_settings.of(recipe, {trial.stage for trial in trials}),
        report_set=report_settings.by_option(recipe),
        settings={trial.name: trial.document for trial in trials},
        work=str(settings.work),
        tracking_uri=settings.tracking_uri,
        where=settings.where,
        experiment=experiment_of(recipe),
        written=without_secrets(written.text(recipe.document)),
        options=tuple(map(without_secrets, recipe.document.options)),
        datasets={name: public_address(of) for name, of in recipe.datasets.items()},
    )
    _check(launch)
    # On a cluster the first trial opens it: that takes seconds, and a launch there is to be short.
    if settings.tracking_uri and settings.where != "slurm":
        try:
            parent = parent_run.opened(launch, settings.artifact_location)
            launch = replace(launch, parent_run=parent)
        except HptError as error:
            # MLflow being down must not stop a launch.
            log.warning("the launch goes on without MLflow: %s", error)
    store.put(f"{LAUNCHES}/{launch.id}.json", _encoded(launch))
    return launch


def experiment_of(recipe: Recipe) -> str:
    """Return the MLflow experiment of a recipe's runs from now on."""
    return recipe.mlflow.experiment or os.environ.get(EXPERIMENT_VARIABLE, "") or recipe.name


def experiment(launch: Launch) -> str:
    """Return the MLflow experiment of a launch; older versions named it after the recipe."""
    return launch.experiment or launch.recipe


def _encoded(launch: Launch) -> bytes:
    return json.dumps(asdict(launch), indent=2).encode()


def _check(launch: Launch) -> None:
    """Refuse a launch whose record could not be read again."""
    try:
        records.decoded(_encoded(launch), Launch, where=launch.id)
    except DamagedRecordError as error:
        raise RequestError(
            f"this launch cannot be recorded: {error.problem.what.partition(': ')[2]}",
            where=ascii(launch.file)[1:-1],
            fix="use names and paths in one line, without control characters",
        ) from error


def launches(store: Store) -> list[Launch]:
    """Return every launch of a store, oldest first; damaged records are left out with a warning."""
    found = []
    for info in store.list(f"{LAUNCHES}/"):
        if info.path.endswith(".json"):
            try:
                found.append(_read(store, info.path))
            except DamagedRecordError as error:
                problem = error.problem
                log.warning("%s is left out: %s", problem.where, problem.what)
    return sorted(filter(None, found), key=lambda launch: launch.created)


def read(store: Store, launch_id: str) -> Launch:
    """Return a launch by its id.

    Raises:
        StoreError: there is none.
        DamagedRecordError: its record is damaged.
    """
    path = f"{LAUNCHES}/{launch_id}.json"
    launch = _read(store, path)
    if launch is None:
        raise absent(f"{store.uri}/{path}")
    return launch


def _read(store: Store, path: str) -> Launch | None:
    """Return the launch whose record lies at a path; None if it does not exist."""
    launch = records.read(store, path, Launch, fix="delete it: no trial needs it")
    if launch and path != f"{LAUNCHES}/{launch.id}.json":
        what = f"it is the record of {launch.id}"
        raise DamagedRecordError(what, where=f"{store.uri}/{path}", fix="delete it")
    return launch


def find(store: Store, name: str = "") -> Launch:
    """Return a launch by its id, or the newest of a recipe by its name or file, or the newest.

    Raises:
        RequestError: there is none.
    """
    known = launches(store)
    is_file = name.endswith((".yaml", ".yml")) or name in shipped.names()
    stem = Path(name).stem if is_file else name
    match = [one for one in known if name in ("", one.id, one.file) or stem == one.recipe]
    if match:
        return match[-1]
    names = sorted({launch.recipe for launch in known})
    raise RequestError(
        f"no launch {name} in {store.uri}" if name else f"no launch in {store.uri}",
        allowed=", ".join(names),
        fix=nearest(name, names) or "hpt-dist launch RECIPE, or name another store with --store",
    )


def earlier_than(store: Store, launch: Launch) -> list[Launch]:
    """Return the earlier launches of the same recipe, newest first."""
    same = [one for one in launches(store) if one.recipe == launch.recipe]
    return same[: [one.id for one in same].index(launch.id)][::-1]


def has_ended(store: Store, launch: Launch) -> bool:
    """Return whether a launch has ended."""
    return store.stat(f"{LAUNCHES}/{launch.id}.end") is not None


def ended_as(store: Store, launch: Launch) -> FinalStatus | None:
    """Return how a launch ended; None while it goes on, or where its note is damaged."""
    path = f"{LAUNCHES}/{launch.id}.end"
    info = store.stat(path)
    text = store.get(path) if info and info.bytes <= _LONGEST_STATUS else b""
    return next((status for status in get_args(FinalStatus) if text == status.encode()), None)


def is_cancelled(store: Store, launch: str) -> bool:
    """Return whether somebody asked a launch, named by its id, to stop."""
    return store.stat(f"{LAUNCHES}/{launch}.cancel") is not None


def cancel(store: Store, launch: Launch) -> list[str]:
    """Ask a launch to stop, and its processes on this host to save; return the trials asked.

    Raises:
        RequestError: the launch has ended.
    """
    if has_ended(store, launch):
        look = pasted.command("status", launch.id, store=store)
        raise RequestError(f"{launch.id} has ended", fix=look)
    store.put(f"{LAUNCHES}/{launch.id}.cancel", b"")
    asked: list[str] = []
    if launch.where == "slurm":
        return asked  # its jobs are signalled through Slurm
    for name, key in launch.trials.items():
        holder = lease.read(store.at(stage_prefix(key)), LEASE)
        if holder and holder.on_this_host and not holder.died:
            with contextlib.suppress(ProcessLookupError):
                os.kill(holder.pid, signal.SIGTERM)
                asked.append(name)
    return asked


def job_of(
    recipe: Recipe,
    trial: Trial,
    store: Store,
    launch: Launch,
    settings: Settings,
    *,
    threads: int,
    ranks: int,
) -> TrialOrder:
    """Return all that a process needs to run a trial of a launch.

    Args:
        recipe: the trial's.
        trial: what to run.
        store: where results go.
        launch: the record.
        settings: work folder and MLflow.
        threads: CPU threads of each of its processes.
        ranks: processes that share it.
    """
    return TrialOrder(
        recipe=recipe.name,
        trial=trial,
        store=store.uri,
        work=settings.work,
        tracking_uri=settings.tracking_uri,
        parent_run=launch.parent_run,
        artifact_location=settings.artifact_location,
        image_size=recipe.image.size,
        normalize=recipe.image.normalize,
        threads=threads,
        ranks=ranks,
        launch=launch.id,
        experiment=launch.experiment,
    )


def log_files(store: Store, work: Path, key: str) -> list[Path]:
    """Return the output files of a trial's processes, oldest first."""
    files = (filled_trial_folder(work, store.uri, key) / "logs").glob("*_log.*")
    return sorted(files, key=lambda path: path.stat().st_mtime)
