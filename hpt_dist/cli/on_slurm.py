"""What `launch --on PROFILE`, and status and cancel of such launches, do."""

from __future__ import annotations

import time
from collections.abc import Sequence

from hpt_dist.cli import console, launch
from hpt_dist.errors import RequestError
from hpt_dist.launch import closing, here, launches, on_slurm, survey
from hpt_dist.launch.on_slurm import Site
from hpt_dist.launch.survey import Planned, State
from hpt_dist.recipe.plan import Trial
from hpt_dist.slurm import jobs as slurm_jobs
from hpt_dist.store import Store
from hpt_dist.trial.records import Launch

_POLL_S = 2.0


def run(
    prepared: Planned,
    only: Sequence[str],
    where: Site,
    *,
    dry_run: bool = False,
    watch: bool = False,
) -> bool:
    """Submit what is pending of a plan.

    Args:
        prepared: the whole plan.
        only: stages to run, with what they start from; all without.
        where: how the cluster is used.
        dry_run: print the scripts that sbatch would get, and submit nothing.
        watch: wait until all is over, telling of it.

    Returns:
        Whether all went well.
    """
    trials = here.chosen(prepared, only)
    if all(prepared.states[trial.key].name == "cached" for trial in trials):
        on_slurm.make_folders(where)
        record = launch.cached(prepared, trials, where.settings)
        launch.print_report(record, prepared.store)
        return True
    if dry_run:
        for title, script in on_slurm.scripts(prepared, trials, where):
            console.say(f"==> {title}")
            console.say(script)
        return True
    on_slurm.check()
    on_slurm.make_folders(where)
    console.print_plan(trials, prepared.states, prepared.facts)
    submitted = _submit(prepared, trials, where)
    if not watch:
        return True
    done = submitted is None or _watch(prepared.store, submitted)
    if submitted:
        launch.print_report(submitted, prepared.store)
    return done


def _submit(prepared: Planned, trials: Sequence[Trial], where: Site) -> Launch | None:
    """Submit what is pending; return the launch to look at, if there is one."""
    made = on_slurm.submit(prepared, trials, where, console.say)
    waiting = [made.queued[trial.key] for trial in trials if trial.key in made.queued]
    if waiting:
        ids = sorted({job.id.partition("_")[0] for job in waiting}, key=int)
        are = "trial is" if len(waiting) == 1 else "trials are"
        console.say(f"{len(waiting)} {are} in the queue already: job {', '.join(ids)}")
    record = made.launch
    if record is None:
        console.say("nothing to submit")
        return prepared.last_launch
    count = sum(len(array.keys) for array in made.arrays)
    plural = "" if count == 1 else "s"
    console.say(f"launch {record.id}: {count} trial{plural} submitted; nothing stays running here")
    console.say(f"  look: hpt-dist status {record.id}; hpt-dist logs {record.id} -f")
    console.say(f"  stop: hpt-dist cancel {record.id}")
    return record


def _watch(store: Store, record: Launch) -> bool:
    """Tell of a launch's trials until they are over; return whether all are done."""
    told: dict[str, str] = {}
    while True:
        found = states(store, record)
        for name, state in found.items():
            if told.get(name) != state.name:
                told[name] = state.name
                console.say(f"{state.name:8}  {name}  {state.why}")
        if not any(state.name in ("running", "queued") for state in found.values()):
            return all(state.name == "cached" for state in found.values())
        time.sleep(_POLL_S)


def states(store: Store, record: Launch) -> dict[str, State]:
    """Return where each trial of a launch stands; close the launch if nothing is left to come."""
    queued = slurm_jobs.known_queue(store)
    found = survey.states_of(store, record, queued)
    running = any(state.name == "running" for state in found.values())
    closing.finish_if_over(store, record, queued, running)
    if queued is None and record.where == "slurm":
        console.note("Slurm is not here, or does not answer: these are the store's own facts")
    return found


def cancel(store: Store, record: Launch) -> list[str]:
    """Stop a launch, wherever its trials run; return what was done, line by line.

    Raises:
        RequestError: it has ended; or its jobs are Slurm's, which is not here.
        HptError: Slurm does not answer.
    """
    told = [f"asked to save and stop: {name}" for name in launches.cancel(store, record)]
    if record.where == "slurm":
        if not slurm_jobs.is_here():
            raise RequestError("Slurm is not here", fix="cancel where jobs are submitted")
        names = {key: name for name, key in record.trials.items()}
        running, waiting = slurm_jobs.cancel(store, list(names))
        told = [f"taken out of the queue: {names[key]}" for key in waiting]
        told += [f"asked to save and stop: {names[key]}" for key in running]
        return told or ["none of its trials is in the queue"]
    return told or ["asked to start nothing more; no trial runs on this machine now"]
