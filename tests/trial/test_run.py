"""One trial up to `DONE`, with a runner that only logs: what is read, kept and deleted."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from hpt_dist.errors import HptError, StoreError
from hpt_dist.launch import survey
from hpt_dist.recipe import file as recipe_file
from hpt_dist.recipe import plan
from hpt_dist.recipe.facts import Facts
from hpt_dist.store import marker, open_store
from hpt_dist.store.committed import Done, done, is_done
from hpt_dist.tracking import tracker
from hpt_dist.tracking.metrics_file import Line
from hpt_dist.train.checkpoint import Checkpoints
from hpt_dist.train.interrupt import Interrupt
from hpt_dist.trial.context import TrialOrder
from hpt_dist.trial.result import Result
from hpt_dist.trial.run import run

RECIPE = """\
name: one
store: {store}
backbone: timm/test_efficientnet
image: {{size: 32}}
stages:
  base: {{kind: import, weights: random}}
"""


@pytest.fixture
def order(tmp_path):
    path = tmp_path / "one.yaml"
    path.write_text(RECIPE.format(store=tmp_path / "store"))
    recipe = recipe_file.load(path, [], {})
    [trial] = plan.make(recipe, Facts({}, {"random": "0"}))
    marker.begin(open_store(recipe.store))
    return TrialOrder(
        recipe="one",
        trial=trial,
        store=recipe.store,
        work=tmp_path / "work",
        tracking_uri="",
        parent_run="",
        artifact_location="",
        image_size=32,
        normalize="imagenet",
        threads=1,
    )


@pytest.fixture
def root(order):
    return open_store(order.store).at(f"stages/{order.trial.key}")


def runs(order, runner=lambda _context, _spec: Result({"x": 1.0})):
    run(order, runner, Interrupt(), contextlib.nullcontext)


def never(_context, _spec):
    pytest.fail("it is done: nothing runs")


def logs(first, last, *, saves=0, fails=False):
    """Return a runner that logs a point a step, as the loop does, from its saved state on."""

    def runner(context, _spec):
        checkpoints = Checkpoints(context.root)
        latest = checkpoints.latest()
        if latest:
            context.restore_metrics(latest[1]["points"])
        for step in range(latest[0] + 1 if latest else first, last + 1):
            context.metrics(step, {"loss": step / 7})
            if step == saves:
                checkpoints.save(step, {"points": context.metrics_so_far()})
        if fails:
            raise HptError("the end")
        return Result({})

    return runner


def steps_of(data):
    lines = [Line.decode(raw) for raw in data.splitlines()]
    return [line.step for line in lines if line.metrics.keys() != {"active_seconds"}]


# DONE


OTHER = "f" * 64


def without_an_object(document):
    del document["objects"]["result.json"]["sha256"]


DAMAGED = {
    "empty": lambda _: b"",
    "cut": lambda data: data[:-20],
    "a list": lambda _: b"[]",
    "no key": lambda data: data.replace(b'"key"', b'"kez"'),
    "no object": lambda data: json.dumps(json.loads(data) | {"objects": {}}).encode(),
    "another's": lambda data: data.replace(b'"key": "', b'"key": "f'),
    "no digest": lambda data: data.replace(b'"sha256"', b'"sha512"'),
    "not UTF-8": lambda data: data.replace(b'"key"', b'"ke\xff"'),
    "deep": lambda _: b"[" * 100_000,
}


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_done_is_an_error_and_nothing_is_deleted(order, root, damage, caplog):
    runs(order)
    Checkpoints(root).save(3, {"x": 1})
    root.put("DONE", damage(root.get("DONE")))
    states = [info.path for info in root.list("state/")]
    with pytest.raises(StoreError) as error:
        runs(order, never)
    text = str(error.value)
    assert f"{root.uri}/DONE" in text
    assert f"delete {root.uri}/DONE and launch again" in text
    assert [info.path for info in root.list("state/")] == states
    assert not is_done(open_store(order.store), order.trial.key)
    assert "DONE" in caplog.text
    state = survey.state_of(open_store(order.store), order.trial.key)
    assert state.name == "failed"
    assert f"{root.uri}/DONE" in state.why
    root.delete("DONE")  # what the error says
    runs(order)
    assert is_done(open_store(order.store), order.trial.key)


@pytest.mark.parametrize("damage", [lambda data: data + b" ", None], ids=["changed", "missing"])
def test_an_object_that_is_not_what_done_names_is_an_error(order, root, damage):
    runs(order)
    Checkpoints(root).save(3, {"x": 1})
    if damage:
        root.put("result.json", damage(root.get("result.json")))
    else:
        root.delete("result.json")
    with pytest.raises(StoreError, match=r"result\.json is not .*\n.*DONE and launch again"):
        runs(order, never)
    assert Checkpoints(root).steps() == [3]


def test_what_is_done_runs_no_more_and_its_states_go(order, root):
    runs(order)
    before = {info.path: info.etag for info in root.list()}
    Checkpoints(root).save(3, {"x": 1})
    runs(order, never)
    assert {info.path: info.etag for info in root.list()} == before


def test_replaced_images_are_in_result_done_and_metrics(order, root):
    names = ["a/train/1", "a/train/2"]
    runs(order, lambda _context, _spec: Result({"x": 1.0}, replaced=names))
    found = done(open_store(order.store), order.trial.key)
    assert isinstance(found, Done)
    assert list(found.replaced) == names
    assert json.loads(root.get("result.json"))["replaced"] == names
    assert b'"images_replaced": 2' in root.get("metrics.jsonl")


# What killed writers leave


def test_drafts_of_killed_writers_are_deleted_at_the_start_and_at_the_end(order, root):
    def leave_drafts():
        for folder in (root.folder, root.folder / "state"):
            (folder / ".tmp").mkdir(parents=True, exist_ok=True)
            (folder / ".tmp/draft").write_bytes(b"x" * 1000)

    def runner(context, _spec):
        assert not list(root.folder.rglob("draft"))
        leave_drafts()
        return Result({})

    leave_drafts()
    runs(order, runner)
    left = {path.relative_to(root.folder).as_posix() for path in root.folder.rglob("*")}
    assert not {path for path in left if "state/" in path}
    assert {path for path in left if ".tmp/" in path} == {".tmp/lock"}


def test_who_is_taken_over_in_a_save_leaves_no_state(root):
    def lost():
        raise HptError("taken over")

    with pytest.raises(HptError, match="taken over"):
        Checkpoints(root).save(1, {"x": torch.ones(3)}, lost)
    assert not list(root.list())


# Records of the trial and of its work folder


RECORDS = {
    **{f"starts.json: {name}": ("starts.json", data) for name, data in {
        "empty": b"", "a list": b"[]", "text": b'{"count": "1"}', "null": b'{"count": null}',
        "NaN": b'{"count": NaN}', "huge": b'{"count": 1' + b"0" * 5000 + b"}",
        "not UTF-8": b'{"job": "\xff"}', "deep": b"[" * 100_000, "negative": b'{"count": -1}',
        "float": b'{"step": 1e999}',
    }.items()},
    **{f"run.json: {name}": ("run.json", data) for name, data in {
        "empty": b"", "a list": b"[]", "text": b'"x"', "deep": b"[" * 100_000,
        "not UTF-8": b"\xff", "wrong": b'{"identity": 5, "started": NaN}',
    }.items()},
    **{f"metrics.jsonl: {name}": ("metrics.jsonl", data) for name, data in {
        "no JSON": b"x\n", "a list": b"[]\n", "no step": b'{"time": 1, "metrics": {}}\n',
        "text": b'{"step": 1, "time": 1, "metrics": {"loss": "x"}}\n', "deep": b"[" * 9999 + b"\n",
        "NaN": b'{"step": 1, "time": NaN, "metrics": {}}\n', "not UTF-8": b"\xff\n",
        "huge": b'{"step": 1' + b"0" * 5000 + b', "time": 1, "metrics": {}}\n', "cut": b'{"ste',
    }.items()},
}  # fmt: skip


@pytest.mark.parametrize(("file", "data"), RECORDS.values(), ids=RECORDS)
def test_damaged_records_cost_a_warning_and_no_point(order, root, file, data, caplog):
    with pytest.raises(HptError, match="the end"):
        runs(order, logs(1, 20, saves=10, fails=True))
    if file == "starts.json":
        root.put(file, data)
    elif file == "metrics.jsonl":
        path = order.folder / file
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join([*lines[:4], data, *lines[5:]]))
    else:
        (order.folder / file).write_bytes(data)
    runs(order, logs(1, 30))
    assert steps_of(root.get("metrics.jsonl")) == list(range(1, 31))
    assert steps_of((order.folder / "metrics.jsonl").read_bytes()) == list(range(1, 31))
    if file in ("starts.json", "run.json") or data.endswith(b"\n"):
        assert file in caplog.text


def test_a_trial_that_goes_on_elsewhere_has_all_its_points(order, root, tmp_path):
    with pytest.raises(HptError, match="the end"):
        runs(order, logs(1, 20, saves=10, fails=True))
    elsewhere = SimpleNamespace(**vars(order) | {"work": tmp_path / "elsewhere"})
    runs(TrialOrder(**vars(elsewhere)), logs(1, 30))
    assert steps_of(root.get("metrics.jsonl")) == list(range(1, 31))


# The disk of the work folder


@pytest.fixture
def small_disk(order) -> Iterator[Path]:
    """A work folder on a disk of 8 KB, mounted by root."""
    order.work.mkdir()
    options = ["-o", "size=8k,nr_inodes=12", "tmpfs", str(order.work)]
    subprocess.run(["mount", "-t", "tmpfs", *options], check=True)
    yield order.work
    subprocess.run(["umount", str(order.work)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a disk, which root may")
def test_a_full_work_folder_loses_no_point(order, root, small_disk, caplog):
    runs(order, logs(1, 400))
    assert "No space left" in caplog.text
    assert steps_of(root.get("metrics.jsonl")) == list(range(1, 401))
    assert len((order.folder / "metrics.jsonl").read_bytes()) < 8192
    with pytest.raises(HptError, match="no space in the work folder"):
        tracker.sync(order.folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a disk, which root may")
def test_a_work_folder_without_inodes_is_an_error_that_says_so(order, root, small_disk):
    with contextlib.suppress(OSError):
        for number in range(12):
            (small_disk / str(number)).touch()
    with pytest.raises(HptError, match="no space in the work folder") as error:
        runs(order, never)
    assert str(small_disk) in str(error.value)
    assert "no space in the work folder" in root.get("failure.json").decode()
