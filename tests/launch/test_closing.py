"""What the end of a launch corrects in MLflow."""

from __future__ import annotations

import threading
from pathlib import Path
from shutil import copy

from mlflow import MlflowClient

from hpt_dist.launch import closing
from hpt_dist.store import FolderStore
from hpt_dist.store.paths import trial_folder
from hpt_dist.tracking import tracker
from hpt_dist.tracking.tracker import RunIdentity

KEY = "5" * 64


def test_what_a_slow_server_did_not_take_in_time_is_sent(
    mlflow_tables: Path, tmp_path: Path
) -> None:
    uri = f"sqlite:///{copy(mlflow_tables, tmp_path)}"
    folder = trial_folder(tmp_path, KEY)
    identity = RunIdentity(experiment="small", name="hpt", key=KEY)
    run = tracker.Tracker(folder, identity, uri, resume_step=0)
    run.log(1, {"train/loss": 1.5})
    run.finish("FINISHED", timeout_s=0)
    for thread in threading.enumerate():
        if thread.name == "tracker":
            thread.join()
    assert tracker.has_arrived(folder, uri) is False
    closing.set_true_statuses(FolderStore(tmp_path / "store"), [KEY], tmp_path)
    assert tracker.has_arrived(folder, uri) is True
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("small")
    assert experiment
    (sent,) = client.search_runs([experiment.experiment_id])
    assert sent.info.status == "FINISHED"
    assert sent.data.metrics == {"train/loss": 1.5}
