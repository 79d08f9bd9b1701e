"""Precision and memory format follow from a rule, are in the key, and are what is computed in."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small import hpt, write_recipe

from hpt_dist.errors import RecipeError, RequestError, TrainingError
from hpt_dist.networks import backbones, precision
from hpt_dist.networks.precision import autocast, require, torch_format
from hpt_dist.recipe import file as recipe_file
from hpt_dist.recipe import plan
from hpt_dist.recipe.facts import DatasetFacts, Facts
from hpt_dist.recipe.numerics import THIS_CPU, Device, Numerics, decide, is_convolutional
from hpt_dist.slurm import profile
from hpt_dist.train.loop import make_accelerator

CPU = torch.device("cpu")
FLOAT_LAST = Numerics("float32", "channels_last")
FLOAT_FIRST = Numerics("float32", "contiguous")
BRAIN_LAST = Numerics("bfloat16", "channels_last")
GPU = Device("gpu")

RECIPE = """\
name: small
store: ./none
datasets: {line: openmoji/line}
backbone: timm/test_efficientnet
image: {size: 32}
stages:
  base: {kind: import, weights: random}
  hpt: {kind: pretrain, init: base, data: [line/train], steps: 3, batch: 8, moco: {queue: 16}}
  probe: {kind: knn, init: base, data: line}
"""


def planned(tmp_path, device=THIS_CPU, text=RECIPE):
    (tmp_path / "small.yaml").write_text(text)
    images = {"train": 90, "val": 30, "test": 30}
    counts = {split: (images[split] // 3,) * 3 for split in images}
    line = DatasetFacts("line", "", "digest", 3, images, counts)
    recipe = recipe_file.load(tmp_path / "small.yaml", [])
    trials = plan.make(recipe, Facts({"line": line}, {"random": "random"}, device))
    return {trial.name: trial for trial in trials}


# The rule.


@pytest.mark.parametrize(
    ("asked", "device", "expected"),
    [
        ("auto", THIS_CPU, "float32"),
        ("auto", GPU, "bfloat16"),
        ("auto", Device("gpu", "float32"), "float32"),
        ("auto", Device("cpu", "bfloat16"), "bfloat16"),
        ("float32", Device("gpu", "bfloat16"), "float32"),
        ("bfloat16", THIS_CPU, "bfloat16"),
        ("float16", GPU, "float16"),
    ],
)
def test_the_kind_of_device_decides_unless_somebody_says_otherwise(asked, device, expected):
    assert decide(asked, "auto", "resnet50", device) == Numerics(expected, "channels_last")
    assert decide(asked, "contiguous", "resnet50", device) == Numerics(expected, "contiguous")


def test_the_flags_of_a_processor_never_count(monkeypatch):
    """bfloat16 units or not, the same recipe means the same trials."""

    def never(*_, **__):
        raise AssertionError("the machine was asked")

    monkeypatch.setattr(Path, "read_text", never)
    monkeypatch.setattr("builtins.open", never)
    assert decide("auto", "auto", "resnet50", THIS_CPU) == FLOAT_LAST


@pytest.mark.parametrize(
    "name",
    [
        *("resnet18", "timm/convnext_atto", "timm/tf_efficientnet_lite0", "timm/test_efficientnet"),
        *(
            "timm/vit_tiny_patch16_224",
            "timm/deit_tiny_patch16_224",
            "timm/swin_tiny_patch4_window7_224",
        ),
        *("timm/regnetx_002", "mobilenet_v3_small", "timm/test_vit"),
    ],
)
def test_names_tell_whether_convolutions_overlap(name):
    layers = backbones.create(name).modules()
    overlap = any(
        isinstance(layer, torch.nn.Conv2d) and tuple(layer.kernel_size) != tuple(layer.stride)
        for layer in layers
    )
    assert is_convolutional(name) is overlap


# The plan and its keys.


def test_the_decision_is_in_the_document_of_what_trains_and_in_no_other(tmp_path):
    here, there = planned(tmp_path), planned(tmp_path, GPU)
    settings = here["hpt"].document["spec"]
    assert (settings["precision"], settings["memory_format"]) == ("float32", "channels_last")
    assert there["hpt"].document["spec"]["precision"] == "bfloat16"
    assert here["hpt"].key != there["hpt"].key
    for name in ("base", "probe"):
        assert here[name].key == there[name].key
        assert here[name].numerics is None
    assert {trial.device for trial in there.values()} == {"gpu"}


def test_what_already_meant_float32_channels_last_keeps_its_key(tmp_path):
    printed = RECIPE.replace(
        "steps: 3", "steps: 3, precision: float32, memory_format: channels_last"
    )
    assert planned(tmp_path, text=printed)["hpt"].key == planned(tmp_path)["hpt"].key
    # As it was before there was a rule.
    assert planned(tmp_path, text=printed)["hpt"].key == (
        "bfa2b0be6270b0b5e3536b5228d33647a9a70bc8dd0ac56883e1d9f05bc36483"
    )


def test_what_a_device_cannot_do_is_a_problem_of_the_recipe_with_its_line(tmp_path):
    text = RECIPE.replace("steps: 3", "steps: 3, precision: float16")
    with pytest.raises(RecipeError) as refused:
        planned(tmp_path, text=text)
    (problem,) = refused.value.problems
    assert problem.what == "float16 does not train on a CPU"
    assert "small.yaml:8 stages.hpt.precision" in problem.where
    assert "bfloat16" in problem.allowed
    assert planned(tmp_path, GPU, text)["hpt"].numerics.precision == "float16"


def test_a_spec_that_nothing_was_decided_for_has_no_numerics(tmp_path):
    (tmp_path / "small.yaml").write_text(RECIPE)
    [point] = recipe_file.load(tmp_path / "small.yaml", []).stages["hpt"]
    with pytest.raises(ValueError, match="not decided"):
        _ = point.spec.numerics


@pytest.mark.parametrize(
    ("text", "device"),
    [
        ("gpus_per_node: 8\n", Device("gpu", None, "this cluster")),
        ("gpus_per_node: 8\nprecision: float32\n", Device("gpu", "float32", "this cluster")),
        ("gpus_per_node: 2\naccelerator: none\n", Device("cpu", None, "this cluster")),
        ("partition: main\n", Device("cpu", None, "this cluster")),
    ],
)
def test_a_profile_says_what_its_trials_compute_on(tmp_path, text, device):
    (tmp_path / "mine.yaml").write_text(text)
    assert profile.load(tmp_path / "mine.yaml", {}).device == device


def test_a_profile_with_another_precision_is_refused(tmp_path):
    (tmp_path / "mine.yaml").write_text("precision: half\n")
    with pytest.raises(RequestError, match="float32"):
        profile.load(tmp_path / "mine.yaml", {})


# What is computed.


def test_a_device_that_is_not_there_or_emulates_is_refused(monkeypatch):
    require("cpu", BRAIN_LAST)
    with pytest.raises(TrainingError, match="planned for a GPU, and torch sees none here"):
        require("gpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla V100")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    require("gpu", FLOAT_LAST)
    with pytest.raises(TrainingError, match="bfloat16, which Tesla V100 only emulates"):
        require("gpu", BRAIN_LAST)


def test_the_environment_changes_nothing_that_accelerate_would_read(monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "EAGER")
    accelerator = make_accelerator(threads=torch.get_num_threads(), seed=0)
    assert accelerator.mixed_precision == "no"
    assert accelerator.state.dynamo_plugin.backend.value == "NO"
    assert accelerator.device.type == "cpu"
    assert not torch.backends.cudnn.allow_tf32


def test_autocast_lowers_products_and_leaves_the_rest():
    weight, value = torch.ones(2, 2), torch.ones(2, 2)
    with autocast(BRAIN_LAST, CPU):
        assert (weight @ value).dtype == torch.bfloat16
    with autocast(BRAIN_LAST, "cpu"), autocast(FLOAT_LAST, "cpu"):
        assert (weight @ value).dtype == torch.float32
    assert (weight @ value).dtype == torch.float32


def test_the_format_is_torchs_own():
    assert torch_format(FLOAT_LAST) is torch.channels_last
    assert torch_format(FLOAT_FIRST) is torch.contiguous_format
    assert precision.in_words(FLOAT_LAST, "cpu") == "float32, channels_last on a CPU"


EIGHT = """\
name: eight
store: ${HPT_STORE}
datasets: {color: openmoji/color, line: openmoji/line}
backbone: timm/test_efficientnet
image: {size: 32}
stages:
  base: {kind: import, weights: random}
  hpt: {kind: pretrain, init: base, data: [line/train], steps: 2, batch: 8, moco: {queue: 16}}
  adapt:
    kind: mme
    source: color/train
    target: line
    steps: 2
    batch_labelled: 4
    batch_unlabelled: 4
    eval_every: 2
    sweep: {init: [base, hpt], shots: [1], seed: [0, 1, 2, 3]}
report: {table: adapt, rows: init, columns: shots}
"""


def test_eight_trials_on_a_loaded_machine_compute_alike(drawings, tmp_path):
    store = tmp_path / "store"
    shutil.copytree(drawings / "datasets", store / "datasets")
    cores = len(os.sched_getaffinity(0))
    load = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"])
        for _ in range(max(1, cores - 1))
    ]
    try:
        printed = hpt("launch", str(write_recipe(tmp_path, EIGHT)), store=str(store))
    finally:
        for process in load:
            process.kill()
            process.wait()
    assert "hpt, adapt: computes in float32, channels_last, on CPUs of this machine" in printed
    assert "base: mme in float32, channels_last on a CPU" in printed
    runs = [json.loads(path.read_text()) for path in store.glob("stages/*/run.json")]
    assert len(runs) == 10
    trained = [run["numerics"] for run in runs if run["numerics"]]
    assert trained == ["float32, channels_last on a CPU"] * 9
