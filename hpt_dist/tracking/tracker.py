"""The tracker: metrics go to a local file first, and from there to MLflow in the background.

A run's work folder holds

    metrics.jsonl   a line {"step": int, "time": unix, "metrics": {...}} for each log()
    artifacts/      files to show beside the metrics
    run.json        the run's own record: identity, MLflow's address, status
    mlflow.json     MLflow's state: run id, stamps of uploaded artifacts, the status if it has all
                    of the run; may be lost

The truth is in memory, and in the state that training resumes from: `points` and `restore`. The
folder is a copy on its way to MLflow. If its disk or MLflow fails, training neither waits nor
fails, and `sync` uploads the missing rest later.

Each (metric, step) exists once, in the file and in MLflow, by the same rule: *a point is new if its
step is beyond the last step of that metric*. For the file, the last steps are those of the lines
kept at the restart. For MLflow, they are MLflow's own answer when a process opens the run, so a
kill between an upload and its record does no harm. Points that MLflow got beyond the resumed state
are repeated by the deterministic replay, and skipped. Within a process an upload
may be repeated: a point equal in metric, step, time and value is one row of MLflow's database.
So a metric is logged at most once a step, and its steps only go forward.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import logging
import math
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Self

from hpt_dist.errors import HptError
from hpt_dist.errors.secrets import public_address
from hpt_dist.store import Content, files, records
from hpt_dist.store.records import DamagedRecordError
from hpt_dist.tracking.metrics_file import Line, kept_until, last_steps, read_lines
from hpt_dist.tracking.mlflow_run import (
    FinalStatus,
    RunIdentity,
    Status,
    explaining,
    initialise,
    log_parent,
    open_parent,
    open_run,
    set_environment,
    set_status,
)

__all__ = [
    "FinalStatus",
    "Line",
    "RunIdentity",
    "Status",
    "SyncResult",
    "Tracker",
    "has_arrived",
    "initialise",
    "is_unfinished",
    "log_parent",
    "open_parent",
    "read_lines",
    "set_status",
    "sync",
]

METRICS, ARTIFACTS, RECORD, SHIPPED = "metrics.jsonl", "artifacts", "run.json", "mlflow.json"
SHIP_EVERY_S = 2.0
MOST_DOUBLINGS = 5  # of that pause while MLflow is down: about a minute
LINES_AT_ONCE = 1000
_RECORD_FIX = "delete it, unless the trial runs; nothing more of this run then gets to MLflow"

logger = logging.getLogger(__name__)


class Tracker:
    """Logs one run; no method fails because of MLflow, and only `finish` waits for it.

    Call its methods from one thread.

    Args:
        folder: the run's work folder, the same one after each restart.
        identity: see RunIdentity.
        tracking_uri: MLflow's address (`http://...`, `sqlite:////absolute/mlflow.db`), or None to
            keep the local file only.
        resume_step: the step of the state that training resumes from; lines beyond it are dropped,
            as they will be logged again.

    Raises:
        WorkFolderError: the folder cannot be written.
    """

    def __init__(
        self, folder: Path, identity: RunIdentity, tracking_uri: str | None, *, resume_step: int
    ) -> None:
        self._folder = folder
        path = folder / METRICS
        with files.in_work_folder(folder):
            folder.mkdir(parents=True, exist_ok=True)
            started = _first_start(folder)
            self._record = _RunRecord(identity, tracking_uri, "RUNNING", started)
            self._record.write(folder)
            self._points = bytearray(kept_until(path, resume_step) if path.exists() else b"")
            self._file = self._rewritten()
        self._last_steps = last_steps(self.points.splitlines())
        self._settled = threading.Event()  # which lines of earlier processes count is known
        self._closing = threading.Event()
        self._deadline = math.inf
        self._is_behind = tracking_uri is not None
        self._thread = threading.Thread(
            target=self._ship, args=[tracking_uri], name="tracker", daemon=True
        )
        if tracking_uri:
            set_environment()
            self._thread.start()

    @property
    def points(self) -> bytes:
        """The content of metrics.jsonl, whether or not its disk has taken it."""
        return bytes(self._points)

    def restore(self, points: bytes) -> None:
        """Take the points of the state that training resumes from, in place of the file's.

        The file may be damaged, or another machine has it. Call this before `log`.
        """
        if points != self._points:
            self._points = bytearray(points)
            self._last_steps = last_steps(points.splitlines())
            self._file.close()
            self._write()
        self._settled.set()

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append the metrics of an optimizer step, except those logged before a restart."""
        values = {name: float(value) for name, value in metrics.items()}
        line = Line(step, time.time(), values).beyond(self._last_steps)
        if line.metrics:
            self._points += line.encode()
            self._write()
        self._settled.set()

    def _write(self) -> None:
        with _forgiving_disk(self._folder / METRICS):
            if self._file.closed:
                self._file = self._rewritten()
            # A full disk takes a part or nothing; the rest goes with the next line.
            self._written += self._file.write(self._points[self._written :])

    def _rewritten(self) -> FileIO:
        """Write the file anew, and return it opened for what follows."""
        _replace(self._folder, METRICS, self._points)
        self._written = len(self._points)
        return (self._folder / METRICS).open("ab", buffering=0)

    def artifact(self, name: str, data: bytes) -> None:
        """Save a file, such as `report/table.md`, to show with the run.

        Args:
            name: a relative path; the same name again replaces the file.
            data: its content.
        """
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(f"artifact {name!r} would lie outside its run")
        with _forgiving_disk(self._folder / ARTIFACTS / path):
            _replace(self._folder, f"{ARTIFACTS}/{path}", data)

    def finish(self, status: FinalStatus, timeout_s: float = 15) -> None:
        """Record how the run ended, and let MLflow catch up.

        Args:
            status: the final status.
            timeout_s: the longest wait; shorter if MLflow fails twice. `sync` uploads the rest.
        """
        self._record = dataclasses.replace(self._record, status=status, ended=time.time())
        with _forgiving_disk(self._folder / RECORD):
            self._record.write(self._folder)
        self._write()
        self._file.close()
        self._deadline = time.monotonic() + timeout_s
        self._settled.set()
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        if self._is_behind:
            logger.warning(
                "MLflow lacks a part of %s: `hpt-dist sync` sends the rest", self._folder
            )

    def leave(self) -> None:
        """Stop without a final status: another process writes this run now, and will record one."""
        self._file.close()
        self._deadline = -math.inf

    def _ship(self, tracking_uri: str) -> None:
        """Upload new lines and artifacts to MLflow periodically, until closed or out of time."""
        shipper: _Shipper | None = None
        failures, pause_s = 0, 0.0
        while time.monotonic() < self._deadline:
            closing = self._closing.wait(pause_s)
            try:
                if shipper is None:
                    shipper = _Shipper(self._folder, self._record, tracking_uri)
                    shipper.run.set_status("RUNNING")
                if self._settled.is_set():
                    shipper.ship()
                if closing:
                    shipper.end(self._record)
                    self._is_behind = False
                    return
                failures, pause_s = 0, SHIP_EVERY_S
            except Exception as error:  # noqa: BLE001  MLflow's failure must not become training's
                failures += 1
                if failures == 1:
                    name = type(error).__name__
                    logger.warning("MLflow fails; %s goes on alone: %s: %s", METRICS, name, error)
                elif closing:
                    return
                # The next attempt starts from MLflow's own state.
                shipper = None
                pause_s = SHIP_EVERY_S * 2 ** min(failures, MOST_DOUBLINGS)


def _replace(folder: Path, name: str, data: Content) -> None:
    """Replace a file of a run's work folder; raises OSError."""
    _require(folder)
    files.replace(folder / name, data)


def _require(folder: Path) -> None:
    """Raise if a run's work folder is gone: it may lie in a store that is away for a while."""
    if not folder.is_dir():
        raise FileNotFoundError(errno.ENOENT, "the work folder is gone", str(folder))


@contextlib.contextmanager
def _forgiving_disk(path: Path) -> Iterator[None]:
    """Turn a disk error into a warning: training depends on its checkpoints alone."""
    try:
        yield
    except OSError as error:
        logger.warning("%s is not up to date: %s", path, error)


class SyncResult(NamedTuple):
    """The numbers that `sync` uploaded; `run_id` is None for a run without MLflow."""

    run_id: str | None
    status: Status
    points: int
    artifacts: int


def is_unfinished(folder: Path) -> bool:
    """Return whether a run started in a work folder and did not record its end."""
    try:
        record = _RunRecord.read(folder)
    except DamagedRecordError as error:
        logger.warning("%s: %s", error.problem.where, error.problem.what)
        return False
    return record is not None and record.status == "RUNNING"


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
        record, shipped = _RunRecord.read(folder), _Shipped.read(folder / SHIPPED)
    except DamagedRecordError:
        return False
    if record is None:
        return None
    if record.public_uri != public_address(tracking_uri) or not shipped.run_id:
        return False
    # Older versions noted no status.
    return (shipped.status or record.status) == record.status != "RUNNING"


def sync(
    folder: Path,
    *,
    tracking_uri: str | None = None,
    parent_run_id: str | None = None,
    if_unfinished: FinalStatus = "FAILED",
) -> SyncResult:
    """Upload the missing rest of an ended run to MLflow, with its true status.

    Args:
        folder: the run's work folder.
        tracking_uri: another MLflow than the recorded one.
        parent_run_id: the launch's run, where MLflow was down at the launch.
        if_unfinished: the status of a run that ended before it could record one.

    Raises:
        HptError: the folder's record is missing or damaged; MLflow, or the folder's disk, failed.
    """
    with files.in_work_folder(folder):
        return _synced(folder, tracking_uri, parent_run_id, if_unfinished)


def _synced(
    folder: Path, tracking_uri: str | None, parent_run_id: str | None, if_unfinished: FinalStatus
) -> SyncResult:
    record = _RunRecord.read(folder)
    if record is None:
        raise HptError(f"there is no {RECORD}", where=str(folder), fix="launch the run first")
    if record.status == "RUNNING":
        last = max((line.time for line in read_lines(folder / METRICS)[0]), default=record.started)
        record = dataclasses.replace(record, status=if_unfinished, ended=last)
    if parent_run_id:
        identity = dataclasses.replace(record.identity, parent_run_id=parent_run_id)
        record = dataclasses.replace(record, identity=identity)
    record = dataclasses.replace(record, tracking_uri=tracking_uri or record.tracking_uri)
    record.write(folder)
    if record.tracking_uri is None:
        return SyncResult(None, record.status, 0, 0)
    with explaining(record.tracking_uri):
        shipper = _Shipper(folder, record, record.tracking_uri)
        shipper.ship()
        shipper.end(record)
    return SyncResult(shipper.run.id, record.status, shipper.points, shipper.artifacts)


@dataclass(frozen=True)
class _RunRecord:
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
        path = folder / RECORD
        if not path.exists():
            return None
        return records.decoded(path.read_bytes(), cls, where=str(path), fix=_RECORD_FIX)

    def write(self, folder: Path) -> None:
        values = dataclasses.asdict(self) | {"tracking_uri": self.public_uri}
        _replace(folder, RECORD, json.dumps(values, indent=1).encode())


def _first_start(folder: Path) -> float:
    """Return when a run began: the record of an earlier process knows, unless it is damaged."""
    try:
        previous = _RunRecord.read(folder)
    except DamagedRecordError as error:
        logger.warning("%s: %s; it is written anew", error.problem.where, error.problem.what)
        previous = None
    return previous.started if previous else time.time()


@dataclass(frozen=True)
class _Shipped:
    """The content of mlflow.json."""

    run_id: str = ""
    artifacts: Mapping[str, str] = field(default_factory=dict)
    status: str = ""

    @classmethod
    def read(cls, path: Path) -> Self:
        try:
            return records.decoded(path.read_bytes(), cls, where=str(path))
        except (DamagedRecordError, FileNotFoundError):
            return cls()  # then everything is uploaded again


class _Shipper:
    """Uploads a work folder to its run, from the state that MLflow reports."""

    def __init__(self, folder: Path, record: _RunRecord, tracking_uri: str) -> None:
        _require(folder)
        self.run = open_run(tracking_uri, record.identity, record.started)
        self.points = self.artifacts = 0
        self._folder = folder
        self._status: Status = "RUNNING"
        self._position = 0  # of the next line of metrics, in bytes
        known = _Shipped.read(folder / SHIPPED)
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

    def end(self, record: _RunRecord) -> None:
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
        state = {"run_id": self.run.id, "artifacts": self._stamps, "status": self._status}
        _replace(self._folder, SHIPPED, json.dumps(state, indent=1).encode())
