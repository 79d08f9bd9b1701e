from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpt_dist.cli import console
from hpt_dist.errors import RecipeError
from hpt_dist.recipe import (
    KINDS,
    METHOD_SETTINGS,
    Finetune,
    Image,
    Linear,
    Pretrain,
    Spec,
    result_fields,
)
from hpt_dist.recipe import file as recipe_file
from hpt_dist.recipe.presets import BN_GROUPS, PRESETS, filled
from hpt_dist.recipe.validation import fields_at

PAGE = (Path(__file__).parents[2] / "docs/presets.md").read_text()
NEEDED = {
    "pretrain": {"kind": "pretrain", "init": "base", "data": ["a/train"]},
    "linear": {"kind": "linear", "init": "base", "data": "a"},
    "finetune": {"kind": "finetune", "init": "base", "data": "a"},
    "knn": {"kind": "knn", "init": "base", "data": "a"},
}


def validated(kind: str, **settings: Any) -> Any:
    found = filled(kind, {**NEEDED[kind], **settings})
    return KINDS[kind].model_validate_json(json.dumps(found), strict=True)


def leaves(tree: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    if not isinstance(tree, dict) or not tree:
        return {path: tree}
    found: dict[tuple[str, ...], Any] = {}
    for key, value in tree.items():
        found |= leaves(value, (*path, key))
    return found


def exists(spec: type[Spec], path: list[str]) -> bool:
    return all(key in fields_at(spec, path[:depth]) for depth, key in enumerate(path))


def entries() -> list[tuple[str, str]]:
    return [(preset, entry) for preset, entries in PRESETS.items() for entry in entries]


@pytest.mark.parametrize(("preset", "entry"), entries())
def test_a_preset_holds_settings_of_its_kind_and_they_are_valid(preset, entry):
    kind, _, method = entry.partition(" ")
    settings = {"preset": preset, **({"method": method} if method else {})}
    spec = validated(kind, **settings)
    chosen = PRESETS[preset][entry]
    assert all(exists(KINDS[kind], list(path)) for path in leaves(chosen) if path)
    for path, value in leaves(chosen).items():
        found = spec
        for key in path:
            found = getattr(found, key)
        if path:
            assert found == (tuple(value) if isinstance(value, list) else value), path


def test_every_preset_speaks_of_every_kind_and_method_that_has_presets():
    names = set(Pretrain.model_fields["preset"].annotation.__args__)
    expected = {f"pretrain {method}" for method in METHOD_SETTINGS} | {"linear", "finetune"}
    assert set(PRESETS) == names
    assert all(set(entries) == expected for entries in PRESETS.values())
    assert all(set(parts) <= set(PRESETS[preset]) for preset, parts in BN_GROUPS.items())
    with_presets = {kind for kind, spec in KINDS.items() if "preset" in spec.model_fields}
    # select judges by linear, and detect has presets of its own.
    assert with_presets == {"pretrain", "linear", "finetune", "select", "detect"}


def test_without_a_preset_the_defaults_are_the_papers():
    for kind, spec in (("pretrain", Pretrain), ("linear", Linear), ("finetune", Finetune)):
        expected = spec.model_validate_json(json.dumps(NEEDED[kind]), strict=True)
        assert validated(kind) == validated(kind, preset="paper") == expected
    assert filled("knn", dict(NEEDED["knn"])) == NEEDED["knn"]


def test_the_authors_moco_differs_in_hue_and_batch_norm_alone():
    paper, code = (validated("pretrain", preset=preset) for preset in PRESETS)
    assert (paper.augment.hue, code.augment.hue) == (0.1, 0.4)
    assert (paper.bn_group, code.bn_group) == (None, 64)
    same = code.model_copy(
        update={"augment": paper.augment, "bn_group": None, "preset": paper.preset}
    )
    assert same == paper


def test_the_authors_byol_differs_in_steps_and_batch_norm_alone():
    paper, code = (validated("pretrain", method="byol", preset=preset) for preset in PRESETS)
    assert (paper.steps, code.steps) == (5000, 10_000)
    assert (paper.bn_group, code.bn_group) == (None, 128)
    same = code.model_copy(update={"steps": 5000, "bn_group": None, "preset": paper.preset})
    assert same == paper
    assert (paper.optimizer.name, paper.peak_lr, paper.warmup_steps) == ("lars", 0.3, 10)
    assert (paper.augment.blur, paper.augment.solarize) == (1.0, 0.0)
    assert (paper.augment_other.blur, paper.augment_other.solarize) == (0.1, 0.2)


def test_the_authors_linear_evaluation_drops_at_their_steps():
    spec = validated("linear", preset="authors-code")
    assert spec.learning_rates == (30.0,)
    assert [share * 5000 for share in spec.milestones] == pytest.approx([1651, 3333])


def test_the_authors_fine_tuning_has_a_fast_head_early_drops_and_groups_of_64():
    paper, code = (validated("finetune", preset=preset) for preset in PRESETS)
    assert (paper.steps, paper.batch, paper.optimizer.lr) == (2500, 256, 0.01)
    assert (paper.optimizer.weight_decay, paper.optimizer.momentum) == (0, 0.9)
    assert (paper.head_lr_scale, code.head_lr_scale) == (1, 100)
    assert (paper.bn_group, code.bn_group) == (None, 64)
    # 833 and 1667 of the 10,000 passes of 2,500 updates.
    assert [share * 2500 for share in code.milestones] == pytest.approx([208.25, 416.75])
    for length in ({"epochs": 90}, {"schedule": "90 epochs"}):
        spec = validated("finetune", preset="authors-code", **length)
        assert spec.milestones == paper.milestones == (1 / 3, 2 / 3)


VALUES = st.sampled_from([0, 1, 0.5, 64, 1000, None, True, "adamw", "lars", "sgd", [0.5, 1.0], {}])
GROUPS = {
    "optimizer": ["name", "lr", "weight_decay", "typo"],
    "augment": ["hue", "crop_area", "blur", "flip", "typo"],
    "augment_other": ["hue", "solarize", "blur"],
    "byol": ["momentum", "dim"],
}
PLAIN = ["steps", "batch", "bn_group", "warmup_steps", "lr_scaling", "schedule", "milestones"]


@st.composite
def written(draw) -> dict[str, Any]:
    """Settings as somebody may write them, with faults."""
    tree = dict(draw(st.dictionaries(st.sampled_from(PLAIN), VALUES)))
    for group, keys in GROUPS.items():
        inner = st.dictionaries(st.sampled_from(keys), VALUES)
        choice = draw(st.none() | inner | VALUES.map(lambda value: [value]))
        if choice is not None:
            tree[group] = choice[0] if isinstance(choice, list) else choice
    names = st.sampled_from(["paper", "authors-code", "other", 3, [], {}])
    methods = st.sampled_from(["moco_v2", "byol", "simclr", "other", None, ["byol"]])
    tree |= draw(st.fixed_dictionaries({}, optional={"preset": names, "method": methods}))
    return tree


@given(st.sampled_from(["pretrain", "linear", "knn", "mme", "import"]), written())
def test_a_preset_never_changes_what_was_written(kind, settings):
    before = copy.deepcopy(settings)
    found = filled(kind, settings)
    assert settings == before
    there = leaves(found)
    for path, value in leaves(settings).items():
        if value == {}:  # a group that says nothing may be filled
            inner = found
            for key in path:
                inner = inner[key]
            assert isinstance(inner, dict)
        else:
            assert there[path] == value
            assert type(there[path]) is type(value)
    assert filled(kind, found) == found


@given(
    st.sampled_from(["moco_v2", "byol", "simclr"]),
    st.sampled_from(list(PRESETS)),
    st.integers(1, 40),
    st.integers(2, 600),
)
def test_no_number_of_steps_or_images_is_refused_because_of_a_preset(method, preset, steps, batch):
    settings = {"method": method, "preset": preset, "steps": steps, "batch": batch}
    queue = {"moco": {"queue": 4 * batch}} if method == "moco_v2" else {}
    spec = validated("pretrain", **settings, **queue)
    assert (spec.steps, spec.batch) == (steps, batch)


def test_another_optimizer_takes_the_presets_away():
    spec = validated("pretrain", method="byol", batch=512, optimizer={"name": "sgd"})
    defaults = validated("pretrain").optimizer
    assert (spec.optimizer, spec.lr_scaling) == (defaults, "none")
    own = validated("pretrain", method="byol", batch=512, optimizer={"lr": 0.1})
    assert (own.optimizer.name, own.optimizer.weight_decay, own.peak_lr) == ("lars", 1e-6, 0.1)
    assert validated("pretrain", method="byol", batch=512).peak_lr == 0.6


def test_what_augment_says_counts_for_both_views():
    spec = validated("pretrain", method="byol", augment={"jitter": 0, "blur": 0.3})
    assert (spec.augment.jitter, spec.augment_other.jitter) == (0, 0)
    assert (spec.augment.blur, spec.augment_other.blur) == (0.3, 0.3)
    assert (spec.augment.solarize, spec.augment_other.solarize) == (0.0, 0.2)
    other = {"augment": {"blur": 0.3}, "augment_other": {"blur": 0.7}}
    assert validated("pretrain", method="byol", **other).augment_other.blur == 0.7
    assert validated("pretrain", method="byol", augment_other=None).augment_other is None


RECIPE = """\
name: presets
datasets: {real: domainnet/real}
backbone: resnet50
stages:
  base: {kind: import, weights: random}
  hpt:
    kind: pretrain
    init: base
    data: [real/train]
    augment: {flip: 0}
    sweep: {preset: [paper, authors-code], method: [moco_v2, byol], steps: [5, 500]}
"""


def test_a_recipe_sweeps_over_presets():
    points = recipe_file.parse(RECIPE, environment={}).stages["hpt"]
    assert len({repr(result_fields(point.spec)) for point in points}) == len(points) == 8
    for point in points:
        assert point.spec.preset == point.axes["preset"]
        assert point.spec.steps == point.axes["steps"]
        assert point.spec.augment.flip == 0
        assert (point.spec.optimizer.name == "lars") is (point.axes["method"] == "byol")


def test_an_unknown_preset_is_refused_with_the_known_ones():
    with pytest.raises(RecipeError, match="did you mean paper"):
        recipe_file.parse(RECIPE.replace("[paper, authors-code]", "[papers]"), environment={})


def documented() -> set[str]:
    """The settings that the page's tables name, as kind.setting."""
    kinds = "|".join([*KINDS, "image"])
    rows = [line for line in PAGE.splitlines() if line.startswith("|")]
    cells = [row.strip("| ").split(" | ")[-1] for row in rows]
    return {name for cell in cells for name in re.findall(rf"`((?:{kinds})\.[a-z_.]+)`", cell)}


def test_every_setting_that_the_page_names_exists():
    assert len(documented()) > 20
    for name in documented():
        kind, *path = name.split(".")
        spec = Image if kind == "image" else KINDS[kind]
        assert exists(spec, path), name


def test_the_page_names_every_setting_that_a_preset_fills():
    names = documented()
    assert "pretrain.bn_group" in names
    for entries in PRESETS.values():
        for entry, chosen in entries.items():
            kind = entry.partition(" ")[0]
            for path in leaves(chosen):
                outer = [".".join([kind, *path[:depth]]) for depth in range(1, len(path) + 1)]
                assert not path or names & set(outer), path


def test_the_pages_rows_have_as_many_cells_as_their_tables():
    for line in PAGE.splitlines():
        if line.startswith("|"):
            assert line.count("|") == 5, line


@pytest.mark.parametrize(
    ("settings", "rate", "reported"),
    [
        ({}, 0.03, "sgd, peak learning rate 0.03 (lr_scaling: none)"),
        (
            {"lr_scaling": "linear"},
            0.12,
            "peak learning rate 0.12 (0.03 x 1024/256, lr_scaling: linear)",
        ),
        (
            {"lr_scaling": "sqrt"},
            0.06,
            "peak learning rate 0.06 (0.03 x sqrt(1024/256), lr_scaling: sqrt)",
        ),
    ],
)
def test_a_scaled_learning_rate_is_reported_with_its_rule(
    settings: dict[str, Any], rate: float, reported: str
) -> None:
    spec = validated("pretrain", batch=1024, **settings)
    assert spec.peak_lr == pytest.approx(rate)
    trial: Any = SimpleNamespace(stage="hpt", spec=spec, datasets={}, candidates=())
    assert reported in console._remark(trial)
