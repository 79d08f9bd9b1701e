"""Runs in MLflow, identified by key. Every write may be repeated.

mlflow is imported by the first call, not with this module: it takes seconds.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import posixpath
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from hpt_dist.errors import HptError
from hpt_dist.store import files
from hpt_dist.store.paths import tracking_database
from hpt_dist.tracking.address import reached
from hpt_dist.tracking.metrics_file import Line
from hpt_dist.tracking.refusals import explaining, lacks_right, login_fault
from hpt_dist.tracking.run_identity import STORE_TAG, DatasetInput, RunIdentity, Status
from hpt_dist.tracking.run_page import described, page_of

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Run

KEY_TAG = "hpt.key"
_PARENT_TAG = "mlflow.parentRunId"
# A UI that knows this kind opens the experiment where models are trained, any other one among the
# evaluations of language models. What the UI has only guessed ends in this word.
_KIND_TAG, _KIND, _GUESSED = "mlflow.experimentKind", "custom_model_development", "_inferred"
_NO_KIND = ("", "no_inferred_type")
_DEFAULT = "Default"  # the experiment that every MLflow has
_LONGEST_DIGEST = 36  # characters of a dataset's, MLflow's limit
TIMEOUT_VARIABLE = "MLFLOW_HTTP_REQUEST_TIMEOUT"
TIMEOUT_S = 5
SLOWEST_UPLOAD = 1 << 20  # bytes/s
SLOWEST_DOWNLOAD_S = 60  # until the first bytes come, where a server fetches them first
# With MLflow's own settings a call to a dead server blocks for minutes. Its errors reach us as
# exceptions, so its own lines would only break the progress bars.
ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    TIMEOUT_VARIABLE: str(TIMEOUT_S),
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


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
    with explaining(tracking_uri, identity.experiment):
        run = open_run(tracking_uri, identity, time.time())
        run.set_status("RUNNING")
        return run.id


def log_parent(
    tracking_uri: str,
    run_id: str,
    lines: Iterable[Line] = (),
    artifacts: Mapping[str, bytes] | None = None,
    describe: Callable[[str, str], str] = lambda _experiment_id, _run_id: "",
) -> None:
    """Add files, new headline metrics and a description to a launch's run.

    Args:
        tracking_uri: MLflow's address.
        run_id: of the launch's run.
        lines: metrics.
        artifacts: contents by name.
        describe: returns the description, given the ids of the run's experiment and of the run.
    """
    with explaining(tracking_uri), tempfile.TemporaryDirectory() as folder:
        run = _run_of(tracking_uri, run_id)
        run.log(lines)
        for name, data in (artifacts or {}).items():
            files.replace(Path(folder, name), data)
            run.upload(Path(folder, name), name)
        run.describe(describe(run.experiment_id, run.id))


def experiment_pages(tracking_uri: str, most: int) -> dict[str, str]:
    """Return the pages of the experiments that changed last, by name; see `page_of`.

    Raises:
        HptError: MLflow failed.
    """
    with explaining(tracking_uri):
        order = ["last_update_time DESC"]
        found = _client(tracking_uri).search_experiments(max_results=most, order_by=order)
    return {one.name: page_of(one.experiment_id) for one in found if one.name != _DEFAULT}


def probe(tracking_uri: str, experiment: str) -> None:
    """Make a run and delete it; an experiment that is made for it is deleted too.

    Raises:
        HptError: this user may not, or MLflow failed.
    """
    from mlflow.entities import Metric

    with explaining(tracking_uri, experiment, lost="until then runs stay in the work folder"):
        client = _client(tracking_uri)
        known = client.get_experiment_by_name(experiment)
        place = _open_experiment(client, tracking_uri, experiment).experiment_id
        run_id = client.create_run(place, run_name="hpt-dist doctor").info.run_id
        if not run_id:
            fix = "correct the address: something else answers there"
            raise HptError("it answers, but not as MLflow does", where=tracking_uri, fix=fix)
        try:
            client.log_batch(run_id, metrics=[Metric("doctor", 1.0, round(1000 * time.time()), 0)])
        finally:
            client.delete_run(run_id)
        if known is None or known.lifecycle_stage == "deleted":
            client.delete_experiment(place)


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
        what = f"MLflow did not give the artifact: {type(error).__name__}: {error}"
        fix = "check the artifact's name, and MLFLOW_TRACKING_URI, the server's address"
        if lacks_right(error):
            fix = "ask the owner of its experiment for the right to read it"
        what, fix = login_fault(error) or (what, fix)
        raise HptError(what, where=f"{uri} at {tracking_uri}", fix=fix) from error


class MlflowRun:
    """A run in MLflow. Methods raise MLflow's errors, and may be repeated."""

    def __init__(self, client: MlflowClient, run: Run) -> None:
        self.id: str = run.info.run_id
        self.experiment_id: str = run.info.experiment_id
        self._client, self._tags = client, dict(run.data.tags)
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

    def describe(self, text: str) -> None:
        """Set the description, unless a person has written one."""
        from mlflow.entities import RunTag

        if tags := described(self._tags, text):
            self._client.log_batch(self.id, tags=[RunTag(*each) for each in tags.items()])

    def set_status(self, status: Status, ended: float | None = None) -> None:
        """Set the status; a final one with its unix time."""
        if status == "RUNNING":
            self._client.update_run(self.id, status)
        else:
            self._client.set_terminated(self.id, status, round(1000 * (ended or time.time())))


def open_run(
    tracking_uri: str, identity: RunIdentity, started: float, *, keeps_parent: bool = False
) -> MlflowRun:
    """Find or create the run of a key, and set its tags, parameters and datasets.

    Args:
        tracking_uri: MLflow's address.
        identity: see RunIdentity.
        started: unix time of the run's first start.
        keeps_parent: whether a parent that the run has already stays.
    """
    from mlflow.entities import Param, RunTag

    client = _client(tracking_uri)
    location = identity.artifact_location
    experiment = _open_experiment(client, tracking_uri, identity.experiment, location).experiment_id
    known_by = {KEY_TAG: identity.key}
    if store := identity.tags.get(STORE_TAG):
        known_by[STORE_TAG] = store
    runs = _runs_of(client, experiment, identity)
    if not runs:
        client.create_run(experiment, round(1000 * started), known_by, identity.name)
        # MLflow repeats a request if its answer was lost: there may be two runs.
        runs = _runs_of(client, experiment, identity)
        for repeat in runs[1:]:
            client.delete_run(repeat.info.run_id)
    run, there = MlflowRun(client, runs[0]), runs[0].data
    tags = {_allowed_name(name): value for name, value in identity.tags.items()} | known_by
    tags |= described(there.tags, identity.description)
    if identity.parent_run_id and not (keeps_parent and _PARENT_TAG in there.tags):
        tags[_PARENT_TAG] = identity.parent_run_id
    params = {_allowed_name(name): value for name, value in identity.params.items()}
    client.log_batch(
        run.id,
        # MLflow refuses to change a parameter, and under the same key the spec is the same.
        params=[Param(*each) for each in params.items() if each[0] not in there.params],
        tags=[RunTag(*each) for each in tags.items()],
    )
    _log_datasets(client, runs[0], identity.datasets)
    return run


def _log_datasets(client: MlflowClient, run: Run, datasets: Iterable[DatasetInput]) -> None:
    """Add the datasets that a run reads and MLflow lacks."""
    from mlflow.entities import Dataset, InputTag
    from mlflow.entities import DatasetInput as Input
    from mlflow.exceptions import MlflowException

    known = run.inputs.dataset_inputs if run.inputs else []  # servers of before have none
    there = {(one.dataset.name, one.dataset.digest) for one in known}
    inputs = []
    for dataset in datasets:
        digest = dataset.digest[:_LONGEST_DIGEST]
        if (dataset.name, digest) in there:
            continue
        profile = {"num_rows": dataset.images, "classes": dataset.classes}
        entity = Dataset(
            name=dataset.name,
            digest=digest,
            source_type="s3" if dataset.uri.startswith("s3://") else "local",
            source=json.dumps({"uri": dataset.uri}),
            profile=json.dumps(profile),
        )
        inputs.append(Input(entity, [InputTag("mlflow.data.context", dataset.context)]))
    if not inputs:
        return
    try:
        client.log_inputs(run.info.run_id, inputs)
    except MlflowException:
        # Another trial has added the same dataset at this moment.
        client.log_inputs(run.info.run_id, inputs)


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


def _runs_of(client: MlflowClient, experiment: str, identity: RunIdentity) -> list[Run]:
    """Return the runs of a key, oldest first, without those of other stores."""
    query = f"tags.`{KEY_TAG}` = '{identity.key}'"
    found = client.search_runs([experiment], query, order_by=["attributes.start_time ASC"])
    store = identity.tags.get(STORE_TAG, "")
    # Those of older versions name no store.
    return [run for run in found if not store or run.data.tags.get(STORE_TAG, store) == store]


def _open_experiment(
    client: MlflowClient, tracking_uri: str, name: str, location: str | None = None
) -> Experiment:
    """Return an experiment, made or restored if need be, that MLflow's UI shows as training."""
    from mlflow.exceptions import MlflowException

    if location is None and (database := tracking_database(tracking_uri)):
        # MLflow's own default is a folder below wherever each process happens to run.
        location = (database.parent / "mlartifacts").as_uri()
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            client.create_experiment(name, location, tags={_KIND_TAG: _KIND})
        except MlflowException:
            if client.get_experiment_by_name(name) is None:  # no other worker has created it either
                raise
        experiment = client.get_experiment_by_name(name)
    if experiment.lifecycle_stage == "deleted":
        client.restore_experiment(experiment.experiment_id)
    kind = experiment.tags.get(_KIND_TAG, "")
    if kind in _NO_KIND or kind.endswith(_GUESSED):
        with contextlib.suppress(MlflowException):  # how it is shown is no reason to fail
            client.set_experiment_tag(experiment.experiment_id, _KIND_TAG, _KIND)
    return experiment


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
