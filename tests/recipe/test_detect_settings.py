"""What a stage of kind detect may ask: presets, sizes, boxes; what is refused, and how."""

from dataclasses import replace

import pytest

from hpt_dist.errors import RecipeError
from hpt_dist.recipe import file as recipe_file
from hpt_dist.recipe import plan
from hpt_dist.recipe.facts import DatasetFacts, Facts

RECIPE = """\
name: small
datasets: {things: things}
backbone: resnet18
stages:
  base: {kind: import, weights: random}
  detect: {kind: detect, init: base, data: things}
"""
COUNTS = {"train": 32, "val": 16, "test": 16}
OF_CLASSES = {split: [4] * 4 for split in COUNTS}
THINGS = DatasetFacts("things", "", "d", 4, COUNTS, OF_CLASSES, label="boxes", masks=True)


def planned(more="", known=THINGS, text=RECIPE):
    text = text.replace("data: things", f"data: things, {more}" if more else "data: things")
    recipe = recipe_file.parse(text, environment={})
    facts = Facts({"things": known}, {"random": "r"})
    return plan.make(recipe, facts)[-1]


def refused(more="", known=THINGS, text=RECIPE):
    with pytest.raises(RecipeError) as caught:
        planned(more, known, text)
    return str(caught.value)


@pytest.mark.parametrize(
    ("preset", "steps", "falls", "batch", "rate", "masks"),
    [
        ("voc_24k", 24_000, (18_000, 22_000), 16, 0.02, False),
        ("bdd_90k", 90_000, (60_000, 80_000), 8, 0.01, False),
        ("coco_1x_b8", 180_000, (120_000, 160_000), 8, 0.01, True),
    ],
)
def test_presets_hold_the_papers_schedules(preset, steps, falls, batch, rate, masks):
    trial = planned(f"preset: {preset}")
    spec = trial.spec
    assert (spec.steps, spec.batch, spec.optimizer.lr, spec.masks) == (steps, batch, rate, masks)
    assert tuple(round(share * steps) for share in spec.milestones) == falls
    assert spec.architecture == "c4"
    assert spec.proposals_before == (12_000, 6000)
    assert spec.keep == "last"
    assert [read.split for read in spec.reads()] == ["things/train", "things/test"]
    assert spec.sizes[-1] == spec.test_size
    assert "preset" not in trial.document["spec"]


def test_what_a_recipe_writes_stands_before_its_preset():
    spec = planned("preset: bdd_90k, batch: 16, optimizer: {momentum: 0.8}, sizes: [320]").spec
    assert (spec.steps, spec.batch, spec.sizes) == (90_000, 16, (320,))
    assert (spec.optimizer.lr, spec.optimizer.momentum) == (0.01, 0.8)
    adam = planned("preset: bdd_90k, optimizer: {name: adamw, lr: 1e-4}").spec
    assert (adam.optimizer.name, adam.optimizer.lr) == ("adamw", 1e-4)


def test_a_preset_and_its_values_written_out_are_one_trial():
    written = (
        "batch: 8, steps: 90000, milestones: [0.6666666666666666, 0.8888888888888888], "
        "warmup_steps: 1000, optimizer: {lr: 0.01}, sizes: [362, 392, 422, 452, 482, 512], "
        "test_size: 512, max_size: 1200"
    )
    assert planned(written).key == planned("preset: bdd_90k").key
    others = ["masks: true", "architecture: fpn", "seed: 1", "images_without_boxes: keep"]
    others += ["precise_batch_norm: 10", "jitter: 0.5", "decay_norms: true"]
    keys = {planned(one).key for one in others}
    assert len(keys | {planned().key}) == 8


@pytest.mark.parametrize("optimizer", ["{name: adamw, lr: 1e-4}", "{weight_decay: 0}"])
def test_decay_of_norms_is_in_no_key_where_nothing_decays_them(optimizer):
    keys = {planned(f"decay_norms: {one}, optimizer: {optimizer}").key for one in ("true", "false")}
    assert len(keys) == 1
    assert planned().document["spec"]["decay_norms"] is False


@pytest.mark.parametrize(
    ("more", "printed"),
    [
        ("sizes: [320, 256]", "the short sides are not ascending"),
        ("max_size: 640", "800 is above max_size 640"),
        ("keep: best", "best never looks at val   do: set eval_every, or keep: last"),
        ("milestones: [0.9, 0.8]", "the rate falls a second time before it falls once"),
        ("warmup_steps: 30000", "leaves none of 24000 steps"),
        ("bn_group: 5", "bn_group 5 does not divide batch 16"),
        ("head_warmup_steps: 5", "use warmup_steps"),
        ("architecture: fpn, anchor_sizes: [32, 64]", "an fpn has 5 maps, and 2"),
        ("preset: voc_18k", "voc_24k, bdd_90k"),
        ("choose: {seed: [0, 1]}", "choose"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_to_do(more, printed):
    assert printed in refused(more).replace("\n", " ")


def test_only_boxes_are_read_and_only_backbones_with_stages():
    several = replace(THINGS, label="multi")
    assert "detect needs boxes" in refused(known=several)
    linear = RECIPE.replace("kind: detect", "kind: linear")
    assert "the labels of things are boxes; linear needs classes" in refused(text=linear)
    vit = RECIPE.replace("resnet18", "timm/vit_small_patch16_224")
    printed = refused(text=vit)
    assert "is no backbone of a detector" in printed
    assert "ResNet, EfficientNet, ConvNeXt" in printed
    for name in ("timm/convnext_tiny", "tf_efficientnet_lite0", "torchvision/efficientnet_b0"):
        assert planned(text=RECIPE.replace("resnet18", name)).spec.kind == "detect"
    no_val = replace(THINGS, images={"train": 32, "test": 16})
    assert planned(known=no_val)
    assert "things has no split val" in refused("eval_every: 10", known=no_val)
    learned = RECIPE.replace("data: things", "data: things/test")
    assert "cannot be learned from: it judges" in refused(text=learned)


@pytest.mark.parametrize("asked", ["masks: true", "preset: coco_1x_b8"])
def test_masks_that_the_dataset_does_not_have_are_refused_with_what_to_do(asked):
    without = replace(THINGS, masks=False)
    printed = refused(asked, known=without)
    assert "stages.detect.masks: the objects of things have no masks" in printed
    assert "allowed: false" in printed
    assert "shard it again with --boxes, from annotations in which every object has" in printed
    assert planned(f"{asked}, masks: false".removeprefix("masks: true, "), known=without)


def test_the_plan_says_how_long_it_is_and_what_it_leaves_out():
    trial = planned("steps: 100, warmup_steps: 10, eval_every: 30")
    said = trial.spec.remark_on(trial.datasets)
    assert said == (
        "Faster R-CNN C4, 100 steps of 16 (50.0 epochs); images without boxes are left out"
    )
    assert trial.images == 1600
    assert trial.spec.judged_on(trial.datasets) == 4 * 16 + 16
    assert trial.spec.rank_faults(3)
    assert not trial.spec.rank_faults(4)
    doubts = planned("batch: 64").spec.doubts(trial.datasets)
    assert [doubt.setting for doubt in doubts] == ["batch"]
