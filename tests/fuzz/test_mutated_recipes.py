"""Mutated recipes, settings of the command line, profiles and stand-ins."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import mutations
import pytest
from hostile import Attempts, count
from small import RECIPE

from hpt_dist.launch.lookup import facts
from hpt_dist.recipe import file, plan
from hpt_dist.slurm import profile
from hpt_dist.store import open_store

SHIPPED = sorted((Path(file.__file__).parent / "recipes").glob("*.yaml"))
PROFILES = sorted((Path(profile.__file__).parent / "profiles").glob("*.yaml"))
TEXTS = [RECIPE, *(path.read_text() for path in SHIPPED)]


@pytest.fixture(autouse=True)
def _variables(monkeypatch, tmp_path):
    monkeypatch.setenv("HPT_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("HOME", str(tmp_path))


def planned(path: Path, *overrides: str, stand_ins: Path | None = None) -> None:
    recipe = file.load(path, overrides)
    plan.make(recipe, facts(recipe, open_store("./nothing-here"), stand_ins))


def test_mutated_recipes(request, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mutated.yaml"
    with Attempts(rf"{path.name}:\d+|{path.name}: ") as attempt:
        for number in range(count(request, 600)):
            numbers = mutations.generator("recipe", number)
            given = mutations.text(numbers.choice(TEXTS), numbers)
            path.write_bytes(given)
            attempt(lambda: file.load(path), given)
    assert attempt.taken, "no mutated recipe is still a recipe: the mutations are too coarse"


def test_mutated_settings(request, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "small.yaml"
    path.write_text(RECIPE)
    keys = ("image.size", "stages.hpt.steps", "stages.hpt.data", "stages.adapt.sweep.seed", "name")
    with Attempts(r"--set|small.yaml:\d+") as attempt:
        for number in range(count(request, 200)):
            numbers = mutations.generator("set", number)
            key, value = numbers.choice(keys), numbers.choice(mutations.SCALARS)
            given = mutations.text(f"{key}={value}", numbers).decode("utf-8", "surrogateescape")
            attempt(partial(file.load, path, [given]), given)


def test_mutated_profiles(request, tmp_path):
    path = tmp_path / "mutated.yaml"
    with Attempts(rf"{path.name}") as attempt:
        for number in range(count(request, 150)):
            numbers = mutations.generator("profile", number)
            given = mutations.text(numbers.choice(PROFILES).read_text(), numbers)
            path.write_bytes(given)
            attempt(lambda: profile.load(path), given)


def test_mutated_stand_ins(request, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = tmp_path / "small.yaml"
    recipe.write_text(RECIPE)
    path = tmp_path / "mutated.yaml"
    original = """\
openmoji/color: {classes: 10, images: {train: 100, val: 50, test: 50}}
openmoji/line:
  classes: 10
  images:
    train: 100
    val: 50
    test: 50
"""
    with Attempts(rf"{path.name}|{recipe.name}:\d+") as attempt:
        for number in range(count(request, 100)):
            numbers = mutations.generator("stand-ins", number)
            given = mutations.text(original, numbers)
            path.write_bytes(given)
            attempt(lambda: planned(recipe, stand_ins=path), given)
