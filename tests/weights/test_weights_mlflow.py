"""Weights that are artifacts: of a run, of a registered model, behind a server."""

from __future__ import annotations

import hashlib
import io
import shutil
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
import timm
import torch

from hpt_dist.errors import HptError, RequestError
from hpt_dist.store import open_store
from hpt_dist.tracking import mlflow_run
from hpt_dist.weights import match as weights
from hpt_dist.weights import source as weights_source


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "store"))


def encoders(query_seed=1, key_seed=2):
    """Return a file of MoCo's with two encoders, and their state dicts."""
    states = []
    for seed in (query_seed, key_seed):
        torch.manual_seed(seed)
        state = timm.create_model("test_resnet").state_dict()
        states.append({k: v for k, v in state.items() if not k.startswith("fc.")})
    names = zip(("encoder_q", "encoder_k"), states, strict=True)
    file = {f"module.{place}.{k}": v for place, state in names for k, v in state.items()}
    buffer = io.BytesIO()
    torch.save({"state_dict": file}, buffer)
    return buffer.getvalue(), *states


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def log(tracking_uri, folder, files):
    """Log files as artifacts of a new run, below `weights`; return the client and the run."""
    client = mlflow_run._client(tracking_uri)
    location = None if tracking_uri.startswith("http") else (folder / "artifacts").as_uri()
    experiment = client.create_experiment(uuid.uuid4().hex, location)
    run = client.create_run(experiment)
    for name, data in files.items():
        (folder / name).write_bytes(data)
        client.log_artifact(run.info.run_id, str(folder / name), "weights")
    return client, run


def assert_the_same_everywhere(client, run, data, query, key, store):
    """Every address of one file has its digest, and gives its encoders."""
    name = uuid.uuid4().hex
    client.create_registered_model(name)
    source = f"{run.info.artifact_uri}/weights"
    client.create_model_version(name, source, run.info.run_id)
    client.set_registered_model_alias(name, "champion", "1")
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    uris = [
        f"runs:/{run.info.run_id}/weights/a.pth",
        f"runs:/{run.info.run_id}/weights",  # a folder with one file of weights in it
        f"models:/{name}/1",
        f"models:/{name}@champion",
        f"models:/{name}/1/a.pth",
        f"models:/{name}@champion/a.pth",
    ]
    if run.info.artifact_uri.startswith("mlflow-artifacts:/"):
        uris.append(f"{run.info.artifact_uri}/weights/a.pth")
    for uri in uris:
        assert weights_source.fingerprint(uri, store) == digest, uri
    assert weights_source.fingerprint(f"{uris[0]}#key", store) == f"{digest}#key"
    for uri, encoder in ((uris[3], query), (f"{uris[0]}#key", key)):
        state, report = weights.load(uri, "timm/test_resnet", store, fingerprint=digest)
        assert same(state, encoder)
        assert report.recognised.startswith("MoCo")


def test_artifacts_of_a_database(mlflow_tables, store, tmp_path, monkeypatch):
    uri = f"sqlite:///{shutil.copy(mlflow_tables, tmp_path)}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    data, query, key = encoders()
    client, run = log(uri, tmp_path, {"a.pth": data, "notes.txt": b"not weights"})
    assert_the_same_everywhere(client, run, data, query, key, store)

    # A moved alias is another fingerprint, and what was planned is not taken for it.
    planned = weights_source.fingerprint(f"runs:/{run.info.run_id}/weights/a.pth", store)
    other, *_ = encoders(3, 4)
    _, other_run = log(uri, tmp_path, {"b.pth": other})
    (model,) = client.search_registered_models()
    client.create_model_version(
        model.name, f"{other_run.info.artifact_uri}/weights", other_run.info.run_id
    )
    client.set_registered_model_alias(model.name, "champion", "2")
    moved = f"models:/{model.name}@champion"
    assert weights_source.fingerprint(moved, store) != planned
    with pytest.raises(HptError, match="changed since the trial was planned"):
        weights.load(moved, "timm/test_resnet", store, fingerprint=planned)


@pytest.mark.services
def test_artifacts_of_a_server(mlflow_server, store, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
    data, query, key = encoders()
    client, run = log(mlflow_server, tmp_path, {"a.pth": data})
    assert run.info.artifact_uri.startswith("mlflow-artifacts:/")
    assert_the_same_everywhere(client, run, data, query, key, store)


def test_the_local_database_is_asked_where_none_is_named(
    mlflow_tables, store, tmp_path, monkeypatch
):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("HPT_WORK", raising=False)
    source = "runs:/0123456789abcdef0123456789abcdef/a.pth"
    with pytest.raises(RequestError, match="export MLFLOW_TRACKING_URI"):
        weights_source.fingerprint(source, store)
    assert not Path(tmp_path, "store/work").exists(), "asking made a database"
    data = b"any"
    Path(tmp_path, "store/work").mkdir(parents=True)
    uri = f"sqlite:///{shutil.copy(mlflow_tables, tmp_path / 'store/work')}"
    _, run = log(uri, tmp_path, {"a.pth": data})
    found = weights_source.fingerprint(f"runs:/{run.info.run_id}/weights/a.pth", store)
    assert found == f"sha256:{hashlib.sha256(data).hexdigest()}"


def test_what_is_not_there_or_not_one_file_is_refused(mlflow_tables, store, tmp_path, monkeypatch):
    uri = f"sqlite:///{shutil.copy(mlflow_tables, tmp_path)}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    _, two = log(uri, tmp_path, {"a.pth": b"1", "b.safetensors": b"2"})
    _, none = log(uri, tmp_path, {"notes.txt": b"text"})
    with pytest.raises(RequestError, match=r"it holds .*a\.pth, .*b\.safetensors"):
        weights_source.fingerprint(f"runs:/{two.info.run_id}/weights", store)
    with pytest.raises(RequestError, match="it holds none"):
        weights_source.fingerprint(f"runs:/{none.info.run_id}/weights", store)
    with pytest.raises(RequestError, match=r"it holds .*notes\.txt"):
        weights_source.fingerprint(f"runs:/{none.info.run_id}/weights/notes.txt", store)
    for source in (
        f"runs:/{two.info.run_id}/weights/c.pth",
        f"runs:/{'0' * 32}/a.pth",
        "models:/nobody/1",
        "models:/nobody@champion",
    ):
        with pytest.raises(HptError, match="MLflow did not give the artifact") as refused:
            weights_source.fingerprint(source, store)
        assert "MLFLOW_TRACKING_URI" in str(refused.value)


def test_plans_without_such_a_source_load_no_mlflow(tmp_path):
    (tmp_path / "a.pth").write_bytes(b"content")
    code = (
        "import sys\n"
        "from hpt_dist.weights import source as weights_source\n"
        "from hpt_dist.store import open_store\n"
        f"weights_source.fingerprint('a.pth', open_store({str(tmp_path)!r}))\n"
        "assert not {'torch', 'mlflow'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
