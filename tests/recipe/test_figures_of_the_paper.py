"""Every figure of the paper, and every question for own images, is a recipe that plans."""

import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from hpt_dist.launch import lookup
from hpt_dist.recipe import file as recipe_file
from hpt_dist.recipe import plan, shipped
from hpt_dist.store import open_store

ROOT = Path(__file__).parents[2]
STAND_INS = ROOT / "recipes/stand_ins"
PAPER = sorted(file.stem for file in (ROOT / "recipes/paper").glob("*.yaml"))
OWN = sorted(file.stem for file in (ROOT / "recipes/own").glob("*.yaml"))
DATASETS = (
    "bdd kids chexpert coco clipart infograph painting quickdraw real sketch resisc viper ucm "
    "pascal flowers xview"
)


@pytest.fixture(scope="module")
def trials(tmp_path_factory):
    """Return the trials of a shipped recipe by name, on stand-ins and with made-up weights."""
    store = tmp_path_factory.mktemp("store")
    (store / "STORE").touch()
    (store / "weights").mkdir()

    @cache
    def of(name):
        recipe = recipe_file.load(shipped.recipe(name), environment={})
        for points in recipe.stages.values():
            for file in (store / point.spec.imported for point in points):
                if file.parent == store / "weights":
                    file.write_text(file.name)
        stand_ins = STAND_INS / f"{name.partition('/')[0]}.yaml"
        known = lookup.facts(recipe, open_store(str(store)), stand_ins)
        return {trial.name: trial for trial in plan.make(recipe, known)}

    return of


def test_there_is_a_recipe_for_each_figure_and_table():
    numbers = {int(n) for name in PAPER for n in re.findall(r"^fig(\d+)", name)}
    assert numbers | {16, 17} == set(range(2, 18))
    assert [name for name in PAPER if not name.startswith("fig")] == [
        "overfitting",
        "source_selection",
        "speedup_80x",
        "table1_bdd",
        "table1_voc",
        "table2_coco",
        "table3_real_to_clipart",
        "table3_real_to_sketch",
        "table6_learning_rates",
    ]


@pytest.mark.parametrize("name", [*(f"paper/{n}" for n in PAPER), *(f"own/{n}" for n in OWN)])
def test_a_recipe_plans_and_opens_with_its_question_and_command(trials, name):
    assert trials(name)
    file = shipped.recipe(name)
    lines = file.read_text().splitlines()
    comment = "\n".join(lines[: next(n for n, line in enumerate(lines) if line[:1] != "#")])
    assert f"hpt-dist launch {name}" in comment
    assert "Images: " in comment
    assert "The paper" in comment or name.startswith("own/")
    recipe = recipe_file.load(file, environment={})
    assert recipe.name == file.stem
    assert recipe.report


def test_planning_them_imports_no_torch():
    code = (
        "import sys\n"
        "from hpt_dist.recipe import file, shipped\n"
        "for name in shipped.names(): file.load(shipped.file_of(name), environment={})\n"
        "sys.exit(', '.join({'torch', 'timm', 'torchvision'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_figure_2_has_the_papers_grid(trials):
    found = trials("paper/fig2_separability")
    for dataset in DATASETS.split():
        steps = {
            stage: sorted(
                trial.spec.steps
                for trial in found.values()
                if trial.stage == stage and trial.axes["dataset"] == dataset
            )
            for stage in ("target", "hpt", "hpt_bn")
        }
        assert steps == {
            "target": [5000, 50000, 100000, 200000],
            "hpt": [50, 500, 5000, 50000],
            "hpt_bn": [5000],
        }
    probe = found["features/dataset=ucm,init=hpt,hpt.steps=5000"]
    assert probe.init == found["hpt/dataset=ucm,steps=5000"].key
    assert probe.spec.learning_rates == (0.3, 3.0, 30.0)
    assert (probe.spec.batch, probe.spec.steps) == (512, 5000)


def test_chains_keep_their_source_and_target_together(trials):
    found = trials("paper/fig4_sequential")
    for chain, source, target in (
        ("xray", "chexpert", "kids"),
        ("drawings", "clipart", "sketch"),
        ("aerial", "resisc", "ucm"),
    ):
        first, second = found[f"s/chain={chain}"], found[f"s_t/chain={chain}"]
        assert first.spec.data == (f"{source}/train", f"{source}/val")
        assert second.spec.data == (f"{target}/train", f"{target}/val")
        assert second.init == first.key
        tuned = found[f"tuned/chain={chain},init=s_t_bn"]
        assert [one.spec.data for one in tuned.candidates] == [target] * 4
        assert all(one.init == found[f"s_t_bn/chain={chain}"].key for one in tuned.candidates)


def test_equal_trials_of_different_figures_have_equal_keys(trials):
    figure_2 = {name: trial.key for name, trial in trials("paper/fig2_separability").items()}
    hpt = figure_2["hpt/dataset=resisc,steps=5000"]
    assert trials("paper/table6_learning_rates")["hpt/dataset=resisc,lr=0.03"].key == hpt
    assert trials("paper/source_selection")["pretrained/source=resisc"].key == hpt
    assert trials("paper/fig5_augmentation")["hpt/dataset=resisc,policy=full"].key == hpt
    supervised = trials("paper/fig7_separability_supervised")
    for name, key in figure_2.items():
        same = name.startswith(("random", "target")) or "init=target" in name
        assert (supervised[name].key == key) == same, name
    for name, other in (("speedup_80x", "hpt"), ("overfitting", "hpt/")):
        shared = [t for t in trials(f"paper/{name}").values() if t.name.startswith(other)]
        assert shared
        assert {trial.key for trial in shared} <= set(figure_2.values())


def test_a_choice_of_a_source_feeds_the_target(trials):
    found = trials("paper/source_selection")
    best = found["best/dataset=pascal"]
    assert len(best.candidates) == 1 + 16
    assert all(one.spec.data == "pascal" for one in best.candidates)
    assert found["hpt/dataset=pascal"].init == best.key


def test_every_item_of_the_paper_has_a_row_and_every_recipe_is_in_one():
    page = (ROOT / "docs/paper.md").read_text()
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| ")]
    items = {int(row[0]): row[1:] for row in rows if row[0].isdigit()}
    assert list(items) == list(range(1, 45))
    for cells in items.values():
        assert len(cells) == 4
        assert all(cells)
        assert cells[-1] in ("runs", "plans", "not yet")
    named = set(re.findall(r"`((?:paper|own)/\w+)`", page))
    assert named == {name for name in shipped.names() if name.startswith(("paper/", "own/"))}
