"""What a stage of kind mme may ask: objectives, budgets, protocols; what is refused, and how."""

from dataclasses import replace

import pytest

from hpt_dist.errors import RecipeError
from hpt_dist.recipe import Mme, plan
from hpt_dist.recipe import file as recipe_file
from hpt_dist.recipe.facts import DatasetFacts, Facts
from hpt_dist.recipe.settings import counting_settings, result_fields

RECIPE = """\
name: small
datasets: {color: openmoji/color, line: openmoji/line}
backbone: resnet18
stages:
  base: {kind: import, weights: random}
  adapt: {kind: mme, init: base, source: color/train, target: line, shots: 1}
"""
NAMES = ("axe", "bee", "cow", "dog")


def dataset(name, **counts):
    images = {"train": [25] * 4, "val": [5] * 4, "test": [10] * 4} | counts
    totals = {split: sum(one) for split, one in images.items()}
    return DatasetFacts(name, "", name, 4, totals, images, class_names=NAMES)


KNOWN = {"color": dataset("openmoji/color"), "line": dataset("openmoji/line")}


def adapted(more="", known=KNOWN):
    text = RECIPE.replace("shots: 1", more if more.startswith("labels") else f"shots: 1, {more}")
    trials = plan.make(recipe_file.parse(text, environment={}), Facts(known, {"random": "r"}))
    return [trial for trial in trials if trial.stage == "adapt"]


def refused(more="", known=KNOWN):
    with pytest.raises(RecipeError) as caught:
        adapted(more, known)
    return str(caught.value)


def test_new_settings_leave_the_key_alone_where_they_stand_at_their_defaults():
    [trial] = adapted()
    written = (
        "train: all, transductive: false, protocol: disjoint, source_label_adaptation: false, "
        "consistency: {threshold: 0.95}, source_labels: {mix: 0.3}, eval_images: 2000, "
        "squash: false"
    )
    [same] = adapted(written)
    assert same.key == trial.key
    assert not {"train", "protocol", "consistency", "eval_images"} & set(trial.document["spec"])
    others = (
        *("train: head", "source_label_adaptation: true", "objective: consistency"),
        "squash: true",
    )
    assert len({adapted(one)[0].key for one in others} | {trial.key}) == 1 + len(others)
    # A crop of a share of the area has no part in squashed images.
    assert "crop_area" in counting_settings(trial.spec)
    assert "crop_area" not in counting_settings(adapted("squash: true")[0].spec)


@pytest.mark.parametrize(
    ("more", "printed"),
    [
        ("objective: t, source_label_adaptation: true", "objective t reads no source"),
        ("objective: s+t, transductive: true", "objective s+t reads no unlabelled images"),
        ("labels: all", "none is left unlabelled"),
        ("labels: all, objective: s+t, source_label_adaptation: true", "none is left unlabelled"),
        ("labels: most", "adapt.labels"),
        ("protocol: published", "openmoji/line has no split published"),
        ("objective: fixmatch", "allowed: mme, ent, s+t, t or consistency"),
        ("train: bn", "allowed: all, batchnorm or head"),
        ("transductive: true, choose: {entropy_weight: [0.1, 1]}", "learn from line/test"),
    ],
)
def test_what_does_not_fit_is_refused_where_it_stands(more, printed):
    found = refused(more)
    assert printed in found
    assert "recipe.yaml:6 stages.adapt" in found


def test_classes_that_a_domain_lacks_are_refused_by_name():
    lacking = dataset("openmoji/color", train=[25, 0, 25, 0])
    found = refused(known=KNOWN | {"color": lacking})
    assert "openmoji/color/train has no image of bee, dog" in found
    lacking = dataset("openmoji/line", train=[0, 25, 25, 25])
    assert "openmoji/line/train has no image of axe" in refused(known=KNOWN | {"line": lacking})
    other = replace(KNOWN["line"], class_names=("axe", "bee", "cow", "elk"))
    found = refused(known=KNOWN | {"line": other})
    assert "openmoji/color lacks elk; openmoji/line lacks dog" in found
    # Without the source, its classes do not count.
    assert adapted("objective: t", KNOWN | {"color": lacking})


def test_floor_and_ceiling_read_what_they_need_alone():
    [floor], [ceiling] = adapted("objective: t"), adapted("labels: all, objective: s+t")
    assert set(floor.datasets) == {"line"}
    assert floor.images == 50_000 * 24
    assert ceiling.images == 50_000 * 48
    [transductive] = adapted("labels: all, transductive: true")
    assert transductive.images == 50_000 * 96


def test_what_is_published_reads_its_own_split_once():
    published = {"train": [3] * 4, "val": [3] * 4, "published": [20] * 4, "test": [0] * 4}
    known = KNOWN | {"line": dataset("domainnet-126/sketch-3-published", **published)}
    [trial] = adapted("labels: all, protocol: published", known)
    splits = {read.split for read in trial.spec.reads()}
    assert splits == {"color/train", "line/train", "line/val", "line/published"}
    assert trial.spec.kept_back() == {"line/published"}
    assert trial.document["spec"]["protocol"] == "published"
    assert counting_settings(trial.spec)["protocol"] == "published"


def mme(**settings):
    required = {"kind": "mme", "init": "b", "source": "a/train", "target": "a", "shots": 1}
    return Mme.model_validate(required | settings)


def test_settings_that_nothing_reads_are_not_shown():
    shown = {
        name: set(counting_settings(mme(objective=name)))
        for name in ("mme", "ent", "s+t", "t", "consistency")
    }
    assert "entropy_weight" in shown["mme"] & shown["ent"]
    assert "entropy_weight" not in shown["consistency"] | shown["s+t"] | shown["t"]
    assert "consistency.threshold" in shown["consistency"]
    assert "consistency.threshold" not in shown["mme"]
    assert "source" not in shown["t"]
    assert "source_labels.mix" in counting_settings(mme(source_label_adaptation=True))


def test_the_protocol_is_that_of_the_papers():
    """Saito et al., section 4 and their code; see docs/adaptation.md."""
    spec = mme()
    sgd = spec.optimizer
    assert (sgd.name, sgd.lr, sgd.momentum, sgd.nesterov) == ("sgd", 0.01, 0.9, True)
    assert (sgd.weight_decay, sgd.backbone_lr_scale) == (5e-4, 0.1)
    assert (spec.batch_labelled, spec.batch_unlabelled, spec.images) == (24, 48, 50_000 * 96)
    assert (spec.temperature, spec.head_dim, spec.entropy_weight) == (0.05, 512, 0.1)
    assert (spec.eval_every, spec.patience) == (500, 6)
    assert spec.source_labels.model_dump() == {
        "mix": 0.3, "warmup_steps": 500, "update_every": 500, "temperature": 0.6
    }  # fmt: skip
    assert (spec.consistency.threshold, spec.consistency.weight) == (0.95, 1.0)
    assert "consistency" not in result_fields(spec)
