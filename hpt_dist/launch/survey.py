"""A recipe against the store: its datasets, its weights, and the state of each trial."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from hpt_dist.errors import Problem, RecipeError, RequestError
from hpt_dist.launch import imports
from hpt_dist.launch.launches import launches
from hpt_dist.launch.lookup import facts, located
from hpt_dist.recipe import file as recipe_file
from hpt_dist.recipe import plan, shipped, variables
from hpt_dist.recipe.differences import difference
from hpt_dist.recipe.facts import Facts
from hpt_dist.recipe.file import Recipe
from hpt_dist.recipe.numerics import THIS_CPU, Device
from hpt_dist.recipe.trial import Trial
from hpt_dist.report import foreseen, published
from hpt_dist.slurm import jobs as slurm_jobs
from hpt_dist.slurm.commands import Queued
from hpt_dist.store import Store, committed, lease, open_store, records
from hpt_dist.store.paths import DONE, FAILURE, LEASE, stage_prefix, usual_store
from hpt_dist.store.records import DamagedRecordError
from hpt_dist.train.checkpoint import Checkpoints
from hpt_dist.trial import progress
from hpt_dist.trial.records import Launch, failed_start, failure

T = TypeVar("T")
R = TypeVar("R")
# As many as an S3 client keeps connections open for.
_LOOKS = 32
StateName = Literal["cached", "running", "queued", "failed", "resumes", "runs"]


@dataclass(frozen=True)
class State:
    """Where a trial stands.

    Args:
        name: cached (its `DONE` is there), running (somebody holds its lease), queued (a job of it
            is in Slurm's queue), failed (its last process noted why, or `DONE` is damaged), resumes
            (a saved state is there) or runs (from its start). A launch runs those that are not
            cached: a failed one too.
        why: in words.
        step: of the running or saved state.
        facts: of a running training, in numbers; see `trial.progress`.
    """

    name: StateName
    why: str
    step: int = 0
    facts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Planned:
    """A recipe that can be launched: everything that is known before anything is started.

    Args:
        recipe: as read and checked.
        store: the recipe's own, opened.
        facts: its datasets and weights.
        trials: all of them, parents first.
        states: of each trial, by key.
        last_launch: of a recipe of this name.
        doubts: what will run and is hardly meant, with its place in the file, a line each.
        launches: all of the store, oldest first.
    """

    recipe: Recipe
    store: Store
    facts: Facts
    trials: tuple[Trial, ...]
    states: Mapping[str, State]
    last_launch: Launch | None
    doubts: tuple[str, ...] = ()
    launches: tuple[Launch, ...] = ()


def plan_against_store(
    path: Path | str,
    overrides: Sequence[str],
    stand_ins: Path | None = None,
    device: Device = THIS_CPU,
    store_uri: str = "",
) -> Planned:
    """Read a recipe, plan it, and look up where each of its trials stands.

    Args:
        path: the recipe, or the name of a shipped one.
        overrides: `key.path=value` strings.
        stand_ins: a YAML file that describes datasets that are not there yet.
        device: where the trials will compute.
        store_uri: of a store that takes the place of the recipe's own and of HPT_STORE. Without
            any of the three it is ./hpt-store.

    Raises:
        RecipeError: with every problem of the recipe, or every dataset or file that is missing or
            does not fit.
        RequestError: the recipe or the store cannot be read.
    """
    environment = dict(os.environ)
    if store_uri:
        overrides = [*overrides, f"store={json.dumps(store_uri)}"]
        environment["HPT_STORE"] = store_uri
    recipe = recipe_file.load(shipped.recipe(path), overrides, environment)
    _check_published(recipe)
    with variables.hidden(recipe.document.used.values()):
        return _planned(recipe, stand_ins, device)


def _planned(recipe: Recipe, stand_ins: Path | None, device: Device) -> Planned:
    """Plan a recipe, and look up where each of its trials stands."""
    store = _own_store(recipe)
    found = replace(facts(recipe, store, stand_ins), device=device)
    trials = plan.make(recipe, found)
    every = tuple(launches(store))
    of_recipe = [launch for launch in every if launch.recipe == recipe.name]
    last = of_recipe[-1] if of_recipe else None
    known = {name: key for launch in of_recipe for name, key in launch.trials.items()}
    on_slurm = any(launch.where == "slurm" for launch in of_recipe)
    queued = slurm_jobs.known_queue(store) if on_slurm else None
    where = states(store, trials, known, queued)
    idle = [trial for trial in trials if where[trial.key].name in ("runs", "failed", "resumes")]
    imports.check(recipe, store, idle)
    doubts = tuple(_doubts(recipe, found, trials))
    return Planned(recipe, store, found, trials, where, last, doubts, every)


def _doubts(recipe: Recipe, facts: Facts, trials: Sequence[Trial]) -> Iterator[str]:
    """Yield what will run and is hardly meant."""
    for stage, points in recipe.stages.items():
        specs = (spec for point in points for spec in point.tried)
        found = [doubt for spec in specs for doubt in spec.doubts(facts.datasets)]
        for doubt in dict.fromkeys(found):
            fix = f"; {doubt.fix}" if doubt.fix else ""
            yield f"{recipe.where('stages', stage, *doubt.setting.split('.'))}: {doubt.what}{fix}"
    names = {trial.name: trial.key for trial in trials}
    documents = {trial.name: trial.document for trial in trials}
    judges = {stage for stage, points in recipe.stages.items() if points[0].spec.JUDGES}
    for number, figure in enumerate(recipe.report):
        for setting, what in foreseen.doubts(figure, names, judges, documents):
            yield f"{recipe.where(*recipe.report_path(number), setting)}: {what}"


def _check_published(recipe: Recipe) -> None:
    """Refuse a report that compares with a table which is not known."""
    for number, figure in enumerate(recipe.report):
        try:
            if figure.compare:
                published.find(figure.compare)
        except RequestError as error:
            where = recipe.where(*recipe.report_path(number), "compare")
            raise RecipeError([located(error, where)]) from error


def _own_store(recipe: Recipe) -> Store:
    try:
        return open_store(recipe.store or usual_store())
    except RequestError as error:
        problem = error.problem
        what = f"{problem.what} ({problem.where})"
        fault = Problem(what, recipe.where("store"), problem.allowed, problem.fix)
        raise RecipeError([fault]) from error


def states(
    store: Store,
    trials: Sequence[Trial],
    last_keys: Mapping[str, str] | None = None,
    queued: Mapping[str, Queued] | None = None,
) -> dict[str, State]:
    """Return each trial's state by its key.

    Args:
        store: where results are.
        trials: what to look up.
        last_keys: trial names to keys of an earlier launch, to say what changed since.
        queued: jobs in Slurm's queue, by key; None where it was not asked.
    """
    known = last_keys or {}
    found = looked_up(lambda trial: _state(store, trial, known, queued), trials)
    return {trial.key: state for trial, state in zip(trials, found, strict=True)}


def states_of(
    store: Store, launch: Launch, queued: Mapping[str, Queued] | None = None
) -> dict[str, State]:
    """Return the state of each trial of a launch by its name."""
    arrays = slurm_jobs.arrays_of(store, launch.id) if launch.where == "slurm" else {}
    last = {
        folder: slurm_jobs.last_starts(folder)
        for folder in {array.folder for array in arrays.values()}
    }

    def look(key: str) -> State:
        state, array = state_of(store, key, queued), arrays.get(key)
        ending = slurm_jobs.ending(array, key, last[array.folder]) if array else None
        return _with_ending(store, key, state, ending) if ending else state

    found = looked_up(look, launch.trials.values())
    return dict(zip(launch.trials, found, strict=True))


def _with_ending(store: Store, key: str, state: State, ending: slurm_jobs.Ending) -> State:
    """Return a state with how the last start of its job ended, where the store does not know it.

    A start that could not reach the store, or never began, has left the store as it was: what is
    noted there may be of an earlier start.
    """
    if state.name == "queued" and (ending.rough or ending.says):
        return replace(state, why=f"{state.why}; before: {ending.reason}")
    if state.name not in ("failed", "resumes", "runs") or not ending.is_failure:
        return state
    noted = failed_start(store.at(stage_prefix(key))) if state.name == "failed" else None
    if noted and (not noted[0] or (noted[0] == ending.job and noted[1] >= ending.start)):
        return state
    after = f"after step {state.step}: " if state.step else ""
    return State("failed", f"{after}{ending.reason}", state.step)


def looked_up(look: Callable[[T], R], things: Iterable[T]) -> list[R]:
    """Return what a function that asks the store returns for each thing; many run at a time."""
    with ThreadPoolExecutor(_LOOKS) as pool:
        return list(pool.map(look, things))


def state_of(store: Store, key: str, queued: Mapping[str, Queued] | None = None) -> State:
    """Return the state of a trial by its key alone, and the jobs in Slurm's queue."""
    return _found_state(store, key, queued) or State("runs", _unsaved(store, key))


def _unsaved(store: Store, key: str) -> str:
    """Return in words how far a trial without a state came: its spec is the first it leaves."""
    began = store.stat(f"{stage_prefix(key)}/spec.json")
    return "it began, but no state was saved" if began else "it has not begun"


def _state(
    store: Store,
    trial: Trial,
    last_keys: Mapping[str, str],
    queued: Mapping[str, Queued] | None,
) -> State:
    found = _found_state(store, trial.key, queued)
    return found or State("runs", _why(store, trial, last_keys.get(trial.name, "")))


def _found_state(store: Store, key: str, queued: Mapping[str, Queued] | None) -> State | None:
    """Return where a trial stands if there is anything of it in the store or the queue."""
    root = store.at(stage_prefix(key))
    # One listing: of thousands of trials most have nothing there, and need no other request.
    there = {info.path for info in root.list()}
    if DONE in there and (found := _done_state(store, key)):
        return found
    holder = lease.read(root, LEASE) if LEASE in there else None
    if holder and slurm_jobs.lives(holder, key, queued):
        seen = holder.on_this_host or (bool(holder.job) and queued is not None)
        return _running(holder, seen)
    job = (queued or {}).get(key)
    saved = max(Checkpoints(root).steps(), default=0) if there else 0
    after = f"after step {saved}" if saved else ""
    if job:
        again = f", goes on {after}" if saved else ""
        return State("queued" if job.state == "PENDING" else "running", f"{job}{again}", saved)
    if FAILURE in there and (message := failure(root)):
        error = message.splitlines()[0]
        return State("failed", f"{after}: {error}" if saved else error, saved)
    return State("resumes", after, saved) if saved else None


def _done_state(store: Store, key: str) -> State | None:
    """Return where a trial stands whose `DONE` was listed; None if that is gone again."""
    try:
        found = committed.done(store, key)
    except committed.DamagedObjectError as error:
        return State("failed", f"{error.problem.what}; delete it and launch again")
    if found is None:
        return None
    count = len(found.replaced)
    replaced = f", {count} image{'s' if count > 1 else ''} replaced" if count else ""
    chose = f", chose {found.chose}" if found.chose else f", out: {found.out}" if found.out else ""
    return State("cached", f"done under key {key[:12]}{chose}{replaced}")


def _running(holder: lease.LeaseInfo, seen: bool) -> State:
    """Describe a trial that is held, by a holder that was seen to live or may have died."""
    step, steps = (int(holder.facts.get(name, 0)) for name in ("step", "steps"))
    at = (f", step {step}" if step else "") + (f" of {steps}" if step and steps else "")
    at += f", {shown}" if (shown := progress.in_words(holder.facts)) else ""
    doubt = "" if seen else "; if it died there, launch takes over"
    times = f", restarted {holder.restarts} times" if holder.restarts else ""
    who = f"job {holder.job}{times}" if holder.job else f"process {holder.pid}"
    return State("running", f"on {holder.host}, {who}{at}{doubt}", step, holder.facts)


def _why(store: Store, trial: Trial, last_key: str) -> str:
    if not last_key:
        return "never run"
    if last_key == trial.key:
        return f"launched before, but {_unsaved(store, trial.key)}"
    try:
        old = records.read(store, f"{stage_prefix(last_key)}/spec.json", dict[str, Any])
    except DamagedRecordError:
        return "changed since the last launch, whose spec.json is damaged"
    if old is None:
        return "changed since the last launch"
    changes = difference(old, trial.document)
    more = f" and {len(changes) - 2} more" if len(changes) > 2 else ""
    return "changed: " + "; ".join(changes[:2]) + more


def as_json(state: State) -> dict[str, Any]:
    """Return a state for `--json`."""
    progress = {"progress": dict(state.facts)} if state.facts else {}
    return {"state": state.name, "why": state.why, "step": state.step} | progress
