"""What a recipe says of its data, from the plan to the images that a trial reads."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from birds import COUNT, encoded, write

from hpt_dist.datasets.fewshot import k_shot, n_labels
from hpt_dist.datasets.manifest import read_manifest
from hpt_dist.datasets.subset import Chooser, SubsetRule, write_subset
from hpt_dist.errors import DataError, RecipeError
from hpt_dist.launch import lookup
from hpt_dist.reading.stream import Pool, open_split
from hpt_dist.recipe import file as recipe_file
from hpt_dist.recipe.plan import make
from hpt_dist.stages.inputs import pool_of
from hpt_dist.store import open_store

RECIPE = """\
name: small
datasets: {birds: birds, fish: fish}
backbone: resnet18
stages:
  base: {kind: import, weights: random}
  hpt: {kind: pretrain, init: base, data: [fish/train, birds/train@tenth], batch: 4,
    moco: {queue: 8}}
  probe: {kind: pretrain, init: base, data: [birds/train], batch: 4, moco: {queue: 8}}
"""


@pytest.fixture
def store(tmp_path):
    store = open_store(str(tmp_path))
    for name in ("birds", "fish"):
        write(store, name, [encoded(number, "PNG") for number in range(COUNT)], shard_bytes=20_000)
    return store


def choose(store, percent, seed=0, name="tenth"):
    subset = Chooser(store, read_manifest(store, "birds"), "train", seed).choose(
        name, SubsetRule("percent", percent)
    )
    store.delete(f"datasets/birds/subsets/{name}.json")
    write_subset(store, "birds", subset)
    return subset


def planned(store, text=RECIPE):
    recipe = recipe_file.parse(text, environment={})
    return {trial.stage: trial for trial in make(recipe, lookup.facts(recipe, store))}


def context(store, trial):
    return SimpleNamespace(order=SimpleNamespace(trial=trial), store=store)


def test_a_subset_is_part_of_the_key_and_its_images_are_what_is_read(store):
    subset = choose(store, 10)
    trials = planned(store)
    assert trials["hpt"].document["subsets"] == {"birds/train@tenth": subset.digest}
    assert "subsets" not in trials["probe"].document
    pool = pool_of(context(store, trials["hpt"]), trials["hpt"].spec.data)
    assert len(pool) == COUNT + len(subset.keys)
    assert sorted(pool.keys[COUNT:]) == list(subset.keys)
    assert pool.splits[0].name == "fish/train"
    assert len(pool_of(context(store, trials["probe"]), ("birds/train",))) == COUNT

    choose(store, 20)
    assert planned(store)["hpt"].key != trials["hpt"].key
    assert planned(store)["probe"].key == trials["probe"].key
    with pytest.raises(DataError, match="has changed since the launch"):
        pool_of(context(store, trials["hpt"]), trials["hpt"].spec.data)


def test_a_subset_of_labels_is_what_a_stage_with_that_budget_and_seed_uses(store):
    manifest = read_manifest(store, "birds")
    pool = Pool([open_split(store, "birds", "train")])
    for kind, choose_rows in (("labels", n_labels), ("shots", k_shot)):
        subset = Chooser(store, manifest, "train", 3).choose("few", SubsetRule(kind, 4))
        rows = choose_rows(pool.labels, len(manifest.classes), 4, 3)
        assert sorted(pool.subset(rows).keys) == list(subset.keys)


@pytest.mark.parametrize(
    ("change", "printed"),
    [
        (("fish/train, birds", "birds/train, birds"), "hold the same images"),
        (("fish/train, birds/train@tenth", "fish/train, fish/train"), "hold the same images"),
        (("@tenth", "@tents"), "did you mean tenth"),
        (("birds/train@tenth", "birds/test@tenth"), "tenth is a subset of birds/train"),
        (
            ("batch: 4,\n    moco: {queue: 8}", "batch: 64,\n    moco: {queue: 64}"),
            "2 to",
        ),
    ],
)
def test_what_a_subset_cannot_feed_is_refused_before_anything_starts(store, change, printed):
    choose(store, 10)
    with pytest.raises(RecipeError) as error:
        planned(store, RECIPE.replace(*change))
    assert printed in str(error.value)
    assert "recipe.yaml:" in str(error.value)
