"""Recipes and profiles that come with the package, by their names."""

from pathlib import Path

import pytest
from small import hpt

from hpt_dist.errors import RequestError
from hpt_dist.recipe import file as recipe_file
from hpt_dist.recipe import shipped
from hpt_dist.slurm import profile

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
IN_FOLDERS = sorted((ROOT / "recipes").glob("[!s]*/*.yaml"))
PROFILES = sorted((ROOT / "slurm/profiles").glob("*.yaml"))


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_a_recipe_is_found_by_its_name(file, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    found = shipped.recipe(file.stem)
    assert found.samefile(file)
    assert recipe_file.load(found, environment={}).name == file.stem


@pytest.mark.parametrize("file", IN_FOLDERS, ids=lambda file: file.stem)
def test_a_recipe_in_a_folder_is_found_by_its_path(file, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    name = f"{file.parent.name}/{file.stem}"
    assert name in shipped.names()
    assert shipped.recipe(name).samefile(file)
    (tmp_path / file.parent.name).mkdir()
    (tmp_path / name).touch()
    assert shipped.recipe(name) == Path(name)


def test_what_recipes_share_has_no_name():
    assert not [name for name in shipped.names() if "common" in name or "stand_ins" in name]


@pytest.mark.parametrize("file", PROFILES, ids=lambda file: file.stem)
def test_a_profile_is_found_by_its_name(file, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert profile.located(file.stem).samefile(file)
    assert profile.load(file.stem) == profile.load(file)


def test_a_file_and_a_path_come_first(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quickstart").mkdir()
    assert shipped.recipe("quickstart").name == "quickstart.yaml"
    (tmp_path / "quickstart").rmdir()
    (tmp_path / "quickstart").write_text("name: mine")
    assert shipped.recipe("quickstart") == Path("quickstart")
    assert shipped.recipe("recipes/quickstart") == Path("recipes/quickstart")


@pytest.mark.parametrize("name", ["quickstar", "Quickstart", "quickstart.yaml", "quick"])
def test_names_are_exact_and_errors_list_them(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RequestError) as error:
        shipped.recipe(name)
    assert f"there is no recipe {name}" in str(error.value)
    assert all(file.stem in error.value.problem.allowed for file in RECIPES)
    assert "did you mean quickstart?" in str(error.value)


def test_commands_say_which_file_it_is(tiny, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    printed = hpt("plan", "quickstart", "--on", "generic-cpu", store=str(tiny[0]))
    assert f"quickstart is {shipped.recipe('quickstart')}\n" in printed
    assert f"generic-cpu is {profile.located('generic-cpu')}\n" in printed
    printed = hpt("launch", "quickstart", "--on", "generic-gpo", store=str(tiny[0]), code=2)
    assert "local, inline, apptainer, dev, generic-cpu" in printed
    assert "did you mean generic-gpu?" in printed
