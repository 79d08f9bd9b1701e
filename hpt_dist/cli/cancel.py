"""hpt-dist cancel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hpt_dist.cli import console
from hpt_dist.cli.options import JsonOption, RecipeStoreOption, RunArgument
from hpt_dist.cli.requested import launch_of
from hpt_dist.errors import RequestError
from hpt_dist.launch import launches
from hpt_dist.slurm import jobs as slurm_jobs
from hpt_dist.store import Store
from hpt_dist.trial.records import Launch


@dataclass(frozen=True)
class _Stopped:
    """What became of a trial: it was asked to save and stop, or left Slurm's queue."""

    trial: str
    what: Literal["asked to save and stop", "removed from the queue"]


def cancel(run: RunArgument = "", store: RecipeStoreOption = "", json_: JsonOption = False) -> None:
    """Ask running trials of a launch to save and stop.

    On a cluster it also removes waiting trials from Slurm's queue. The same launch command goes
    on later.

    \b
    Examples:
      hpt-dist cancel quickstart
      hpt-dist cancel my_recipe.yaml
    """
    opened, record = launch_of(run, store)
    stopped = _cancel(opened, record)
    if json_:
        trials = {one.trial: one.what for one in stopped}
        console.print_json({"launch": record.id, "store": opened.uri, "trials": trials})
        return
    for one in stopped:
        console.print_line(f"{one.what}: {one.trial}")
    if not stopped and record.where == "slurm":
        console.print_line("none of its trials is in the queue")
    elif not stopped:
        console.print_line("asked to start no more trials; none runs on this machine now")


def _cancel(store: Store, record: Launch) -> list[_Stopped]:
    """Stop a launch, wherever its trials run.

    Raises:
        RequestError: it has ended, or it runs on Slurm and Slurm is not installed here.
        HptError: Slurm does not answer.
    """
    asked = launches.cancel(store, record)
    if record.where != "slurm":
        return [_Stopped(name, "asked to save and stop") for name in asked]
    if not slurm_jobs.is_here():
        raise RequestError(
            "this launch runs on Slurm, which is not installed here",
            fix="run hpt-dist cancel on a login node of the cluster",
        )
    names = {key: name for name, key in record.trials.items()}
    running, waiting = slurm_jobs.cancel(store, list(names))
    return [
        *(_Stopped(names[key], "removed from the queue") for key in waiting),
        *(_Stopped(names[key], "asked to save and stop") for key in running),
    ]
