"""Policies of augmentation: what each leaves out, in keys, in presets and beside settings."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from hpt_dist.recipe import Augment, Pretrain, plan, result_fields
from hpt_dist.recipe import file as recipe_file
from hpt_dist.recipe.presets import filled


def pretrain(**settings: Any) -> Pretrain:
    written = {"kind": "pretrain", "init": "b", "data": ["a/b"], **settings}
    return Pretrain.model_validate_json(json.dumps(filled("pretrain", written)), strict=True)


def key(spec: Pretrain) -> str:
    return plan.key_of(result_fields(spec))


@pytest.mark.parametrize(
    ("policy", "left_out"),
    [
        ("full", {}),
        ("no_gray", {"gray": 0}),
        ("no_color", {"jitter": 0}),
        ("crop_blur", {"gray": 0, "jitter": 0, "flip": 0}),
        ("crop_only", {"gray": 0, "jitter": 0, "flip": 0, "blur": 0}),
    ],
)
@pytest.mark.parametrize("preset", ["paper", "authors-code"])
def test_a_policy_is_short_for_what_it_leaves_out(policy, left_out, preset):
    short = pretrain(preset=preset, augment={"policy": policy, "crop_area": [0.3, 1.0]})
    long = pretrain(preset=preset, augment={**left_out, "crop_area": [0.3, 1.0]})
    assert short.augment.model_dump(exclude={"policy"}) == long.augment.model_dump(
        exclude={"policy"}
    )
    assert key(short) == key(long)


def test_keys_of_before_stay():
    assert key(pretrain()).startswith("bf883ae1b351")
    assert key(pretrain(augment={"gray": 0})).startswith("44ee2cd20292")
    assert key(pretrain(augment={"policy": "no_gray"})).startswith("44ee2cd20292")


def test_of_byol_both_views_are_left_with_crops():
    spec = pretrain(method="byol", augment={"policy": "crop_only"})
    for views in (spec.augment, spec.augment_other):
        left = (views.flip, views.jitter, views.gray, views.blur, views.solarize)
        assert left == (0, 0, 0, 0, 0)
    spec = pretrain(method="byol", augment={"policy": "crop_blur"})
    assert (spec.augment.blur, spec.augment_other.blur) == (1.0, 0.1)


def test_contradictions_are_refused():
    with pytest.raises(ValidationError, match="policy no_gray leaves gray out, and gray is set"):
        pretrain(augment={"policy": "no_gray", "gray": 0.3})
    with pytest.raises(ValidationError, match="policy differs in augment and augment_other"):
        pretrain(augment={"policy": "no_gray"}, augment_other={"blur": 0.1})
    assert Augment(policy="no_gray", gray=0).gray == 0


def test_policies_are_swept_like_any_value():
    recipe = recipe_file.parse(
        "name: a\ndatasets: {a: a}\nbackbone: resnet18\nstages:\n"
        "  base: {kind: import, weights: random}\n"
        "  hpt: {kind: pretrain, init: base, data: [a/train],\n"
        "        sweep: {augment.policy: [full, no_gray, no_color, crop_blur, crop_only]}}\n",
        environment={},
    )
    specs = [point.spec for point in recipe.stages["hpt"]]
    assert [one.augment.policy for one in specs] == [
        *("full", "no_gray", "no_color", "crop_blur", "crop_only")
    ]
    assert len({key(one) for one in specs}) == 5
