"""Secrets planted in the environment and in addresses: no byte of them is printed or stored."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from answering import answering
from PIL import Image
from small import REFUSED, environment, hpt, write_recipe

from hpt_dist.doctor import machine
from hpt_dist.launch import on_slurm
from hpt_dist.slurm.profile import Profile
from hpt_dist.store import open_store

RECIPE = """\
name: one
store: ${HPT_STORE}
backbone: timm/test_efficientnet
image: {size: 32}
stages:
  base: {kind: import, weights: random}
"""
SECRETS = {
    "AWS_ACCESS_KEY_ID": "planted-id",
    "AWS_SECRET_ACCESS_KEY": "planted/key+1=",
    "AWS_SESSION_TOKEN": "planted-session",
    "HF_TOKEN": "planted-hf",
    "HPT_PASSWORD": "planted-hpt",
    "HTTP_PROXY": "http://ada:planted@127.0.0.1:9",
    "HTTPS_PROXY": "http://planted@127.0.0.1:9",
    "NO_PROXY": "127.0.0.1",
    "AWS_MAX_ATTEMPTS": "1",
}
ADDRESSES = [
    "s3://KEY:planted/se+cret@bucket/p",
    "http://ada:planted@127.0.0.1:9/data",
    "s3://bucket/p?X-Amz-Signature=planted",
]


def stage(text: str) -> str:
    return f"stages.base.weights={text}"


def test_a_launch_and_all_that_looks_at_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "torch", lambda: iter(()))  # importing it takes seconds
    store, outputs = tmp_path / "store", []
    recipe = str(write_recipe(tmp_path, RECIPE))
    (tmp_path / "images/train").mkdir(parents=True)
    for shade in range(3):
        Image.new("RGB", (32, 32), (shade, shade, shade)).save(
            tmp_path / f"images/train/{shade}.png"
        )
    with answering(401, b'{"message": "no"}') as server:
        uri = server.address.replace("://", "://ada:planted-pa%40ss@")
        settings = SECRETS | {"MLFLOW_TRACKING_URI": uri, "HOME": str(tmp_path / "home")}

        def run(*arguments: str, code: int = 0) -> None:
            apart = arguments[0] in ("shard", "launch") and "--dry-run" not in arguments
            outputs.append(hpt(*arguments, store=str(store), code=code, process=apart, **settings))

        run("shard", str(tmp_path / "images"), str(store / "datasets/images"))
        run("plan", recipe)
        run("launch", recipe)
        assert f"2 of 2 runs are not in MLflow at {server.address} yet" in outputs[-1]
        assert "the runs are in MLflow" not in outputs[-1]
        assert "Basic YWRhOnBsYW50ZWQtcGFAc3M=" in server.logins
        for command in ("status", "report", "logs"):
            run(command, "one")
        run("status", "one", "--json")
        run("pull", "one/base", str(tmp_path / "pulled"))
        run("sync", "one", code=1)
        run("doctor", code=1)
        on = ("--on", "generic-cpu", "--dry-run")
        run("launch", recipe, "--tracking-uri", uri, *on, "--set", stage("random#x"), code=REFUSED)
        run("launch", recipe, "--tracking-uri", uri, *on, "--set", "image.size=64")
    assert "#SBATCH" in outputs[-1]
    assert "MLFLOW_TRACKING_URI" in outputs[-1]
    leaks = [text for text in outputs if "planted" in text or "pa@ss" in text]
    assert leaks == []
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 20
    assert [path for path in files if b"planted" in path.read_bytes()] == []


@pytest.mark.parametrize("address", ADDRESSES)
def test_addresses_that_are_refused_are_reported_without_their_secrets(
    address: str, tmp_path: Path
) -> None:
    recipe = str(write_recipe(tmp_path, RECIPE))
    outputs = [
        hpt("status", store=address, code=REFUSED),
        hpt("plan", recipe, store=address, code=REFUSED),
        hpt("plan", recipe, "--set", stage(f"{address}/w.pt"), store="s", code=REFUSED),
        hpt("plan", recipe, "--set", f"datasets.x={address}/datasets/x", store="s", code=REFUSED),
        hpt("shard", address, f"{tmp_path}/s/datasets/x", store="s", code=REFUSED, process=False),
        hpt("shard", "images", f"{address}/datasets/x", store="s", code=REFUSED, process=False),
        hpt("shard", "resisc45", "s/datasets/x", "--root", address, store="s", code=REFUSED),
    ]
    assert [text for text in outputs if "planted" in text] == []


def test_a_bug_is_shown_without_secrets() -> None:
    code = (
        "import sys, hpt_dist.store; from hpt_dist.cli.main import main\n"
        "def broken(uri): raise KeyError('planted-hf', 'http://ada:planted@h')\n"
        "hpt_dist.store.open_store = broken; sys.argv = ['hpt-dist', 'status']; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment("s", **SECRETS),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "KeyError: ('***', 'http://h')" in done.stderr
    assert "planted" not in done.stderr


def test_what_jobs_get_holds_no_secret(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Orders are made of the site's settings, and jobs get the password by the variable."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ada:planted@h:9")
    site = on_slurm.site(Profile(env=()), open_store(str(tmp_path)), "")
    assert site.settings.tracking_uri == "http://h:9"
    assert b"planted" not in pickle.dumps(site)
    assert "MLFLOW_TRACKING_URI" in site.profile.exported({"MLFLOW_TRACKING_URI": "x"})
