"""The image is built, and its trials run, for real: by podman, and as a bundle under Slurm."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from container_image import BASE, MOUNT, ROOT, build, run
from services import need
from slurm_site import ONE_RANK_A_NODE, based
from small import hpt, outcome

from hpt_dist import __version__

pytestmark = [pytest.mark.services, pytest.mark.slow]


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


def test_changed_code_is_a_layer_on_what_was_built_before(image, tmp_path):
    """Building again mounts nothing from a stage that comes from the cache, which may fail."""
    for name in ("containers", "hpt_dist", "recipes", "slurm/profiles"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for name in ("pyproject.toml", "README.md", "LICENSE", ".dockerignore"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    with (tmp_path / "hpt_dist/__init__.py").open("a") as file:
        file.write('WORD = "changed"\n')
    changed = build(tmp_path, f"{image}-changed")
    try:
        words = podman("--entrypoint=/opt/venv/bin/python")
        code = "import hpt_dist; print(hpt_dist.WORD)"
        assert run(*words, changed, "-c", code).strip() == "changed"
        # The package comes last; what it needs stays as it is.
        assert layers(changed)[:-1] == layers(image)[:-1]
        assert layers(changed) != layers(image)
    finally:
        run("buildah", "rmi", changed)


def layers(image: str) -> list[str]:
    """Return the digests of an image's layers, the base first."""
    return json.loads(run("buildah", "inspect", image))["Docker"]["rootfs"]["diff_ids"]


def podman(*options: str) -> tuple[str, ...]:
    """Return the words that run an image as root, on this machine's network."""
    limit = run("sh", "-c", "ulimit -Hn").strip()
    words = ("podman", "--runtime", "runc", "run", "--rm", "--network", "host", "--user", "0:0")
    words += (f"--ulimit=nofile={limit}:{limit}", "--ulimit=nproc=4096:4096")
    return (*words, *options)


def test_the_quickstarts_smallest_trial_by_podman(image, drawings, tmp_path):
    assert_runs_as_here(podman(f"--volume={MOUNT}"), image, drawings, tmp_path)


def assert_runs_as_here(words: tuple[str, ...], image: str, drawings: Path, folder: Path) -> None:
    """Run a trial in an image: it leaves what it leaves here, byte by byte."""
    for name in ("inside", "here"):
        shutil.copytree(drawings / "datasets", folder / name / "datasets")
    words += (f"--volume={folder}:{folder}", f"--volume={ROOT}/recipes:/recipes:ro")
    words += (f"--env=HPT_STORE={folder}/inside", image)
    assert run(*words, "--version").strip() == __version__
    printed = run(*words, "launch", "/recipes/quickstart.yaml", "--only", "base")
    assert "done    base  [1/1]" in printed
    recipe = str(ROOT / "recipes/quickstart.yaml")
    hpt("launch", recipe, "--only", "base", "--on", "inline", store=str(folder / "here"))
    inside = outcome(folder / "inside")
    assert len(inside) == 1
    assert inside == outcome(folder / "here")


@pytest.mark.deep
@pytest.mark.timeout(1800)
def test_the_image_with_all_that_it_requires(cuda_image, drawings, tmp_path):
    """Its packages are its own, and compiled: who runs it can seldom write to it."""
    size = int(json.loads(run("podman", "image", "inspect", cuda_image))[0]["Size"])
    assert 3e9 < size < 10e9
    words = podman("--entrypoint=/opt/venv/bin/python")
    code = "import torch; print(torch.__file__, torch.__cached__)"
    file, compiled = run(*words, cuda_image, "-c", code).split()
    assert file.startswith("/opt/venv/lib/")
    run(*podman("--entrypoint=/usr/bin/test"), cuda_image, "-e", compiled)
    assert_runs_as_here(podman(), cuda_image, drawings, tmp_path)


def test_a_file_for_enroot(image, tmp_path):
    """Of the base alone: compressing torch takes minutes."""
    out = tmp_path / "base.sqsh"
    run("containers/squash", BASE, out, "-comp", "lz4")
    listed = run("unsquashfs", "-l", out)
    assert "squashfs-root/etc/rc\n" in listed
    assert "squashfs-root/usr/bin/python3\n" in listed
    refused = subprocess.run(["containers/squash", BASE, out], cwd=ROOT, capture_output=True)
    assert refused.returncode == 2


def test_two_nodes_in_the_bundle_are_asked_to_save(
    slurm, bundle, two_ranks, trained_here, tmp_path
):
    """The same bits as on the nodes themselves, although no scontrol is inside."""
    inside = based(tmp_path, slurm, trained_here)
    try:
        profile = f"{ONE_RANK_A_NODE}\ncontainer: {{runtime: oci, image: {bundle}}}\n"
        job = inside.start_long("--ranks", "2", profile=profile)
        slurm.call("scancel", "--signal=USR2", job)
        inside.wait_for_holder(1)
        assert inside.finished() == outcome(two_ranks.store)
    finally:
        inside.cancel_all()
    records = [site.run_record() for site in (inside, two_ranks)]
    assert [(record["ranks"], record["restarts"]) for record in records] == [(2, 1), (2, 0)]
    versions = [{k: r[k] for k in ("torch", "torchvision", "timm")} for r in records]
    assert versions[0] == versions[1]
