"""Exports: loaded by the plain programs they are for, and every round trip between them."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import io
import json
import os
from pathlib import Path

import pytest
import safetensors.torch
import timm
import timm.models._registry as timm_registry
import torch
import torchvision.models._api as torchvision_registry
from reports import launched
from timm.models import vision_transformer
from torchvision import models

from hpt_dist.errors import RequestError, WeightsError
from hpt_dist.launch import pulling
from hpt_dist.networks import backbones
from hpt_dist.store import open_store
from hpt_dist.store.paths import DONE, stage_prefix
from hpt_dist.weights import dialects, exports
from hpt_dist.weights import files as weight_files
from hpt_dist.weights import match as weights

IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
LARGE_IMAGES = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
EVERY = ("safetensors", "torchvision", "timm", "detectron2", "moco", "huggingface")


@functools.cache
def trained(name):
    """Return a backbone whose statistics are not the initial ones, and its features of images."""
    images = LARGE_IMAGES if "vit" in name else IMAGES
    torch.manual_seed(1)
    backbone = backbones.create(name)
    with torch.no_grad():
        backbone.train()(images)
        features = backbone.eval()(images)
    assert features.std() > 0
    return backbone, features


def the_file(files):
    (file,) = files
    return torch.load(io.BytesIO(files[file]), weights_only=True)


def read(files, backbone, name):
    """Read an export's bytes into the names of a backbone."""
    (source,) = (path for path in files if not path.endswith(".json"))
    return weights.match(weight_files.opened(files[source], source), backbone, name)


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


# What each backbone can be written in


@pytest.mark.parametrize(
    ("name", "formats"),
    [
        ("torchvision/resnet18", EVERY),
        ("timm/resnet50.a1_in1k", EVERY),
        ("torchvision/resnext50_32x4d", EVERY[:-1]),
        ("torchvision/wide_resnet50_2", EVERY[:-1]),
        ("torchvision/densenet121", ("safetensors", "torchvision", "timm")),
        ("torchvision/mobilenet_v2", ("safetensors", "torchvision", "timm")),
        ("timm/efficientnet_b0", ("safetensors", "torchvision", "timm")),
        ("timm/tf_efficientnet_lite0", ("safetensors", "timm")),
        ("timm/vit_tiny_patch16_224", ("safetensors", "timm", "huggingface")),
        ("torchvision/vit_b_16", ("safetensors", "torchvision", "timm", "huggingface")),
        ("timm/resnet26d", ("safetensors", "timm")),
    ],
)
def test_a_backbones_formats(name, formats):
    assert exports.formats(name) == formats


@pytest.mark.parametrize(
    ("name", "file_format", "says"),
    [
        ("torchvision/efficientnet_b5", "timm", "batch norm adds 1e-5"),
        ("timm/efficientnet_b5", "torchvision", "batch norm adds 1e-5"),
        ("timm/tf_efficientnetv2_s", "torchvision", "no model of torchvision"),
        ("timm/tf_efficientnet_b5", "torchvision", "no model of torchvision"),
        ("torchvision/efficientnet_v2_s", "timm", "pads its convolutions on one side"),
        ("torchvision/efficientnet_b0", "moco", "residual networks"),
        ("torchvision/resnext50_32x4d", "huggingface", "no groups or widths"),
        ("timm/tf_efficientnet_lite0", "detectron2", "residual networks"),
        ("resnet18", "onnx", "no format 'onnx'"),
    ],
)
def test_what_cannot_be_written_says_why_and_what_can(name, file_format, says):
    with pytest.raises(RequestError, match=says) as refused:
        exports.require(name, file_format)
    assert f"allowed: {', '.join(exports.formats(name))}" in str(refused.value)


def test_another_state_dict_is_refused():
    state = backbones.create("resnet18").state_dict()
    with pytest.raises(WeightsError, match="no state dict of torchvision/resnet34"):
        exports.export(state, "resnet34", "torchvision")
    with pytest.raises(WeightsError, match=r"1 entries.*fc\.weight"):
        exports.export({**state, "fc.weight": torch.ones(2)}, "resnet18", "safetensors")


def test_looking_up_names_draws_nothing():
    """A recipe's random numbers must not depend on which names were looked up before."""
    dialects.shapes.cache_clear()
    torch.manual_seed(0)
    exports.formats("efficientnet_b0")
    drawn = torch.rand(3)
    torch.manual_seed(0)
    assert torch.equal(drawn, torch.rand(3))


# Every pair


ROUND_TRIPS = [
    "torchvision/resnet18",
    "timm/resnet26",
    "torchvision/mobilenet_v2",
    "timm/efficientnet_b0",
    "timm/vit_tiny_patch16_224",
]


@pytest.mark.parametrize("name", ROUND_TRIPS)
def test_every_round_trip_returns_the_same_tensors(name):
    """Through all formats, one after the other: what one gives is what the next one gets."""
    state = once = trained(name)[0].state_dict()
    other = backbones.create(name)  # with other values
    for file_format in exports.formats(name):
        once, report = read(exports.export(once, name, file_format), other, name)
        assert (report.share, report.unexpected, report.aside) == (1, (), ()), report
        assert same(once, state), file_format


@pytest.mark.deep
@pytest.mark.parametrize("name", ROUND_TRIPS)
def test_each_format_follows_each_other_one(name):
    state = trained(name)[0].state_dict()
    other = backbones.create(name)
    for first in exports.formats(name):
        once, report = read(exports.export(state, name, first), other, name)
        assert (report.share, report.unexpected, report.aside) == (1, (), ()), report
        for second in exports.formats(name):
            twice, report = read(exports.export(once, name, second), other, name)
            assert (report.share, report.unexpected, report.aside) == (1, (), ()), report
            assert same(twice, state), (first, second)


@pytest.mark.parametrize("model", sorted(dialects.RESNETS))
def test_the_two_libraries_agree_on_every_residual_networks_names(model):
    """With shapes; that the features are equal is tested below on some of them."""
    assert dialects.shapes(f"torchvision/{model}") == dialects.shapes(f"timm/{model}")


# Loaded by those who know nothing of us


@pytest.mark.parametrize(
    "name",
    [
        "timm/tf_efficientnet_lite0",
        "timm/resnet18.a1_in1k",
        "torchvision/resnet50",
        "torchvision/efficientnet_b0",
        "torchvision/mobilenet_v2",
        "torchvision/densenet121",
        "torchvision/resnext50_32x4d",
    ],
)
def test_plain_timm_gives_the_same_features(name):
    backbone, features = trained(name)
    files = exports.export(backbone.state_dict(), name, "timm")
    (file,) = files
    plain = timm.create_model(file.removesuffix(".pth"), num_classes=0).eval()
    plain.load_state_dict(the_file(files))
    assert torch.equal(plain(IMAGES), features)


@pytest.mark.parametrize(
    "name",
    [
        "torchvision/resnet18",
        "torchvision/efficientnet_b0",
        "timm/resnet50",
        "timm/efficientnet_b0",
        "timm/mobilenetv2_100",
        "timm/densenet121",
    ],
)
def test_plain_torchvision_gives_the_same_features(name):
    backbone, features = trained(name)
    files = exports.export(backbone.state_dict(), name, "torchvision")
    model = next(iter(files)).removesuffix(".pth")
    plain = models.get_model(model)
    result = plain.load_state_dict(the_file(files), strict=False)
    (classifier,) = backbones.create(f"torchvision/{model}").classifier_names
    assert set(result.missing_keys) == {f"{classifier}.weight", f"{classifier}.bias"}
    assert not result.unexpected_keys
    plain.set_submodule(classifier, torch.nn.Identity())
    assert torch.equal(plain.eval()(IMAGES), features)


@pytest.fixture
def two_layers(monkeypatch):
    """Let both libraries build their ViT-B/32 narrow and with two layers: 1 in 200 numbers."""
    narrow = {"patch_size": 32, "num_heads": 3}

    def of_torchvision(**options):
        return models.VisionTransformer(
            image_size=224, num_layers=2, hidden_dim=96, mlp_dim=384, **narrow
        )

    def of_timm(**options):
        return vision_transformer._create_vision_transformer(
            "vit_base_patch32_224", embed_dim=96, depth=2, **narrow, **options
        )

    monkeypatch.setitem(torchvision_registry.BUILTIN_MODELS, "vit_b_32", of_torchvision)
    monkeypatch.setitem(timm_registry._model_entrypoints, "vit_base_patch32_224", of_timm)
    dialects.shapes.cache_clear()
    yield
    dialects.shapes.cache_clear()


def check_that_a_vision_transformer_changes_libraries():
    """torchvision's attention has a fused path without gradients, which rounds otherwise."""
    torch.manual_seed(1)
    backbone = backbones.create("torchvision/vit_b_32").eval()
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    images = torch.rand(1, 3, 224, 224)
    files = exports.export(backbone.state_dict(), "vit_b_32", "timm")
    assert list(files) == ["vit_base_patch32_224.pth"]
    plain = backbones.create("timm/vit_base_patch32_224").eval()
    plain.load_state_dict(the_file(files))
    assert torch.equal(plain(images), backbone(images))
    with torch.no_grad():
        assert torch.allclose(plain(images), backbone(images), rtol=1e-4, atol=1e-5)
    files = exports.export(backbone.state_dict(), "vit_b_32", "huggingface")
    state, _ = read(files, plain, "timm/vit_base_patch32_224")
    assert same(state, plain.state_dict())


def test_a_vision_transformer_changes_libraries(two_layers):
    check_that_a_vision_transformer_changes_libraries()


@pytest.mark.deep
def test_a_whole_vision_transformer_changes_libraries():
    check_that_a_vision_transformer_changes_libraries()


# MoCo


@pytest.mark.parametrize("name", ["torchvision/resnet18", "timm/resnet50"])
def test_mocos_linear_evaluation_takes_its_export(name):
    """What main_lincls.py does: names, the one classifier missing, nothing else."""
    backbone, features = trained(name)
    files = exports.export(backbone.state_dict(), name, "moco")
    assert list(files) == [f"{name.split('/')[1]}-moco.pth.tar"]
    checkpoint = the_file(files)
    plain = models.get_model(checkpoint["arch"])
    prefix = "module.encoder_q."
    assert all(key.startswith(prefix) for key in checkpoint["state_dict"])
    renamed = {key.removeprefix(prefix): v for key, v in checkpoint["state_dict"].items()}
    result = plain.load_state_dict(renamed, strict=False)
    assert set(result.missing_keys) == {"fc.weight", "fc.bias"}
    assert not result.unexpected_keys
    plain.fc = torch.nn.Identity()
    assert torch.equal(plain.eval()(IMAGES), features)


# detectron2, which no index has as a package: against the names of its modules


def detectron2_names(blocks, bottleneck):
    """Name every parameter of `build_resnet_backbone` with batch norm, from its documented tree.

    detectron2/modeling/backbone/resnet.py: a `stem` with `conv1`; stages `res2` to `res5` of
    blocks 0, 1, ...; in a block `conv1` to `conv3` (2 in a BasicBlock) and `shortcut` where the
    shape changes; each convolution owns its `norm`.
    """
    convolutions = ["stem.conv1"]
    for stage, depth in zip((2, 3, 4, 5), blocks, strict=True):
        for block in range(depth):
            layers = [f"conv{n}" for n in range(1, 4 if bottleneck else 3)]
            changes = block == 0 and (bottleneck or stage > 2)
            layers += ["shortcut"] if changes else []
            convolutions += [f"res{stage}.{block}.{layer}" for layer in layers]
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    return {f"{one}.weight" for one in convolutions} | {
        f"{one}.norm.{entry}" for one in convolutions for entry in norm
    }


@pytest.mark.parametrize(
    ("name", "blocks", "bottleneck"),
    [
        ("resnet18", (2, 2, 2, 2), False),
        ("resnet34", (3, 4, 6, 3), False),
        ("resnet50", (3, 4, 6, 3), True),
        ("timm/resnet101", (3, 4, 23, 3), True),
    ],
)
def test_detectron2_knows_every_name(name, blocks, bottleneck):
    state = backbones.create(name).state_dict()
    files = exports.export(state, name, "detectron2")
    file = the_file(files)
    assert next(iter(files)).endswith("-detectron2.pth")
    assert file.keys() == {"model", "matching_heuristics", "__author__"}
    assert file["matching_heuristics"] is True
    assert file["__author__"].startswith("hpt-dist ")
    assert file["model"].keys() == detectron2_names(blocks, bottleneck)


def test_detectron2_gets_what_its_own_converter_would_make():
    """tools/convert-torchvision-to-d2.py, from its documented replacements."""
    state = trained("resnet50")[0].state_dict()
    expected = {}
    for name, tensor in state.items():
        new = name if "layer" in name else f"stem.{name}"
        for stage in (1, 2, 3, 4):
            new = new.replace(f"layer{stage}", f"res{stage + 1}")
        for layer in (1, 2, 3):
            new = new.replace(f"bn{layer}", f"conv{layer}.norm")
        new = new.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")
        expected[new] = tensor
    assert same(the_file(exports.export(state, "resnet50", "detectron2"))["model"], expected)


# Hugging Face


@pytest.fixture(scope="module")
def transformers():
    os.environ["HF_HUB_OFFLINE"] = "1"
    return pytest.importorskip("transformers", reason="pip install 'hpt-dist[test]' brings it")


def folder_of(files, tmp_path):
    """Write an export as `pull` does; return the folder for `from_pretrained`."""
    for name, data in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    return tmp_path / "huggingface"


def from_pretrained(model_class, folder, **options):
    with contextlib.redirect_stderr(io.StringIO()):  # a progress bar
        model, info = model_class.from_pretrained(folder, output_loading_info=True, **options)
    assert not any(info.values()), info  # nothing missing, unexpected or of another shape
    return model.eval()


@pytest.mark.parametrize("name", ["resnet18", "timm/resnet50"])
def test_a_hugging_face_resnet_gives_the_same_features(transformers, name, tmp_path):
    backbone, features = trained(name)
    folder = folder_of(exports.export(backbone.state_dict(), name, "huggingface"), tmp_path)
    config = transformers.ResNetConfig.from_json_file(str(folder / "config.json"))
    plain = transformers.ResNetModel(config).eval()
    plain.load_state_dict(safetensors.torch.load_file(folder / "model.safetensors"))
    with torch.no_grad():
        assert torch.equal(plain(IMAGES).pooler_output.flatten(1), features)
        model = from_pretrained(transformers.ResNetModel, folder)
        assert torch.equal(model(IMAGES).pooler_output.flatten(1), features)


def test_a_hugging_face_vit_gives_the_same_features(transformers, tmp_path):
    name = "timm/vit_tiny_patch16_224"
    torch.manual_seed(1)
    backbone = backbones.create(name).eval()
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    folder = folder_of(exports.export(backbone.state_dict(), name, "huggingface"), tmp_path)
    model = from_pretrained(transformers.ViTModel, folder, add_pooling_layer=False)
    images = torch.rand(1, 3, 224, 224)
    features = model(images).last_hidden_state[:, 0]
    # Three products where one was: the sums may be taken in another order.
    assert torch.allclose(features, backbone(images), rtol=1e-4, atol=1e-5)


def test_hugging_faces_own_files_come_in(transformers, tmp_path):
    """Written by the library itself, with its classifier."""
    config = transformers.ResNetConfig(
        depths=[2, 2, 2, 2], hidden_sizes=[64, 128, 256, 512], layer_type="basic"
    )
    torch.manual_seed(1)
    model = transformers.ResNetForImageClassification(config).eval()
    with contextlib.redirect_stderr(io.StringIO()):
        model.save_pretrained(tmp_path)
    store = open_store(str(tmp_path))
    state, report = weights.load("model.safetensors", "resnet18", store)
    assert report.recognised == "plain, Hugging Face's names, under resnet"
    assert report.aside == ("classifier.1 (2)",)
    backbone = backbones.create("resnet18").eval()
    backbone.load_state_dict(state)
    with torch.no_grad():
        features = model.resnet(IMAGES).pooler_output.flatten(1)
        assert torch.equal(backbone(IMAGES), features)


def test_hugging_faces_own_vit_comes_in(transformers, tmp_path):
    config = transformers.ViTConfig(
        hidden_size=192, num_attention_heads=3, intermediate_size=768, layer_norm_eps=1e-6
    )
    torch.manual_seed(1)
    model = transformers.ViTModel(config, add_pooling_layer=False).eval()
    with contextlib.redirect_stderr(io.StringIO()):
        model.save_pretrained(tmp_path)
    name = "timm/vit_tiny_patch16_224"
    state, report = weights.load("model.safetensors", name, open_store(str(tmp_path)))
    assert report.share == 1
    backbone = backbones.create(name).eval()
    backbone.load_state_dict(state)
    images = torch.rand(1, 3, 224, 224)
    features = model(images).last_hidden_state[:, 0]
    assert torch.allclose(backbone(images), features, rtol=1e-4, atol=1e-5)


def test_the_configuration_is_what_the_network_is():
    for name, depths, layer in [
        ("resnet34", [3, 4, 6, 3], "basic"),
        ("resnet50", [3, 4, 6, 3], "bottleneck"),
    ]:
        state = backbones.create(name).state_dict()
        files = exports.export(state, name, "huggingface")
        config = json.loads(files["huggingface/config.json"])
        assert (config["depths"], config["layer_type"]) == (depths, layer)
        assert config["hidden_sizes"][3] == backbones.create(name).feature_dim
        assert set(map(Path, files)) == {
            Path("huggingface/config.json"),
            Path("huggingface/model.safetensors"),
        }


# The command


def finished_trial(store, backbone):
    """Leave in a store what a trial leaves; return its launch."""
    state = backbones.create(backbone).state_dict()
    objects = {
        "weights.safetensors": weight_files.save(state, {"backbone": backbone}),
        "model.safetensors": b"an adapted classifier",
        "spec.json": json.dumps({"backbone": backbone}).encode(),
        "result.json": json.dumps(
            {"kind": "pretrain", "seed": 0, "images": 0, "metrics": {}, "details": {}}
        ).encode(),
    }
    root = store.at(stage_prefix("key"))
    for name, data in objects.items():
        root.put(name, data)
    digests = {
        name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        for name, data in objects.items()
    }
    root.put(DONE, json.dumps({"key": "key", "objects": digests}).encode())
    return dataclasses.replace(launched([]), id="launch", trials={"hpt": "key"}), state


@pytest.mark.parametrize("file_format", EVERY)
def test_pull_writes_every_format(tmp_path, file_format):
    store = open_store(str(tmp_path / "store"))
    launch, state = finished_trial(store, "resnet18")
    written = pulling.pull(store, launch, ["hpt"], tmp_path / "out", file_format).files
    assert (tmp_path / "out/model.safetensors").read_bytes() == b"an adapted classifier"
    beside = {tmp_path / "out" / name for name in ("model.safetensors", "loading.md")}
    other = beside | set((tmp_path / "out").rglob("*.json"))
    (file,) = set(written) - other
    loaded, report = weights.load(str(file), "resnet18", store)
    assert same(loaded, state)
    assert report.share == 1


def test_pull_refuses_before_it_writes(tmp_path):
    store = open_store(str(tmp_path / "store"))
    launch, _ = finished_trial(store, "mobilenet_v2")
    with pytest.raises(RequestError, match="allowed: safetensors, torchvision, timm"):
        pulling.pull(store, launch, ["hpt"], tmp_path / "out", "detectron2")
    assert not (tmp_path / "out").exists()
    assert pulling.FORMATS == exports.FORMATS
