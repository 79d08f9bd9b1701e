from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import math
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from shutil import copy
from typing import Any

import pytest
import tracked_trial
from hypothesis import given
from hypothesis import strategies as st
from mlflow import MlflowClient
from mlflow.entities import Run
from services import Programs, free_ports

from hpt_dist.errors import HptError
from hpt_dist.tracking import mlflow_run, shipper
from hpt_dist.tracking import tracker as track
from hpt_dist.tracking.metrics_file import Line, kept_until, last_steps, read_lines
from hpt_dist.tracking.tracker import METRICS, SHIPPED, RunIdentity, Tracker, sync

LINES = st.lists(
    st.builds(
        Line,
        st.integers(0, 50),
        st.floats(0, 4e9),
        st.dictionaries(st.text(), st.floats(), min_size=1, max_size=3),
    )
)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(track, "SHIP_EVERY_S", 0.05)
    monkeypatch.setattr(track, "MOST_DOUBLINGS", 3)


@pytest.fixture(scope="session")
def sqlite(mlflow_tables: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{copy(mlflow_tables, tmp_path_factory.mktemp('track'))}"


@pytest.fixture
def identity(tmp_path: Path) -> RunIdentity:
    return RunIdentity(experiment=str(tmp_path), name="hpt", key="0123abcd")


def runs(uri: str, identity: RunIdentity) -> list[Run]:
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(identity.experiment)
    assert experiment
    return list(client.search_runs([experiment.experiment_id]))


def only_run(uri: str, identity: RunIdentity) -> Run:
    [run] = runs(uri, identity)
    return run


def history(uri: str, run: Run, metric: str) -> list[tuple[int, float]]:
    points = MlflowClient(uri).get_metric_history(run.info.run_id, metric)
    return sorted((point.step, point.value) for point in points)


def wait_until(condition: Any, timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def shipped(uri: str, identity: RunIdentity, metric: str, step: int) -> bool:
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(identity.experiment)
    found = client.search_runs([experiment.experiment_id]) if experiment else []
    return any(run.data.metrics.get(metric) == step for run in found)


# The file


@given(LINES)
def test_lines_read_as_written_and_are_strict_json(lines: list[Line]):
    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is not JSON")

    for line in lines:
        raw = line.encode()
        assert raw.count(b"\n") == 1
        json.loads(raw, parse_constant=refuse)
        assert repr(Line.decode(raw)) == repr(line)


@given(lines=LINES, step=st.integers(-1, 51), cut=st.integers(0, 40))
def test_kept_until_drops_later_and_torn_lines(
    tmp_path_factory: pytest.TempPathFactory, lines: list[Line], step: int, cut: int
):
    path = tmp_path_factory.mktemp("file") / METRICS
    path.write_bytes((b"".join(line.encode() for line in lines))[: -cut or None])
    whole = [raw for raw in path.read_bytes().splitlines(keepends=True) if raw.endswith(b"\n")]
    expected = [raw for raw in whole if Line.decode(raw).step <= step]

    assert kept_until(path, step) == b"".join(expected)
    kept = [Line.decode(raw) for raw in expected]
    names = {name for line in kept for name in line.metrics}
    assert last_steps(expected) == {n: max(k.step for k in kept if n in k.metrics) for n in names}


@given(LINES, st.integers(1, 5))
def test_reading_in_parts_is_reading_at_once(
    tmp_path_factory: pytest.TempPathFactory, lines: list[Line], count: int
):
    path = tmp_path_factory.mktemp("file") / METRICS
    path.write_bytes(b"".join(line.encode() for line in lines))
    parts, position = [], 0
    while True:
        part, position = read_lines(path, position, count)
        if not part:
            break
        parts += part
    assert repr(parts) == repr(lines)


def test_a_replay_is_written_once(tmp_path: Path, identity: RunIdentity):
    """Whatever step training resumes from, the file ends as that of the undisturbed run."""
    for resume_step in range(8):
        folder = tmp_path / str(resume_step)
        for first, end in [(0, 8), (resume_step, 12)]:
            tracker = Tracker(folder, identity, None, resume_step=first)
            for step in range(first, end):
                tracker.log(step, {"train/loss": step})
            tracker.finish("FINISHED")
        lines, _ = read_lines(folder / METRICS)
        assert [line.step for line in lines] == list(range(12))


class FullDisk:
    """A raw file that takes a few bytes, or none."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("ab", buffering=0)
        self.random = random.Random(0)
        self.full = True
        self.closed = False

    def write(self, data: bytes) -> int:
        if self.full and self.random.random() < 0.5:
            raise OSError(28, "No space left on device")
        return self.file.write(data[:7] if self.full else data)

    def close(self) -> None:
        self.file.close()


def test_a_full_disk_delays_lines_and_harms_none(
    tmp_path: Path, identity: RunIdentity, caplog: pytest.LogCaptureFixture
):
    tracker = Tracker(tmp_path, identity, None, resume_step=0)
    tracker._file.close()
    tracker._file = disk = FullDisk(tmp_path / METRICS)
    for step in range(20):
        tracker.log(step, {"train/loss": step})
    disk.full = False
    tracker.finish("FINISHED")
    lines, end = read_lines(tmp_path / METRICS)
    assert [line.step for line in lines] == list(range(20))
    assert end == (tmp_path / METRICS).stat().st_size
    assert "No space left" in caplog.text


# What MLflow shows


def test_a_run_shows_all_that_was_logged(sqlite: str, tmp_path: Path):
    identity = RunIdentity(
        experiment=str(tmp_path),
        name="hpt/seed=0",
        key="ab12",
        tags={"hpt.stage": "hpt", "hpt.dataset.@line": "x" * 9000},
        params={f"optimizer.{i}": i for i in range(250)} | {"long": "y" * 9000},
        artifact_location=(tmp_path / "shown").as_uri(),
    )
    parent = track.open_parent(
        sqlite, RunIdentity(experiment=str(tmp_path), name="launch", key="launch-1")
    )
    assert MlflowClient(sqlite).get_run(parent).info.status == "RUNNING"
    tracker = Tracker(
        tmp_path / "work",
        dataclasses.replace(identity, parent_run_id=parent),
        sqlite,
        resume_step=0,
    )
    tracker.log(3, {"train/loss": 0.5, "acc@1//x": 1, "/": 2, "nan": math.nan, "inf": math.inf})
    tracker.artifact("report/table.md", b"old")
    wait_until(lambda: any(r.data.metrics.get("train/loss") for r in runs(sqlite, identity)))
    tracker.artifact("report/table.md", b"new")
    tracker.finish("FINISHED", 60)

    client = MlflowClient(sqlite)
    [run] = [r for r in runs(sqlite, identity) if r.info.run_id != parent]
    assert (run.info.run_name, run.info.status) == ("hpt/seed=0", "FINISHED")
    assert run.data.tags["mlflow.parentRunId"] == parent
    assert run.data.tags["hpt.key"] == "ab12"
    assert run.data.tags["hpt.dataset._line"].startswith("xxx")
    assert len(run.data.params) == 251
    assert run.data.metrics["train/loss"] == 0.5
    assert run.data.metrics["acc_1/x"] == 1
    assert run.data.metrics["_"] == 2
    assert math.isnan(run.data.metrics["nan"])
    assert run.data.metrics["inf"] > 1e308
    shown = client.download_artifacts(run.info.run_id, "report/table.md", str(tmp_path))
    assert Path(shown).read_bytes() == b"new"


def test_what_a_parent_run_shows_and_how_it_ends(sqlite: str, identity: RunIdentity):
    parent = track.open_parent(sqlite, identity)
    lines = [Line(step, 1e9 + step, {"knn/top1": step}) for step in range(3)]
    track.log_parent(sqlite, parent, lines, {"report/table.md": b"| x |"})
    track.log_parent(sqlite, parent, [line._replace(time=2e9) for line in lines])
    track.set_status(sqlite, parent, "KILLED")
    assert track.open_parent(sqlite, identity) == parent
    run = only_run(sqlite, identity)
    assert history(sqlite, run, "knn/top1") == [(0, 0), (1, 1), (2, 2)]
    assert run.info.status == "RUNNING"
    track.set_status(sqlite, parent, "FAILED")
    assert only_run(sqlite, identity).info.status == "FAILED"


@pytest.mark.parametrize("status", ["FINISHED", "FAILED", "KILLED"])
def test_a_restart_is_the_same_run(sqlite: str, tmp_path: Path, identity: RunIdentity, status: Any):
    for resume_step in (0, 5, 3):
        tracker = Tracker(tmp_path, identity, sqlite, resume_step=resume_step)
        wait_until((tmp_path / SHIPPED).exists)
        wait_until(lambda: only_run(sqlite, identity).info.status == "RUNNING")
        for step in range(resume_step, resume_step + 10):
            tracker.log(step, {"train/loss": step, "train/images_per_second": random.random()})
        tracker.artifact("spec.json", b"{}")
        tracker.finish(status, 60)
        (tmp_path / SHIPPED).unlink()
    run = only_run(sqlite, identity)
    assert run.info.status == status
    assert history(sqlite, run, "train/loss") == [(step, step) for step in range(15)]
    assert [s for s, _ in history(sqlite, run, "train/images_per_second")] == list(range(15))


def test_a_description_that_a_person_has_edited_stays(
    sqlite: str, tmp_path: Path, identity: RunIdentity
):
    def note(text: str) -> str:
        described = dataclasses.replace(identity, description=text)
        Tracker(tmp_path, described, sqlite, resume_step=0).finish("FINISHED", 60)
        return str(only_run(sqlite, identity).data.tags["mlflow.note.content"])

    assert note("ours") == "ours"
    assert note("ours, with a verdict" + "x" * 9000).startswith("ours, with a verdict")
    assert note("ours again") == "ours again"
    run = only_run(sqlite, identity)
    MlflowClient(sqlite).set_tag(run.info.run_id, "mlflow.note.content", "theirs")
    assert note("ours") == "theirs"


def test_an_experiment_is_one_of_training_unless_a_person_says_otherwise(
    sqlite: str, tmp_path: Path, identity: RunIdentity
):
    client, kinds = MlflowClient(sqlite), []
    for kind in (None, "genai_development_inferred", "no_inferred_type", "genai_development"):
        one = dataclasses.replace(identity, experiment=f"{tmp_path} {kind}")
        place = client.create_experiment(one.experiment)
        if kind:
            client.set_experiment_tag(place, "mlflow.experimentKind", kind)
        track.open_parent(sqlite, one)
        kinds.append(client.get_experiment(place).tags["mlflow.experimentKind"])
    assert kinds == [*["custom_model_development"] * 3, "genai_development"]


def test_a_run_of_another_recipe_or_store_is_another_one(
    sqlite: str, tmp_path: Path, identity: RunIdentity
):
    """Its work folder may be the same one: the other's run ends, and this one begins now."""
    other = dataclasses.replace(identity, experiment=f"{tmp_path} other")
    died = Tracker(tmp_path / "work", other, sqlite, resume_step=0)
    died.log(1, {"train/loss": 1})
    wait_until(lambda: shipped(sqlite, other, "train/loss", 1))
    died.leave()
    time.sleep(0.1)
    for store in ("one", "two", "one"):
        ours = dataclasses.replace(identity, tags={track.STORE_TAG: store})
        Tracker(tmp_path / "work", ours, sqlite, resume_step=0).finish("FINISHED", 60)
    left, found = only_run(sqlite, other), runs(sqlite, identity)
    assert left.info.status == "FAILED"
    assert {run.data.tags[track.STORE_TAG] for run in found} == {"one", "two"}
    assert len(found) == 2
    assert all(run.info.start_time > left.info.start_time + 90 for run in found)
    # Runs of older versions name no store: they go on.
    old = dataclasses.replace(identity, key="old")
    for tags in ({}, {track.STORE_TAG: "one"}):
        again = dataclasses.replace(old, tags=tags)
        Tracker(tmp_path / "old", again, sqlite, resume_step=0).finish("FINISHED", 60)
    assert len(runs(sqlite, identity)) == 3


@pytest.mark.parametrize("delete", ["run", "experiment"])
def test_what_was_deleted_in_the_ui_comes_back_whole(
    sqlite: str, tmp_path: Path, identity: RunIdentity, delete: str
):
    tracker = Tracker(tmp_path, identity, sqlite, resume_step=0)
    tracker.artifact("spec.json", b"{}")
    tracker.log(1, {"train/loss": 1})
    wait_until(lambda: shipped(sqlite, identity, "train/loss", 1))
    client, run = MlflowClient(sqlite), only_run(sqlite, identity)
    if delete == "run":
        client.delete_run(run.info.run_id)
    else:
        client.delete_experiment(run.info.experiment_id)
    tracker.log(2, {"train/loss": 2})
    tracker.finish("FINISHED", 60)
    again = only_run(sqlite, identity)
    assert history(sqlite, again, "train/loss") == [(1, 1), (2, 2)]
    assert [each.path for each in client.list_artifacts(again.info.run_id)] == ["spec.json"]


def test_workers_that_create_one_experiment_at_once(sqlite: str, tmp_path: Path):
    identities = [RunIdentity(experiment=str(tmp_path), name=f"{i}", key=f"{i}") for i in range(6)]
    trackers = [Tracker(tmp_path / i.name, i, sqlite, resume_step=0) for i in identities]
    for tracker in trackers:
        tracker.finish("FINISHED", 60)
    found = runs(sqlite, identities[0])
    assert sorted(run.info.run_name for run in found) == [i.name for i in identities]
    assert {run.info.status for run in found} == {"FINISHED"}


def test_a_request_repeated_by_mlflow_leaves_one_run(
    sqlite: str, tmp_path: Path, identity: RunIdentity, monkeypatch: pytest.MonkeyPatch
):
    create_run = MlflowClient.create_run

    def create_twice(*arguments: Any) -> Run:
        create_run(*arguments)
        return create_run(*arguments)

    monkeypatch.setattr(MlflowClient, "create_run", create_twice)
    tracker = Tracker(tmp_path, identity, sqlite, resume_step=0)
    tracker.log(1, {"train/loss": 1})
    tracker.finish("FINISHED", 60)
    assert history(sqlite, only_run(sqlite, identity), "train/loss") == [(1, 1)]


def test_batches_whose_answer_is_lost_are_not_shown_twice(
    sqlite: str, tmp_path: Path, identity: RunIdentity, monkeypatch: pytest.MonkeyPatch
):
    log_batch = MlflowClient.log_batch
    faults = random.Random(0).choices(["before", "after", "none"], k=12)
    assert {"before", "after", "none"} == set(faults)

    def log_batch_and_fail(*arguments: Any, **others: Any) -> None:
        fault = faults.pop() if faults else "none"
        if fault == "before":
            raise ConnectionError
        log_batch(*arguments, **others)
        if fault == "after":
            raise ConnectionError

    monkeypatch.setattr(MlflowClient, "log_batch", log_batch_and_fail)
    monkeypatch.setattr(shipper, "LINES_AT_ONCE", 7)
    tracker = Tracker(tmp_path, identity, sqlite, resume_step=0)
    steps = 0
    while faults:
        tracker.log(steps, {"train/loss": steps})
        steps += 1
        time.sleep(0.01)
    tracker.finish("FINISHED", 60)
    run = only_run(sqlite, identity)
    assert history(sqlite, run, "train/loss") == [(step, step) for step in range(steps)]


def test_requests_wait_longer_for_large_uploads_only():
    with mlflow_run._patience(300):
        assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "300"
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "5"


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a/../../x"])
def test_artifacts_stay_in_their_run(tmp_path: Path, identity: RunIdentity, name: str):
    tracker = Tracker(tmp_path, identity, None, resume_step=0)
    with pytest.raises(ValueError, match="outside"):
        tracker.artifact(name, b"")
    tracker.finish("FAILED")


@pytest.mark.parametrize("key", ["", "a'b", "a b"])
def test_a_key_that_cannot_be_searched_for_is_refused(key: str):
    with pytest.raises(ValueError, match="cannot be the key of the run x"):
        RunIdentity(experiment="e", name="x", key=key)


# Killed processes


def check_that_a_last_trial_ends_with_each_point_once(uri: str, folder: Path) -> None:
    steps = int((folder / "state").read_text()) + 30  # beyond all that was logged before
    assert tracked_trial.ended(tracked_trial.start(folder, uri, steps)) == 0
    run = only_run(uri, RunIdentity(experiment=str(folder), name="hpt", key="abc"))
    assert run.info.status == "FINISHED"
    expected = list(range(1, steps + 1))
    assert history(uri, run, "train/loss") == [(step, 1 / step) for step in expected]
    assert [s for s, _ in history(uri, run, "train/images_per_second")] == expected
    assert [s for s, _ in history(uri, run, "knn/top1")] == expected[9::10]
    lines, _ = read_lines(folder / METRICS)
    assert [line.step for line in lines if "train/loss" in line.metrics] == expected
    assert [line.step for line in lines if "knn/top1" in line.metrics] == expected[9::10]


@pytest.mark.parametrize("moment", ["before", "after"])
def test_killed_around_an_upload(sqlite: str, tmp_path: Path, moment: str):
    for deadly_batch in (1, 4, 2):
        trial = tracked_trial.start(tmp_path, sqlite, 10**6, deadly_batch, moment)
        assert tracked_trial.ended(trial) == -9
    check_that_a_last_trial_ends_with_each_point_once(sqlite, tmp_path)


@pytest.mark.parametrize("times", [3, pytest.param(8, marks=pytest.mark.deep)])
def test_killed_at_random_moments_each_point_is_there_once(sqlite: str, tmp_path: Path, times: int):
    moments = random.Random(0)
    for _ in range(times):
        trial = tracked_trial.start(tmp_path, sqlite, 10**6)
        before = (tmp_path / METRICS).stat().st_mtime_ns if (tmp_path / METRICS).exists() else 0
        wait_until(
            lambda at=before: (
                (tmp_path / METRICS).exists() and (tmp_path / METRICS).stat().st_mtime_ns > at
            )
        )
        time.sleep(moments.uniform(0, 1.5))
        trial.signal(signal.SIGKILL)
        assert tracked_trial.ended(trial) == -9
        result = sync(tmp_path, if_unfinished="KILLED")
        assert result.status == "KILLED"
        run = only_run(sqlite, RunIdentity(experiment=str(tmp_path), name="hpt", key="abc"))
        assert run.info.status == "KILLED"
        assert run.info.end_time <= 1000 * time.time()
    check_that_a_last_trial_ends_with_each_point_once(sqlite, tmp_path)


# Servers that fail


class Server:
    """An MLflow server on a port of its own, to be killed and started again."""

    def __init__(self, programs: Programs, port: int) -> None:
        self.uri = f"http://127.0.0.1:{port}"
        self._programs = programs
        self._port = str(port)

    def start(self) -> None:
        folder = self._programs.folder
        self._programs.start(
            *("mlflow", "mlflow", "server", "--host", "127.0.0.1", "--port", self._port),
            *("--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db"),
            *("--artifacts-destination", str(folder / "artifacts")),
        )
        self._programs.wait("mlflow", f"{self.uri}/health", timeout_s=120)

    def kill(self) -> None:
        self._programs.kill("mlflow")


@pytest.fixture(scope="module")
def server(mlflow_tables: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    copy(mlflow_tables, folder)
    settings = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with Programs(folder, settings) as programs:
        yield Server(programs, free_ports(1)[0])


@contextlib.contextmanager
def hung_server() -> Iterator[str]:
    """A server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.services
def test_a_server_killed_and_started_again_misses_nothing(
    server: Server, tmp_path: Path, identity: RunIdentity, caplog: pytest.LogCaptureFixture
):
    """Down at the start, in the middle, and at the end; the last part comes by sync."""
    tracker = Tracker(tmp_path, identity, server.uri, resume_step=0)
    step = 0

    def log_for(seconds: float) -> None:
        nonlocal step
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            step += 1
            tracker.log(step, {"train/loss": step})
            time.sleep(0.001)

    log_for(0.5)
    tracker.artifact("weights.safetensors", bytes(5_000_000))
    server.start()
    wait_until(lambda: shipped(server.uri, identity, "train/loss", step))
    log_for(1)
    server.kill()
    log_for(1)
    server.start()
    wait_until(lambda: shipped(server.uri, identity, "train/loss", step))
    server.kill()
    log_for(0.5)
    began = time.monotonic()
    tracker.finish("FINISHED", 3)
    assert time.monotonic() - began < 3.5
    assert "hpt-dist sync" in caplog.text

    server.start()
    assert only_run(server.uri, identity).info.status == "RUNNING"
    result = sync(tmp_path)
    run = only_run(server.uri, identity)
    assert (result.run_id, result.status) == (run.info.run_id, run.info.status)
    assert run.info.status == "FINISHED"
    assert history(server.uri, run, "train/loss") == [(s, s) for s in range(1, step + 1)]
    path = MlflowClient(server.uri).download_artifacts(
        run.info.run_id, "weights.safetensors", str(tmp_path)
    )
    assert Path(path).read_bytes() == bytes(5_000_000)
    assert sync(tmp_path) == (run.info.run_id, "FINISHED", 0, 0)


@pytest.mark.services
def test_a_server_down_all_the_time_costs_lateness_only(
    mlflow_server: str, tmp_path: Path, identity: RunIdentity
):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        dead = f"http://127.0.0.1:{listener.getsockname()[1]}"
    tracker = Tracker(tmp_path, identity, dead, resume_step=0)
    for step in range(3000):
        tracker.log(step, {"train/loss": step, "train/lr": 0.1})
    tracker.artifact("result.json", b"{}")
    tracker.finish("FINISHED", 1)
    lines, _ = read_lines(tmp_path / METRICS)
    assert len(lines) == 3000

    with pytest.raises(HptError, match="nothing is lost"):
        sync(tmp_path)
    parent = track.open_parent(
        mlflow_server, RunIdentity(experiment=identity.experiment, name="launch", key="launch")
    )
    result = sync(tmp_path, tracking_uri=mlflow_server, parent_run_id=parent)
    assert result[1:] == ("FINISHED", 6000, 1)
    run = MlflowClient(mlflow_server).get_run(result.run_id or "")
    assert run.data.tags["mlflow.parentRunId"] == parent
    assert run.info.start_time <= 1000 * lines[0].time + 1
    assert 1000 * lines[-1].time - 1 <= run.info.end_time
    assert history(mlflow_server, run, "train/loss") == [(s, s) for s in range(3000)]
    assert sync(tmp_path)[2:] == (0, 0)


def test_log_is_as_fast_with_a_dead_or_hung_server(
    tmp_path: Path, identity: RunIdentity, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.CRITICAL)

    def median_time(name: str, uri: str | None) -> float:
        tracker = Tracker(tmp_path / name, identity, uri, resume_step=0)
        times = []
        for step in range(2000):
            began = time.perf_counter()
            tracker.log(step, {"train/loss": 0.5, "train/lr": 0.1})
            times.append(time.perf_counter() - began)
        began = time.monotonic()
        tracker.finish("FINISHED", 0.2)
        assert time.monotonic() - began < 1
        return statistics.median(times)

    with hung_server() as hung:
        # In turns, and the least of each: what else the machine does only ever adds.
        uris = {"alone": None, "dead": "http://127.0.0.1:9", "hung": hung}
        rounds = [
            {name: median_time(f"{name} {turn}", uri) for name, uri in uris.items()}
            for turn in range(3)
        ]
        least = {name: min(times[name] for times in rounds) for name in uris}
        assert least["dead"] < 3 * least["alone"]
        assert least["hung"] < 3 * least["alone"]


def test_parents_of_a_dead_server_fail_soon_and_say_what_to_do(identity: RunIdentity):
    began = time.monotonic()
    with pytest.raises(HptError, match=r"127\.0\.0\.1:9.*\n.*start it"):
        track.open_parent("http://127.0.0.1:9", identity)
    assert time.monotonic() - began < 15


def test_sync_needs_a_recorded_run(tmp_path: Path, identity: RunIdentity):
    with pytest.raises(HptError, match=r"run\.json"):
        sync(tmp_path)
    Tracker(tmp_path, identity, None, resume_step=0).finish("KILLED")
    assert sync(tmp_path, if_unfinished="FAILED") == (None, "KILLED", 0, 0)


ELSEWHERE = """
import sys
from pathlib import Path
from hpt_dist.tracking import tracker as track

assert "mlflow" not in sys.modules
folder, uri, timeout_s = sys.argv[1:]
identity = track.RunIdentity(experiment=folder, name="hpt", key="abc")
tracker = track.Tracker(Path(folder), identity, uri, resume_step=0)
tracker.log(1, {"train/loss": 1})
tracker.finish("FINISHED", float(timeout_s))
"""


def use_elsewhere(folder: Path, uri: str, timeout_s: float) -> str:
    """Log in a process of its own that works in the folder; return all that it printed."""
    process = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, str(folder / "work"), uri, str(timeout_s)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(Path(track.__file__).parents[2])},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.returncode == 0, process.stdout
    return process.stdout


def test_a_new_database_and_mlflow_itself_print_nothing(tmp_path: Path):
    assert use_elsewhere(tmp_path, f"sqlite:///{tmp_path}/new/mlflow.db", 120) == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "work"]


@pytest.mark.services
def test_a_server_prints_nothing(mlflow_server: str, tmp_path: Path):
    assert use_elsewhere(tmp_path, mlflow_server, 120) == ""
    assert [path.name for path in tmp_path.iterdir()] == ["work"]


def test_a_process_ends_soon_whatever_the_server_does(tmp_path: Path):
    """The last two seconds of waiting are asked for; the rest is Python and its imports."""

    def use(name: str, uri: str) -> None:
        (tmp_path / name).mkdir()
        began = time.monotonic()
        printed = use_elsewhere(tmp_path / name, uri, 2)
        assert "hpt-dist sync" in printed
        assert "Retry" not in printed
        assert time.monotonic() - began < 15

    with hung_server() as hung, ThreadPoolExecutor(2) as pool:
        list(pool.map(use, ("dead", "hung"), ("http://127.0.0.1:9", hung)))


def test_threads_end_with_their_tracker(sqlite: str, tmp_path: Path, identity: RunIdentity):
    tracker = Tracker(tmp_path, identity, sqlite, resume_step=0)
    tracker.finish("FINISHED", 60)
    assert not [each for each in threading.enumerate() if each.name == "tracker"]
