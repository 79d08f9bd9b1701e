"""What fits a backbone, what is adapted to it, and what is refused by name."""

from __future__ import annotations

import functools
import io
import re
import shutil

import pytest
import timm
import torch
from small import hpt
from timm.models.vision_transformer import checkpoint_filter_fn

from hpt_dist.errors import RequestError, WeightsError
from hpt_dist.networks import backbones
from hpt_dist.store import open_store
from hpt_dist.weights import dialects, files, values
from hpt_dist.weights import match as weights

RESNET, VIT = "timm/test_resnet", "timm/test_vit"
STEM = "conv1.0.weight"


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "store"))


@functools.cache
def network(name, **settings):
    torch.manual_seed(1)
    made = timm.create_model(name.removeprefix("timm/"), num_classes=0, **settings)
    for entry, value in made.state_dict().items():
        if value.is_floating_point() and value.dim() < 4:
            value.uniform_(0.5, 1) if "running" in entry else value.normal_(std=0.1)
    return made.eval()


def state_of(name, **settings):
    return dict(network(name, **settings).state_dict())


def put(store, content, name="a.pth"):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    store.put(name, buffer.getvalue())


def load(store, state, name, **settings):
    put(store, state)
    return weights.load("a.pth", name, store, **settings)


def filled(state, name):
    backbone = backbones.create(name)
    backbone.load_state_dict(state)
    return backbone.eval()


# What does not fit


def without(name):
    return lambda state: {entry: value for entry, value in state.items() if entry != name}


def changed(name, value):
    return lambda state: {**state, name: value}


MISFITS = {
    "another stem": (RESNET, changed(STEM, torch.rand(16, 3, 7, 7)), "[16, 3, 7, 7]"),
    "no stem": (RESNET, without(STEM), f"{STEM} is missing"),
    "other channels": (RESNET, changed(STEM, torch.rand(16, 4, 3, 3)), "[16, 4, 3, 3]"),
    "swapped": (RESNET, changed(STEM, torch.rand(3, 16, 3, 3)), "[3, 16, 3, 3]"),
    "a batch of weights": (RESNET, changed(STEM, torch.rand(1, 16, 3, 3, 3)), "[1, 16, 3, 3, 3]"),
    "no variance": (RESNET, without("conv1.1.running_var"), "conv1.1.running_var is missing"),
    "a deeper network": (RESNET, changed("layer1.9.conv1.weight", torch.rand(3)), "layer1.9.conv1"),
    "a bias": (RESNET, changed("conv1.0.bias", torch.rand(16)), "conv1.0.bias is of a layer"),
    "no class token": (VIT, without("cls_token"), "cls_token is missing"),
    "no positions": (VIT, without("pos_embed"), "pos_embed is missing"),
    "other patches": (
        VIT,
        changed("patch_embed.proj.weight", torch.rand(64, 3, 8, 8)),
        "[64, 3, 8, 8]",
    ),
    "wider positions": (VIT, changed("pos_embed", torch.rand(1, 101, 32)), "[1, 101, 32]"),
    "positions of no square": (VIT, changed("pos_embed", torch.rand(1, 100, 64)[:, 1:]), "pos_emb"),
    "registers": (VIT, changed("reg_token", torch.rand(1, 4, 64)), "reg_token is of a layer"),
    "a norm before": (VIT, changed("norm_pre.weight", torch.rand(64)), "norm_pre.weight is of a"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_each_entry_must_fit(store, case):
    name, change, says = MISFITS[case]
    state = change(state_of(name))
    with pytest.raises(WeightsError, match=re.escape(says)) as refused:
        load(store, state, name)
    assert says in str(refused.value).splitlines()[0], "the summary of a launch shows one line"
    assert "force: true" in str(refused.value)
    loaded, report = load(store, state, name, force=True)
    assert any(line.startswith("forced") and says in line for line in report.lines)
    assert all(torch.equal(loaded[entry], state[entry]) for entry in report.matched)


def test_what_nothing_learns_may_be_there_or_not(store):
    state = state_of(RESNET)
    counters = {entry for entry in state if entry.endswith("num_batches_tracked")}
    plain = {entry: value for entry, value in state.items() if entry not in counters}
    one = {entry: torch.ones(1) for entry in counters}
    more = {"mask_token": torch.ones(1, 1, 64), "layer1.0.total_ops": torch.ones(1)}
    for content in (plain, plain | one, plain | more):
        loaded, report = load(store, content, RESNET)
        assert report.share == 1
        assert all(torch.equal(loaded[entry], value) for entry, value in plain.items())


def test_a_file_of_something_else_shows_what_it_has(store):
    with pytest.raises(WeightsError, match=r"none of its entries is in this file.* tok\.w"):
        load(store, {"tok.w": torch.ones(2)}, RESNET)


def test_names_are_printed_harmlessly(store):
    evil = "layer1.\x1b[31mred\nDONE"
    with pytest.raises(WeightsError) as refused:
        load(store, changed(evil, torch.ones(1))(state_of(RESNET)), RESNET)
    assert "\x1b" not in str(refused.value)
    assert r"layer1.\x1b[31mred DONE" in str(refused.value)


# What is adapted


def test_a_stem_for_gray_images_gives_the_same_features(store):
    gray = network(RESNET, in_chans=1)
    state, report = load(store, gray.state_dict(), RESNET)
    assert report.share == 1
    assert report.adapted == (f"{STEM}: 1 channel repeated to 3, each divided by 3",)
    images = torch.rand(2, 1, 32, 32)
    torch.testing.assert_close(filled(state, RESNET)(images.repeat(1, 3, 1, 1)), gray(images))


@pytest.mark.parametrize("size", [96, 320])
def test_positions_are_resampled_as_timm_does(store, size):
    given = state_of(VIT, img_size=size)
    state, report = load(store, {"teacher": {"backbone." + k: v for k, v in given.items()}}, VIT)
    side = size // 16
    assert report.adapted == (f"pos_embed: {side} x {side} positions resampled to 10 x 10",)
    other = timm.create_model("test_vit", num_classes=0)
    expected = checkpoint_filter_fn(given, other)
    assert all(torch.equal(state[entry], value) for entry, value in expected.items())


@pytest.mark.parametrize(("img_size", "says"), [(160, "10 x 10 positions;"), (320, "resampled")])
def test_positions_without_one_for_the_class_token_give_the_same_features(store, img_size, says):
    given = network(VIT, no_embed_class=True, img_size=img_size, dynamic_img_size=True)
    state, report = load(store, given.state_dict(), VIT)
    assert says in report.adapted[0]
    assert report.adapted[0].endswith("that of the class token is 0")
    if img_size == 160:
        images = torch.rand(2, 3, 160, 160)
        torch.testing.assert_close(filled(state, VIT)(images), given(images))


def test_the_position_of_the_class_token_moves_into_the_token():
    given = network(VIT)
    other = timm.create_model("test_vit", num_classes=0, no_embed_class=True)
    other.classifier_names = ()
    state, report = weights.match(files.of_tensors(given.state_dict()), other, VIT)
    assert report.adapted == (
        "pos_embed: 10 x 10 positions; that of the class token is added to the token",
    )
    other.load_state_dict(state)
    images = torch.rand(2, 3, 160, 160)
    torch.testing.assert_close(other.eval()(images), given(images))


def test_dinov2_with_registers(store):
    """Its authors' file, which timm's own conversion reverses."""
    name = "vit_small_patch14_reg4_dinov2"
    shapes = dialects.shapes(f"timm/{name}")
    ours = {k: torch.rand([1] * len(shape)).expand(shape) for k, shape in shapes.items()}
    given = without("reg_token")(ours) | {
        "register_tokens": torch.rand(1, 4, 384),
        "mask_token": torch.zeros(1, 384),
        "pos_embed": torch.rand(1, 1370, 384),
    }
    expected = checkpoint_filter_fn(dict(given), backbones.blank(f"timm/{name}"))
    state, report = load(store, given, name)
    assert "DINOv2's names" in report.recognised
    assert report.unexpected == ("mask_token",)
    assert state.keys() == expected.keys()
    for entry, value in state.items():
        torch.testing.assert_close(value, expected[entry], rtol=0, atol=1e-6)


# Numbers that no network has


def where(entry, edit):
    def apply(state):
        value = state[entry].clone()
        return {**state, entry: edit(value)}

    return apply


def set_first(number):
    def edit(value):
        value.view(-1)[0] = number
        return value

    return edit


VARIANCE = "layer1.0.bn1.running_var"
WRONG = {
    "nan": (where(STEM, set_first(float("nan"))), f"{STEM} has 1 of 432 values that are not fin"),
    "inf": (where("conv1.1.bias", set_first(float("inf"))), "conv1.1.bias has 1 of 16"),
    "half": (where(VARIANCE, lambda v: (v + 7e4).half()), f"{VARIANCE} has"),
    "negative": (where(VARIANCE, set_first(-1e-3)), f"{VARIANCE} is a variance"),
    "no variance": (where(VARIANCE, torch.zeros_like), f"{VARIANCE} is a variance and is 0"),
    "double": (where(STEM, lambda v: v.double() * 1e300), "too large for float32"),
    "zero": (where(STEM, torch.zeros_like), f"{STEM} is a layer's weight and is 0 throughout"),
    "complex": (where(STEM, lambda v: v.to(torch.complex64)), f"{STEM} holds complex64 numbers"),
    "integer": (where(STEM, lambda v: v.to(torch.int8)), f"{STEM} holds int8 numbers"),
    "bool": (where(STEM, lambda v: v > 0), f"{STEM} holds bool numbers"),
    "sparse": (where(STEM, torch.Tensor.to_sparse), f"{STEM} holds sparse numbers"),
    "meta": (where(STEM, lambda v: v.to("meta")), f"{STEM} holds no numbers"),
    "counter": (
        where("conv1.1.num_batches_tracked", lambda v: v * float("nan")),
        "conv1.1.num_batches_tracked has 1 of 1",
    ),
}


@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("force", [False, True])
def test_numbers_that_no_network_has_are_refused_by_name(store, case, force):
    change, says = WRONG[case]
    with pytest.raises(WeightsError, match=re.escape(says)):
        load(store, change(state_of(RESNET)), RESNET, force=force)


def test_numbers_that_are_left_out_or_may_be_zero_do_no_harm(store):
    state = state_of(RESNET)
    zero = {k: v for k, v in state.items() if v.dim() == 1 and "running_var" not in k}
    half = {k: v.bfloat16() if v.is_floating_point() else v for k, v in state.items()}
    for content in (
        state | {"fc.weight": torch.full((5, 3), float("nan"))},
        state | {k: torch.zeros_like(v) for k, v in zero.items()},
        half,
    ):
        _, report = load(store, content, RESNET)
        assert report.share == 1


def test_weights_that_a_training_ruined_are_named():
    state = state_of(RESNET)
    values.require_finite(state)
    with pytest.raises(WeightsError, match=rf"stages/0: these weights are not finite: {STEM}"):
        values.require_finite(where(STEM, set_first(float("inf")))(state), "stages/0")


# Several networks in one file


def test_of_two_networks_one_must_be_chosen(store):
    one, other = state_of(RESNET), {k: v + 1 for k, v in state_of(RESNET).items()}
    put(store, {"first": one, "ema": other})
    with pytest.raises(RequestError, match=r"2 networks") as asked:
        weights.load("a.pth", RESNET, store)
    assert "allowed: ema, first" in str(asked.value)
    assert "a.pth#ema" in str(asked.value)
    state, _ = weights.load("a.pth#first", RESNET, store)
    assert torch.equal(state[STEM], one[STEM])

    put(store, {**one, "ema": other})
    with pytest.raises(RequestError, match=r"allowed: \., ema"):
        weights.load("a.pth", RESNET, store)
    for choice, expected in ((".", one), ("ema", other)):
        state, _ = weights.load(f"a.pth#{choice}", RESNET, store)
        assert torch.equal(state[STEM], expected[STEM])


def test_equal_networks_are_no_question(store):
    state = state_of(RESNET)
    loaded, _ = load(store, {"first": state, "second": dict(state)}, RESNET)
    assert torch.equal(loaded[STEM], state[STEM])


@pytest.mark.parametrize("wrapper", ["model_ema", "state_dict_ema", "teacher", "module.model"])
def test_a_single_network_is_found_wherever_it_is(store, wrapper):
    _, report = load(store, {wrapper: state_of(RESNET)}, RESNET)
    assert report.share == 1


# On the terminal


RECIPE = """\
name: imports
store: {store}
backbone: timm/test_resnet
stages:
  gray: {{kind: import, weights: gray.pth}}
  stem: {{kind: import, weights: stem.safetensors{force}}}
"""


def test_plan_refuses_what_does_not_fit_and_launch_prints_what_was_done(
    store, tmp_path, mlflow_tables
):
    (tmp_path / "store/work").mkdir(parents=True)
    shutil.copy(mlflow_tables, tmp_path / "store/work/mlflow.db")
    put(store, network(RESNET, in_chans=1).state_dict(), "gray.pth")
    misfit = files.save(changed(STEM, torch.rand(16, 3, 7, 7))(state_of(RESNET)), {})
    store.put("stem.safetensors", misfit)
    recipe = tmp_path / "imports.yaml"
    recipe.write_text(RECIPE.format(store=store.uri, force=""))
    printed = hpt("plan", str(recipe), store=store.uri, code=2)
    assert f"{recipe}:6 stages.stem.weights: stem.safetensors: these weights do not fit" in printed
    assert f"{STEM} is [16, 3, 7, 7], the backbone's is [16, 3, 3, 3]" in printed
    assert "gray.pth" not in printed

    recipe.write_text(RECIPE.format(store=store.uri, force=", force: true"))
    printed = hpt("launch", str(recipe), "--on", "inline", store=store.uri, process=False)
    assert f"gray  adapted: {STEM}: 1 channel repeated to 3" in printed
    assert f"stem  forced, stays random: {STEM} is [16, 3, 7, 7]" in printed
