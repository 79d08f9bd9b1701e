"""The wheel, installed outside the checkout, is whole."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from small import TINY, environment, fill, write_recipe

import hpt_dist

ROOT = Path(__file__).parents[2]
# All that a wheel is made of. Copied, for building leaves things behind.
SOURCES = ("hpt_dist", "recipes", "slurm/profiles")
FILES = ("pyproject.toml", "README.md", "LICENSE")


def pip(*words: str | Path) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    without = shutil.ignore_patterns("__pycache__")
    for name in SOURCES:
        shutil.copytree(ROOT / name, folder / "source" / name, symlinks=True, ignore=without)
    for name in FILES:
        shutil.copyfile(ROOT / name, folder / "source" / name)
    alone = ("--no-deps", "--no-index", "--no-build-isolation")
    pip("wheel", *alone, "--wheel-dir", folder, folder / "source")
    [built] = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel):
    """The folder that the wheel was installed to, for PYTHONPATH."""
    folder = wheel.parent / "installed"
    pip("install", "--no-deps", "--no-index", "--no-compile", "--target", folder, wheel)
    return folder


def command(installed: Path, folder: Path, store: Path, *words: str) -> str:
    variables = environment(str(store), PYTHONPATH=str(installed))
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, env=variables, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_it_holds_every_file_of_the_package(wheel):
    expected = {
        str(Path(folder, name).relative_to(ROOT))
        for folder, _, names in os.walk(ROOT / "hpt_dist", followlinks=True)
        for name in names
        if "__pycache__" not in folder
    }
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert held == expected
    assert {"hpt_dist/py.typed", "hpt_dist/recipe/recipes/stand_ins/domainnet.yaml"} <= held


def test_it_plans_and_launches_elsewhere(installed, drawings, mlflow_tables, tmp_path):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    store = fill(tmp_path / "store", drawings, mlflow_tables)
    recipe = write_recipe(folder, TINY).name

    def printed(*words):
        return command(installed, folder, store, *words)

    where = printed("-c", "import hpt_dist; print(hpt_dist.__file__)").strip()
    assert Path(where) == installed / "hpt_dist/__init__.py"
    assert printed("-m", "hpt_dist", "--version").strip() == hpt_dist.__version__
    plan = printed("-m", "hpt_dist", "plan", "openmoji_line", "--on", "dev")
    assert f"openmoji_line is {installed}/hpt_dist/recipe/recipes/openmoji_line.yaml\n" in plan
    assert f"dev is {installed}/hpt_dist/slurm/profiles/dev.yaml\n" in plan
    launched = printed("-m", "hpt_dist", "launch", recipe, "--only", "base")
    assert "done    base  [1/1]" in launched
    assert os.listdir(folder) == [recipe]  # noqa: PTH208
