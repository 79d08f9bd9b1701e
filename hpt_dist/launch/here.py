"""A launch on this machine, from its plan to its end. It prints nothing."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path

from hpt_dist.errors import RequestError, nearest
from hpt_dist.launch import closing, launches, local, report_settings
from hpt_dist.launch.launches import Settings
from hpt_dist.launch.local import NotDone, Watcher
from hpt_dist.launch.survey import Planned
from hpt_dist.recipe import plan
from hpt_dist.recipe.numerics import Device
from hpt_dist.recipe.trial import Trial
from hpt_dist.slurm import jobs as slurm_jobs
from hpt_dist.store.paths import default_tracking_uri, work_folder
from hpt_dist.tracking.address import given
from hpt_dist.trial.records import Launch, Where


def chosen(prepared: Planned, only: Sequence[str]) -> list[Trial]:
    """Return the trials of the chosen stages with their ancestors; all without a choice.

    Raises:
        RequestError: there is no such stage, or a dataset is only a stand-in.
    """
    stand_ins = [d.name for d in prepared.facts.datasets.values() if d.stand_in]
    if stand_ins:
        raise RequestError(f"{', '.join(stand_ins)} is only a stand-in", fix="shard it first")
    stages = {trial.stage for trial in prepared.trials if not trial.is_candidate}
    for stage in only:
        if stage not in stages:
            allowed = ", ".join(sorted(stages))
            raise RequestError(
                f"no stage {stage}", where="--only", allowed=allowed, fix=nearest(stage, stages)
            )
    wanted = {t.key for t in prepared.trials if not only or t.stage in only}
    for trial in reversed(prepared.trials):
        if trial.key in wanted:
            wanted.update(trial.needs)
    return [trial for trial in prepared.trials if trial.key in wanted]


def pending(prepared: Planned, trials: Sequence[Trial], where: Where, ranks: int) -> list[Trial]:
    """Return which trials are not done.

    Raises:
        RequestError: so many ranks cannot run inline.
        RecipeError: the batches of a trial cannot be shared out over so many ranks.
    """
    if where == "inline" and ranks > 1:
        raise RequestError(
            f"{ranks} ranks are {ranks} processes, and inline is this one",
            where="--ranks",
            fix="use --on local",
        )
    left = [trial for trial in trials if prepared.states[trial.key].name != "cached"]
    plan.check_ranks(prepared.recipe, left, ranks)
    return left


def settings(
    prepared: Planned,
    *,
    where: Where,
    cores: int | None,
    tracking_uri: str,
    work: str,
    ranks: int = 1,
    fresh: bool = False,
) -> Settings:
    """Return how a launch uses this machine; its work folder is made.

    Args:
        prepared: the whole plan.
        where: worker processes, or inline in this one.
        cores: to share out; None is all that this process may use.
        tracking_uri: of MLflow; empty for a database in the work folder.
        work: folder for logs and local metrics; empty for the store's own.
        ranks: processes that share the training of a trial.
        fresh: start each process as an interpreter of its own.

    Raises:
        RequestError: the work folder cannot be made.
    """
    folder, tracking_uri = work_folder(prepared.store, work), given(tracking_uri)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"cannot make the work folder: {error}", where="--work") from error
    return Settings(
        where=where,
        cores=cores or len(os.sched_getaffinity(0)),
        gpus=_gpus(),
        work=folder,
        tracking_uri=tracking_uri or default_tracking_uri(folder),
        artifact_location="" if tracking_uri else (folder / "mlartifacts").as_uri(),
        ranks=ranks,
        fresh=fresh,
    )


def cached(prepared: Planned, trials: Sequence[Trial], used: Settings) -> Launch:
    """Return the record of a launch in which nothing was left to run."""
    _finish_orphans(prepared)
    record = prepared.last_launch
    report = report_settings.of(prepared.recipe, {trial.stage for trial in trials})
    wanted = {trial.name: trial.key for trial in trials}, report
    experiment = launches.experiment_of(prepared.recipe)
    if (
        record is None
        or (record.trials, record.report) != wanted
        or launches.experiment(record) != experiment
    ):
        record = launches.record(prepared.recipe, trials, prepared.store, used)
        closing.finish_launch(prepared.store, record, done=True)
    # The last process may have been killed between its result and its last word to MLflow.
    closing.set_true_statuses(prepared.store, record)
    return record


def begin(prepared: Planned, trials: Sequence[Trial], used: Settings) -> Launch:
    """Return the record of a launch that is about to run trials.

    Raises:
        RequestError: there are GPUs, but fewer than ranks.
    """
    if used.gpus and len(used.gpus) < used.ranks:
        what = f"{used.ranks} ranks need {used.ranks} GPUs, and there are {len(used.gpus)}"
        raise RequestError(what, where="--ranks")
    _finish_orphans(prepared)
    return launches.record(prepared.recipe, trials, prepared.store, used)


def work_through(
    prepared: Planned, trials: Sequence[Trial], used: Settings, record: Launch, watcher: Watcher
) -> Mapping[str, NotDone]:
    """Run a launch that has begun to its end; return why trials are not done, by their names.

    Raises:
        KeyboardInterrupt: at a second Ctrl-C; a later launch of the recipe closes this one.
    """
    errors, stopped = local.work_through(prepared, trials, used, record, watcher)
    closing.finish_launch(prepared.store, record, done=not errors, stopped=stopped)
    closing.set_true_statuses(prepared.store, record)
    # Trials of a launch that was killed may have run on, and ended only now.
    _finish_orphans(prepared)
    return errors


def _finish_orphans(prepared: Planned) -> None:
    """Finish the launches of the same recipe whose processes are gone."""
    store = prepared.store
    closing.finish_orphans(store, prepared.recipe.name, slurm_jobs.known_queue(store))


def device() -> Device:
    """Return what trials of this machine compute on: GPUs where this process may use any."""
    return Device("gpu" if _gpus() else "cpu")


def _gpus() -> tuple[str, ...]:
    """Return the GPUs that this process may use, by index or UUID, without importing torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        names = (name.strip() for name in visible.split(","))
        # CUDA stops reading at the first name that is none, such as -1.
        return tuple(takewhile(lambda name: name and not name.startswith("-"), names))
    return tuple(map(str, range(len(list(Path("/dev").glob("nvidia[0-9]*"))))))
