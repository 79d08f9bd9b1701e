"""The files of a run's work folder that say how far it is; `tracker` describes all of them."""

from __future__ import annotations

import dataclasses
import errno
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Self

from hpt_dist.errors.secrets import public_address
from hpt_dist.store import Content, files, records
from hpt_dist.store.records import DamagedRecordError
from hpt_dist.tracking.run_identity import LAUNCH_TAG, RunIdentity, Status

METRICS, ARTIFACTS, RECORD, SHIPPED = "metrics.jsonl", "artifacts", "run.json", "mlflow.json"
_FIX = "delete it, unless the trial runs; nothing more of this run then gets to MLflow"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunRecord:
    """The content of run.json; times are unix seconds."""

    identity: RunIdentity
    tracking_uri: str | None
    status: Status
    started: float
    ended: float | None = None

    @property
    def public_uri(self) -> str | None:
        """MLflow's address without secrets, which a record of an older version may hold."""
        return self.tracking_uri and public_address(self.tracking_uri)

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """Return the record in a work folder; None if there is none.

        Raises:
            DamagedRecordError: it is damaged.
        """
        path = folder / RECORD
        if not path.exists():
            return None
        return records.decoded(path.read_bytes(), cls, where=str(path), fix=_FIX)

    def write(self, folder: Path) -> None:
        """Write the record into a work folder; raises OSError."""
        values = dataclasses.asdict(self) | {"tracking_uri": self.public_uri}
        replace_file(folder, RECORD, json.dumps(values, indent=1).encode())


@dataclass(frozen=True)
class Shipped:
    """The content of mlflow.json; older versions noted no experiment."""

    run_id: str = ""
    experiment_id: str = ""
    artifacts: Mapping[str, str] = field(default_factory=dict)
    status: str = ""

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return what is noted; nothing if the note is missing or damaged."""
        try:
            return records.decoded(path.read_bytes(), cls, where=str(path))
        except (DamagedRecordError, FileNotFoundError):
            return cls()  # then everything is uploaded again


def earlier(folder: Path) -> RunRecord | None:
    """Return what an earlier process has recorded; None if nothing, or if it is damaged."""
    try:
        return RunRecord.read(folder)
    except DamagedRecordError as error:
        logger.warning("%s: %s; it is written anew", error.problem.where, error.problem.what)
        return None


def is_behind(folder: Path) -> bool:
    """Return whether the run of a work folder did not record its end, or MLflow lacks a part."""
    try:
        record = RunRecord.read(folder)
    except DamagedRecordError as error:
        logger.warning("%s: %s", error.problem.where, error.problem.what)
        return False
    if record is None:
        return False
    there = record.tracking_uri is None or has_arrived(folder, record.tracking_uri)
    return record.status == "RUNNING" or not there


def complete(folder: Path, points: bytes) -> None:
    """Give a work folder all points of a run that has finished, where its disk did not take them.

    Args:
        folder: the run's work folder.
        points: the metrics.jsonl that the run committed.

    Raises:
        WorkFolderError: the folder cannot be written.
    """
    path = folder / METRICS
    with files.in_work_folder(folder):
        if not path.exists() or path.read_bytes() != points:
            files.replace(path, points)


def has_arrived(folder: Path, tracking_uri: str) -> bool | None:
    """Return whether MLflow has all of an ended run.

    Args:
        folder: the run's work folder.
        tracking_uri: MLflow's address.

    Returns:
        None if nothing of the run is in the folder: another machine ran it.
    """
    try:
        record, shipped = RunRecord.read(folder), Shipped.read(folder / SHIPPED)
    except DamagedRecordError:
        return False
    if record is None:
        return None
    if record.public_uri != public_address(tracking_uri) or not shipped.run_id:
        return False
    # Older versions noted no status.
    return (shipped.status or record.status) == record.status != "RUNNING"


class Place(NamedTuple):
    """Where MLflow shows a run, and the launch that ran it; empty where that is not known."""

    launch: str
    experiment: str
    experiment_id: str
    run_id: str


def place_of(folder: Path) -> Place:
    """Return where MLflow shows the run of a work folder."""
    try:
        record = RunRecord.read(folder)
    except DamagedRecordError:
        record = None
    shipped = Shipped.read(folder / SHIPPED)
    identity = record.identity if record else None
    return Place(
        launch=identity.tags.get(LAUNCH_TAG, "") if identity else "",
        experiment=identity.experiment if identity else "",
        experiment_id=shipped.experiment_id,
        run_id=shipped.run_id,
    )


def replace_file(folder: Path, name: str, data: Content) -> None:
    """Replace a file of a run's work folder; raises OSError."""
    require(folder)
    files.replace(folder / name, data)


def require(folder: Path) -> None:
    """Raise if a run's work folder is gone: it may lie in a store that is away for a while."""
    if not folder.is_dir():
        raise FileNotFoundError(errno.ENOENT, "the work folder is gone", str(folder))
