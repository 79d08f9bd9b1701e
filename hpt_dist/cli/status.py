"""hpt-dist status."""

from __future__ import annotations

from hpt_dist.cli import console
from hpt_dist.cli.lacking import print_lacking
from hpt_dist.cli.options import JsonOption, RecipeStoreOption, RunArgument
from hpt_dist.cli.requested import launch_of
from hpt_dist.launch import arrivals, closing, launches, outdated, survey
from hpt_dist.launch.description import ENDED
from hpt_dist.launch.survey import State
from hpt_dist.slurm import jobs as slurm_jobs
from hpt_dist.store import Store
from hpt_dist.trial.records import Launch


def status(run: RunArgument = "", store: RecipeStoreOption = "", json_: JsonOption = False) -> None:
    """Show the state of each trial of a launch, and how far it is.

    It reads the store and Slurm's queue. cached: done. running: with its host, step, loss, last
    look at validation and time left, at most 15 s old. queued: with its job. failed: with the
    reason. resumes: the next launch continues from a saved state. runs: the next launch starts it.

    \b
    Examples:
      hpt-dist status quickstart
      hpt-dist status my_recipe.yaml --json
    """
    opened, record = launch_of(run, store)
    if changed := outdated.since(opened, record, run):
        console.print_note(f"note: {changed}")
    states = states_of(opened, record)
    over = [name for name, state in states.items() if state.name not in ("running", "queued")]
    lacking = arrivals.lacking(opened, record, over)
    ended = launches.ended_as(opened, record)
    if json_:
        console.print_json(
            {
                "launch": record.id,
                "store": opened.uri,
                "ended": ended,
                "trials": {name: survey.as_json(state) for name, state in states.items()},
                "mlflow_lacks": lacking,
            }
        )
        return
    end = f"; the launch {ENDED[ended]}" if ended else ""
    console.print_line(f"{record.id}  ({record.file}, {record.created}{end})")
    rows = [(name, state.name, state.why) for name, state in states.items()]
    console.print_table(("trial", "state", "why"), rows)
    print_lacking(opened, record, lacking)


def states_of(store: Store, record: Launch) -> dict[str, State]:
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
