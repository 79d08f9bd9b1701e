"""The main job from end to end, through the command line, as its user runs it."""

import hashlib
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time

import pytest
import webdataset
from small import RECIPE, environment, hpt, outcome, write_recipe


@pytest.fixture
def store(drawings, tmp_path):
    """A fresh store with the same datasets."""
    shutil.copytree(drawings, tmp_path / "store")
    return tmp_path / "store"


@pytest.fixture(scope="session")
def undisturbed(drawings, tmp_path_factory):
    """A store in which the small recipe went through at once; what it said."""
    folder = tmp_path_factory.mktemp("undisturbed")
    shutil.copytree(drawings, folder / "store")
    recipe = write_recipe(folder)
    said = hpt("launch", str(recipe), store=str(folder / "store"))
    return folder / "store", recipe, said


@pytest.fixture
def s3_store(ceph):
    """A store on Ceph over TLS, and the settings that reach it."""
    server = ceph.https
    return f"s3://{server.make_bucket()}/hpt", server.environment


def test_a_launch_ends_with_the_report_and_the_way_to_the_ui(undisturbed):
    store, _, said = undisturbed
    assert "adapt: test/top1 by init and shots" in said
    assert f"-m hpt_dist.cli ui --store {store}" in said
    assert len(outcome(store)) == 6
    for result in store.glob("stages/*/result.json"):
        metrics = json.loads(result.read_text())["metrics"]
        shares = [value for name, value in metrics.items() if name.endswith(("top1", "share"))]
        assert shares
        assert all(0 <= value <= 1 for value in shares), metrics


# webdataset leaves closing its files to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_shards_are_plain_webdataset(undisturbed):
    store, _, _ = undisturbed
    tar = next(store.glob("datasets/openmoji/line/test/*.tar"))
    samples = list(webdataset.WebDataset(str(tar), shardshuffle=False).decode("pil"))
    index = json.loads(tar.with_suffix(".index.json").read_text())
    assert [sample["__key__"] for sample in samples] == index["keys"]
    assert [sample["cls"] for sample in samples] == index["labels"]
    assert samples[0]["png"].size == (128, 128)


def test_a_second_launch_runs_nothing(undisturbed):
    store, recipe, first = undisturbed
    before = {path: path.stat().st_mtime_ns for path in store.glob("stages/*/*")}
    began = time.monotonic()
    said = hpt("launch", str(recipe), store=str(store))
    assert "all 6 trials are cached" in said
    assert time.monotonic() - began < 30
    assert before == {path: path.stat().st_mtime_ns for path in store.glob("stages/*/*")}
    assert first.split("# small")[1].split("## Cost")[0].split("\n", 3)[3] in said


def test_plan_says_what_changed(undisturbed):
    store, recipe, _ = undisturbed
    said = hpt("plan", str(recipe), "--set", "stages.hpt.steps=25", store=str(store))
    assert "changed: spec.steps: 24 -> 25" in said
    states = json.loads(hpt("plan", str(recipe), "--json", store=str(store)))
    assert {row["state"] for row in states} == {"cached"}


def test_mlflow_has_one_finished_run_for_each_trial_and_the_launch(undisturbed):
    store, _, _ = undisturbed
    with sqlite3.connect(store / "work/mlflow.db") as database:
        runs = dict(database.execute("select name, status from runs").fetchall())
        parents = database.execute(
            "select count(distinct value) from tags where key = 'mlflow.parentRunId'"
        ).fetchone()
        steps = database.execute(
            "select step from metrics join runs using (run_uuid) "
            "where name = 'hpt' and key = 'train/loss' order by step"
        ).fetchall()
    assert set(runs.values()) == {"FINISHED"}
    assert len(runs) == 7
    assert parents == (1,)
    # Every 10 steps, and before each saved state.
    assert steps == [(4,), (8,), (10,), (12,), (16,), (20,), (24,)]


def test_a_run_killed_after_its_result_gets_its_true_status(undisturbed):
    store, recipe, _ = undisturbed
    (path,) = (p for p in store.glob("work/trials/*/run.json") if '"name": "hpt"' in p.read_text())
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "status": "RUNNING"}))
    with sqlite3.connect(store / "work/mlflow.db") as database:
        database.execute("update runs set status = 'RUNNING' where name = 'hpt'")
    hpt("launch", str(recipe), store=str(store))
    with sqlite3.connect(store / "work/mlflow.db") as database:
        (status,) = database.execute("select status from runs where name = 'hpt'").fetchone()
    assert status == "FINISHED"


def test_status_logs_pull_and_report(undisturbed, tmp_path):
    import timm
    import torch

    store, recipe, _ = undisturbed
    where = {"store": str(store)}
    assert hpt("status", "small", **where).count("cached") == 6
    assert "step 24/24" in hpt("logs", "small", "--trial", "hpt", **where)
    assert "has ended" in hpt("cancel", str(recipe), code=2, **where)
    hpt("pull", "small/hpt", str(tmp_path), "--format", "timm", **where)
    (weights,) = tmp_path.glob("*.pth")
    model = timm.create_model("tf_efficientnet_lite0", num_classes=0)
    model.load_state_dict(torch.load(weights, weights_only=True))
    hpt("report", "small", "--out", str(tmp_path / "report"), **where)
    assert {path.suffix for path in (tmp_path / "report").iterdir()} >= {".md", ".html", ".png"}
    assert "did you mean hpt?" in hpt("pull", "small/hpz", str(tmp_path), code=2, **where)
    assert "is not what was committed" in hpt_after_damage(store, tmp_path)


def hpt_after_damage(store, folder):
    copy = folder / "damaged"
    shutil.copytree(store, copy)
    weights = next(path for path in copy.glob("stages/*/weights.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    name = next(
        name
        for path in copy.glob("launches/*.json")
        for name, key in json.loads(path.read_text())["trials"].items()
        if key == weights.parent.name
    )
    return hpt("pull", f"small/{name}", str(folder / "out"), store=str(copy), code=1)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_killed_anywhere_and_launched_again_ends_with_the_same_bytes(undisturbed, store, seed):
    _, recipe, _ = undisturbed
    expected = outcome(undisturbed[0])
    generator = random.Random(seed)
    killed = 0
    for _ in range(3):
        launch = start(recipe, store)
        # Some while after the first state was saved, so that something is there to lose.
        wait_for(lambda now=launch: saved(store) or now.poll() is not None)
        time.sleep(generator.uniform(0, 4))
        killed += launch.poll() is None
        kill_group(launch)
    assert killed
    hpt("launch", str(recipe), store=str(store))
    assert outcome(store) == expected
    with sqlite3.connect(store / "work/mlflow.db") as database:
        statuses = database.execute(
            "select name, status from runs where name not like 'small-%'"
        ).fetchall()
        repeated = database.execute(
            "select run_uuid, key, step from metrics group by run_uuid, key, step "
            "having count(*) > 1"
        ).fetchall()
    assert sorted(status for _, status in statuses) == ["FINISHED"] * 6, statuses
    assert repeated == []


def test_a_worker_killed_alone_is_reported_and_the_rest_goes_on(undisturbed, store):
    _, recipe, _ = undisturbed
    launch = start(recipe, store)
    wait_for(lambda: saved(store))
    (path,) = {state.parents[1] / "lease.json" for state in saved(store)}
    os.kill(json.loads(path.read_text())["pid"], signal.SIGKILL)
    said, _ = launch.communicate(timeout=300)
    assert launch.returncode == 1
    assert "its process was killed" in said
    assert "not run: the trial it starts from failed" in said
    # What starts from the base alone is done.
    assert len(outcome(store)) == 3
    with sqlite3.connect(store / "work/mlflow.db") as database:
        (status,) = database.execute("select status from runs where name = 'hpt'").fetchone()
    assert status == "FAILED"
    assert "resumes" in hpt("status", "small", store=str(store))


@pytest.mark.parametrize("how", ["cancel", "ctrl-c"])
def test_interrupted_it_saves_and_says_so(undisturbed, store, how):
    _, recipe, _ = undisturbed
    launch = start(recipe, store)
    wait_for(lambda: saved(store))
    if how == "cancel":
        hpt("cancel", "small", store=str(store))
    else:
        os.killpg(launch.pid, signal.SIGINT)
    said, _ = launch.communicate(timeout=300)
    assert launch.returncode == 1
    assert re.search(r"stopped by SIG(TERM|INT) after step", said), said
    assert "not started" in said
    assert "resumes" in hpt("plan", str(recipe), store=str(store))
    hpt("launch", str(recipe), store=str(store))
    assert outcome(store) == outcome(undisturbed[0])


def test_two_launches_at_once_run_nothing_twice(undisturbed, store):
    _, recipe, _ = undisturbed
    both = [start(recipe, store) for _ in range(2)]
    for launch in both:
        said, _ = launch.communicate(timeout=400)
        assert launch.returncode == 0, said
    assert outcome(store) == outcome(undisturbed[0])
    logs = [path.read_text() for path in store.glob("work/trials/*/logs/*_log.out")]
    assert sum(log.count("step 24/24") for log in logs) == 1


def test_mlflow_out_of_reach_costs_nothing(undisturbed, store):
    _, recipe, _ = undisturbed
    nowhere = "http://127.0.0.1:9"
    only = ["--only", "hpt", "--tracking-uri", nowhere]
    said = hpt("launch", str(recipe), *only, store=str(store))
    assert "done    hpt" in said
    hpt("sync", "small", "--tracking-uri", f"sqlite:///{store}/later.db", store=str(store))
    with sqlite3.connect(store / "later.db") as database:
        rows = database.execute(
            "select name, status, count(*) from runs join metrics using (run_uuid) "
            "where key = 'train/loss' group by run_uuid"
        ).fetchall()
    assert rows == [("hpt", "FINISHED", 7)]


def test_a_recipe_with_three_mistakes_names_all_three(store, tmp_path):
    text = RECIPE.replace("steps: 24", "stepz: 24").replace("init: base\n", "init: bass\n")
    text = text.replace("kind: mme", "kind: mne")
    recipe = write_recipe(tmp_path, text)
    said = hpt("launch", str(recipe), store=str(store), code=2)
    for name in ("stepz", "bass", "mne"):
        (line,) = (n for n, row in enumerate(text.splitlines(), 1) if name in row)
        assert f"{recipe}:{line} " in said, said
        assert name in said
    assert said.count("did you mean") == 3
    assert not list(store.glob("launches/*"))


def test_cancelled_before_its_first_trial_began_it_starts_nothing_more(store, tmp_path):
    launch = start(write_recipe(tmp_path), store)
    wait_for(lambda: list(store.glob("launches/*.json")))
    hpt("cancel", "small", store=str(store))
    said, _ = launch.communicate(timeout=300)
    assert launch.returncode == 1
    assert "not started" in said
    assert "hpt" not in {row.split()[-2] for row in said.splitlines() if row.startswith("done ")}


def test_inline_one_process_does_it_all(store, tmp_path):
    recipe = str(write_recipe(tmp_path))
    said = hpt("launch", recipe, "--on", "inline", "--only", "base", store=str(store))
    assert "done    base" in said
    assert "did you mean base?" in hpt("launch", recipe, "--only", "bse", store=str(store), code=2)


def test_a_damaged_launch_record_is_left_out(undisturbed, tmp_path):
    shutil.copytree(undisturbed[0] / "launches", tmp_path / "launches")
    (tmp_path / "launches/small-bad.json").write_text("{")
    said = hpt("status", "small", store=str(tmp_path))
    assert "small-bad.json is damaged" in said
    assert "adapt" in said


def test_a_dataset_that_is_not_there_is_named_before_anything_starts(tmp_path):
    said = hpt("plan", str(write_recipe(tmp_path)), store=str(tmp_path / "none"), code=2)
    assert "datasets.color" in said
    assert "hpt-dist shard" in said


@pytest.mark.services
def test_the_whole_recipe_on_s3(undisturbed, drawings, s3_store, tmp_path):
    uri, settings = s3_store
    for domain in ("color", "line"):
        name = f"openmoji/{domain}"
        hpt("shard", name, f"{uri}/datasets/{name}", store=uri, **settings)
    work = tmp_path / "work"
    settings = {**settings, "HPT_WORK": str(work)}
    hpt("launch", str(write_recipe(tmp_path)), store=uri, **settings)
    hpt("pull", "small/hpt", str(tmp_path / "out"), store=uri, **settings)
    expected = outcome(undisturbed[0])
    key = json.loads((tmp_path / "out/result.json").read_text())["key"]
    assert key in expected
    data = (tmp_path / "out/weights.safetensors").read_bytes()
    assert hashlib.sha256(data).hexdigest() == expected[key]["weights.safetensors"]


def saved(store):
    """Return the records of saved states; those of finished trials are gone."""
    return list(store.glob("stages/*/state/*.json"))


def start(recipe, store):
    return subprocess.Popen(
        [sys.executable, "-m", "hpt_dist.cli", "launch", str(recipe)],
        env=environment(str(store)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def kill_group(launch):
    """Kill a launch and every process it started, at once."""
    try:
        os.killpg(launch.pid, signal.SIGKILL)
    except ProcessLookupError:
        assert launch.poll() is not None
    launch.communicate()


def wait_for(condition, timeout_s=200):
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.1)
