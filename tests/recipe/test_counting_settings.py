"""The settings that MLflow shows of a trial: those that count, and no others."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hpt_dist.errors import RecipeError
from hpt_dist.recipe import KINDS, file
from hpt_dist.recipe.settings import counting_settings

PRETRAIN = {"kind": "pretrain", "init": "base", "data": ["a/train"]}
MME = {"kind": "mme", "init": "base", "source": "a/train", "target": "b", "shots": 3}


def shown(**settings: Any) -> dict[str, str]:
    return counting_settings(KINDS[settings["kind"]].model_validate_json(json.dumps(settings)))


@pytest.mark.parametrize(
    ("settings", "there", "missing"),
    [
        (PRETRAIN, "moco.queue optimizer.momentum augment.hue", "byol.dim simclr.dim monitor.k"),
        (PRETRAIN | {"method": "byol"}, "byol.dim", "moco.queue simclr.temperature"),
        (
            PRETRAIN | {"optimizer": {"name": "adamw"}},
            "optimizer.lr optimizer.weight_decay",
            "optimizer.momentum optimizer.nesterov optimizer.trust",
        ),
        (PRETRAIN | {"optimizer": {"name": "lars"}}, "optimizer.trust", "optimizer.nesterov"),
        (
            PRETRAIN | {"augment": {"jitter": 0, "blur": 0}},
            "augment.gray",
            "augment.hue augment.brightness augment.blur_sigma",
        ),
        (PRETRAIN | {"monitor": {"data": "a"}}, "monitor.probe", "monitor.k monitor.temperature"),
        (
            PRETRAIN | {"monitor": {"data": "a", "probe": "knn"}},
            "monitor.k monitor.temperature",
            "bn_group",
        ),
        (PRETRAIN, "monitor.images", "monitor.probe"),
        (PRETRAIN | {"monitor": None}, "steps", "monitor.images augment_other.hue"),
        (MME, "shots entropy_weight batch_unlabelled", "labels resources.gpus checkpoint_every"),
        (MME | {"objective": "s+t"}, "batch_labelled", "entropy_weight batch_unlabelled"),
    ],
)
def test_what_is_shown(settings: dict[str, Any], there: str, missing: str):
    names = shown(**settings).keys()
    assert names >= set(there.split())
    assert not names & set(missing.split())


def test_lists_are_shown_in_words():
    assert shown(**PRETRAIN, augment={"crop_area": [0.5, 1]})["augment.crop_area"] == "0.5, 1.0"


@pytest.mark.parametrize("name", ["ada/lines", "Bücher 1", ""])
def test_an_experiment_may_have_any_name_that_can_be_seen(name: str):
    assert file.parse(recipe(f"{{experiment: '{name}'}}"), environment={}).mlflow.experiment == name


def test_it_may_hold_a_variable():
    parsed = file.parse(recipe("{experiment: '${USER}/lines'}"), environment={"USER": "ada"})
    assert parsed.mlflow.experiment == "ada/lines"


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ('{experiment: "a\\nb"}', "one line of visible characters"),
        ("{experiment: ' x'}", "one line of visible characters"),
        (f"{{experiment: {'x' * 501}}}", "500"),
        ("{experiments: x}", "did you mean experiment?"),
        ("http://mlflow:5000", "mlflow"),
    ],
)
def test_what_is_no_experiment(value: str, problem: str):
    with pytest.raises(RecipeError) as caught:
        file.parse(recipe(value), environment={})
    assert problem in str(caught.value)
    assert "recipe.yaml:" in str(caught.value)


def recipe(mlflow: str) -> str:
    stages = "stages: {base: {kind: import, weights: random}}"
    return f"name: one\nbackbone: timm/test_efficientnet\n{stages}\nmlflow: {mlflow}\n"
