"""Runs in MLflow, identified by key. Every write may be repeated.

mlflow is imported by the first call, not with this module: it takes seconds.
"""

from __future__ import annotations

import contextlib
import logging
import os
import posixpath
import re
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hpt_dist.errors import HptError
from hpt_dist.store import files
from hpt_dist.store.paths import tracking_database
from hpt_dist.tracking.address import reached
from hpt_dist.tracking.metrics_file import Line

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

FinalStatus = Literal["FINISHED", "FAILED", "KILLED"]
Status = Literal["RUNNING"] | FinalStatus

KEY_TAG = "hpt.key"
TIMEOUT_VARIABLE = "MLFLOW_HTTP_REQUEST_TIMEOUT"
TIMEOUT_S = 5
SLOWEST_UPLOAD = 1 << 20  # bytes/s
SLOWEST_DOWNLOAD_S = 60  # until the first bytes come, where a server fetches them first
_LOGIN = (
    "log in: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_URI to "
    "the address with both"
)
# SQLAlchemy's words for a database in a file, and what to do. Its further lines are SQL.
_DATABASE_FIXES = {
    "readonly database": "give this user the right to write the file and its folder",
    "unable to open database": "give this user the right to write the file and its folder",
    "disk is full": "free some space there",
    "database is locked": "stop the program that locks the file",
    "is not a database": "move the file away",
    "disk image is malformed": "move the file away",
}

# With MLflow's own settings a call to a dead server blocks for minutes. Its errors reach us as
# exceptions, so its own lines would only break the progress bars.
ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    TIMEOUT_VARIABLE: str(TIMEOUT_S),
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


@dataclass(frozen=True, kw_only=True)
class RunIdentity:
    """The name of a run, and the key that identifies it.

    Args:
        experiment: MLflow experiment, the recipe's name.
        name: shown in the run table.
        key: the trial's key, or the launch's id for a parent run; one key is one run of the
            experiment, however often it restarts.
        parent_run_id: MLflow id of the launch's run.
        tags: flat tags such as `hpt.stage`.
        params: the resolved spec, flat; MLflow shows values as text.
        artifact_location: where a new experiment keeps artifacts; None leaves it to the server, or
            to the folder `mlartifacts` beside a SQLite database.
    """

    experiment: str
    name: str
    key: str
    parent_run_id: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)
    artifact_location: str | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w.:-]+", self.key):
            raise ValueError(f"{self.key!r} cannot be the key of the run {self.name}")


def initialise(tracking_uri: str) -> None:
    """Create the tables of a new SQLite database, before several workers would wait for each other.

    Raises:
        HptError: MLflow failed; the parent functions below raise it too.
    """
    with explaining(tracking_uri):
        if database := tracking_database(tracking_uri):
            database.parent.mkdir(parents=True, exist_ok=True)
        _client(tracking_uri).search_experiments(max_results=1)


def open_parent(tracking_uri: str, identity: RunIdentity) -> str:
    """Return the MLflow id of a launch's run, which is RUNNING from now on."""
    with explaining(tracking_uri):
        run = open_run(tracking_uri, identity, time.time())
        run.set_status("RUNNING")
        return run.id


def log_parent(
    tracking_uri: str,
    run_id: str,
    lines: Iterable[Line] = (),
    artifacts: Mapping[str, bytes] | None = None,
) -> None:
    """Add files and new headline metrics to a launch's run."""
    with explaining(tracking_uri), tempfile.TemporaryDirectory() as folder:
        run = _run_of(tracking_uri, run_id)
        run.log(lines)
        for name, data in (artifacts or {}).items():
            files.replace(Path(folder, name), data)
            run.upload(Path(folder, name), name)


def set_status(tracking_uri: str, run_id: str, status: Status) -> None:
    """Set the status of a launch's run; it ends now unless it is RUNNING."""
    with explaining(tracking_uri):
        _run_of(tracking_uri, run_id).set_status(status, time.time())


def download(tracking_uri: str, uri: str, folder: Path) -> Path:
    """Copy an artifact into a folder.

    Args:
        tracking_uri: MLflow's address.
        uri: `runs:/...`, `models:/...` or `mlflow-artifacts:/...`.
        folder: an existing one.

    Returns:
        The file, or the folder if the artifact is one.

    Raises:
        HptError: MLflow failed, or there is no such artifact.
    """
    try:
        client = _client(tracking_uri)
        from mlflow.artifacts import download_artifacts

        with _patience(SLOWEST_DOWNLOAD_S):
            place = _place_of(client, uri)
            copy = download_artifacts(place, dst_path=str(folder), tracking_uri=client.tracking_uri)
            return Path(copy)
    except Exception as error:
        raise HptError(
            f"MLflow did not give the artifact: {type(error).__name__}: {error}",
            where=f"{uri} at {tracking_uri}",
            fix="check the artifact's name, and MLFLOW_TRACKING_URI, the server's address",
        ) from error


@contextlib.contextmanager
def explaining(tracking_uri: str) -> Iterator[None]:
    """Turn any error of MLflow into an HptError with a fix."""
    try:
        yield
    except Exception as error:
        text = str(error).partition("\n[SQL:")[0]
        what = f"MLflow failed: {type(error).__name__}: {text}"
        refused = re.search("error code 40[13]|UNAUTHENTICATED|PERMISSION_DENIED", what)
        fixes = (fix for words, fix in _DATABASE_FIXES.items() if words in text)
        fix = _LOGIN if refused else next(fixes, "start it or correct its address")
        lost = "nothing is lost, `hpt-dist sync` sends the rest"
        raise HptError(what, where=tracking_uri, fix=f"{fix}; {lost}") from error


class MlflowRun:
    """A run in MLflow. Methods raise MLflow's errors, and may be repeated."""

    def __init__(self, client: MlflowClient, run: Run) -> None:
        self.id: str = run.info.run_id
        self._client = client
        # The protocol message is the one public view of a run that holds the metrics' steps.
        self._last_steps = {each.key: each.step for each in run.data.to_proto().metrics}

    def log(self, lines: Iterable[Line]) -> int:
        """Send the points that the run lacked when it was opened; return their number."""
        from mlflow.entities import Metric

        points = [
            Metric(name, value, round(1000 * line.time), line.step)
            for line in map(_with_allowed_names, lines)
            for name, value in line.beyond(self._last_steps).metrics.items()
        ]
        if points:
            self._client.log_batch(self.id, metrics=points)
        return len(points)

    def upload(self, path: Path, name: str) -> None:
        """Send a file as the artifact `name`; its last part must be the file's name."""
        with _patience(TIMEOUT_S + path.stat().st_size // SLOWEST_UPLOAD):
            self._client.log_artifact(self.id, str(path), posixpath.dirname(name) or None)

    def set_status(self, status: Status, ended: float | None = None) -> None:
        """Set the status; a final one with its unix time."""
        if status == "RUNNING":
            self._client.update_run(self.id, status)
        else:
            self._client.set_terminated(self.id, status, round(1000 * (ended or time.time())))


def open_run(tracking_uri: str, identity: RunIdentity, started: float) -> MlflowRun:
    """Find or create the run of a key, and set its tags and parameters.

    Args:
        tracking_uri: MLflow's address.
        identity: see RunIdentity.
        started: unix time of the run's first start.
    """
    from mlflow.entities import Param, RunTag

    client = _client(tracking_uri)
    experiment = _open_experiment(client, tracking_uri, identity)
    key_tag = {KEY_TAG: identity.key}
    runs = _runs_of(client, experiment, identity.key)
    if not runs:
        client.create_run(experiment, round(1000 * started), key_tag, identity.name)
        # MLflow repeats a request if its answer was lost: there may be two runs.
        runs = _runs_of(client, experiment, identity.key)
        for repeat in runs[1:]:
            client.delete_run(repeat.info.run_id)
    run = MlflowRun(client, runs[0])
    tags = {_allowed_name(name): value for name, value in identity.tags.items()} | key_tag
    if identity.parent_run_id:
        tags["mlflow.parentRunId"] = identity.parent_run_id
    params = {_allowed_name(name): value for name, value in identity.params.items()}
    client.log_batch(
        run.id,
        # MLflow refuses to change a parameter, and under the same key the spec is the same.
        params=[Param(*each) for each in params.items() if each[0] not in runs[0].data.params],
        tags=[RunTag(*each) for each in tags.items()],
    )
    return run


def set_environment() -> None:
    """Set MLflow's limits, unless the user did; call it before threads start."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def _client(tracking_uri: str) -> MlflowClient:
    set_environment()
    if database := tracking_database(tracking_uri):
        database.parent.mkdir(exist_ok=True)
    logging.getLogger("urllib3.connectionpool").setLevel(
        logging.ERROR
    )  # else a line for each retry
    from mlflow import MlflowClient

    return MlflowClient(reached(tracking_uri))


def _run_of(tracking_uri: str, run_id: str) -> MlflowRun:
    client = _client(tracking_uri)
    return MlflowRun(client, client.get_run(run_id))


def _place_of(client: MlflowClient, uri: str) -> str:
    """Return the place of a registered or logged model, from the client's own server.

    MLflow itself would use the server that is set for the whole process.
    """
    if not uri.startswith("models:/"):
        return uri
    model, _, rest = uri.removeprefix("models:/").partition("/")
    name, _, alias = model.partition("@")
    if alias:
        version = client.get_model_version_by_alias(name, alias).version
        place, path = client.get_model_version_download_uri(name, version), rest
    elif model.startswith("m-") and not rest[:1].isdigit():
        place, path = client.get_logged_model(model).artifact_location, rest
    else:
        version, _, path = rest.partition("/")
        place = client.get_model_version_download_uri(name, version)
    return _place_of(client, posixpath.join(str(place), path) if path else str(place))


def _runs_of(client: MlflowClient, experiment: str, key: str) -> list[Run]:
    query = f"tags.`{KEY_TAG}` = '{key}'"
    return list(client.search_runs([experiment], query, order_by=["attributes.start_time ASC"]))


def _open_experiment(client: MlflowClient, tracking_uri: str, identity: RunIdentity) -> str:
    from mlflow.exceptions import MlflowException

    location = identity.artifact_location
    if location is None and (database := tracking_database(tracking_uri)):
        # MLflow's own default is a folder below wherever each process happens to run.
        location = (database.parent / "mlartifacts").as_uri()
    experiment = client.get_experiment_by_name(identity.experiment)
    if experiment is None:
        try:
            return str(client.create_experiment(identity.experiment, location))
        except MlflowException:
            experiment = client.get_experiment_by_name(identity.experiment)
            if experiment is None:  # no other worker has created it either
                raise
    if experiment.lifecycle_stage == "deleted":
        client.restore_experiment(experiment.experiment_id)
    return str(experiment.experiment_id)


def _allowed_name(name: str) -> str:
    """Replace characters that MLflow refuses: one refused point would block all later ones."""
    return posixpath.normpath(re.sub(r"[^\w./: -]", "_", name)).lstrip("./")[:250] or "_"


def _with_allowed_names(line: Line) -> Line:
    return line._replace(metrics={_allowed_name(name): v for name, v in line.metrics.items()})


@contextlib.contextmanager
def _patience(timeout_s: int) -> Iterator[None]:
    """Let requests take longer; MLflow reads its time limit from the environment only."""
    before = os.environ[TIMEOUT_VARIABLE]
    os.environ[TIMEOUT_VARIABLE] = str(max(timeout_s, int(before)))
    try:
        yield
    finally:
        os.environ[TIMEOUT_VARIABLE] = before
