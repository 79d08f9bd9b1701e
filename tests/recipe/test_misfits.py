"""Settings that do not fit each other, or the number of images, and what is hardly meant."""

from dataclasses import replace

import pytest

from hpt_dist.errors import RecipeError
from hpt_dist.recipe import file as recipe_file
from hpt_dist.recipe import plan
from hpt_dist.recipe.facts import DatasetFacts, Facts

RECIPE = """\
name: r
datasets: {photos: photos}
backbone: resnet18
stages:
  base: {kind: import, weights: random}
  hpt:
    kind: pretrain
    init: base
    data: [photos/train]
    moco: {queue: 256}
    steps: 30
    batch: 64
    monitor: {data: photos}
  probe: {kind: knn, data: photos, sweep: {init: [base, hpt]}}
report: {table: probe, rows: init}
"""
COUNTS = {"train": 336, "val": 72, "test": 72}
PHOTOS = DatasetFacts("photos", "", "d", 4, COUNTS, {s: [n // 4] * 4 for s, n in COUNTS.items()})
FACTS = Facts({"photos": PHOTOS}, {"random": "random"})


def planned(old="", new="", images=336):
    assert old in RECIPE
    recipe = recipe_file.parse(RECIPE.replace(old, new, 1), environment={})
    facts = FACTS
    if images != 336:
        counts = {**COUNTS, "train": images}
        few = DatasetFacts("photos", "", "d", 4, counts, {s: [n] for s, n in counts.items()})
        facts = Facts({"photos": few}, {"random": "random"})
    return plan.make(recipe, facts)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (
            "{data: photos}",
            "{data: photos, probe: knn, k: 20000}",
            "recipe.yaml:13 stages.hpt.monitor.k: 20000 nearest neighbours among 336 images of "
            "photos/train\n  allowed: 1 to 336",
        ),
        (
            "{data: photos}",
            "{data: photos, probe: knn, k: 65, images: 64}",
            "stages.hpt.monitor.k: 65 nearest neighbours among 64 images",
        ),
        (
            "{data: photos}",
            "{data: photos, k: 20}",
            "recipe.yaml:13 stages.hpt.monitor.k: k is of probe: knn, and probe is ridge\n"
            "  do: write probe: knn, or leave k out",
        ),
        (
            "{data: photos}",
            "{data: photos, temperature: 0.07, metric: top1}",
            "stages.hpt.monitor.temperature: temperature is of probe: knn",
        ),
        (
            "{data: photos}",
            "{data: photos, metric: ece}",
            "stages.hpt.monitor.metric: a ridge probe gives no probabilities, which ece is about\n"
            "  do: write probe: knn, or another metric",
        ),
        ("{data: photos}", "{data: photos, probe: ridges}", "stages.hpt.monitor.probe"),
        (
            "data: photos, sweep",
            "data: photos, k: [5, 337, 9000], sweep",
            "recipe.yaml:14 stages.probe.k: 337, 9000 nearest neighbours among 336 images",
        ),
        (
            "queue: 256",
            "queue: 250",
            "recipe.yaml:10 stages.hpt.moco.queue: moco.queue 250 is no multiple of batch 64\n"
            "  allowed: multiples of 64\n  do: write 256, or another batch",
        ),
        ("queue: 256", "queue: 10", "do: write 64, or another batch"),
        (
            "batch: 64",
            "head_warmup_steps: 40",
            "recipe.yaml:12 stages.hpt.head_warmup_steps: head_warmup_steps must be less than steps"
            "\n  allowed: 0 to 29",
        ),
        ("batch: 64", "batch: 512\n    method: byol", "a batch of 512 from 336 images"),
        (
            "{data: photos}",
            "{}\n    keep: best",
            "stages.hpt.keep: without labels nothing can tell which weights are best\n"
            "  allowed: last\n  do: write keep: last; or name a dataset",
        ),
        (
            "rows: init",
            "rows: init, metric: test/tap1",
            "recipe.yaml:15 report.metric: probe has no metric test/tap1\n  allowed: test/top1, ",
        ),
        ("table: probe, rows: init", "table: hpt, rows: init, metric: knn/to1", "knn/top1?"),
    ],
)
def test_what_cannot_work_is_refused_with_what_would(old, new, says):
    text = RECIPE.replace("    moco: {queue: 256}\n", "") if "byol" in new else RECIPE
    with pytest.raises(RecipeError) as error:
        plan.make(recipe_file.parse(text.replace(old, new, 1), environment={}), FACTS)
    assert says in str(error.value)


def test_a_dataset_without_labels_leads_to_the_recipe_for_it():
    flat = DatasetFacts("photos", "", "d", 0, {"train": 336}, {"train": []}, label="none")
    with pytest.raises(RecipeError) as error:
        plan.make(
            recipe_file.parse(RECIPE, environment={}), Facts({"photos": flat}, {"random": "random"})
        )
    assert [problem.where for problem in error.value.problems] == [
        "recipe.yaml:13 stages.hpt.monitor",
        "recipe.yaml:14 stages.probe.data",
    ]
    for problem in error.value.problems:
        assert "photos has no labels" in problem.what
        assert "the recipe unlabeled" in problem.fix


def test_neighbours_by_default_stand_for_all_that_there_are():
    planned(images=100)
    planned("data: photos, sweep", "data: photos, k: [5, 20, 200], sweep", images=100)


@pytest.mark.parametrize(
    ("old", "new", "images", "doubted"),
    [
        ("", "", 336, False),
        ("queue: 256", "queue: 512", 336, True),
        ("queue: 256", "queue: 512", 512, False),
        ("queue: 256", "queue: 65536", 336, True),
    ],
)
def test_a_queue_of_more_than_all_images_is_doubted(old, new, images, doubted):
    trials = planned(old, new, images)
    [hpt] = [trial for trial in trials if trial.stage == "hpt"]
    found = hpt.spec.doubts(dict(hpt.datasets))
    assert bool(found) == doubted
    for doubt in found:
        assert doubt.setting == "moco.queue"
        assert doubt.fix == "320 is the most that does not"


@pytest.mark.parametrize(
    ("monitor", "says"),
    [
        ("{data: photos, images: 336}", ""),
        ("{data: photos, images: 337}", "photos/train has 336 and photos/val has 72"),
        ("{images: 5000}", "and photos/train has 336"),
        ("{images: 64}", ""),
    ],
)
def test_more_images_to_watch_than_there_are_are_doubted(monitor, says):
    trials = planned("monitor: {data: photos}", f"monitor: {monitor}")
    [hpt] = [trial for trial in trials if trial.stage == "hpt"]
    found = hpt.spec.doubts(dict(hpt.datasets))
    assert [doubt.setting for doubt in found] == ["monitor.images"] * bool(says)
    assert all(says in doubt.what for doubt in found)


@pytest.mark.parametrize(
    ("settings", "setting"),
    [
        ("{kind: knn, data: photos/train@1%, k: [1], init: base}", "data"),
        ("{kind: linear, data: photos/train@1%, init: base}", "data"),
        ("{kind: finetune, data: photos, labels: 1%, batch: 2, init: base}", "labels"),
        ("{kind: linear, data: photos/train@2%, init: base}", ""),
        ("{kind: linear, data: photos, init: base}", ""),
    ],
)
def test_fewer_labelled_images_than_classes_are_doubted(settings, setting):
    written = RECIPE.replace("{kind: knn, data: photos, sweep: {init: [base, hpt]}}", settings)
    recipe = recipe_file.parse(written.partition("report:")[0], environment={})
    shares = {"train@1%": 3, "train@2%": 7}
    photos = replace(PHOTOS, images={**COUNTS, **shares})
    [probe] = [
        trial
        for trial in plan.make(recipe, Facts({"photos": photos}, {"random": "random"}))
        if trial.stage == "probe"
    ]
    found = probe.spec.doubts(dict(probe.datasets))
    assert [doubt.setting for doubt in found] == [setting] * bool(setting)
    for doubt in found:
        assert doubt.what == "3 labelled images cannot show the 4 classes of photos"
