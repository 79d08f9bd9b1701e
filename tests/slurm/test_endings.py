"""How a start of a job ended: what its processes leave, what its script notes, what is shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hpt_dist.errors import StoreAwayError, StoreError, TrainingError
from hpt_dist.launch import survey
from hpt_dist.slurm import commands as slurm
from hpt_dist.slurm import jobs as slurm_jobs
from hpt_dist.slurm.commands import Queued
from hpt_dist.slurm.jobs import Array
from hpt_dist.slurm.script import AWAY
from hpt_dist.store import FolderStore, Store
from hpt_dist.store.paths import FAILURE, stage_prefix
from hpt_dist.trial.records import Launch

KEY = "5" * 64
LAUNCH = Launch(
    "x-1", "x", "x.yaml", "2026-01-01T12:00:00+00:00", {"hpt": KEY}, {}, "/work", "", where="slurm"
)


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a job that is in its third start."""
    variables = {"SLURM_JOB_ID": "12", "SLURM_RESTART_COUNT": "2", "SUBMITIT_FOLDER": str(tmp_path)}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return tmp_path


@pytest.mark.parametrize(
    ("error", "code", "note"),
    [
        (StoreAwayError("it does not answer", where="s3://b"), AWAY, "away"),
        (StoreError("S3 refused: AccessDenied", where="s3://b"), 1, "failed"),
        (TrainingError("the loss is not finite"), 1, "failed"),
        (KeyError("a bug at http://ada:planted@host"), 1, "failed"),
    ],
)
def test_only_a_store_that_is_away_is_worth_another_start(start, error, code, note):
    def fail() -> None:
        with slurm.failures_are_final():
            raise error

    with pytest.raises(SystemExit) as ended:
        fail()
    assert ended.value.code == code
    assert {file.name for file in start.iterdir()} == {"12.2.began", f"12.2.{note}"}
    said = (start / f"12.2.{note}").read_text()
    assert said.startswith(("s3://b: ", "the loss is not finite", "KeyError: "))
    assert "planted" not in said


def test_a_start_that_can_leave_no_note_is_taken_for_one_whose_store_is_away(start, monkeypatch):
    monkeypatch.setenv("SUBMITIT_FOLDER", str(start / "unmounted"))
    with pytest.raises(SystemExit) as ended:
        slurm.go_on()
    assert ended.value.code == AWAY


def note(folder: Path, start: int, text: str, log: str = "") -> slurm_jobs.Ending:
    """Return the ending that a script notes, and its log, as they are read."""
    (folder / f"12.{start}.end").write_text(text)
    (folder / "12_0_log.out").write_text(f"an older error\nhpt-dist starts job 12 on n1\n{log}")
    array = Array("x-1.0", (KEY,), str(folder), "12")
    found = slurm_jobs.ending(array, KEY, slurm_jobs.last_starts(array.folder))
    assert found
    return found


@pytest.mark.parametrize(
    ("text", "log", "fails", "reason"),
    [
        ("152 over ", "", True, "job 12 was ended by SIGXCPU (exit code 152): its limit of CPU"),
        ("139 over ", "", True, "job 12 was ended by SIGSEGV (exit code 139): see its log"),
        ("137 over killed", "", True, "SIGKILL (exit code 137): perhaps for want of memory"),
        ("137 over killed", "", True, "it was started too often"),
        ("137 again killed", "", False, "SIGKILL"),
        ("1 again unbegun", "srun: error: Unable to create step: no\n", False, "before it began"),
        ("1 over unbegun", "srun: error: Unable to create step: no\n", True, "create step: no; it"),
        ("1 over unbegun", "", True, "its log is empty"),
        ("69 over away\ns3://b: it does not answer\n  do: x", "", True, "s3://b: it does not ans"),
        ("137 again away", "", False, "the folder of job 12, or its store, was out of reach"),
        # One that was cancelled saves and ends with 1.
        ("1 over ", "stopped by SIGTERM\n", False, ""),
        ("0 again ", "", False, ""),
        (
            "1 again unbegun",
            "srun: error: Unable to create step: no\nslurmstepd: *** X DUE TO JOB REQUEUE ***\n",
            False,
            "Unable to create step: no",
        ),
    ],
)
def test_why_a_start_ended(tmp_path, text, log, fails, reason):
    found = note(tmp_path, 2, text, log)
    assert found.is_failure is fails
    assert reason in found.reason
    assert "older error" not in found.reason


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = FolderStore(tmp_path / "store")
    slurm_jobs.write(made, "x-1", [Array("x-1.0", (KEY,), str(tmp_path), "12")])
    return made


def state(store: Store, queued: dict[str, Queued] | None = None) -> survey.State:
    return survey.states_of(store, LAUNCH, queued or {})["hpt"]


@pytest.mark.parametrize(
    ("job", "restarts", "shown"),
    [
        ("12", 0, "ended before it began"),  # two starts ago
        ("11", 5, "ended before it began"),  # by an earlier launch
        ("12", 2, "an old error"),
        ("", 0, "an old error"),  # of a process without a scheduler, or of before
    ],
)
def test_a_failure_older_than_the_last_start_is_not_its_reason(
    store, tmp_path, job, restarts, shown
):
    content = {"error": "an old error", "job": job, "restarts": restarts}
    store.put(f"{stage_prefix(KEY)}/{FAILURE}", json.dumps(content).encode())
    note(tmp_path, 1, "75 again ")
    note(tmp_path, 2, "1 over unbegun", "srun: error: Unable to create step\n")
    found = state(store)
    assert found.name == "failed"
    assert shown in found.why


def test_a_job_that_waits_for_the_store_says_so(store, tmp_path):
    note(tmp_path, 0, "69 again away\ns3://b: it does not answer\n")
    queued = {KEY: Queued("12", "x-1.0", "PENDING", "BeginTime")}
    assert state(store, queued).why == (
        "job 12 is pending (BeginTime); before: s3://b: it does not answer"
    )
    # Whoever cancels it there has no failure.
    assert state(store).name == "runs"
    note(tmp_path, 1, "1 over \ns3://b: S3 refused: AccessDenied\n")
    assert state(store) == survey.State("failed", "s3://b: S3 refused: AccessDenied", 0)


def test_a_launch_of_before_has_no_such_notes(store):
    assert state(store).name == "runs"
    assert slurm_jobs.last_starts("/no/where") == {}
    assert slurm_jobs.ending(Array("x-1.0", (KEY,), "/no/where", ""), KEY, {}) is None
