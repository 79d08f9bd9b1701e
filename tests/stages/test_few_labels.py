"""`shots` of a linear evaluation: which images it learns from, and what a plan says of it."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from hpt_dist.errors import RecipeError
from hpt_dist.launch import lookup
from hpt_dist.recipe import Linear, plan, result_fields
from hpt_dist.recipe import file as recipe_file
from hpt_dist.stages.inputs import few_of, pool_of
from hpt_dist.store import open_store

RECIPE = """\
name: few
datasets: {line: openmoji/line}
backbone: timm/test_efficientnet
image: {size: 32}
stages:
  base: {kind: import, weights: random}
  few: {kind: linear, init: base, data: line, solver: lbfgs, shots: 3, sweep: {seed: [0, 1]}}
  tuned: {kind: finetune, init: base, data: line, shots: 3, batch: 8, sweep: {seed: [0, 1]}}
"""


@pytest.fixture(scope="module")
def store(drawings):
    return open_store(str(drawings))


def planned(store, text=RECIPE):
    recipe = recipe_file.parse(text, environment={})
    return {trial.name: trial for trial in plan.make(recipe, lookup.facts(recipe, store))}


def test_a_seed_chooses_so_many_images_of_each_class_and_fewer_are_part_of_more(store):
    context = SimpleNamespace(
        order=SimpleNamespace(trial=planned(store)["few/seed=0"]), store=store
    )
    pool = pool_of(context, ("line/train",))
    of = {
        (shots, seed): few_of(pool, 38, shots, seed, several=False)
        for shots in (1, 3)
        for seed in (0, 1)
    }
    assert np.bincount(of[3, 0].labels).tolist() == [3] * 38
    assert set(of[1, 0].keys) < set(of[3, 0].keys)
    assert set(of[3, 0].keys) != set(of[3, 1].keys)
    assert len({one.digest for one in of.values()}) == 4  # features of each are their own


def test_the_plan_says_how_many_and_refuses_more_than_there_are(store):
    trials = planned(store)
    assert trials["few/seed=0"].spec.remark() == "3 labelled images a class of line/train"
    assert trials["few/seed=0"].key != trials["few/seed=1"].key
    with pytest.raises(RecipeError) as refused:
        planned(store, RECIPE.replace("shots: 3", "shots: 99"))
    what = "shots: 99 shots, but the rarest class of openmoji/line/train has 7"
    assert f"recipe.yaml:7 stages.few.{what}\n" in str(refused.value)
    assert f"recipe.yaml:8 stages.tuned.{what}\n" in str(refused.value)
    assert str(refused.value).count("allowed: 1 to 7") == 2


def test_it_is_in_the_key_and_at_its_default_it_is_not():
    plain = Linear(kind="linear", init="base", data="a")
    assert "shots" not in result_fields(plain)
    assert result_fields(plain.model_copy(update={"shots": 3}))["shots"] == 3
