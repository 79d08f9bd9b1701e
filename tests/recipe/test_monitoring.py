"""Averages and forgetting in a recipe: what is refused, in words, and what stays as it was."""

import pytest

from hpt_dist.errors import RecipeError
from hpt_dist.recipe import Pretrain, plan, result_fields
from hpt_dist.recipe import file as recipe_file
from hpt_dist.recipe.facts import DatasetFacts, Facts
from hpt_dist.trial import identity

RECIPE = """\
name: r
datasets: {photos: photos, same: photos, things: things, flat: flat}
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
    averages: [0.25, 0.5]
    monitor: {data: photos, every: 10, images: 100, forgetting: things}
"""


def facts_of(name, train, label="single"):
    counts = {"train": train, "val": 80}
    if label == "none":
        return DatasetFacts(name, "", name, 0, counts, {s: [] for s in counts}, label="none")
    return DatasetFacts(name, "", name, 4, counts, {s: [n // 4] * 4 for s, n in counts.items()})


PHOTOS = facts_of("photos", 336)
FACTS = Facts(
    {
        "photos": PHOTOS,
        "same": PHOTOS,
        "things": facts_of("things", 64),
        "flat": facts_of("flat", 64, "none"),
    },
    {"random": "random"},
)


def planned(old="", new=""):
    assert old in RECIPE
    return plan.make(recipe_file.parse(RECIPE.replace(old, new, 1), environment={}), FACTS)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (
            "[0.25, 0.5]",
            "[0.5, 0.25]",
            "recipe.yaml:13 stages.hpt.averages: the averages are not ascending, each once\n"
            "  do: write [0.25, 0.5]",
        ),
        ("[0.25, 0.5]", "[0.5, 0.5]", "do: write [0.5]"),
        ("[0.25, 0.5]", "[0.5, 1.0]", "stages.hpt.averages"),
        ("[0.25, 0.5]", "[]", "stages.hpt.averages"),
        ("[0.25, 0.5]", "0.5", "stages.hpt.averages"),
        (
            "[0.25, 0.5]",
            "[0.25, 0.5]\n    keep: last",
            "stages.hpt.averages: keep: last keeps the last step, and no average\n"
            "  do: write keep: best, or no averages",
        ),
        (
            "data: photos, every",
            "every",
            "recipe.yaml:13 stages.hpt.averages: without labels nothing can tell whether an "
            "average is better\n  do: name a dataset with labelled train and val: monitor.data",
        ),
        (
            "forgetting: things",
            "forgetting: photos",
            "recipe.yaml:14 stages.hpt.monitor.forgetting: photos is the dataset of monitor.data",
        ),
        ("forgetting: things", "forgetting: same", "same is the dataset of monitor.data"),
        ("forgetting: things", "forgetting: flat", "monitor.forgetting: flat has no labels"),
        ("forgetting: things", "forgetting: thing", "things"),
        (
            "forgetting: things",
            "probe: knn, k: 90, forgetting: things",
            "stages.hpt.monitor.k: 90 nearest neighbours among 64 images of things/train",
        ),
    ],
)
def test_what_cannot_be_chosen_or_measured_is_refused(old, new, says):
    with pytest.raises(RecipeError) as error:
        planned(old, new)
    assert says in str(error.value)


def images_judged(old="", new=""):
    [hpt] = [trial for trial in planned(old, new) if trial.stage == "hpt"]
    return hpt.spec.judged_on(hpt.datasets)


def test_the_images_of_each_look_are_counted():
    # Looks at steps 0, 10, 20 and 30 and at two averages; two at what may be forgotten.
    assert images_judged() == 6 * (100 + 80) + 2 * (64 + 80)
    assert images_judged(", forgetting: things") == 6 * (100 + 80)
    assert images_judged("    averages: [0.25, 0.5]\n") == 4 * (100 + 80) + 2 * (64 + 80)


def test_mlflow_shows_what_may_be_forgotten_as_watched():
    _, hpt = planned()
    run = identity.of_trial(hpt, "r", None, None, store="s")
    contexts = {one.name: one.context for one in run.datasets}
    assert contexts == {
        "photos/train": "training, monitoring",
        "photos/val": "monitoring",
        "things/train": "monitoring",
        "things/val": "monitoring",
    }


def test_forgetting_needs_no_labels_of_the_target():
    _, hpt = planned("    averages: [0.25, 0.5]\n    monitor: {data: photos, ", "    monitor: {")
    assert {one.split for one in hpt.spec.reads()} == {"photos/train", "things/train", "things/val"}
    assert hpt.spec.monitor.idle() == {"metric", "k", "temperature"}


def test_keys_change_only_where_they_are_asked_for():
    watched = {"data": "a", "probe": "knn"}
    plain = {"kind": "pretrain", "init": "base", "data": ["a/b"]}
    before = plan.key_of(result_fields(Pretrain(**plain, monitor=watched)))
    assert before.startswith("cfe806cc1e95")
    others = [
        Pretrain(**plain, monitor=watched, averages=[0.5]),
        Pretrain(**plain, monitor=watched, averages=[0.25, 0.5]),
        Pretrain(**plain, monitor=watched | {"forgetting": "c"}),
    ]
    assert len({before, *(plan.key_of(result_fields(one)) for one in others)}) == 4
