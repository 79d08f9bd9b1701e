"""The image of containers/Dockerfile, built for real, and the bundle that Slurm starts.

`image` is made as where the base image brings torch: all stages and layers, but none of the 6 GB
that the requirements take. What the base image brings are the packages of the Python that runs the
tests, mounted where Debian's own Python looks. `cuda_image` installs all of them.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest
from services import need, unavailable
from shared import shared_folder

ROOT = Path(__file__).parent.parent
TAG = "localhost/hpt-dist:tests"
CUDA_TAG = "localhost/hpt-dist:tests-cuda"
BASE = "localhost/hpt-dist-base:bookworm"
PROGRAMS = ("buildah", "podman", "runc", "mmdebstrap")
PACKAGES = sysconfig.get_path("purelib")
# Where Debian's Python looks, of the version that the base image has.
PYTHON = (3, 11)
PACKAGES_INSIDE = f"/usr/local/lib/python{PYTHON[0]}.{PYTHON[1]}/dist-packages"
MOUNT = f"{PACKAGES}:{PACKAGES_INSIDE}:ro"


def run(*arguments: str | Path, timeout_s: float = 1200) -> str:
    """Run a program and return what it printed."""
    done = subprocess.run(
        list(map(str, arguments)), capture_output=True, text=True, timeout=timeout_s, cwd=ROOT
    )
    assert done.returncode == 0, f"{arguments}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout


def build(root: Path, tag: str) -> str:
    """Build the small image from the files in a folder; return its name."""
    base = ("--base-from-debian", "--with-base-packages")
    options = ("--extras", "demo", "--tag", tag, "--", f"--volume={MOUNT}")
    run(root / "containers/build", *base, *options)
    return tag


@pytest.fixture(scope="session")
def image() -> str:
    """The name of the image, with the quickstart's extra, on a Debian made on the spot."""
    for program in PROGRAMS:
        need(program)
    if sys.version_info[:2] != PYTHON:
        unavailable(f"the image has Python {PYTHON}, and compiled packages are for one version")
    return build(ROOT, TAG)


@pytest.fixture(scope="session")
def cuda_image() -> str:
    """The name of the image as users get it, with all that it requires."""
    for program in PROGRAMS:
        need(program)
    run("containers/build", "--base-from-debian", "--extras", "demo", "--tag", CUDA_TAG)
    return CUDA_TAG


@pytest.fixture(scope="session")
def bundle(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An OCI bundle that sees pytest's own folder, and the packages of the tests' Python."""
    base = shared_folder(tmp_path_factory)
    folder = tmp_path_factory.mktemp("bundle") / "hpt-dist"
    run("containers/bundle", image, folder, "--mount", base, "--mount", MOUNT)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
