"""The shipped recipes for one's own images, from launch to verdict, and reports asked for anew."""

import json
import re
import shutil

import pytest
import torch
from shared import made_once
from small import fill, hpt

from hpt_dist.recipe import shipped

# The recipes as they are shipped, but for a tiny network and few steps.
SMALL = {
    "datasets.photos": "openmoji/line",
    "backbone": "timm/test_efficientnet",
    "stages.base.weights": "random",
    "image.size": "32",
    "stages.hpt.steps": "8",
    "stages.hpt.batch": "16",
    "stages.hpt.moco.queue": "64",
    "stages.hpt.head_warmup_steps": "2",
    "stages.hpt.monitor.every": "4",
}
FEATURES = {
    "stages.features.steps": "20",
    "stages.features.batch": "64",
    "stages.features.views": "1",
}
VERDICT = re.compile(
    r"- hpt: (helped by|harmed by|no evidence of a difference:|no difference: it kept the weights)"
)


def options(settings):
    return [word for setting in settings.items() for word in ("--set", "=".join(setting))]


def launch(recipe, settings, store):
    threads = torch.get_num_threads()
    try:
        arguments = ("launch", str(recipe), *options(settings), "--on", "inline")
        return hpt(*arguments, store=str(store), process=False)
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def launched(drawings, mlflow_tables, tmp_path_factory):
    """A store in which recipes/one_domain.yaml went through, a copy of it, and what it printed."""

    def make(folder):
        store = fill(folder / "store", drawings, mlflow_tables)
        shutil.copy(shipped.recipe("one_domain"), folder / "one_domain.yaml")
        printed = launch(folder / "one_domain.yaml", SMALL | FEATURES, store)
        (folder / "printed").write_text(printed)

    folder = made_once(tmp_path_factory, "own_images", make)
    return folder / "store", folder / "one_domain.yaml", (folder / "printed").read_text()


@pytest.fixture
def recipe(launched, tmp_path):
    """The recipe beside its own store, both to be changed."""
    store, file, _ = launched
    shutil.copytree(store, tmp_path / "store", symlinks=True)
    shutil.copy(file, tmp_path)
    for record in (tmp_path / "store/launches").glob("*.json"):
        record.write_text(record.read_text().replace(str(file.parent), str(tmp_path)))
    return tmp_path / "one_domain.yaml", tmp_path / "store"


def heading(printed):
    """Return the heading of a report's table."""
    return next(line for line in printed.splitlines() if line.startswith("## "))


def test_one_domain_gives_its_verdict(launched):
    _, _, printed = launched
    assert "8 of 8 trials done" in printed
    assert heading(printed) == "## features: test/top1 by init"
    against = printed.partition("### Against base")[2]
    assert VERDICT.match(against.strip()), against
    assert "nothing to compare" not in printed
    assert "report.columns" not in printed


def test_a_changed_report_is_followed_and_nothing_runs(recipe):
    file, store = recipe
    before = {path: path.stat().st_mtime_ns for path in store.glob("stages/*/DONE")}
    old = "rows: init}"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, "rows: init, columns: seed, metric: val/top1}"))
    by_name = hpt("report", "one_domain", store=str(store))
    assert "columns: null -> seed; metric: null -> val/top1" in by_name
    assert heading(by_name) == "## features: val/top1 by init and seed"
    assert heading(hpt("report", str(file), store=str(store))) == heading(by_name)
    [record] = store.glob("launches/*.json")
    assert heading(hpt("report", record.stem, store=str(store))).endswith("test/top1 by init")
    again = launch(file, SMALL | FEATURES, store)
    assert "all 8 trials are cached; nothing to run" in again
    assert heading(again) == heading(by_name)
    assert before == {path: path.stat().st_mtime_ns for path in store.glob("stages/*/DONE")}
    after = hpt("report", "one_domain", store=str(store))  # the new launch has recorded it
    assert (heading(after), "report as in" in after) == (heading(by_name), False)


def test_a_report_keeps_what_options_gave_it(recipe):
    file, store = recipe
    launch(file, SMALL | FEATURES | {"report.metric": "val/top1"}, store)
    printed = hpt("report", "one_domain", store=str(store))
    assert "report as in" not in printed
    assert heading(printed) == "## features: val/top1 by init"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("rows: init}", "rows: views}", "cannot be read now"),
        ("table: features, rows: init}", "table: other, rows: init}", "cannot be read now"),
        ("stages:", "stages:\n  [", "cannot be read now"),
        ("seed: [0, 1, 2]", "seed: [0, 1, 2], batch: [64]", ""),
        ("name: one_domain", "name: another", ""),
    ],
)
def test_a_file_that_asks_for_what_is_not_there_changes_no_report(recipe, old, new, says):
    file, store = recipe
    text = file.read_text()
    assert text.count(old) == 1
    file.write_text(text.replace(old, new))
    printed = hpt("report", "one_domain", store=str(store))
    assert heading(printed) == "## features: test/top1 by init"
    assert says in printed
    file.unlink()
    assert heading(hpt("report", "one_domain", store=str(store))) == heading(printed)


def test_a_table_of_what_the_launch_did_not_sweep_needs_another_launch(recipe):
    file, store = recipe
    text = file.read_text().replace("    views: 4\n", "")
    text = text.replace("seed: [0, 1, 2]}", "seed: [0, 1, 2], views: [1, 4]}")
    file.write_text(text.replace("rows: init}", "rows: init, columns: views}"))
    printed = hpt("report", "one_domain", store=str(store))
    assert "asks for views" in printed
    assert heading(printed) == "## features: test/top1 by init"


def test_images_without_labels_get_a_report_that_says_what_it_cannot(launched):
    store, _, _ = launched
    printed = launch(shipped.recipe("unlabeled"), SMALL, store)
    words = " ".join(printed.split())
    assert "## Pretraining without labels: what changed" in words
    assert "There is no verdict on quality" in words
    assert "about 160 for 10 points and about 630 for 5 points" in words
    assert "hpt-dist pull unlabeled/hpt FOLDER" in words
    assert "by a probe on validation" not in words
    [launched_now] = store.glob("launches/unlabeled-*.json")
    key = json.loads(launched_now.read_text())["trials"]["hpt"]
    details = json.loads((store / f"stages/{key}/result.json").read_text())["details"]
    assert set(details["change"]) == {"images", "cosine", "k", "neighbours"}
    assert details["kept_step"] == 8
    assert 0 < details["change"]["neighbours"] < 1 > details["change"]["cosine"]
