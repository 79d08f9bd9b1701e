"""A real MLflow server that wants a login: who may not is told why, and what to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from services import MlflowAccounts
from small import hpt, write_recipe

from hpt_dist.doctor import services as doctor
from hpt_dist.doctor.finding import Finding

pytestmark = pytest.mark.services
RECIPE = """\
name: one
store: ${HPT_STORE}
backbone: timm/test_efficientnet
image: {size: 32}
stages:
  base: {kind: import, weights: random}
"""


def checked(
    accounts: MlflowAccounts, monkeypatch: pytest.MonkeyPatch, user: str, password: str = ""
) -> Finding:
    """Return what doctor says of the server to a user."""
    for name, value in accounts.login(user, password).items():
        monkeypatch.setenv(name, value)
    (found,) = doctor._guarded("mlflow", lambda: doctor._mlflow(accounts.uri))
    assert "planted" not in f"{found.says} {found.fix}"
    return found


def test_doctor_makes_and_deletes_a_run_and_says_what_a_login_lacks(
    mlflow_accounts: MlflowAccounts, monkeypatch: pytest.MonkeyPatch
):
    for _ in range(2):
        found = checked(mlflow_accounts, monkeypatch, "ada")
        assert (found.ok, found.says) == (
            True,
            f"{mlflow_accounts.uri}: a run was made and deleted",
        )
    client = MlflowClient(mlflow_accounts.uri)
    assert [one.name for one in client.search_experiments() if "doctor" in one.name] == []
    client.create_experiment("adas")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "adas")

    found = checked(mlflow_accounts, monkeypatch, "bob")
    assert found.ok is False
    assert "does not let bob write to the experiment adas (403)" in found.says
    assert "mlflow: {experiment: NAME}" in found.fix
    found = checked(mlflow_accounts, monkeypatch, "bob", "wrong-planted-1")
    assert "does not know the login of user bob (401)" in found.says
    assert "correct MLFLOW_TRACKING_USERNAME" in found.fix
    found = checked(mlflow_accounts, monkeypatch, "", "none")
    assert "wants a login (401)" in found.says
    assert "set MLFLOW_TRACKING_USERNAME" in found.fix


def test_a_second_user_is_told_of_an_experiment_of_their_own(
    mlflow_accounts: MlflowAccounts, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    recipe, store = str(write_recipe(tmp_path, RECIPE)), str(tmp_path / "store")
    ada, bob = mlflow_accounts.login("ada"), mlflow_accounts.login("bob")
    for name, value in ada.items():
        monkeypatch.setenv(name, value)
    MlflowClient(mlflow_accounts.uri).create_experiment("one")
    printed = hpt("launch", recipe, "--on", "inline", store=store, process=False, **bob)
    assert "does not let bob write to the experiment one (403)" in printed
    assert "--set mlflow.experiment=NAME" in printed
    assert "2 of 2 runs are not in MLflow" in printed
    for command in ("status", "report"):
        printed = hpt(command, "one", store=store, **bob)
        assert "MLflow lacks 1 trial; to send them: hpt-dist sync one-" in printed
    assert json.loads(hpt("status", "--json", store=store, **bob))["mlflow_lacks"] == ["base"]

    printed = hpt("sync", "one", "--experiment", "bobs", store=store, process=False, **bob)
    assert "base: FINISHED, 2 points sent" in printed
    assert "MLflow lacks" not in hpt("status", "one", store=store, **bob)
    launch, trial = runs_of(mlflow_accounts, "bobs")
    assert trial.data.tags["mlflow.parentRunId"] == launch.info.run_id
    assert (launch.info.status, trial.info.status) == ("FINISHED", "FINISHED")


def runs_of(accounts: MlflowAccounts, experiment: str) -> tuple[Run, Run]:
    """Return the runs of a launch and of its trial."""
    client = MlflowClient(accounts.uri)
    found = client.get_experiment_by_name(experiment)
    assert found
    runs = client.search_runs([found.experiment_id])
    launch, trial = sorted(runs, key=lambda run: "mlflow.parentRunId" in run.data.tags)
    return launch, trial
