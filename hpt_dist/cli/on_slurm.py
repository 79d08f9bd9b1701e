"""What `launch --on PROFILE` does, and `status` and `cancel` for its launches."""

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
    """Submit the pending trials of a plan.

    Args:
        prepared: the whole plan.
        only: stages to run, with the stages that they start from; empty for all.
        where: how the cluster is used.
        dry_run: print the scripts that sbatch would get, and submit nothing.
        watch: wait for all trials, and print changes of their states.

    Returns:
        False if a watched trial is not done at the end; else True.
    """
    trials = here.chosen(prepared, only)
    if all(prepared.states[trial.key].name == "cached" for trial in trials):
        on_slurm.make_folders(where)
        record = launch.cached(prepared, trials, where.settings)
        launch.print_report(record, prepared.store)
        return True
    if dry_run:
        for title, script in on_slurm.scripts(prepared, trials, where):
            console.print_line(f"==> {title}")
            console.print_line(script)
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
    """Submit the pending trials; return the launch that shows their states, if there is one."""
    submission = on_slurm.submit(prepared, trials, where, console.print_line)
    queued = submission.queued
    waiting = [queued[trial.key] for trial in trials if trial.key in queued]
    if waiting:
        ids = sorted({job.id.partition("_")[0] for job in waiting}, key=int)
        are = "trial is" if len(waiting) == 1 else "trials are"
        console.print_line(f"{len(waiting)} {are} in the queue already: job {', '.join(ids)}")
    record = submission.launch
    if record is None:
        console.print_line("nothing to submit")
        return prepared.last_launch
    count = sum(len(array.keys) for array in submission.arrays)
    trials_text = f"{count} trial{'' if count == 1 else 's'}"
    console.print_line(f"launch {record.id}: {trials_text} submitted; nothing stays running here")
    console.print_line(f"  look: hpt-dist status {record.id}; hpt-dist logs {record.id} -f")
    console.print_line(f"  stop: hpt-dist cancel {record.id}")
    return record


def _watch(store: Store, record: Launch) -> bool:
    """Print each change of state until all trials have ended; return whether all are done."""
    printed: dict[str, str] = {}
    while True:
        current = states(store, record)
        for name, state in current.items():
            if printed.get(name) != state.name:
                printed[name] = state.name
                console.print_line(f"{state.name:8}  {name}  {state.why}")
        if not any(state.name in ("running", "queued") for state in current.values()):
            return all(state.name == "cached" for state in current.values())
        time.sleep(_POLL_S)


def states(store: Store, record: Launch) -> dict[str, State]:
    """Return the state of each trial of a launch; close the launch if all trials have ended."""
    queued = slurm_jobs.known_queue(store)
    current = survey.states_of(store, record, queued)
    running = any(state.name == "running" for state in current.values())
    closing.finish_if_over(store, record, queued, running)
    if queued is None and record.where == "slurm":
        console.print_note(
            "Slurm is not installed here or does not answer: these states are from the store alone"
        )
    return current


def cancel(store: Store, record: Launch) -> list[str]:
    """Stop a launch, wherever its trials run; return the lines that report what was done.

    Raises:
        RequestError: it has ended, or it runs on Slurm and Slurm is not installed here.
        HptError: Slurm does not answer.
    """
    lines = [f"asked to save and stop: {name}" for name in launches.cancel(store, record)]
    if record.where == "slurm":
        if not slurm_jobs.is_here():
            raise RequestError(
                "this launch runs on Slurm, which is not installed here",
                fix="run hpt-dist cancel on a login node of the cluster",
            )
        names = {key: name for name, key in record.trials.items()}
        running, waiting = slurm_jobs.cancel(store, list(names))
        lines = [f"removed from the queue: {names[key]}" for key in waiting]
        lines += [f"asked to save and stop: {names[key]}" for key in running]
        return lines or ["none of its trials is in the queue"]
    return lines or ["asked to start no more trials; none runs on this machine now"]
