"""Shares of a split, from the plan to the images that trials read."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from birds import COUNT, encoded, write

from hpt_dist.datasets.manifest import read_manifest
from hpt_dist.datasets.subset import Chooser, SubsetRule
from hpt_dist.errors import RecipeError
from hpt_dist.launch import lookup
from hpt_dist.recipe import file as recipe_file
from hpt_dist.recipe import fractions
from hpt_dist.recipe.plan import make
from hpt_dist.stages.inputs import pool_of
from hpt_dist.store import open_store

RECIPE = """\
name: shares
datasets: {birds: birds}
backbone: resnet18
stages:
  base: {kind: import, weights: random}
  hpt:
    kind: pretrain
    init: base
    batch: 2
    moco: {queue: 8}
    sweep: {data: [birds/train@20%, birds/train@50%, birds/train], seed: [0, 1]}
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    store = open_store(str(tmp_path_factory.mktemp("shares")))
    write(store, "birds", [encoded(n, "PNG") for n in range(COUNT)], shard_bytes=20_000)
    return store


def planned(store, text=RECIPE):
    recipe = recipe_file.parse(text, environment={})
    return {trial.name: trial for trial in make(recipe, lookup.facts(recipe, store))}


def keys(store, trial):
    context = SimpleNamespace(order=SimpleNamespace(trial=trial), store=store)
    return set(pool_of(context, trial.spec.data).keys)


def test_shares_are_nested_seeded_and_those_of_data_subset(store):
    trials = planned(store)
    manifest = read_manifest(store, "birds")
    for seed in (0, 1):
        few, half, all_ = (
            keys(store, trials[f"hpt/data=birds/train{share},seed={seed}"])
            for share in ("@20%", "@50%", "")
        )
        assert few < half < all_
        assert (len(few), len(half), len(all_)) == (round(COUNT / 5), COUNT // 2, COUNT)
        chosen = Chooser(store, manifest, "train", seed).choose("x", SubsetRule("percent", 20))
        assert few == set(chosen.keys)
    a, b = (trials[f"hpt/data=birds/train@20%,seed={seed}"] for seed in (0, 1))
    assert keys(store, a) != keys(store, b)
    assert len({trial.key for trial in trials.values()}) == 7


def test_a_share_alone_in_a_sweep_is_the_list_that_a_stage_writes(store):
    one = planned(store)["hpt/data=birds/train@20%,seed=0"]
    written = RECIPE.replace("sweep: {data: [birds/train@20%, birds/train@50%, birds/train], ", "")
    written = written.replace("seed: [0, 1]}", "data: [birds/train@20%]")
    assert planned(store, written)["hpt"].key == one.key


def test_the_plan_knows_how_many_images_there_are(store):
    facts = planned(store)["hpt/data=birds/train,seed=0"].datasets["birds"]
    assert facts.images["train@20%"] == round(COUNT / 5)
    with pytest.raises(RecipeError) as refused:
        planned(store, RECIPE.replace("@20%", "@1%"))
    assert "a batch of 2 from 1 image of birds/train@1%" in str(refused.value)
    assert "name more images" in str(refused.value)
    assert "2 to 1" not in str(refused.value)


@pytest.mark.parametrize(
    ("share", "says"),
    [
        ("@0%", "more than 0%, up to 100%, such as 10%"),
        ("@101%", "more than 0%"),
        ("@x%", "more than 0%"),
        ("@nan%", "more than 0%"),
        ("@010%", "is to be written as 10%"),
        ("@10.0%", "is to be written as 10%"),
        ("@1e1%", "is to be written as 10%"),
    ],
)
def test_what_is_no_share_is_refused_at_its_line(store, share, says):
    with pytest.raises(RecipeError) as error:
        planned(store, RECIPE.replace("@20%", share))
    assert says in str(error.value)
    assert "recipe.yaml:11" in str(error.value)


def test_a_share_of_no_split_is_refused(store):
    with pytest.raises(RecipeError, match="birds has no split trian"):
        planned(store, RECIPE.replace("train@20%", "trian@20%"))


def test_shares_keep_what_was_written_and_hold_an_image():
    assert fractions.percent("0.05%") == 0.05
    assert fractions.percent("100%") == 100
    assert fractions.count(18_900, 10) == 1890
    assert fractions.count(30, 1) == 1
