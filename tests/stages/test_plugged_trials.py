"""Trials whose method and backbone another distribution offers."""

import json
import logging
import re
import tomllib
from pathlib import Path

import pytest
import torch
from plugin import install
from safetensors.torch import load_file
from small import fill, hpt, write_recipe

from hpt_dist import load_backbone
from hpt_dist.errors import HptError
from hpt_dist.launch import here, survey
from hpt_dist.methods import Method
from hpt_dist.networks import backbones
from hpt_dist.recipe import plugins

PAGE = (Path(__file__).parents[2] / "docs/training.md").read_text()
MODULE = """\
import torch
from torch import nn
from hpt_dist.methods import Loss, MoCoV2

class Warm(MoCoV2):
    def __init__(self, backbone, feature_dim, *, queue, seed):
        settings = {"momentum": 0.9, "temperature": 0.5, "dim": 32}
        super().__init__(backbone, feature_dim, queue=queue, seed=seed, **settings)

class Hidden(Warm):
    def forward(self, inputs, phase=0):
        total = self.projector(self.backbone.forward(inputs[0])).square().mean()
        return Loss(total, {"loss": total.detach()})

def phased(*arguments, **settings):
    method = Warm(*arguments, **settings)
    method.phases = 2
    return method

def small():
    layers = nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5)
    module = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    module.feature_dim = 8
    return module
"""
RECIPE = """\
name: plugged
store: ${HPT_STORE}
datasets: {line: openmoji/line}
backbone: small_net
image: {size: 32}
stages:
  base: {kind: import, weights: random}
  ours:
    kind: pretrain
    init: base
    data: [line/train]
    steps: 3
    batch: 8
    keep: last
    moco: {queue: 16, momentum: 0.9, temperature: 0.5, dim: 32}
  theirs:
    kind: pretrain
    init: base
    data: [line/train]
    steps: 3
    batch: 8
    keep: last
    method: warm
    method_settings: {queue: 16}
"""
OFFERED = {
    "methods": {name: f"warmth:{name}" for name in ("phased", "missing")}
    | {
        "warm": "warmth:Warm",
        "hidden": "warmth:Hidden",
        "broken": "no_such_module:Warm",
        "none": "builtins:dict",
    },
    "backbones": {"small_net": "warmth:small", "resnet18": "warmth:small", "text": "builtins:str"},
}


@pytest.fixture
def site(tmp_path, monkeypatch):
    folder = tmp_path / "site"
    install(folder, "warmth", "1.0", **OFFERED)
    (folder / "warmth.py").write_text(MODULE)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(__import__("sys").modules, "warmth", raising=False)
    # What runs in this process sets up its log and its threads.
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    monkeypatch.setattr(logging.getLogger(), "level", logging.WARNING)
    threads = torch.get_num_threads()
    yield folder
    torch.set_num_threads(threads)


@pytest.fixture
def store(drawings, mlflow_tables, tmp_path):
    return fill(tmp_path / "store", drawings, mlflow_tables)


def launched(recipe, store, *arguments, code=0):
    options = ("--on", "inline", *arguments)
    return hpt("launch", str(recipe), *options, store=str(store), code=code, process=False)


def test_a_method_and_a_backbone_of_another_package_train(site, store, tmp_path):
    recipe = write_recipe(tmp_path, RECIPE)
    printed = launched(recipe, store)
    assert "method warm: from warmth 1.0" in printed
    left = {}
    for result in store.glob("stages/*/result.json"):
        stage = json.loads(result.read_text())["stage"]
        left[stage] = load_file(result.parent / "weights.safetensors")
    # The same as ours with the same temperature, from other weights than it began with.
    assert all(torch.equal(left["theirs"][name], value) for name, value in left["ours"].items())
    assert not torch.equal(left["theirs"]["0.weight"], left["base"]["0.weight"])
    assert "all 3 trials are cached" in launched(recipe, store)
    (spec,) = (
        path
        for path in store.glob("stages/*/spec.json")
        if "method" in json.loads(path.read_text()).get("plugins", {})
    )
    weights = f"trial/{spec.parent.name}"
    kept = load_backbone("small_net", weights, store=str(store)).state_dict()
    assert all(torch.equal(kept[name], value) for name, value in left["theirs"].items())
    # Another version is planned anew, all of it, for the backbone is of the same package.
    install(site, "warmth", "1.1", **OFFERED)
    assert "3 runs" in hpt("plan", str(recipe), store=str(store))
    printed = hpt("plan", str(recipe), store=str(store))
    assert "changed: plugins.backbone.version: 1.0 -> 1.1" in printed


def test_a_process_with_another_version_than_planned_refuses(site, store, tmp_path, monkeypatch):
    monkeypatch.setenv("HPT_STORE", str(store))
    prepared = survey.plan_against_store(write_recipe(tmp_path, RECIPE), [])
    trials = here.chosen(prepared, [])
    used = here.settings(prepared, where="inline", cores=1, tracking_uri="", work="")
    record = here.begin(prepared, trials, used)
    install(site, "warmth", "1.1", **OFFERED)

    class Nobody:
        started = moved = ended = stopping = staticmethod(lambda *_: None)

    errors = here.work_through(prepared, trials, used, record, Nobody())
    assert (
        "small_net was planned with warmth 1.0, and here warmth 1.1 offers it" in errors["base"].why
    )
    assert "launch again for a new key" in errors["base"].why
    assert not list(store.glob("stages/*/DONE"))


@pytest.mark.parametrize(
    ("method", "settings", "says"),
    [
        ("broken", "{queue: 16}", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("missing", "{queue: 16}", "AttributeError"),
        ("warm", "{queue: 16, typo: 1}", "TypeError"),
        ("phased", "{queue: 16}", "it is no hpt_dist.methods.Method with one phase"),
        ("none", "{}", "failed: TypeError"),
    ],
)
def test_what_is_no_method_fails_with_whose_it_is(site, store, tmp_path, method, settings, says):
    text = RECIPE.replace("backbone: small_net", "backbone: timm/test_efficientnet")
    text = text.replace("warm\n", f"{method}\n").replace("{queue: 16}", settings)
    printed = launched(write_recipe(tmp_path, text), store, "--only", "theirs", code=1)
    assert says in printed
    assert method in printed


def test_an_anchor_holds_what_a_method_shows(site, store, tmp_path):
    anchored = RECIPE.replace("batch: 8\n", "batch: 8\n    anchor: {weight: 2}\n")
    launched(write_recipe(tmp_path, anchored), store)
    left = {
        load_file(result.parent / "weights.safetensors")["0.weight"].numpy().tobytes()
        for result in store.glob("stages/*/result.json")
        if '"kind": "pretrain"' in result.read_text()
    }
    assert len(left) == 1  # theirs is ours, also with an anchor
    hidden = write_recipe(tmp_path, anchored.replace("method: warm", "method: hidden"))
    printed = launched(hidden, store, "--only", "theirs", code=1)
    assert "anchor: Hidden shows no features: it never calls its backbone with gradients" in printed
    assert "do: leave out anchor, or let the method call self.backbone(view)" in printed


def test_a_backbone_of_another_package_comes_before_a_librarys(site):
    assert backbones.resolve("small_net") == backbones.resolve("plugin/small_net")
    assert backbones.resolve("resnet18") == "plugin/resnet18"
    assert backbones.resolve("torchvision/resnet18") == "torchvision/resnet18"
    backbone = backbones.create("small_net")
    assert (backbone.feature_dim, backbone.classifier_names) == (8, ())
    assert backbone[3].p == 0
    with pytest.raises(HptError, match="not a module with a feature_dim"):
        backbones.create("text")


def test_a_backbone_that_shares_a_name_with_a_librarys_shares_no_dialect_with_it(site, tmp_path):
    from hpt_dist.weights import exports

    assert exports.formats("resnet18") == ("safetensors",)
    torch.save(backbones.create("resnet18").state_dict(), tmp_path / "small.pth")
    assert load_backbone("resnet18", "small.pth", store=str(tmp_path)).feature_dim == 8


def test_the_package_of_the_docs_is_a_method_and_a_backbone(site):
    section = PAGE.partition("## A method of your own")[2].partition("\n## ")[0]
    toml, warm, networks = re.findall(r"```(?:toml|python)\n(.*?)```", section, re.DOTALL)
    project = tomllib.loads(toml)["project"]
    offered = {
        kind: project["entry-points"][f"hpt_dist.{kind}"] for kind in ("methods", "backbones")
    }
    install(site, project["name"].replace("-", "_"), project["version"], **offered)
    (site / "my_methods").mkdir()
    (site / "my_methods/warm.py").write_text(warm)
    (site / "my_methods/networks.py").write_text(networks)
    install(site, "warmth", "1.0")  # which offers the same names
    backbone = backbones.create("small_net")
    method = plugins.make("method", "warm", backbone, backbone.feature_dim, queue=8, seed=0)
    assert isinstance(method, Method)
    views = torch.rand(2, 4, 3, 32, 32)
    assert method(tuple(views)).total.isfinite()
