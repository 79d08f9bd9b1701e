"""hpt-dist cancel."""

from __future__ import annotations

from hpt_dist.cli import console
from hpt_dist.cli.options import DEFAULT_STORE, RunArgument, StoreOption
from hpt_dist.errors import RequestError
from hpt_dist.launch import launches
from hpt_dist.slurm import jobs as slurm_jobs
from hpt_dist.store import Store, open_store
from hpt_dist.trial.records import Launch


def cancel(run: RunArgument = "", store: StoreOption = DEFAULT_STORE) -> None:
    """Ask running trials of a launch to save and stop, and remove queued ones from Slurm.

    \b
    Example:
      hpt-dist cancel quickstart
    """
    opened = open_store(store)
    for line in _cancel(opened, launches.find(opened, run)):
        console.print_line(line)


def _cancel(store: Store, record: Launch) -> list[str]:
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
