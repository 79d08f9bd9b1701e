"""The paths of objects in a store and of files in the local work folder."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from urllib.parse import unquote

from hpt_dist.errors import RequestError
from hpt_dist.store.base import Store

# A trial is finished when this object exists; it is written last and names all the others.
DONE = "DONE"
LEASE = "lease.json"
# Why the last process of a trial ended without a result.
FAILURE = "failure.json"
LAUNCHES = "launches"
# What trials computed of frozen backbones, for those that need the same.
FEATURES = "features"
DEFAULT_STORE = "./hpt-store"
_SQLITE = "sqlite:///"
# The lease of whoever submits jobs for a store, or takes back what was noted of them.
SUBMITTING = f"{LAUNCHES}/submitting"


def local_path(text: Path | str) -> Path:
    """Return the path that a text names, with `~` and `~user` in full.

    Raises:
        RequestError: there is no such user, or the user has no home.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        what = f"~ stands for no folder: {error}"
        raise RequestError(what, where=str(text), fix="write the path in full") from error


def usual_store() -> str:
    """Return the URI of the store that is meant where neither an option nor a recipe names one."""
    return os.environ.get("HPT_STORE") or DEFAULT_STORE


def stage_prefix(key: str) -> str:
    """Return the prefix of a trial's objects in a store."""
    return f"stages/{key}"


def sharding_prefix(name: str) -> str:
    """Return where in a store the objects of a sharding's jobs lie, until its manifest is there.

    Beside the datasets: what lies in a dataset's folder is its own.
    """
    return f"sharding/{name}"


def work_folder(store: Store, chosen: str = "") -> Path:
    """Return the folder for logs, metrics on their way to MLflow, and MLflow's own database.

    Args:
        store: a folder store keeps its work inside itself.
        chosen: another folder, from an option or HPT_WORK.
    """
    if chosen:
        return Path(chosen).absolute()
    return store.folder / "work" if store.folder else Path("hpt-work").absolute()


def trial_folder(work: Path, store: str, key: str) -> Path:
    """Return the local folder of a trial.

    Args:
        work: the work folder.
        store: URI of the store.
        key: of the trial.
    """
    return _of_store(work, "trials", store) / key


def report_folder(work: Path, store: str, recipe: str) -> Path:
    """Return the local folder of the report of a recipe's last launch; see `trial_folder`."""
    return _of_store(work, "reports", store) / recipe


def _of_store(work: Path, part: str, store: str) -> Path:
    """Return a part of a work folder.

    Outside the store's folder several stores may share a work folder, and each has its own part.
    """
    if work.is_relative_to(store):
        return work / part
    return work / part / hashlib.sha256(store.encode()).hexdigest()[:12]


def filled_trial_folder(work: Path, store: str, key: str) -> Path:
    """Return the local folder that holds what there is of a trial; see `trial_folder`.

    Older versions kept the trials of all stores side by side.
    """
    ours, before = trial_folder(work, store, key), work / "trials" / key
    return before if before.is_dir() and not ours.is_dir() else ours


def default_tracking_uri(work: Path) -> str:
    """Return the URI of the SQLite database that MLflow uses if no server is configured."""
    path = str(work / "mlflow.db")
    return f"{_SQLITE}{path.translate({ord(sign): f'%{ord(sign):02X}' for sign in '%?#'})}"


def tracking_database(tracking_uri: str) -> Path | None:
    """Return the file of a SQLite database that MLflow uses; None for any other address."""
    path, _, _ = tracking_uri.removeprefix(_SQLITE).partition("?")
    return Path(unquote(path)).absolute() if tracking_uri.startswith(_SQLITE) else None
