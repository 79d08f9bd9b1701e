"""An anchor in a recipe: in the key only where it is written, swept, refused and remarked on."""

from __future__ import annotations

import pytest

from hpt_dist.errors import RecipeError
from hpt_dist.launch.totals import _likeness
from hpt_dist.recipe import file as recipe_file
from hpt_dist.recipe import plan
from hpt_dist.recipe.facts import DatasetFacts, Facts
from hpt_dist.recipe.settings import counting_settings

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
    monitor: {}
"""
PHOTOS = DatasetFacts("photos", "", "d", 0, {"train": 336}, {"train": []}, label="none")
FACTS = Facts({"photos": PHOTOS}, {"random": "random"})


def pretrained(*lines: str) -> list[plan.Trial]:
    """Return the pretraining trials of a recipe whose stage has further lines."""
    text = RECIPE + "".join(f"    {line}\n" for line in ("batch: 64", *lines))
    trials = plan.make(recipe_file.parse(text, environment={}), FACTS)
    return [trial for trial in trials if trial.stage == "hpt"]


def test_it_is_in_the_key_only_where_it_is_written():
    [plain], [none] = pretrained(), pretrained("anchor: null")
    [held], [short] = pretrained("anchor: {weight: 1}"), pretrained("anchor: {}")
    assert "anchor" not in plain.document["spec"]
    assert plain.key == none.key
    assert held.document["spec"].pop("anchor") == {"weight": 1.0}
    assert held.document["spec"] == plain.document["spec"]
    assert held.key == short.key != plain.key
    assert counting_settings(held.spec)["anchor.weight"] == "1.0"
    assert "anchor.weight" not in counting_settings(plain.spec)


def test_a_sweep_over_its_weight_takes_the_time_of_one_anchor():
    trials = pretrained("sweep: {anchor.weight: [0, 0.3, 10]}")
    assert [trial.spec.anchor.weight for trial in trials] == [0, 0.3, 10]
    assert len({trial.key for trial in trials}) == 3
    [plain] = pretrained()
    assert len({_likeness(trial.document) for trial in trials}) == 1
    assert _likeness(plain.document) != _likeness(trials[0].document)


@pytest.mark.parametrize("method", ["moco_v2", "byol", "simclr"])
@pytest.mark.parametrize(
    "beside", ["batch_norm: frozen", "train: batchnorm", "bn_group: 16", "head_warmup_steps: 3"]
)
def test_it_goes_with_every_method_and_batch_norm(method, beside):
    [trial] = pretrained("anchor: {weight: 2}", beside, f"method: {method}")
    assert trial.spec.anchor.weight == 2


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (
            ["train: head", "anchor: {weight: 1}"],
            "recipe.yaml:13 stages.hpt.anchor: an anchor holds the backbone's features, and "
            "train: head lets none of it learn\n  do: leave out anchor, or write train: all",
        ),
        (["anchor: {weight: -1}"], "recipe.yaml:12 stages.hpt.anchor.weight: "),
        (["anchor: {wieght: 1}"], "unknown setting wieght\n  allowed: weight"),
        (["anchor: 1"], "recipe.yaml:12 stages.hpt.anchor: "),
        (["anchor: {weight: .inf}"], "stages.hpt.anchor.weight: "),
        (["sweep: {anchor.wait: [1]}"], "cannot sweep over anchor.wait\n  allowed: anchor.weight"),
    ],
)
def test_what_cannot_be_is_refused_at_its_line(lines, says):
    with pytest.raises(RecipeError) as error:
        pretrained(*lines)
    assert says in str(error.value)


def test_a_plan_says_what_it_adds():
    [held] = pretrained("anchor: {weight: 0.3}")
    assert held.spec.remark() == (
        "sgd, peak learning rate 0.03 (lr_scaling: none); anchor: loss + 0.3 x (1 - cosine to the "
        "features of base), one more forward pass"
    )
    [measured] = pretrained("anchor: {weight: 0}")
    assert "features of base is measured, and nothing held" in measured.spec.remark()
