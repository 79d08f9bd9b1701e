"""Trials as jobs of a cluster: submitted, and waited for."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from hpt_dist.cli import console
from hpt_dist.cli.requested import command
from hpt_dist.cli.status import states_of
from hpt_dist.launch import on_slurm, report_settings
from hpt_dist.launch.on_slurm import Site
from hpt_dist.launch.survey import Planned
from hpt_dist.recipe.trial import Trial
from hpt_dist.store import Store
from hpt_dist.trial.records import Launch

_POLL_S = 2.0


def submit(prepared: Planned, trials: Sequence[Trial], where: Site) -> Launch | None:
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
        last, stages = prepared.last_launch, {trial.stage for trial in trials}
        return last and replace(last, report=report_settings.of(prepared.recipe, stages))
    count = sum(len(array.keys) for array in submission.arrays)
    trials_text = f"{count} trial{'' if count == 1 else 's'}"
    console.print_line(f"launch {record.id}: {trials_text} submitted; nothing stays running here")
    _print_ways(record, prepared.store)
    return record


def _print_ways(record: Launch, store: Store) -> None:
    """Print how to look at a launch on a cluster, and how to stop it."""
    for verb, *options in (("status",), ("logs", "-f")):
        console.print_line(f"  look: {command(verb, record.id, *options, store=store)}")
    console.print_line(f"  stop: {command('cancel', record.id, store=store)}")


def wait(store: Store, record: Launch) -> bool:
    """Print each change of state, and now and then how far trials are, until all have ended.

    Returns:
        Whether all are done.
    """
    printed: dict[str, tuple[str, float]] = {}
    try:
        while True:
            current = states_of(store, record)
            for name, state in current.items():
                before, when = printed.get(name, ("", 0.0))
                moved = bool(state.facts) and time.monotonic() - when >= console.PLAIN_EVERY_S
                if before != state.name or moved:
                    printed[name] = state.name, time.monotonic()
                    console.print_line(f"{state.name:8}  {name}  {state.why}")
            if not any(state.name in ("running", "queued") for state in current.values()):
                return all(state.name == "cached" for state in current.values())
            time.sleep(_POLL_S)
    except KeyboardInterrupt:
        console.leave_line()
        console.print_note("the jobs go on:")
        _print_ways(record, store)
        raise
