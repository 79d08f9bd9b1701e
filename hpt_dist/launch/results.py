"""Finished trials: what they left in the store."""

from __future__ import annotations

from hpt_dist.errors import RequestError, StoreAwayError, StoreError, nearest
from hpt_dist.launch.survey import looked_up
from hpt_dist.store import Store
from hpt_dist.store.committed import is_done
from hpt_dist.store.records import DamagedRecordError
from hpt_dist.trial import replicates
from hpt_dist.trial.records import Finished, Launch, ResultPart, RunPart, document


def finished(store: Store, launch: Launch) -> list[Finished]:
    """Return the finished trials of a launch, in the plan's order."""
    found = looked_up(lambda trial: _finished(store, *trial), launch.trials.items())
    return [trial for trial in found if trial]


def _finished(store: Store, name: str, key: str) -> Finished | None:
    if not is_done(store, key):
        return None
    result = document(store, key, "result.json", ResultPart)
    run = document(store, key, "run.json", RunPart)
    # A report can do without them: its numbers have no interval over images then.
    try:
        return Finished(name, key, result, run, replicates.read(store, key))
    except StoreAwayError:
        raise
    except (StoreError, DamagedRecordError) as error:
        return Finished(name, key, result, run, fault=str(error).splitlines()[0])


def has(launch: Launch, name: str) -> bool:
    """Return whether a launch has a stage or a trial of a name."""
    return any(name in (trial, trial.split("/")[0]) for trial in launch.trials)


def trials_of(launch: Launch, name: str) -> list[str]:
    """Return the names of a launch's trials that a stage's or a trial's name stands for.

    Raises:
        RequestError: the launch has none of that name.
    """
    names = [trial for trial in launch.trials if name in (trial, trial.split("/")[0])]
    if names:
        return names
    stages = [trial.split("/")[0] for trial in launch.trials]
    known = list(dict.fromkeys([*stages, *launch.trials]))
    raise RequestError(
        f"{launch.id} has no stage or trial {name}",
        allowed=", ".join(known[:20]),
        fix=nearest(name, known),
    )
