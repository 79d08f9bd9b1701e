"""The image of containers/Dockerfile, built for real, and the bundle that Slurm starts.

What the image requires is a layer of its own, which the containers' storage of this machine keeps:
only the first build installs torch.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from services import need

ROOT = Path(__file__).parent.parent
# Python here and in the image may differ, and so may the packages that are newest for it.
TAG = "localhost/hpt-dist:tests"
BASE = "localhost/hpt-dist-base:bookworm"


def run(*arguments: str | Path, timeout_s: float = 1200) -> str:
    """Run a program and return what it printed."""
    done = subprocess.run(
        list(map(str, arguments)), capture_output=True, text=True, timeout=timeout_s, cwd=ROOT
    )
    assert done.returncode == 0, f"{arguments}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="session")
def image() -> str:
    """The name of the image, with the quickstart's extra, on a Debian made on the spot."""
    for program in ("buildah", "podman", "runc", "mmdebstrap"):
        need(program)
    run("containers/build", "--base-from-debian", "--extras", "demo", "--tag", TAG)
    return TAG


@pytest.fixture(scope="session")
def bundle(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An OCI bundle that sees pytest's own folder; it is large, and removed at the end."""
    base = tmp_path_factory.getbasetemp()
    folder = tmp_path_factory.mktemp("bundle") / "hpt-dist"
    run("containers/bundle", image, folder, "--mount", base)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
