"""From facts to settings: a table of data that people have, and what is recommended for each."""

from dataclasses import replace

import pytest
from seen import LITE0, base, dataset, facts, score, source

from hpt_dist.advice import cost, evidence, hours, rules, warnings
from hpt_dist.advice.facts import Copies, Difference, Pictures
from hpt_dist.errors import RequestError

FEW = {"train": 210, "val": 45, "test": 45}
MANY = {"train": 200_000, "val": 20_000, "test": 20_000}
SMALL_GRAY = Pictures(300, (28, 28, 28), gray=1.0, deep=0.0, flat=0.0, range=(0, 254))


def chosen(found):
    return rules.choices(found)


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        ({}, {"size": 64, "steps": 300, "batch": 64, "queue": 512, "share": 100, "bn": False}),
        ({"target": dataset(images=FEW)}, {"batch": 64, "queue": 192, "bn": True, "share": 100}),
        ({"target": dataset(images={**FEW, "train": 9})}, {"batch": 8, "queue": 8, "bn": True}),
        ({"target": dataset(images=MANY)}, {"bn": False, "share": 10, "steps": 300}),
        (
            {"target": dataset(images=MANY), "device": "gpu"},
            {"size": 224, "steps": 5000, "batch": 256, "queue": 2048, "share": 100},
        ),
        ({"pictures": SMALL_GRAY}, {"size": 64}),
        ({"pictures": SMALL_GRAY, "device": "gpu"}, {"size": 128}),
        ({"target": dataset(judges="val", images={"train": 90, "val": 30})}, {"bn": False}),
        ({"target": dataset(judges="none", images={"train": 900})}, {"bn": False, "batch": 64}),
    ],
)
def test_settings_follow_from_what_was_seen(seen, expected):
    found = chosen(facts(**seen))
    values = {
        "size": found.size.value,
        "steps": found.steps.value,
        "batch": found.batch.value,
        "queue": found.queue.value,
        "share": found.share.value,
        "bn": found.few_images_arm,
    }
    assert {name: values[name] for name in expected} == expected


def test_images_without_colours_get_no_colour_jitter_and_small_ones_no_blur():
    gray = chosen(facts(pictures=SMALL_GRAY)).augment
    assert gray.value == {
        "crop_area": [0.4, 1.0],
        "blur": 0,
        "saturation": 0,
        "hue": 0,
        "gray": 0,
    }
    assert "100 % of the images have no colours" in gray.why
    assert chosen(facts(device="gpu")).augment.value == {}


def test_a_network_of_patches_gets_a_size_that_it_reads():
    vit = base(backbone="timm/vit_tiny_patch16_224")
    found = chosen(facts(bases=(vit,)))
    assert found.size.value % 16 == 0
    assert not found.few_images_arm


def test_the_best_base_is_taken_if_that_is_evident_else_the_cheapest_of_the_level_ones():
    good, bad = base("timm/a", 0.7), base("timm/b", 0.6)
    slow = replace(good, images_per_second=100.0)
    worse = (Difference("timm/b", "timm/a", -0.1, 0.04, "worse"),)
    level = (Difference("timm/b", "timm/a", -0.1, 0.2, "undecided"),)
    assert chosen(facts(bases=(bad, good), differences=worse)).base.value is good
    undecided = chosen(facts(bases=(bad, slow), differences=level))
    assert undecided.base.value is bad
    assert undecided.rivals == ("timm/b", "timm/a")
    assert "no evidence of a difference to timm/a: the fastest" in undecided.base.why
    other = replace(bad, backbone="timm/resnet18")
    assert chosen(facts(bases=(other, slow), differences=level)).rivals == ()
    bare = (base("timm/a", None), base("timm/b", None))
    unlabelled = facts(bases=bare, differences=(), target=dataset(judges="none"))
    assert chosen(unlabelled).base.value is bare[0]


def test_the_nearest_source_is_taken_and_val_chooses_among_equally_far_ones():
    near, far = source("birds", 3.0), source("maps", 12.0)
    found = chosen(facts(sources=(far, near)))
    assert found.sources.value == (near,)
    assert found.direct
    level = source("cats", 3.5)
    both = chosen(facts(sources=(level, near, far))).sources
    assert both.value == (near, level)
    larger = replace(level, dataset=replace(level.dataset, images={"train": 90_000}))
    unlabelled = facts(sources=(near, larger), target=dataset(judges="none"))
    assert chosen(unlabelled).sources.value == (larger,)
    assert not chosen(unlabelled).direct
    unknown = chosen(facts(sources=(source("a", None), source("b", None)))).sources
    assert len(unknown.value) == 2


WARNED = {
    "quickdraw": (
        {"differences": (Difference(LITE0, "raw pixels", 0.01, 0.05, "undecided"),)},
        "not evidently better on these images than raw pixels",
    ),
    "shifted": ({"bases": (base(shift=1.4),)}, "far from what package/efficientnet-lite0 knows"),
    "far": ({"sources": (source("maps", 15.0),)}, "maps is 15 times as far from photos"),
    "small source": (
        {"sources": (source("maps", 2.0, images=900),)},
        "maps has 900 images, photos 12,000",
    ),
    "few to judge": (
        {"target": dataset(images=FEW)},
        "45 images of test show a gain of 18 points or more",
    ),
    "damaged": (
        {"pictures": replace(SMALL_GRAY, damaged=("photos/train/x",))},
        "1 of 300 images are damaged (photos/train/x)",
    ),
    "deep": ({"pictures": replace(SMALL_GRAY, deep=1.0, range=(0, 12))}, "values 0 to 12 of 255"),
    "flat": ({"pictures": replace(SMALL_GRAY, flat=0.5)}, "50 % of the images show hardly any"),
    "leaks": (
        {"copies": Copies(3, 400, 500, 12, whole=False)},
        "3 images that judge are also trained on; 12 of 400 images that judge look like",
    ),
    "busy": ({"speed": replace(facts().speed, share=0.3)}, "training got 30 % of its cores"),
    "no val": ({"target": dataset(judges="none")}, "photos lacks something"),
}


@pytest.mark.parametrize("case", WARNED)
def test_what_makes_a_gain_doubtful_is_said(case):
    seen, says = WARNED[case]
    found = facts(**seen)
    assert any(says in line for line in warnings.of(found, chosen(found))), warnings.of(
        found, chosen(found)
    )
    assert warnings.of(facts(), chosen(facts())) == []


def test_more_hours_buy_steps_and_never_more_than_they_are():
    found = facts(target=dataset(images=FEW), sources=(source("birds", 2.0), source("cats", 2.1)))
    full = chosen(found)
    before = 0
    for given in (0.1, 0.2, 0.3, 0.5, 1, 2, 4, 8, 16, 1000):
        fitted = hours.fitted(full, found, given)
        steps = fitted.steps.value
        assert cost.seconds(fitted, found) <= 3600 * given
        assert steps >= before or not fitted.cuts
        assert evidence.LEAST_STEPS.value <= steps <= evidence.STEPS.value
        before = steps if not fitted.cuts else 0
    assert fitted.steps.value == 5000
    assert fitted.cuts == ()
    short = hours.fitted(full, found, 0.1)
    assert not short.few_images_arm
    assert len(short.sources.value) == 1
    assert short.seeds == 1
    assert len(short.cuts) == 4
    assert hours.fitted(full, found, None) is full


def test_hours_in_which_not_even_the_least_fits_are_refused_with_what_would():
    found = facts()
    with pytest.raises(RequestError) as refused:
        hours.fitted(chosen(found), found, 0.001)
    problem = refused.value.problem
    assert problem.where == "--hours"
    least = float(problem.allowed.partition(" ")[0])
    assert hours.fitted(chosen(found), found, least).steps.value >= 50


def test_a_score_that_is_an_error_is_better_where_it_is_lower():
    good = base("a", 0.1)
    bad = base("b", 0.3)
    both = [replace(one, score=replace(one.score or score(), metric="ece")) for one in (bad, good)]
    assert rules.best(both).weights == "a"
