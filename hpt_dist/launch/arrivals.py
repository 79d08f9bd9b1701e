"""What MLflow lacks of a launch, as far as this machine's work folder knows. Nothing is asked."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from hpt_dist.store import Store
from hpt_dist.store.paths import filled_trial_folder
from hpt_dist.tracking import tracker
from hpt_dist.trial.records import Launch


def arrived(store: Store, launch: Launch, names: Iterable[str]) -> dict[str, bool | None]:
    """Return whether MLflow has all of some trials; None for those that another machine ran.

    Args:
        store: where they are.
        launch: whose trials they are.
        names: of trials that do not run.
    """
    work, keys = Path(launch.work), {name: launch.trials[name] for name in names}
    return {
        name: tracker.has_arrived(filled_trial_folder(work, store.uri, key), launch.tracking_uri)
        for name, key in keys.items()
    }


def lacking(store: Store, launch: Launch, names: Iterable[str]) -> list[str]:
    """Return the trials of which MLflow lacks a part; see `arrived`."""
    if not launch.tracking_uri:
        return []
    return [name for name, there in arrived(store, launch, names).items() if there is False]
