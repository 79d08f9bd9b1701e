"""The flagship recipes of adaptation: table 3 with its keys of before, and what is beside it."""

import hashlib
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from hpt_dist.launch import lookup
from hpt_dist.recipe import file as recipe_file
from hpt_dist.recipe import plan, shipped
from hpt_dist.report import published
from hpt_dist.store import open_store

STAND_INS = Path(__file__).parents[2] / "recipes/stand_ins/domainnet.yaml"
BUDGETS = published.TABLES["paper/table3_real_to_sketch"].axes["labels"]
# SHA-256 of the keys of import, pretraining and table 3's 42 trials, in the plan's order: whoever
# has run them does not run them again.
TABLE_3 = {
    "real_to_sketch": "3059e5e38a60cf4d970f048fcfe5a5e2de867a2b415e006aeb7ff966a58953f9",
    "real_to_clip": "f665ae6c6c7b39d9b5504fe1f0559106fc50bee71c9cb71e860272cf3b1b6486",
}
TARGETS = {"real_to_sketch": "sketch", "real_to_clip": "clipart"}


@pytest.fixture(scope="module")
def trials(tmp_path_factory):
    """Return the trials of a shipped recipe by name, on stand-ins."""
    store = open_store(str(tmp_path_factory.mktemp("store")))

    @cache
    def of(name):
        recipe = recipe_file.load(shipped.recipe(name), environment={})
        return {one.name: one for one in plan.make(recipe, lookup.facts(recipe, store, STAND_INS))}

    return of


@pytest.mark.parametrize("name", TABLE_3)
def test_table_3_has_the_keys_that_it_always_had(trials, name):
    stages = ("base", "hpt", "adapt")
    keys = [trial.key for trial in trials(name).values() if trial.stage in stages]
    assert hashlib.sha256("".join(keys).encode()).hexdigest() == TABLE_3[name]
    of_the_paper = trials(f"paper/table3_real_to_{TARGETS[name]}")
    assert [trial.key for trial in of_the_paper.values()] == keys


@pytest.mark.parametrize("name", TABLE_3)
def test_every_arm_is_run_from_the_base_and_from_one_pretraining(trials, name):
    found = trials(name).values()
    starts = {trial.key: trial.name for trial in found if trial.stage in ("base", "hpt")}
    assert sorted(starts.values()) == ["base", "hpt"]
    arms = [trial for trial in found if trial.stage not in ("base", "hpt")]
    for trial in arms:
        assert starts[trial.init] == trial.axes["init"]
        assert trial.spec.target == TARGETS[name]
        assert trial.spec.protocol == "disjoint"
        assert not trial.spec.transductive
    grid = Counter(
        (one.stage, one.spec.objective, one.axes["init"], one.spec.labels) for one in arms
    )
    assert set(grid.values()) == {3}  # seeds
    assert set(grid) == {
        *(("adapt", "mme", init, n) for init in ("base", "hpt") for n in BUDGETS),
        *(
            ("objectives", objective, init, n)
            for objective in ("t", "s+t", "consistency")
            for init in ("base", "hpt")
            for n in (345, 3795, 23603)
        ),
        *(("ceiling", "s+t", init, "all") for init in ("base", "hpt")),
    }
    assert len(arms) == len({one.key for one in arms}) == 42 + 54 + 6


@pytest.mark.parametrize("name", TABLE_3)
def test_what_is_beside_table_3_costs_about_as_much(trials, name):
    images = Counter()
    for trial in trials(name).values():
        images[trial.stage] += trial.spec.images
    assert images["adapt"] == 42 * 50_000 * 96
    assert 0.9 < images["objectives"] / images["adapt"] < 1.1
    assert images["ceiling"] < 0.1 * images["adapt"]


@pytest.mark.parametrize("name", TABLE_3)
def test_the_report_has_the_papers_values_and_a_verdict_for_each_objective(name):
    recipe = recipe_file.load(shipped.recipe(name), environment={})
    table, helps, worth, ceiling = recipe.report
    assert published.find(table.compare).name == f"paper/table3_real_to_{TARGETS[name]}"
    assert (table.stages, table.rows, table.columns) == (("adapt",), "init", "labels")
    assert (helps.rows, helps.panels, helps.baseline) == ("init", "objective", "base")
    assert (worth.rows, worth.panels, worth.baseline) == ("objective", "init", "s+t")
    assert (ceiling.stages, ceiling.rows) == (("ceiling",), "init")


def test_planning_them_imports_no_torch(tmp_path):
    code = (
        "import sys\n"
        "from hpt_dist.cli.main import main\n"
        "try: main()\n"
        "finally: assert not {'torch', 'timm', 'torchvision'} & set(sys.modules)"
    )
    recipe = str(shipped.recipe("real_to_sketch"))
    words = ("plan", recipe, "--stand-ins", str(STAND_INS), "--totals")
    done = subprocess.run(
        [sys.executable, "-c", code, *words, "--store", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "104 trials: 0 cached, 104 to run; 412,960,000 image views to train on" in done.stdout
