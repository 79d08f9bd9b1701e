"""MLflow's address: its password reaches the server and nothing else; any path holds a database."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from pathlib import Path
from shutil import copy

import pytest
from answering import Answering, answering

from hpt_dist.errors import HptError
from hpt_dist.store.paths import default_tracking_uri, tracking_database
from hpt_dist.tracking import tracker
from hpt_dist.tracking.address import given, reached
from hpt_dist.tracking.refusals import explaining

USER, PASSWORD = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"
IDENTITY = tracker.RunIdentity(experiment="e", name="hpt", key="0123abcd")


@pytest.fixture(autouse=True)
def _environment() -> Iterator[None]:
    """Put back what `given` and `reached` set."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", USER, PASSWORD):
            patch.setenv(name, "")
            patch.delenv(name)
        patch.setenv("NO_PROXY", "127.0.0.1")
        yield


@pytest.fixture
def server() -> Iterator[Answering]:
    with answering(401, b"You are not authenticated.") as running:
        yield running


def test_a_password_is_kept_in_the_environment_and_used() -> None:
    shown = given("https://ada:pl%40nted@h/x")
    assert shown == "https://h/x"
    assert reached(shown) == "https://h/x"
    assert (os.environ[USER], os.environ[PASSWORD]) == ("ada", "pl@nted")
    # Another server does not get it.
    assert reached("https://other") == "https://other"
    assert USER not in os.environ
    assert PASSWORD not in os.environ
    # A record of an older version holds it.
    assert reached("https://bo:planted@old") == "https://old"
    assert os.environ[USER] == "bo"


def test_what_has_no_variable_of_its_own_stays_in_the_address() -> None:
    for address in ("postgresql://ada:planted@h/runs", "https://planted@h"):
        assert "planted" not in given(address)
        assert reached(given(address)) == address
    assert USER not in os.environ


def test_variables_of_the_user_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(USER, "ada")
    monkeypatch.setenv(PASSWORD, "planted")
    assert reached(given("https://h")) == "https://h"
    assert os.environ[PASSWORD] == "planted"
    assert "MLFLOW_TRACKING_URI" not in os.environ


def test_the_server_gets_the_password_and_no_record_does(server: Answering, tmp_path: Path) -> None:
    secret = server.address.replace("://", "://ada:pl%40nted@")
    uri = given(secret)
    run = tracker.Tracker(tmp_path, IDENTITY, uri, resume_step=0)
    run.log(1, {"a": 1.0})
    run.finish("FINISHED")
    login = base64.b64encode(b"ada:pl@nted").decode()
    assert set(server.logins) == {f"Basic {login}"}
    for attempt in (lambda: tracker.initialise(uri), lambda: tracker.sync(tmp_path)):
        with pytest.raises(
            HptError, match=r"MLflow does not know the login of user ada \(401\)"
        ) as caught:
            attempt()
        assert "nted" not in str(caught.value)
        assert "MLFLOW_TRACKING_PASSWORD" in caught.value.problem.fix
    # So it is with the whole address, as an older version recorded it.
    with pytest.raises(HptError):
        tracker.sync(tmp_path, tracking_uri=secret)
    for file in tmp_path.rglob("*"):
        assert file.is_dir() or b"nted" not in file.read_bytes(), file
    assert tracker.has_arrived(tmp_path, uri) is False


@pytest.mark.parametrize("name", ["a%b%41", "a?b=c&d", "a#b", "a b'c\"d", "é日", "a:b@c;d+e"])
def test_the_database_lies_in_the_work_folder_whatever_its_name(
    name: str, mlflow_tables: Path, tmp_path: Path
) -> None:
    work = tmp_path / name / "work"
    work.mkdir(parents=True)
    copy(mlflow_tables, work)
    uri = default_tracking_uri(work)
    assert tracking_database(uri) == work / "mlflow.db"
    run = tracker.open_parent(uri, IDENTITY)
    tracker.log_parent(uri, run, artifacts={"report.json": b"{}"})
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert [path.name for path in work.rglob("*.json")] == ["report.json"]


def test_whether_a_run_has_arrived(mlflow_tables: Path, tmp_path: Path) -> None:
    uri = f"sqlite:///{copy(mlflow_tables, tmp_path)}"
    folder = tmp_path / "trial"
    assert tracker.has_arrived(folder, uri) is None
    run = tracker.Tracker(folder, IDENTITY, None, resume_step=0)
    run.finish("FINISHED")
    assert tracker.has_arrived(folder, uri) is False
    run = tracker.Tracker(folder, IDENTITY, uri, resume_step=0)
    assert tracker.has_arrived(folder, uri) is False
    run.finish("FINISHED")
    assert tracker.has_arrived(folder, uri) is True
    assert tracker.has_arrived(folder, "http://elsewhere") is False
    run = tracker.Tracker(folder, IDENTITY, uri, resume_step=0)
    run.leave()
    assert tracker.has_arrived(folder, uri) is False
    tracker.sync(folder)
    assert tracker.has_arrived(folder, uri) is True


def test_a_database_that_may_not_be_written_says_so_in_a_line() -> None:
    sql = "(sqlite3.OperationalError) attempt to write a readonly database\n[SQL: UPDATE runs]\n..."
    with pytest.raises(HptError) as raised, explaining("sqlite:////shared/mlflow.db"):
        raise RuntimeError(sql)
    assert "\n" not in raised.value.problem.what
    assert "the right to write" in raised.value.problem.fix
