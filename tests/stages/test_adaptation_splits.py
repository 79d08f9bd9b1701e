"""Splits of MME's lists, from the shards to the numbers: apart, transductive, as published."""

import json

import pytest
import torch
from mlflow import MlflowClient
from mme_lists import write_lists
from small import hpt, write_recipe

RECIPE = """\
name: lists
store: ${HPT_STORE}
datasets:
  real: domainnet-126/real
  apart: domainnet-126/sketch-1
  published: domainnet-126/sketch-1-published
backbone: timm/test_efficientnet
image: {size: 32}
stages:
  base: {kind: import, weights: random}
"""
ADAPTS = """\
    kind: mme
    source: real/train
    labels: all
    steps: 2
    batch_labelled: 2
    batch_unlabelled: 2
    eval_every: 2
"""
RECIPE += f"""\
  apart:
{ADAPTS}\
    init: base
    target: apart
    transductive: true
    eval_images: 5
  published:
{ADAPTS}\
    target: published
    protocol: published
    sweep: {{init: [base]}}
report: {{table: published, rows: init, metric: published/top1}}
"""


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """A store with the lists' datasets and both trainings; their results; what was printed."""
    folder = tmp_path_factory.mktemp("lists")
    root, store = write_lists(folder / "domainnet"), folder / "store"
    for name in ("real", "sketch-1", "sketch-1-published"):
        full = f"domainnet-126/{name}"
        hpt(
            *("shard", full, f"{store}/datasets/{full}", "--root", str(root), "--workers", "1"),
            store=str(store),
            process=False,
        )
    threads = torch.get_num_threads()
    recipe = write_recipe(folder, RECIPE)
    printed = hpt("launch", str(recipe), "--on", "inline", store=str(store), process=False)
    torch.set_num_threads(threads)
    found = (json.loads(path.read_text()) for path in store.glob("stages/*/result.json"))
    return store, {one["trial"]: one for one in found}, printed


def test_images_of_test_are_learned_from_without_their_labels(launched):
    _, found, _ = launched
    details = found["apart"]["details"]
    assert details["protocol"] == "transductive"
    sizes = {name: details[name] for name in ("n_labelled", "n_unlabelled", "n_val", "n_test")}
    assert sizes == {"n_labelled": 3, "n_unlabelled": 6, "n_val": 9, "n_test": 6}
    assert details["n_looked_at"] == 5
    assert set(found["apart"]["metrics"]) == {"val/top1", "test/top1"}


def test_every_number_that_is_published_is_named_so(launched):
    store, found, printed = launched
    result = found["published/init=base"]
    assert set(result["metrics"]) == {"val/top1", "published/top1"}
    assert result["details"]["protocol"] == "published"
    assert (result["details"]["n_val"], result["details"]["n_published"]) == (10, 12)
    assert result["details"]["n_unlabelled"] == 12
    words = " ".join(printed.split())
    assert "published: protocol published. Images of val are also among those" in words
    assert "apart: transductive. It learned from the images of test" in words
    client = MlflowClient(f"sqlite:///{store}/work/mlflow.db")
    experiment = client.get_experiment_by_name("lists")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    run = runs["published/init=base"]
    assert run.data.params["protocol"] == "published"
    assert "published/top1" in run.data.metrics
    assert "test/top1" not in run.data.metrics
    spec = json.loads((store / f"stages/{result['key']}/spec.json").read_text())
    assert '"protocol": "published"' in json.dumps(spec)


def test_mistakes_of_a_published_split_are_shown(launched, tmp_path):
    store, _, _ = launched
    page = tmp_path / "mistakes.html"
    where = ("lists/published/init=base", "--split", "published", "--to", str(page))
    hpt("errors", *where, store=str(store), process=False)
    assert "data:image" in page.read_text()
