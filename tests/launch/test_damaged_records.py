"""A damaged record of a launch or a trial is left out or named, and blocks nothing else."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tarfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from small import hpt

from hpt_dist.errors import RequestError, StoreError
from hpt_dist.launch import launches, parent_run, survey
from hpt_dist.launch.launches import Launch
from hpt_dist.recipe.settings import Mlflow
from hpt_dist.recipe.yaml_document import Document
from hpt_dist.slurm import jobs
from hpt_dist.slurm.commands import Queued
from hpt_dist.store import FolderStore, records
from hpt_dist.store.paths import FAILURE
from hpt_dist.store.records import DamagedRecordError

ARCHIVE = Path(__file__).with_name("store_of_before.tar.xz")
KEY = "5" * 64

NO_JSON = {
    "empty": b"",
    "cut": b'{"id": "small-1", "rec',
    "a list": b"[]",
    "a number": b"5",
    "null": b"null",
    "nothing in it": b"{}",
    "deep": b"[" * 100_000,
    "deep objects": b'{"a":' * 100_000,
    "not UTF-8": b"\xff\xfe{}",
    "an infinite number": b'{"error": Infinity}',
}
LAUNCH = {
    "id": "bad",
    "recipe": "small",
    "file": "small.yaml",
    "created": "2999-01-01T12:00:00+00:00",
    "trials": {"probe": KEY},
    "report": {},
    "work": "/work",
    "tracking_uri": "",
}
WRONG_FIELDS = {
    "created, a number": {"created": 5},
    "created, no time": {"created": "yesterday"},
    "trials, a list": {"trials": []},
    "trials, a number for a key": {"trials": {"probe": 5}},
    "trials, a key outside of the store": {"trials": {"probe": "../../other"}},
    "trials, an absolute key": {"trials": {"probe": "/etc"}},
    "trials, a name with an escape": {"trials": {"\x1b[31mprobe": KEY}},
    "trials, a name with half a character": {"trials": {"\ud800": KEY}},
    "trials, a name with a line end": {"trials": {"a\nb": KEY}},
    "trials, a name that leaves a folder": {"trials": {"..": KEY}},
    "recipe, outside of a folder": {"recipe": "../../x"},
    "recipe, a list": {"recipe": ["small"]},
    "file, a number": {"file": 5},
    "work, with a null byte": {"work": "/a\0b"},
    "work, null": {"work": None},
    "report, a list": {"report": ["table"]},
    "report, no axes": {"report": {"table": "adapt"}},
    "report, a number for a table": {
        "report": {"table": 5, "rows": "init", "columns": "shots", "metric": "test/top1"}
    },
    "settings, a list": {"settings": []},
    "settings, no document": {"settings": {"probe": []}},
    "settings, an init that is none": {"settings": {"probe": {"init": []}}},
    "where": {"where": "on the moon"},
    "parent_run, a number": {"parent_run": 5},
    "id, of another": {"id": "small-1"},
    "id, outside": {"id": "../bad"},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A store with a few finished trials, of the recipe `before`."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    # What judged then has to be written now that another probe is the default.
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("images: 16", "images: 16, probe: knn"))
    return tmp_path / "store"


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path)


def left_out(store: FolderStore, data: bytes, caplog: pytest.LogCaptureFixture) -> str:
    """Return the warning about a record that is left out while another one is found."""
    good = LAUNCH | {"id": "small-1"}
    store.put("launches/small-1.json", json.dumps(good).encode())
    store.put("launches/bad.json", data)
    with caplog.at_level(logging.WARNING):
        assert launches.launches(store) == [Launch(**good)]
    return caplog.text


@pytest.mark.parametrize("name", NO_JSON)
def test_a_launch_that_is_no_json_object_is_left_out(store, caplog, name):
    printed = left_out(store, NO_JSON[name], caplog)
    assert f"{store.uri}/launches/bad.json is left out: the record is damaged" in printed


@pytest.mark.parametrize("name", WRONG_FIELDS)
def test_a_launch_with_a_wrong_field_is_left_out(store, caplog, name):
    printed = left_out(store, json.dumps(LAUNCH | WRONG_FIELDS[name]).encode(), caplog)
    assert "launches/bad.json is left out" in printed
    assert printed.count("\n") == 1
    assert printed[:-1].isprintable()


@pytest.mark.parametrize("missing", LAUNCH)
def test_a_launch_without_a_field_is_left_out(store, caplog, missing):
    rest = {name: value for name, value in LAUNCH.items() if name != missing}
    assert "bad.json is left out" in left_out(store, json.dumps(rest).encode(), caplog)


def test_a_huge_launch_is_left_out_unread(store, caplog):
    left_out(store, b"", caplog)
    with (store.root / "launches/bad.json").open("wb") as file:
        file.truncate(1 << 40)
    assert [one.id for one in launches.launches(store)] == ["small-1"]
    assert "bytes" in caplog.text


def test_a_launch_of_a_newer_version_is_read(store):
    store.put("launches/bad.json", json.dumps(LAUNCH | {"newer": [1]}).encode())
    assert launches.read(store, "bad") == launches.find(store, "small") == Launch(**LAUNCH)
    with pytest.raises(StoreError, match="no such object"):
        launches.read(store, "none")


@pytest.mark.parametrize(
    ("name", "file", "ok"),
    [
        ("probe/init=Ärger 1", "über/small.yaml", True),
        ("probe/init=a\nb", "small.yaml", False),
        ("probe/init=\x1b[31m", "small.yaml", False),
        ("probe", os.fsdecode(b"\xff.yaml"), False),
    ],
)
def test_what_could_not_be_read_again_is_not_recorded(store, name, file, ok):
    recipe = SimpleNamespace(
        name="small", report=(), datasets={}, document=Document(file), mlflow=Mlflow()
    )
    trial = SimpleNamespace(name=name, key=KEY, stage="probe", document={"init": ""})
    settings = launches.Settings("local", 1, (), store.root / "work", "")
    if ok:
        made = launches.record(recipe, [trial], store, settings)
        assert launches.launches(store) == [made]
        return
    with pytest.raises(RequestError, match="cannot be recorded") as caught:
        launches.record(recipe, [trial], store, settings)
    assert str(caught.value).isascii()
    assert list(store.list()) == []


COMMANDS = (
    ("status", "before"),
    ("report", "before"),
    ("plan", "../recipe.yaml"),
    ("pull", "before/base", "../pulled"),
    ("cancel", "before"),
)


def test_no_command_is_blocked_by_records_of_others(folder, monkeypatch):
    monkeypatch.chdir(folder)
    for number, fields in enumerate(WRONG_FIELDS.values()):
        text = json.dumps(LAUNCH | {"id": f"bad-{number}"} | fields)
        (folder / f"launches/bad-{number}.json").write_text(text)
    for number, data in enumerate(NO_JSON.values()):
        (folder / f"launches/no-{number}.json").write_bytes(data)
    for command in COMMANDS:
        printed = hpt(*command, store=str(folder))
        assert printed.count("is left out") == len(WRONG_FIELDS) + len(NO_JSON), command
    assert "no logs on this machine yet" in hpt("logs", "before", store=str(folder), code=2)


@pytest.mark.parametrize("name", [*NO_JSON, "an empty message", "a list for a message"])
def test_a_damaged_failure_is_only_a_note(store, name):
    more = {"an empty message": b'{"error": ""}', "a list for a message": b'{"error": [1]}'}
    store.put(f"stages/{KEY}/{FAILURE}", (NO_JSON | more)[name])
    state = survey.state_of(store, KEY)
    where = f"{store.uri}/stages/{KEY}/{FAILURE}"
    assert (state.name, state.why) == ("failed", f"for a reason that cannot be read ({where})")


def test_a_failure_shows_its_first_line(store):
    store.put(f"stages/{KEY}/{FAILURE}", b'{"error": "\\n it is full\\n  do: free space"}')
    assert survey.state_of(store, KEY).why == "it is full"


def test_status_and_plan_go_on_with_damaged_notes(folder, monkeypatch):
    monkeypatch.chdir(folder)
    [stage] = folder.glob("stages/a89dd4*")
    for data in NO_JSON.values():
        (stage / FAILURE).write_bytes(data)
        (stage / "lease.json").write_bytes(data)
        printed = hpt("status", "before", store=str(folder))
        assert "after step 2: for a reason that cannot be read" in " ".join(printed.split())
        assert "failed" in hpt("plan", "../recipe.yaml", store=str(folder))
    (stage / "spec.json").write_bytes(b"[1]")
    changed = ("--set", "stages.hpt.steps=5")
    (stage / FAILURE).unlink()
    printed = hpt("plan", "../recipe.yaml", *changed, store=str(folder))
    assert "whose spec.json is damaged" in " ".join(printed.split())


def committed(stage: Path, name: str, data: bytes) -> None:
    """Give a finished trial another object, as if it had committed that."""
    (stage / name).write_bytes(data)
    done = json.loads((stage / "DONE").read_text())
    entry = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    done["objects"][name] = entry
    (stage / "DONE").write_text(json.dumps(done))


def changed(document: dict, path: str, value: object) -> bytes:
    *parts, last = path.split(".")
    inner = document
    for part in parts:
        inner = inner[part]
    inner[last] = value
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        ("result.json", "kind", "unheard-of"),
        ("result.json", "kind", ["knn"]),
        ("result.json", "seed", "0"),
        ("result.json", "images", -1),
        ("result.json", "metrics", {"test/top1": "high"}),
        ("result.json", "metrics", {"test/top1": 5.0}),
        ("result.json", "metrics", {"test/loss": float("inf")}),
        ("result.json", "metrics", {"test/\ud800": 0.5}),
        ("result.json", "metrics", [1]),
        ("result.json", "details", None),
        ("result.json", "details.n_val", "many"),
        ("result.json", "details.gate", "helped"),
        ("result.json", "details.collapsed", 5),
        ("run.json", "seconds", "long"),
        ("run.json", "seconds", -1),
        ("run.json", "numerics", []),
        ("run.json", "same_as", "../x"),
    ],
)
def test_a_damaged_result_is_named_with_the_way_out(folder, name, path, value):
    [stage] = folder.glob("stages/71b556*")
    committed(stage, name, changed(json.loads((stage / name).read_text()), path, value))
    printed = hpt("report", "before", store=str(folder), code=1)
    assert f"{stage}/{name}: the record is damaged" in printed
    assert f"delete {stage}/DONE and launch again" in printed


def test_a_result_that_was_not_committed_is_not_reported(folder):
    [stage] = folder.glob("stages/71b556*")
    (stage / "result.json").write_bytes((stage / "result.json").read_bytes() + b"\n")
    printed = hpt("report", "before", store=str(folder), code=1)
    assert f"{stage}/result.json is not what was committed" in printed


@pytest.mark.parametrize("entry", [{}, {"bytes": 1}, {"bytes": 1, "sha256": 5}, [], None])
def test_pull_names_a_damaged_done(folder, tmp_path, entry):
    [stage] = folder.glob("stages/71b556*")
    done = json.loads((stage / "DONE").read_text())
    done["objects"]["result.json"] = entry
    (stage / "DONE").write_text(json.dumps(done))
    printed = hpt("pull", "before/base", str(tmp_path / "out"), store=str(folder), code=1)
    assert f"{stage}/DONE" in printed
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["../../../escaped", "/tmp/escaped", "a\0b", "a//b", "."])
def test_pull_writes_nothing_outside_its_folder(folder, tmp_path, name):
    [stage] = folder.glob("stages/71b556*")
    done = json.loads((stage / "DONE").read_text())
    done["objects"] |= {name: done["objects"]["result.json"]}
    (stage / "DONE").write_text(json.dumps(done))
    printed = hpt("pull", "before/base", str(tmp_path / "out"), store=str(folder), code=1)
    assert "cannot be the path of an object" in printed
    written = {path.name for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert written <= set(done["objects"]) - {name}
    assert not [*tmp_path.rglob("escaped"), *Path("/tmp").glob("escaped")]


def test_a_note_of_jobs_that_is_damaged_hides_no_other(store, caplog, monkeypatch):
    array = {"name": "small-1.0", "keys": [KEY], "folder": "/jobs", "id": "7"}
    store.put("launches/small-1.jobs", json.dumps([array]).encode())
    for number, data in enumerate(NO_JSON.values()):
        store.put(f"launches/bad-{number}.jobs", data)
    names = ["small-1.0", *(f"bad-{n}.0" for n in range(len(NO_JSON))), "/x/../y.sh", "a.b", ".x"]
    queue = [Queued(str(n + 7), name, "RUNNING", "None") for n, name in enumerate(names)]
    queue += [Queued("99_5", "small-1.0", "RUNNING", "None")]
    monkeypatch.setattr(jobs.slurm, "queue", lambda: queue)
    assert jobs.queued(store) == {KEY: queue[0]}
    # An empty list is a note of no jobs.
    assert caplog.text.count("is left out") == len(NO_JSON) - 1
    assert jobs.log_files(store, "bad-0", KEY) == []
    with pytest.raises(DamagedRecordError, match=r"bad-0\.jobs"):
        jobs.read(store, "bad-0")


@pytest.mark.parametrize("noted", [b"", b"\xff", b"../x", b"a b", b"x" * 300, b"1\n"])
def test_a_damaged_note_of_a_launch_in_mlflow_is_left_out(store, noted, caplog):
    launch = Launch(**LAUNCH)
    store.put("launches/bad.parent", noted)
    assert parent_run.noted(store, launch) == launch
    assert "bad.parent is left out" in caplog.text
    store.put("launches/bad.parent", b"1176ea20d8524249a0f4d2b0368815c4")
    assert parent_run.noted(store, launch).parent_run == "1176ea20d8524249a0f4d2b0368815c4"


def test_a_record_that_cannot_be_read_is_named(store, monkeypatch):
    store.put("launches/bad.json", b"{}")

    def refuse(*_arguments, **_options):
        raise StoreError("Permission denied", where="bad.json")

    monkeypatch.setattr(FolderStore, "get", refuse)
    assert launches.launches(store) == []
    with pytest.raises(DamagedRecordError, match="Permission denied"):
        records.read(store, "launches/bad.json", Launch)
    (store.root / "launches/bad.json").unlink()
    assert records.read(store, "launches/bad.json", Launch) is None
