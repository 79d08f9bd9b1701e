"""Several labels an image, launched: intervals over images, the gate, the weights that are kept."""

import hashlib
import json
import shutil

import pytest
import torch
from small import document, fill, hpt, outcome

from hpt_dist.evals.bootstrap import interval
from hpt_dist.recipe import Pretrain, plan, result_fields
from hpt_dist.store import open_store
from hpt_dist.trial import replicates

RECIPE = """\
name: gated
store: ${HPT_STORE}
datasets: {shapes: shapes}
backbone: timm/test_efficientnet
image: {size: 32}
stages:
  base: {kind: import, weights: random}
  hpt:
    kind: pretrain
    init: base
    data: [shapes/train]
    steps: 6
    batch: 10
    moco: {queue: 20}
    optimizer: {lr: 0.3}
    batch_norm: train
    monitor: {data: shapes, every: 3}
    sweep: {keep: [best, last]}
  near: {kind: knn, data: shapes, k: [3, 10], sweep: {init: [base, hpt]}}
  rates: {kind: linear, data: shapes, views: 0, steps: 40, batch: 20,
          sweep: {init: [base, hpt], seed: [0, 1]}}
report: {table: rates, rows: init}
"""
LAST = "hpt (hpt.keep=last)"


@pytest.fixture(scope="module")
def launched(shapes, mlflow_tables, tmp_path_factory):
    """Return a store in which everything is done, and its recipe."""
    folder = tmp_path_factory.mktemp("gated")
    store = fill(folder / "store", shapes, mlflow_tables)
    recipe = folder / "gated.yaml"
    recipe.write_text(RECIPE)
    threads = torch.get_num_threads()
    hpt("launch", str(recipe), "--on", "inline", store=str(store), process=False)
    torch.set_num_threads(threads)
    return store, recipe


def results(store):
    found = (json.loads(path.read_text()) for path in store.glob("stages/*/result.json"))
    return {one["trial"]: one for one in found}


def report(store, recipe):
    found = document(hpt("report", str(recipe), "--json", store=str(store)))
    return found, " ".join(hpt("report", str(recipe), store=str(store)).split())


def test_the_metric_of_the_monitor_keeps_the_best_and_judges_the_stage(launched):
    found = results(launched[0])["hpt/keep=best"]
    looks = {int(step): look["ridge/auroc"] for step, look in found["details"]["monitor"].items()}
    assert set(looks) == {0, 3, 6}
    assert found["details"]["kept_step"] == max(looks, key=lambda step: (looks[step], -step))
    assert found["metrics"]["ridge/auroc"] == max(looks.values())
    gate = found["details"]["gate"]
    judged = gate["judged_step"]
    assert gate["mean"] == pytest.approx(100 * (looks[judged] - looks[0]))
    assert 0 < gate["half_width"] < 100
    assert gate["num_images"] == 30
    assert "AUROC, mean over classes, ridge probe, paired bootstrap over 30" in gate["says"]


def test_each_metric_of_val_and_test_has_its_interval_and_replicates(launched):
    store, _ = launched
    trials = [one for one in results(store).values() if one["kind"] in ("knn", "linear")]
    assert len(trials) == 9
    for found in trials:
        kept = replicates.read(open_store(str(store)), found["key"])
        ends = found["details"]["intervals"]
        assert set(kept) == set(ends) == set(found["metrics"])
        for name, value in found["metrics"].items():
            images = found["details"]["n_" + name.split("/")[0]]
            assert len(kept[name]) == 1000
            assert list(interval(value, kept[name], images)) == ends[name]
            assert ends[name][0] < value < ends[name][1]
        lines = (store / "stages" / found["key"] / "metrics.jsonl").read_text()
        assert '"test/auroc/low"' in lines
        assert '"val/auroc/high"' in lines


def test_the_report_gives_images_and_seeds_apart_and_a_verdict_by_both(launched):
    document, text = report(*launched)
    table = document["table"]
    assert table["metric"] == "test/auroc"
    assert "| 95 % over images |" in text
    assert "test/auroc (AUROC, mean over classes)" in text
    cells = {cell["row"]: cell for cell in table["cells"]}
    for init in ("base", "hpt"):
        values = [
            found["metrics"]["test/auroc"]
            for found in results(launched[0]).values()
            if found["stage"] == "rates"
            and (found["axes"]["init"], found["axes"].get("hpt.keep", "last")) == (init, "last")
        ]
        cell = cells[init if init == "base" else LAST]
        low, high = cell["over_images"]
        assert low < 100 * sum(values) / 2 < high
        assert f"[{low:.1f}, {high:.1f}] | {cell['std']:.1f} (n=2) |" in text
    comparison = {one["row"]: one["comparison"] for one in document["differences"]}[LAST]
    assert comparison["n"] == 2
    assert comparison["images_half_width"] > 0
    assert "over n=2 seeds; ± " in comparison["says"]
    assert "over 36 test images, paired bootstrap" in comparison["says"]


def test_the_gate_is_by_the_metric_that_chose(launched):
    document, text = report(*launched)
    gates = {gate["stage"]: gate for gate in document["gates"]}
    assert set(gates) == {"near", "rates"}
    _, difference = gates["near"]["differences"]
    assert difference["row"] == LAST
    assert gates["near"]["metric"] == "val/auroc"
    assert difference["comparison"]["verdict"] in ("helped", "harmed", "no evidence")
    assert "a paired bootstrap's over 30 validation images" in difference["comparison"]["says"]
    assert "by knn on validation, by val/auroc (AUROC, mean over classes), against base" in text


def test_an_adapted_classifier_has_intervals_too(tiny):
    store, recipe = tiny
    adapted = [one for one in results(store).values() if one["kind"] == "mme"]
    assert adapted
    for found in adapted:
        kept = replicates.read(open_store(str(store)), found["key"])
        assert set(kept) == set(found["metrics"]) == {"val/top1", "test/top1"}
        for name, ends in found["details"]["intervals"].items():
            images = found["details"]["n_" + name.split("/")[0]]
            assert ends == list(interval(found["metrics"][name], kept[name], images))
    document, text = report(store, recipe)
    low, high = document["table"]["cells"][0]["over_images"]
    assert f" [{low:.1f}, {high:.1f}] (n=1) |" in text
    assert "has no interval over images" not in text


def test_the_same_bytes_again(launched, tmp_path):
    store, recipe = launched
    first = outcome(store)
    assert sum("replicates.json" in objects for objects in first.values()) == 9
    other = tmp_path / "other"
    shutil.copytree(store, other, symlinks=True)
    for done in other.glob("stages/*/DONE"):
        if json.loads((done.parent / "result.json").read_text())["kind"] in ("knn", "linear"):
            done.unlink()
    shutil.rmtree(other / "inputs")
    shutil.rmtree(other / "features")
    threads = torch.get_num_threads()
    hpt("launch", str(recipe), "--on", "inline", store=str(other), process=False)
    torch.set_num_threads(threads)
    assert outcome(other) == first


@pytest.mark.parametrize("fault", ["absent", "damaged", "no shares"])
def test_without_replicates_the_report_has_no_intervals_and_says_so(launched, tmp_path, fault):
    store, recipe = tmp_path / "store", launched[1]
    shutil.copytree(launched[0], store, symlinks=True)
    for path in store.glob("stages/*/replicates.json"):
        done = path.parent / "DONE"
        written = json.loads(done.read_text())
        if fault == "absent":
            del written["objects"]["replicates.json"]
            done.write_text(json.dumps(written))
        elif fault == "damaged":
            path.write_bytes(path.read_bytes()[:-9])
        else:
            path.write_bytes(b'{"metrics": {"val/auroc": [2.5], "test/auroc": ["x"]}}')
            written["objects"]["replicates.json"] = {
                "bytes": path.stat().st_size,
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            }
            done.write_text(json.dumps(written))
    document, text = report(store, recipe)
    assert all(cell["over_images"] is None for cell in document["table"]["cells"])
    assert document["differences"][1]["comparison"]["n"] == 2  # over seeds, as ever
    assert document["gates"][0]["differences"][1]["comparison"]["verdict"] == "none"
    whole = "test/auroc of rates has no interval over images in all 6 finished trials"
    why = {
        "absent": "those left no replicates",
        "damaged": "is not what was committed",
        "no shares": "the record is damaged",
    }
    assert whole in text
    assert why[fault] in text


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("metric: top1", "stages.hpt.monitor.metric: top1 cannot be computed on shapes"),
        ("metric: mAP", "stages.hpt.monitor.metric"),
    ],
)
def test_a_metric_that_does_not_fit_is_refused_by_plan(launched, tmp_path, written, says):
    path = tmp_path / "gated.yaml"
    path.write_text(RECIPE.replace("every: 3}", f"every: 3, {written}}}"))
    assert says in hpt("plan", str(path), store=str(launched[0]), code=2)


def test_classes_that_the_monitor_leaves_out_are_foreseen(launched):
    output = " ".join(hpt("plan", str(launched[1]), store=str(launched[0])).split())
    assert "monitor.metric" in output
    assert "1 of 5 classes have all or none of the images of shapes/val" in output


def key(**settings):
    return plan.key_of(
        result_fields(Pretrain(kind="pretrain", init="base", data=["a/b"], **settings))
    )


def test_keys_of_before_stay():
    old = key(monitor={"data": "a", "probe": "knn"})
    assert old.startswith("cfe806cc1e95")
    # What nobody wrote means another probe now, and is another trial.
    assert old != key(monitor={"data": "a"}) == key(monitor={"data": "a", "probe": "ridge"})
    # Where no label judges, there is no probe.
    assert key() == key(monitor={"probe": "knn"}) == key(monitor={"probe": "ridge"})
    assert key().startswith("319ed08c8230")
