"""What the end of a launch corrects in MLflow."""

from __future__ import annotations

import json
import threading
from dataclasses import asdict, replace
from pathlib import Path
from shutil import copy

import pytest
from mlflow import MlflowClient

from hpt_dist.errors import RequestError
from hpt_dist.launch import closing, description, launches
from hpt_dist.store import FolderStore
from hpt_dist.store.paths import filled_trial_folder, trial_folder
from hpt_dist.tracking import tracker
from hpt_dist.tracking.tracker import RunIdentity
from hpt_dist.trial.records import Launch

KEY = "5" * 64


def test_what_a_slow_server_did_not_take_in_time_is_sent(
    mlflow_tables: Path, tmp_path: Path
) -> None:
    uri = f"sqlite:///{copy(mlflow_tables, tmp_path)}"
    folder = trial_folder(tmp_path, str(tmp_path / "store"), KEY)
    identity = RunIdentity(experiment="small", name="hpt", key=KEY)
    run = tracker.Tracker(folder, identity, uri, resume_step=0)
    run.log(1, {"train/loss": 1.5})
    run.finish("FINISHED", timeout_s=0)
    for thread in threading.enumerate():
        if thread.name == "tracker":
            thread.join()
    assert tracker.has_arrived(folder, uri) is False
    launch = record(tmp_path, uri)
    closing.set_true_statuses(FolderStore(tmp_path / "store"), launch)
    assert tracker.has_arrived(folder, uri) is True
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("small")
    assert experiment
    (sent,) = client.search_runs([experiment.experiment_id])
    assert sent.info.status == "FINISHED"
    assert sent.data.metrics == {"train/loss": 1.5}


def record(work: Path, tracking_uri: str = "") -> Launch:
    return Launch(
        id="small-1",
        recipe="small",
        file="small.yaml",
        created="2026-11-30T00:00:00+00:00",
        trials={"hpt": KEY},
        report={},
        work=str(work),
        tracking_uri=tracking_uri,
    )


@pytest.mark.parametrize(
    ("cancelled", "stopped", "done", "status"),
    [
        (False, False, True, "FINISHED"),
        (False, False, False, "FAILED"),
        (True, False, False, "KILLED"),
        (False, True, False, "KILLED"),
        (True, True, True, "FINISHED"),  # it was too late
    ],
)
def test_how_a_launch_ends(
    tmp_path: Path, cancelled: bool, stopped: bool, done: bool, status: str
) -> None:
    store, launch = FolderStore(tmp_path / "store"), record(tmp_path)
    assert launches.ended_as(store, launch) is None
    if cancelled:
        store.put(f"launches/{launch.id}.cancel", b"")
    closing.finish_launch(store, launch, done=done, stopped=stopped)
    assert launches.ended_as(store, launch) == status
    # Another launch does the rest: this one was stopped all the same.
    closing.finish_launch(store, launch, done=True)
    assert launches.ended_as(store, launch) == ("KILLED" if status == "KILLED" else "FINISHED")
    # Its trial's process died: it was stopped with the launch, or failed by itself.
    lost = closing.status_of_trial(store, launch, done=False)
    assert lost == ("KILLED" if cancelled or stopped else "FAILED")
    store.put(f"launches/{launch.id}.end", b"\0" * 1000)
    assert launches.ended_as(store, launch) is None


def test_a_description_holds_whole_sections_and_links() -> None:
    report = "# small\n\n6 of 6 done.\n\n## table\n" + "x" * 4000 + "\n\n## cost\n" + "y" * 4000
    others = {f"trial {number}": f"#/{number}" for number in range(25)}
    launch = record(Path("/w"))
    text = description.of_launch(launch, "/store", "KILLED", report, others, "7", "run7")
    assert len(text) < 8000
    assert "## table" in text
    assert "## cost" not in text
    assert "The rest is in the report's files." in text
    assert "The launch was stopped." in text
    assert "(#/experiments/7/runs/run7/artifacts/report.html?workflowType=machine_learning)" in text
    assert "[trial 0](#/0)" in text
    assert text.endswith("and 5 more.")
    assert "[recipe.yaml]" not in text
    written = replace(launch, written="name: small")
    text = description.of_launch(written, "/store", "KILLED", report, {}, "7", "run7")
    assert "artifacts/recipe.yaml?" in text


def test_stores_that_share_a_work_folder_keep_their_trials_apart(tmp_path: Path) -> None:
    work, store = tmp_path / "work", str(tmp_path / "store")
    here, elsewhere = trial_folder(work, store, KEY), trial_folder(work, "s3://b/p", KEY)
    assert here != elsewhere
    # In the store itself there is nobody to share it with.
    own = tmp_path / "store/work"
    assert trial_folder(own, store, KEY) == own / "trials" / KEY
    # Older versions kept all side by side: what is there is found, and nothing is written to it.
    before = work / "trials" / KEY
    before.mkdir(parents=True)
    assert filled_trial_folder(work, store, KEY) == before
    here.mkdir(parents=True)
    assert filled_trial_folder(work, store, KEY) == here


def test_a_launch_is_found_by_the_name_of_its_shipped_recipe(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    launch = replace(record(tmp_path), recipe="fig2_separability")
    store.put(f"launches/{launch.id}.json", json.dumps(asdict(launch)).encode())
    for name in ("fig2_separability", "paper/fig2_separability", "x/fig2_separability.yaml"):
        assert launches.find(store, name) == launch
    with pytest.raises(RequestError, match="no launch paper/fig3"):
        launches.find(store, "paper/fig3_semi_supervised")
