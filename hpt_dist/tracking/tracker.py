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
import logging
import math
import threading
import time
from collections.abc import Iterator, Mapping
from io import FileIO
from pathlib import Path, PurePosixPath

from hpt_dist.errors.secrets import public_address
from hpt_dist.store import files
from hpt_dist.tracking.metrics_file import Line, kept_until, last_steps, read_lines
from hpt_dist.tracking.mlflow_run import (
    TIMEOUT_S,
    experiment_pages,
    initialise,
    log_parent,
    open_parent,
    probe,
    set_environment,
    set_status,
)
from hpt_dist.tracking.refusals import explained
from hpt_dist.tracking.run_folder import (
    ARTIFACTS,
    METRICS,
    RECORD,
    SHIPPED,
    Place,
    RunRecord,
    complete,
    earlier,
    has_arrived,
    is_behind,
    place_of,
    replace_file,
)
from hpt_dist.tracking.run_identity import (
    LAUNCH_TAG,
    STORE_TAG,
    DatasetInput,
    FinalStatus,
    RunIdentity,
    Status,
)
from hpt_dist.tracking.run_page import page_of
from hpt_dist.tracking.shipper import Shipper, SyncResult, end_left, sync

__all__ = [
    "ARTIFACTS",
    "LAUNCH_TAG",
    "METRICS",
    "RECORD",
    "SHIPPED",
    "STORE_TAG",
    "DatasetInput",
    "FinalStatus",
    "Line",
    "Place",
    "RunIdentity",
    "Status",
    "SyncResult",
    "Tracker",
    "complete",
    "experiment_pages",
    "has_arrived",
    "initialise",
    "is_behind",
    "log_parent",
    "open_parent",
    "page_of",
    "place_of",
    "probe",
    "read_lines",
    "set_status",
    "sync",
]

SHIP_EVERY_S = 2.0
MOST_DOUBLINGS = 5  # of that pause while MLflow is down: about a minute

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
            previous = earlier(folder)
            goes_on = previous is not None and previous.identity.is_run_of(identity)
            started = previous.started if previous and goes_on else time.time()
            # That of another recipe, whose process died here: nobody else will end it.
            self._left = None if goes_on else previous
            self._record = RunRecord(identity, tracking_uri, "RUNNING", started)
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
        replace_file(self._folder, METRICS, self._points)
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
            replace_file(self._folder, f"{ARTIFACTS}/{path}", data)

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
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(TIMEOUT_S)  # a late RUNNING would replace the other's final status

    def _end_left(self, tracking_uri: str) -> None:
        """Give the run of another recipe that was left here its status."""
        left, self._left = self._left, None
        if left and left.status == "RUNNING" and left.public_uri == public_address(tracking_uri):
            end_left(left, tracking_uri)

    def _ship(self, tracking_uri: str) -> None:
        """Upload new lines and artifacts to MLflow periodically, until closed or out of time."""
        shipper: Shipper | None = None
        failures, pause_s = 0, 0.0
        while True:
            closing = self._closing.wait(pause_s)
            if time.monotonic() >= self._deadline:
                return
            try:
                if shipper is None:
                    shipper = Shipper(self._folder, self._record, tracking_uri)
                    self._end_left(tracking_uri)
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
                    experiment = self._record.identity.experiment
                    reason = explained(error, tracking_uri, experiment)
                    logger.warning("%s goes on without MLflow: %s", METRICS, reason)
                elif closing:
                    return
                # The next attempt starts from MLflow's own state.
                shipper = None
                pause_s = SHIP_EVERY_S * 2 ** min(failures, MOST_DOUBLINGS)


@contextlib.contextmanager
def _forgiving_disk(path: Path) -> Iterator[None]:
    """Turn a disk error into a warning: training depends on its checkpoints alone."""
    try:
        yield
    except OSError as error:
        logger.warning("%s is not up to date: %s", path, error)
