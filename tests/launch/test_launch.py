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
from pathlib import Path
from unittest import mock

import pytest
import webdataset
from mlflow import MlflowClient
from shared import made_once
from small import (
    RECIPE,
    TINY,
    document,
    environment,
    fill,
    hpt,
    outcome,
    saved_step,
    wait_for,
    write_recipe,
)

from hpt_dist.recipe import file as recipe_file
from hpt_dist.store import open_store


@pytest.fixture
def store(drawings, mlflow_tables, tmp_path):
    """A fresh store with the same datasets."""
    return fill(tmp_path / "store", drawings, mlflow_tables)


@pytest.fixture(scope="session")
def undisturbed(drawings, tmp_path_factory):
    """A store in which the small recipe went through at once; what it printed."""

    def make(folder):
        (folder / "store").mkdir()
        (folder / "store/datasets").symlink_to(drawings / "datasets")
        printed = hpt("launch", str(write_recipe(folder)), store=str(folder / "store"))
        (folder / "printed").write_text(printed)

    folder = made_once(tmp_path_factory, "undisturbed", make)
    return folder / "store", folder / "small.yaml", (folder / "printed").read_text()


@pytest.fixture
def s3_store(ceph):
    """A store on Ceph over TLS, and the settings that reach it."""
    server = ceph.https
    return f"s3://{server.make_bucket()}/hpt", server.environment


def test_a_launch_ends_with_the_report_and_the_way_to_the_ui(undisturbed):
    store, _, printed = undisturbed
    assert "adapt: test/top1 by init and shots" in printed
    assert f"-m hpt_dist ui --store {store}" in printed
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


def test_plan_says_what_changed(undisturbed):
    store, recipe, _ = undisturbed
    printed = hpt("plan", str(recipe), "--set", "stages.hpt.steps=25", store=str(store))
    assert "changed: spec.steps: 24 -> 25" in printed
    states = document(hpt("plan", str(recipe), "--json", store=str(store)))
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


def runs_in_mlflow(store):
    """Return the runs of a store's own MLflow by name."""
    client = MlflowClient(f"sqlite:///{store}/work/mlflow.db")
    experiments = client.search_experiments(filter_string="name != 'Default'")
    kinds = {experiment.tags["mlflow.experimentKind"] for experiment in experiments}
    assert kinds == {"custom_model_development"}
    runs = client.search_runs([experiment.experiment_id for experiment in experiments])
    return {run.info.run_name: run for run in runs}


def test_mlflow_shows_what_counts_in_one_unit(undisturbed):
    store, _, _ = undisturbed
    runs = runs_in_mlflow(store)
    (launch,) = (run for name, run in runs.items() if name.startswith("small-"))
    client = MlflowClient(f"sqlite:///{store}/work/mlflow.db")
    written = Path(client.download_artifacts(launch.info.run_id, "recipe.yaml"))
    assert recipe_file.load(written, environment={"HPT_STORE": str(store)}).name == "small"
    hpt_run = runs["hpt"]
    result = json.loads((store / f"stages/{hpt_run.data.tags['hpt.key']}/result.json").read_text())
    kept = {f"kept/{name}": value for name, value in result["metrics"].items()}
    assert hpt_run.data.metrics.items() >= kept.items()
    for run in runs.values():
        shares = [x for name, x in run.data.metrics.items() if name.endswith(("top1", "share"))]
        assert shares
        assert all(0 <= share <= 1 for share in shares), run.data.metrics
    for init in ("base", "hpt"):
        top1 = runs[f"adapt/init={init},shots=1,seed=0"].data.metrics["test/top1"]
        assert launch.data.metrics[f"adapt/{init}/shots 1/test/top1"] == pytest.approx(top1)

    params = hpt_run.data.params
    assert {name.split(".")[0] for name in params} >= {"moco", "optimizer", "image", "init"}
    assert not {name.split(".")[0] for name in params} & {"byol", "simclr", "augment_other"}
    assert not params.keys() & {"optimizer.momentum", "optimizer.trust", "bn_group"}
    read = {
        one.dataset.name: (one.dataset.digest, one.tags[0].value)
        for one in hpt_run.inputs.dataset_inputs
    }
    digests = {name: hpt_run.data.tags[f"hpt.dataset.{name}"][:36] for name in ("color", "line")}
    assert read == {
        "openmoji/color/train": (digests["color"], "training"),
        "openmoji/line/train": (digests["line"], "training, monitoring"),
        "openmoji/line/val": (digests["line"], "monitoring"),
    }
    assert hpt_run.data.metrics["active_seconds"] > 0
    assert "pretrain (moco_v2)" in hpt_run.data.tags["mlflow.note.content"]
    note = launch.data.tags["mlflow.note.content"]
    assert "hpt, shots 1: " in note  # the verdict
    assert f"runs/{launch.info.run_id}/artifacts/report.html" in note


def test_a_trial_stays_below_the_launch_that_ran_it(undisturbed, tmp_path):
    store = tmp_path / "store"
    shutil.copytree(undisturbed[0], store, symlinks=True)
    recipe = write_recipe(tmp_path, RECIPE.replace("name: small", "name: other"))
    for command in ("launch", "sync"):
        given = str(recipe) if command == "launch" else "other"
        printed = hpt(command, given, store=str(store), process=False)
        assert "all 6 trials are cached" in printed or "0 points sent" in printed
    runs = runs_in_mlflow(store)
    (small,) = (run for name, run in runs.items() if name.startswith("small-"))
    (other,) = (run for name, run in runs.items() if name.startswith("other-"))
    assert len(runs) == 8
    assert runs["hpt"].data.tags["mlflow.parentRunId"] == small.info.run_id
    place = f"#/experiments/{small.info.experiment_id}/runs/{runs['hpt'].info.run_id}"
    assert f"[hpt]({place}" in other.data.tags["mlflow.note.content"]


def test_the_experiment_is_set_and_is_in_no_key(undisturbed, tmp_path):
    store = tmp_path / "store"
    shutil.copytree(undisturbed[0], store, symlinks=True)
    recipe = write_recipe(tmp_path, RECIPE + "mlflow: {experiment: ada/lines}\n")
    states = document(hpt("plan", str(recipe), "--json", store=str(store)))
    assert {row["state"] for row in states} == {"cached"}
    hpt("launch", str(recipe), store=str(store), process=False)
    records = [json.loads(path.read_text()) for path in store.glob("launches/small-*.json")]
    assert sorted(record["experiment"] for record in records) == ["ada/lines", "small"]
    assert {"small", "ada/lines"} <= {
        one.name for one in MlflowClient(f"sqlite:///{store}/work/mlflow.db").search_experiments()
    }


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
    assert {path.suffix for path in (tmp_path / "report").iterdir()} >= {".md", ".html", ".svg"}
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


class Story:
    """One store and the launches of the tiny recipe in it, each disturbed in another way.

    Args:
        store: where they work.
        recipe: the recipe's file.
        generator: says how long after a saved state each misfortune comes.
    """

    def __init__(self, store, recipe, generator):
        self.store, self.recipe, self.generator = store, recipe, generator

    def trial(self, name):
        """Return the folder of a trial in the store."""
        record = next(self.store.glob("launches/tiny-*.json"), None)
        key = json.loads(record.read_text())["trials"][name] if record else "none"
        return self.store / "stages" / key

    def start(self, trial="hpt", count=1):
        """Start launches; return them some while after the trial saved another state."""
        before = saved_step(self.trial(trial))
        launches = [start(self.recipe, self.store) for _ in range(count)]
        wait_for(lambda: saved_step(self.trial(trial)) > before or launches[0].poll() is not None)
        time.sleep(self.generator.uniform(0, 0.3))
        assert all(launch.poll() is None for launch in launches), launches[0].communicate()[0]
        return launches

    def killed(self):
        [launch] = self.start()
        self.store_is_away()
        before = saved_step(self.trial("hpt"))
        wait_for(lambda: saved_step(self.trial("hpt")) > before)
        kill_group(launch)
        # Large processes are some time dying.
        wait_for(lambda: "resumes" in hpt("plan", str(self.recipe), store=str(self.store)))

    def store_is_away(self):
        away = self.store.with_name("away")
        self.store.rename(away)
        time.sleep(2)
        assert not self.store.exists(), "nothing is made anew in its place"
        away.rename(self.store)

    def worker_killed_alone(self):
        [launch] = self.start()
        lease = json.loads((self.trial("hpt") / "lease.json").read_text())
        os.kill(lease["pid"], signal.SIGKILL)
        printed, _ = launch.communicate(timeout=300)
        assert launch.returncode == 1
        assert "its process was killed" in printed
        assert "not run: the trial it starts from failed" in printed
        # What starts from the base alone is done.
        assert len(outcome(self.store)) == 3
        assert self.statuses()["hpt"] == "FAILED"
        assert self.statuses("tiny-%")[self.last_launch()] == "FAILED"
        assert "resumes" in hpt("status", "tiny", store=str(self.store))

    def interrupted(self):
        [launch] = self.start()
        os.killpg(launch.pid, signal.SIGINT)
        self.saves_and_says_so(launch)

    def cancelled(self):
        [launch] = self.start()
        hpt("cancel", "tiny", store=str(self.store))
        self.saves_and_says_so(launch)

    def saves_and_says_so(self, launch):
        printed, _ = launch.communicate(timeout=300)
        assert launch.returncode == 1
        assert re.search(r"\nstopped hpt +by SIG(TERM|INT) after step", printed), printed
        assert "not started" in printed
        assert "FAILED" not in printed
        assert f"to go on, run the same command: {sys.executable} -m hpt_dist launch " in printed
        assert "resumes" in hpt("plan", str(self.recipe), store=str(self.store))
        assert "the launch was stopped" in hpt("status", "tiny", store=str(self.store))
        assert self.statuses()["hpt"] == "KILLED"
        assert self.statuses("tiny-%")[self.last_launch()] == "KILLED"

    def two_at_once_and_one_killed(self):
        one, other = self.start(ADAPTED, count=2)
        kill_group(one)
        printed, _ = other.communicate(timeout=400)
        assert other.returncode == 0, printed

    def last_launch(self):
        return max(path.stem for path in self.store.glob("launches/*.json"))

    def statuses(self, of=""):
        """Return the status of each trial's run in MLflow, or of each launch's."""
        condition = "like 'tiny-%'" if of else "not like 'tiny-%'"
        with sqlite3.connect(self.store / "work/mlflow.db") as database:
            rows = database.execute(f"select name, status from runs where name {condition}")
            return dict(rows.fetchall())


ADAPTED = "adapt/init=hpt,shots=1,seed=0"


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.deep) for seed in range(1, 6))]
)
def test_whatever_befalls_launches_the_last_one_ends_with_the_same_bytes(tiny, store, seed):
    """Seed 0 has the misfortunes in the order of the list, the others in one of their own."""
    generator = random.Random(seed)
    story = Story(store, tiny[1], generator)
    misfortunes = [story.killed, story.worker_killed_alone, story.interrupted, story.cancelled]
    if seed:
        generator.shuffle(misfortunes)
    for misfortune in misfortunes:
        misfortune()
    story.two_at_once_and_one_killed()
    assert outcome(store) == outcome(tiny[0])
    logs = [path.read_text() for path in store.glob("work/trials/*/logs/*_log.out")]
    assert sum(log.count("step 300/300") for log in logs) == 1
    statuses = story.statuses()
    assert len(statuses) == 6
    assert set(statuses.values()) == {"FINISHED"}, json.dumps(statuses, indent=1)
    with sqlite3.connect(store / "work/mlflow.db") as database:
        repeated = database.execute(
            "select run_uuid, key, step from metrics group by run_uuid, key, step "
            "having count(*) > 1"
        ).fetchall()
        # As if the process had been killed between its result and its last word.
        database.execute("update runs set status = 'RUNNING' where name = 'hpt'")
    assert repeated == []
    (path,) = (p for p in store.glob("work/trials/*/run.json") if '"name": "hpt"' in p.read_text())
    path.write_text(json.dumps({**json.loads(path.read_text()), "status": "RUNNING"}))
    another_launch_runs_nothing(tiny, store)
    assert story.statuses()["hpt"] == "FINISHED"


def another_launch_runs_nothing(tiny, store):
    def files():
        found = [*store.glob("stages/*/*"), *store.glob("work/trials/*/logs/*")]
        return {path: path.stat().st_mtime_ns for path in found}

    before = files()
    printed = hpt("launch", str(tiny[1]), store=str(store))
    assert "all 6 trials are cached" in printed
    assert "adapt: test/top1 by init and shots" in printed
    assert files() == before


def test_two_launches_at_once_run_nothing_twice(store, tmp_path):
    recipe = write_recipe(tmp_path, TINY.replace("steps: 300", "steps: 40"))
    # Each has room for two trials at once.
    both = [start(recipe, store, HPT_CORES="2") for _ in range(2)]
    for launch in both:
        printed, _ = launch.communicate(timeout=400)
        assert launch.returncode == 0, printed
    assert len(outcome(store)) == 6
    logs = [path.read_text() for path in store.glob("work/trials/*/logs/*_log.out")]
    assert sum(log.count("step 40/40") for log in logs) == 3  # of hpt, and of two adaptations


def test_mlflow_out_of_reach_costs_nothing(store, tmp_path):
    recipe = write_recipe(tmp_path, TINY.replace("steps: 300", "steps: 40"))
    nowhere = "http://127.0.0.1:9"
    only = ["--only", "hpt", "--tracking-uri", nowhere]
    printed = hpt("launch", str(recipe), *only, store=str(store))
    assert "done    hpt" in printed
    assert f"3 of 3 runs are not in MLflow at {nowhere} yet; to send them: " in printed
    assert " sync tiny-" in printed
    assert "the runs are in MLflow" not in printed
    hpt("sync", "tiny", "--tracking-uri", f"sqlite:///{store}/later.db", store=str(store))
    with sqlite3.connect(store / "later.db") as database:
        rows = database.execute(
            "select name, status, count(*) from runs join metrics using (run_uuid) "
            "where key = 'train/loss' group by run_uuid"
        ).fetchall()
    assert rows == [("hpt", "FINISHED", 4)]


def test_a_recipe_with_three_mistakes_names_all_three(store, tmp_path):
    text = RECIPE.replace("steps: 24", "stepz: 24").replace("init: base\n", "init: bass\n")
    text = text.replace("kind: mme", "kind: mne")
    recipe = write_recipe(tmp_path, text)
    printed = hpt("launch", str(recipe), store=str(store), code=2)
    for name in ("stepz", "bass", "mne"):
        (line,) = (n for n, row in enumerate(text.splitlines(), 1) if name in row)
        assert f"{recipe}:{line} " in printed, printed
        assert name in printed
    assert printed.count("did you mean") == 3
    assert not list(store.glob("launches/*"))


def test_cancelled_before_its_first_trial_began_it_starts_nothing_more(store, tmp_path):
    launch = start(write_recipe(tmp_path, TINY), store)
    wait_for(lambda: list(store.glob("launches/*.json")))
    hpt("cancel", "tiny", store=str(store))
    printed, _ = launch.communicate(timeout=300)
    assert launch.returncode == 1
    assert "not started" in printed
    assert "hpt" not in {row.split()[-2] for row in printed.splitlines() if row.startswith("done ")}


def test_inline_one_process_does_it_all(store, tmp_path):
    recipe = str(write_recipe(tmp_path, TINY))
    printed = hpt("launch", recipe, "--on", "inline", "--only", "base", store=str(store))
    assert "done    base" in printed
    assert "did you mean base?" in hpt("launch", recipe, "--only", "bse", store=str(store), code=2)


def test_a_damaged_launch_record_is_left_out(tiny, tmp_path):
    shutil.copytree(tiny[0] / "launches", tmp_path / "launches")
    (tmp_path / "launches/tiny-bad.json").write_text("{")
    printed = hpt("status", "tiny", store=str(tmp_path))
    assert "tiny-bad.json is left out: the record is damaged" in printed
    assert "adapt" in printed


def test_a_dataset_that_is_not_there_is_named_before_anything_starts(tmp_path):
    printed = hpt("plan", str(write_recipe(tmp_path)), store=str(tmp_path / "none"), code=2)
    assert "datasets.color" in printed
    assert "hpt-dist shard" in printed


@pytest.mark.services
def test_every_kind_of_stage_on_s3(undisturbed, drawings, mlflow_tables, s3_store, tmp_path):
    uri, settings = s3_store
    with mock.patch.dict(os.environ, settings):
        bucket = open_store(uri)
        for path in filter(Path.is_file, drawings.glob("datasets/**/*")):
            bucket.put(str(path.relative_to(drawings)), path.read_bytes())
    (work := tmp_path / "work").mkdir()
    shutil.copy(mlflow_tables, work / "mlflow.db")
    settings = {**settings, "HPT_WORK": str(work)}
    once = [f"stages.{stage}.sweep.init=[hpt]" for stage in ("probe", "adapt")]
    options = [word for one in once for word in ("--set", one)]
    hpt("launch", str(write_recipe(tmp_path)), *options, store=uri, **settings)
    expected = outcome(undisturbed[0])
    for stage in ("hpt", "probe", "adapt"):
        out = tmp_path / stage
        hpt("pull", f"small/{stage}", str(out), store=uri, **settings)
        left = expected[json.loads((out / "result.json").read_text())["key"]]
        pulled = {name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in left}
        assert pulled == left


def start(recipe, store, **more):
    return subprocess.Popen(
        [sys.executable, "-m", "hpt_dist", "launch", str(recipe)],
        env=environment(str(store), **more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def kill_group(launch):
    """Kill a launch and every process it started, at once."""
    os.killpg(launch.pid, signal.SIGKILL)
    launch.communicate()
