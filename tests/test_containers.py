"""The image is built, and its trials run, for real: by podman, and as a bundle under Slurm."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest
from container_image import BASE, ROOT, run
from services import need
from small import hpt, outcome
from test_cluster import ONE_RANK_A_NODE, SETTINGS, made, restarted

from hpt_dist import __version__
from hpt_dist.layout import stage_prefix

pytestmark = [pytest.mark.services, pytest.mark.slow, pytest.mark.timeout(1500)]


def test_linters_have_nothing_to_say():
    run(need("hadolint"), "containers/Dockerfile")
    run(need("shellcheck"), "containers/squash", ".ci/run", ".ci/install")


def test_what_the_image_says_of_itself(image):
    document = json.loads(run("buildah", "inspect", image))
    config = document["Docker"]["config"]
    labels = config["Labels"]
    assert labels["org.opencontainers.image.version"] == __version__
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert config["User"] == "10001:10001"
    assert config["Entrypoint"] == ["/opt/venv/bin/hpt-dist"]
    # Where packages came from, and how, is nobody's business.
    assert {pair.partition("=")[0] for pair in config["Env"]} == {
        *("PATH", "PYTHONUNBUFFERED", "NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES"),
    }
    history = json.dumps(document["Docker"]["history"])
    settings = run("python3", "-m", "pip", "config", "list")
    addresses = [word for word in settings.replace("'", " ").split() if "://" in word]
    assert not [address for address in addresses if address in history]


def test_the_quickstarts_smallest_trial_by_podman(image, drawings, tmp_path):
    """It leaves what it leaves here, byte by byte."""
    for name in ("inside", "here"):
        shutil.copytree(drawings / "datasets", tmp_path / name / "datasets")
    words = ("podman", "--runtime", "runc", "run", "--rm", "--network", "host", "--user", "0:0")
    limit = run("sh", "-c", "ulimit -Hn").strip()
    words += (f"--ulimit=nofile={limit}:{limit}", "--ulimit=nproc=4096:4096")
    words += (f"--volume={tmp_path}:{tmp_path}", f"--volume={ROOT}/recipes:/recipes:ro")
    words += (f"--env=HPT_STORE={tmp_path}/inside", image)
    assert run(*words, "--version").strip() == __version__
    said = run(*words, "launch", "/recipes/quickstart.yaml", "--only", "base")
    assert "done    base  [1/1]" in said
    recipe = str(ROOT / "recipes/quickstart.yaml")
    hpt("launch", recipe, "--only", "base", store=str(tmp_path / "here"))
    inside = outcome(tmp_path / "inside")
    assert len(inside) == 1
    assert inside == outcome(tmp_path / "here")


def test_a_file_for_enroot(image, tmp_path):
    """Of the base alone: compressing torch takes minutes."""
    out = tmp_path / "base.sqsh"
    run("containers/squash", BASE, out, "-comp", "lz4")
    listed = run("unsquashfs", "-l", out)
    assert "squashfs-root/etc/rc\n" in listed
    assert "squashfs-root/usr/bin/python3\n" in listed
    refused = subprocess.run(["containers/squash", BASE, out], cwd=ROOT, capture_output=True)
    assert refused.returncode == 2


def test_two_nodes_in_the_bundle_told_to_save(slurm, bundle, drawings, tmp_path):
    """The same bits as on the nodes themselves, although no scontrol is inside."""
    inside = made(tmp_path / "inside", slurm, drawings)
    profile = f"{ONE_RANK_A_NODE}\ncontainer: {{runtime: oci, image: {bundle}}}\n"
    job = inside.start_long("--ranks", "2", profile=profile)
    slurm.call("scancel", "--signal=USR2", job)
    inside.wait(lambda: restarted(inside, 1))
    left = inside.finished()
    outside = made(tmp_path / "outside", slurm, drawings)
    outside.launch("--ranks", "2", "--only", "hpt", *SETTINGS, profile=ONE_RANK_A_NODE)
    assert left == outside.finished()
    records = [site.run_record() for site in (inside, outside)]
    assert [(record["ranks"], record["restarts"]) for record in records] == [(2, 1), (2, 0)]
    assert (inside.store / stage_prefix(inside.key) / "DONE").exists()
    versions = [{k: r[k] for k in ("torch", "torchvision", "timm")} for r in records]
    assert versions[0] == versions[1]
