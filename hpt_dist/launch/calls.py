"""Recipes from a program of one's own: planned, run on this machine, and what they left."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hpt_dist.errors import HptError
from hpt_dist.launch import here, launches, pasted, results
from hpt_dist.launch.local import Watcher
from hpt_dist.launch.survey import Planned, StateName, plan_against_store
from hpt_dist.processes import environment
from hpt_dist.recipe.trial import Trial
from hpt_dist.store import marker, open_store
from hpt_dist.trial.records import Finished

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PlannedTrial:
    """One trial of a recipe, and where it stands.

    Args:
        name: `stage/axis=value,...`.
        stage: name of its stage.
        key: of its results in the store; it changes with all that could change them.
        state: cached, running, queued, failed, resumes or runs; a launch runs what is not cached.
        why: the state in words.
        settings: of its stage, resolved.
    """

    name: str
    stage: str
    key: str
    state: StateName
    why: str
    settings: Mapping[str, Any]


def plan(
    recipe: Path | str, *, store: str = "", overrides: Sequence[str] = ()
) -> list[PlannedTrial]:
    """Return the trials of a recipe, parents first; nothing is started.

    Args:
        recipe: a YAML file, or the name of a shipped recipe.
        store: URI of the store, in place of the recipe's own and of HPT_STORE.
        overrides: settings to change, as `stages.hpt.steps=100`.

    Raises:
        RecipeError: with every problem of the recipe, or every dataset that is missing.
        RequestError: there is no such recipe or store.
    """
    prepared = _prepared(recipe, store, overrides)
    return [_planned(trial, prepared) for trial in prepared.trials]


def run(
    recipe: Path | str,
    *,
    store: str = "",
    overrides: Sequence[str] = (),
    only: Sequence[str] = (),
    cores: int | None = None,
    ranks: int = 1,
    work: str = "",
    watcher: Watcher | None = None,
) -> list[Finished]:
    """Run what is not done of a recipe on this machine, and wait for it; see `plan`.

    Each trial has processes of its own, whose output goes to the work folder. Safe to call again
    after anything: it goes on from the last saved states. Ctrl-C lets the trials save and stop.

    Args:
        recipe: a YAML file, or the name of a shipped recipe.
        store: URI of the store, in place of the recipe's own and of HPT_STORE.
        overrides: settings to change, as `stages.hpt.steps=100`.
        only: stages to run, with what they start from; all without.
        cores: CPU cores to share out; None is all that this process may use.
        ranks: processes, and GPUs, that share the training of each trial.
        work: folder for logs and local metrics; HPT_WORK, or else one in the store, without.
        watcher: receives the progress of trials; without one the log does (`logging`, level INFO).

    Returns:
        The finished trials with their results, parents first.

    Raises:
        RecipeError: with every problem of the recipe, or every dataset that is missing.
        RequestError: the request was wrong; nothing was started.
        HptError: a trial failed or was stopped.
    """
    prepared = _prepared(recipe, store, overrides)
    trials = here.chosen(prepared, only)
    pending = here.pending(prepared, trials, "local", ranks)
    prepared = replace(prepared, store=marker.begin(prepared.store))
    used = here.settings(
        prepared,
        where="local",
        cores=cores,
        tracking_uri=os.environ.get("MLFLOW_TRACKING_URI", ""),
        work=work or os.environ.get("HPT_WORK", ""),
        ranks=ranks,
    )
    if not pending:
        return results.finished(prepared.store, here.cached(prepared, trials, used))
    record = here.begin(prepared, trials, used)
    errors = here.work_through(prepared, trials, used, record, watcher or _Logged())
    if errors:
        what = "\n".join(f"  {name}: {one.why}" for name, one in errors.items())
        raise HptError(
            f"{len(errors)} of {len(trials)} trials are not done:\n{what}",
            where=record.id,
            fix=f"read their logs: {pasted.command('logs', record.id, store=prepared.store)}",
        )
    return results.finished(prepared.store, record)


def finished(launch: str = "", *, store: str) -> list[Finished]:
    """Return the finished trials of a launch with their results, parents first.

    Args:
        launch: its id, or the name of its recipe for the newest; without one the newest of all.
        store: URI of the store.

    Raises:
        RequestError: there is no such launch or store.
    """
    opened = open_store(store)
    return results.finished(opened, launches.find(opened, launch))


def _prepared(recipe: Path | str, store: str, overrides: Sequence[str]) -> Planned:
    environment.provide_home()
    return plan_against_store(recipe, overrides, device=here.device(), store_uri=store)


def _planned(trial: Trial, prepared: Planned) -> PlannedTrial:
    state = prepared.states[trial.key]
    settings = trial.document["spec"]
    return PlannedTrial(trial.name, trial.stage, trial.key, state.name, state.why, settings)


class _Logged:
    """Tells the log how trials go."""

    def started(self, trial: Trial) -> None:
        """A trial has a process now."""
        log.info("started %s", trial.name)

    def moved(self, trial: Trial, facts: Mapping[str, Any]) -> None:
        """A running trial reported its progress."""
        log.debug("%s: %s", trial.name, facts)

    def noted(self, trial: Trial, lines: Sequence[str]) -> None:
        """A running trial reported what it understood."""
        for line in lines:
            log.info("%s: %s", trial.name, line)

    def ended(self, trial: Trial, error: str) -> None:
        """A trial ended."""
        log.info("%s %s", "failed" if error else "done", trial.name)

    def stopping(self) -> None:
        """Somebody asked to stop."""
        log.info("stopping: running trials save their states")

    def stopped(self, trial: Trial, why: str) -> None:
        """A trial was asked to stop, and ended."""
        log.info("%s: %s", trial.name, why)
