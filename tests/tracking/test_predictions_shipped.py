"""Predictions reach a real MLflow server: with the run, or later where MLflow was away."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from services import free_ports
from small import fill, hpt, write_recipe

NAMES = {"predictions.val.parquet", "predictions.test.parquet"}
RECIPE = """\
name: {name}
store: ${{HPT_STORE}}
datasets: {{shapes: shapes}}
backbone: timm/test_efficientnet
image: {{size: 32}}
stages:
  base: {{kind: import, weights: random}}
  near: {{kind: knn, init: base, data: shapes, k: [3]}}
"""


def launched(folder: Path, store: Path, name: str, uri: str) -> Path:
    """Launch a recipe with an MLflow; return the folder of its evaluation in the store."""
    threads = torch.get_num_threads()
    recipe = write_recipe(folder, RECIPE.format(name=name))
    words = ("launch", str(recipe), "--on", "inline", "--tracking-uri", uri)
    hpt(*words, store=str(store), process=False)
    torch.set_num_threads(threads)
    [found] = [
        path.parent
        for path in store.glob("stages/*/result.json")
        if json.loads(path.read_text())["trial"] == "near"
    ]
    return found


def shipped(uri: str, name: str, folder: Path) -> dict[str, bytes]:
    """Return the predictions that MLflow has of the evaluation."""
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(name)
    assert experiment
    [run] = client.search_runs([experiment.experiment_id], "attributes.run_name = 'near'")
    there = {one.path for one in client.list_artifacts(run.info.run_id)}
    return {
        one: Path(client.download_artifacts(run.info.run_id, one, str(folder))).read_bytes()
        for one in NAMES & there
    }


@pytest.mark.services
def test_they_are_artifacts_of_the_trials_run(shapes, mlflow_tables, mlflow_server, tmp_path):
    store = fill(tmp_path / "store", shapes, mlflow_tables)
    kept = launched(tmp_path, store, "shipped", mlflow_server)
    found = shipped(mlflow_server, "shipped", tmp_path)
    assert found == {name: (kept / name).read_bytes() for name in NAMES}


@pytest.mark.services
def test_where_mlflow_was_away_sync_brings_them(shapes, mlflow_tables, mlflow_server, tmp_path):
    store = fill(tmp_path / "store", shapes, mlflow_tables)
    [port] = free_ports(1)
    kept = launched(tmp_path, store, "shipped_later", f"http://127.0.0.1:{port}")
    words = ("sync", "shipped_later", "--tracking-uri", mlflow_server)
    hpt(*words, store=str(store), process=False)
    found = shipped(mlflow_server, "shipped_later", tmp_path)
    assert found == {name: (kept / name).read_bytes() for name in NAMES}
