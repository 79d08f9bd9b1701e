"""What MLflow lacks of a run is sent: while it trains, and later by `sync`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import NamedTuple

from hpt_dist.errors import HptError
from hpt_dist.errors.secrets import public_address
from hpt_dist.store import files
from hpt_dist.tracking.metrics_file import read_lines
from hpt_dist.tracking.mlflow_run import open_run
from hpt_dist.tracking.refusals import explaining
from hpt_dist.tracking.run_folder import (
    ARTIFACTS,
    METRICS,
    RECORD,
    SHIPPED,
    RunRecord,
    Shipped,
    replace_file,
    require,
)
from hpt_dist.tracking.run_identity import FinalStatus, Status

LINES_AT_ONCE = 1000


class SyncResult(NamedTuple):
    """The numbers that `sync` uploaded; `run_id` is None for a run without MLflow."""

    run_id: str | None
    status: Status
    points: int
    artifacts: int


class Shipper:
    """Uploads a work folder to its run, from the state that MLflow reports.

    Args:
        folder: the run's work folder.
        record: its record.
        tracking_uri: MLflow's address.
        keeps_parent: see `open_run`.
    """

    def __init__(
        self, folder: Path, record: RunRecord, tracking_uri: str, *, keeps_parent: bool = False
    ) -> None:
        require(folder)
        self.run = open_run(
            tracking_uri, record.identity, record.started, keeps_parent=keeps_parent
        )
        self.points = self.artifacts = 0
        self._folder = folder
        self._status: Status = "RUNNING"
        self._position = 0  # of the next line of metrics, in bytes
        known = Shipped.read(folder / SHIPPED)
        self._stamps = dict(known.artifacts) if known.run_id == self.run.id else {}
        self._note()

    def ship(self) -> None:
        """Send the lines and artifacts that came since the last call."""
        while True:
            lines, end = read_lines(self._folder / METRICS, self._position, LINES_AT_ONCE)
            if not lines:
                break
            self.points += self.run.log(lines)
            self._position = end
        folder = self._folder / ARTIFACTS
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not path.match(files.partial(Path("*")).name):
                self._ship_artifact(path, path.relative_to(folder).as_posix())

    def end(self, record: RunRecord) -> None:
        """Give the run its final status, and note that MLflow has all of it."""
        self.run.set_status(record.status, record.ended)
        self._status = record.status
        self._note()

    def _ship_artifact(self, path: Path, name: str) -> None:
        file = path.stat()
        stamp = f"{file.st_size} bytes at {file.st_mtime_ns} ns"
        if self._stamps.get(name) != stamp:
            self.run.upload(path, name)
            self.artifacts += 1
            self._stamps[name] = stamp
            self._note()

    def _note(self) -> None:
        state = {
            "run_id": self.run.id,
            "experiment_id": self.run.experiment_id,
            "artifacts": self._stamps,
            "status": self._status,
        }
        replace_file(self._folder, SHIPPED, json.dumps(state, indent=1).encode())


def end_left(record: RunRecord, tracking_uri: str) -> None:
    """Give the run of a process that died its status, where nothing else of it is left."""
    open_run(tracking_uri, record.identity, record.started, keeps_parent=True).set_status("FAILED")


def sync(
    folder: Path,
    *,
    tracking_uri: str | None = None,
    parent_run_id: str = "",
    experiment: str = "",
    if_unfinished: FinalStatus = "FAILED",
) -> SyncResult:
    """Upload the missing rest of an ended run to MLflow, with its true status.

    Args:
        folder: the run's work folder.
        tracking_uri: another MLflow than the recorded one.
        parent_run_id: the run of the launch that sends it. A run that has a parent in this MLflow
            keeps it: it stays below the launch that ran it.
        experiment: that of the launch that sends it, for a run that MLflow has never taken: it may
            have refused the one of before.
        if_unfinished: the status of a run that ended before it could record one.

    Raises:
        HptError: the folder's record is missing or damaged; MLflow, or the folder's disk, failed.
    """
    with files.in_work_folder(folder):
        return _synced(folder, tracking_uri, parent_run_id, experiment, if_unfinished)


def _synced(
    folder: Path,
    tracking_uri: str | None,
    parent_run_id: str,
    experiment: str,
    if_unfinished: FinalStatus,
) -> SyncResult:
    record = RunRecord.read(folder)
    if record is None:
        raise HptError(f"there is no {RECORD}", where=str(folder), fix="launch the run first")
    if record.status == "RUNNING":
        last = max((line.time for line in read_lines(folder / METRICS)[0]), default=record.started)
        record = dataclasses.replace(record, status=if_unfinished, ended=last)
    identity = record.identity
    if experiment and not Shipped.read(folder / SHIPPED).run_id:
        identity = dataclasses.replace(identity, experiment=experiment)
    if tracking_uri and public_address(tracking_uri) != record.public_uri:
        identity = dataclasses.replace(identity, parent_run_id=None)
    if parent_run_id and not identity.parent_run_id and experiment in ("", identity.experiment):
        identity = dataclasses.replace(identity, parent_run_id=parent_run_id)
    address = tracking_uri or record.tracking_uri
    record = dataclasses.replace(record, identity=identity, tracking_uri=address)
    record.write(folder)
    if record.tracking_uri is None:
        return SyncResult(None, record.status, 0, 0)
    with explaining(record.tracking_uri, record.identity.experiment):
        shipper = Shipper(folder, record, record.tracking_uri, keeps_parent=True)
        shipper.ship()
        shipper.end(record)
    return SyncResult(shipper.run.id, record.status, shipper.points, shipper.artifacts)
