"""Backbones: the libraries' own features and names; what learns and what stands still."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision import models

from hpt_dist.errors import RequestError
from hpt_dist.networks import backbones, batch_norm

IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def statistics(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.named_buffers()}


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("resnet18", "torchvision/resnet18"),
        ("timm/resnet18", "timm/resnet18"),
        ("timm/resnet18.a1_in1k", "timm/resnet18.a1_in1k"),
        ("efficientnet_b2", "torchvision/efficientnet_b2"),
        ("tf_efficientnet_lite0", "timm/tf_efficientnet_lite0"),
        ("inception_v3", "timm/inception_v3"),
    ],
)
def test_plain_names_are_torchvisions_where_it_has_them(name, full):
    assert backbones.resolve(name) == full
    assert backbones.resolve(full) == full


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("resnet5", "did you mean resnet50?"),
        ("torchvision/tf_efficientnet_lite0", "no backbone"),
        ("torchvision/inception_v3", "no backbone"),
        ("timm/resnet18.no_such_tag", "no backbone"),
        ("hub/resnet18", "torchvision, timm"),
        ("", "no backbone"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(name, says):
    with pytest.raises(RequestError, match=says.replace("?", r"\?")):
        backbones.create(name)


@pytest.mark.parametrize(
    "name",
    [
        "torchvision/resnet18",
        "torchvision/efficientnet_b0",
        "torchvision/mobilenet_v3_small",
        "torchvision/squeezenet1_1",
        "torchvision/convnext_tiny",
        "timm/resnet18",
        "timm/tf_efficientnet_lite0",
        "timm/mobilenetv3_small_050",
    ],
)
def test_a_backbone_is_the_librarys_model_without_its_classifier(name):
    library, model = name.split("/")
    plain = models.get_model(model) if library == "torchvision" else timm.create_model(model)
    backbone = backbones.create(name)
    classifier = tuple(f"{entry}." for entry in backbone.classifier_names)
    kept = {k: v for k, v in plain.state_dict().items() if not k.startswith(classifier)}
    assert len(kept) == len(plain.state_dict()) - 2
    backbone.load_state_dict(kept)  # strict

    with torch.no_grad():
        features = backbone.eval()(IMAGES)
        assert features.shape == (2, backbone.feature_dim)
        if name != "torchvision/squeezenet1_1":  # there the classifier comes before the pooling
            last = plain.get_submodule(backbone.classifier_names[0])
            assert torch.allclose(last(features), plain.eval()(IMAGES), atol=1e-5)

        backbone.train()  # nothing in it draws random numbers
        assert torch.equal(backbone(IMAGES), backbone(IMAGES))


@pytest.mark.parametrize("name", ["torchvision/resnet18", "timm/tf_efficientnet_lite0"])
def test_frozen_statistics_never_move_while_the_affine_parameters_learn(name):
    backbone = backbones.create(name)
    names = list(backbone.state_dict())
    batch_norm.freeze(backbone)
    batch_norm.freeze(backbone)
    twin = copy.deepcopy(backbone)
    for module in (backbone, twin):
        before = statistics(module)
        module.train()
        module.eval()
        module.train()
        module(IMAGES).square().sum().backward()
        after = statistics(module)
        assert before
        assert all(torch.equal(before[key], after[key]) for key in before)
        assert list(module.state_dict()) == names
        for layer in module.modules():
            if isinstance(layer, _BatchNorm):
                assert layer.weight.grad.abs().sum() > 0
    alone, together = backbone(IMAGES[:1]), backbone(IMAGES)[:1]
    assert torch.allclose(alone, together, atol=1e-5)  # no image sees another


def test_without_freezing_the_statistics_do_move():
    backbone = backbones.create("resnet18").train()
    before = statistics(backbone)
    backbone(IMAGES)
    after = statistics(backbone)
    assert not any(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize("name", ["torchvision/resnet18", "timm/tf_efficientnet_lite0"])
def test_what_learns_is_exactly_what_was_asked(name):
    backbone = backbones.create(name)
    every = [key for key, _ in backbone.named_parameters()]
    norms = {
        f"{prefix}.{key}"
        for prefix, layer in backbone.named_modules()
        if isinstance(layer, _BatchNorm)
        for key in ("weight", "bias")
    }
    for which, expected in (
        ("batchnorm", [key for key in every if key in norms]),
        ("head", []),
        ("all", every),
    ):
        assert list(backbones.trainable_parameters(backbone, which)) == expected
        backbone.zero_grad()
        features = backbone.train()(IMAGES)
        assert features.requires_grad is bool(expected)
        if expected:
            features.square().sum().backward()
        assert [k for k, p in backbone.named_parameters() if p.grad is not None] == expected


def test_batchnorm_of_a_backbone_without_batch_norm_is_refused():
    with pytest.raises(RequestError, match="no batch norm"):
        backbones.trainable_parameters(backbones.create("convnext_tiny"), "batchnorm")


@pytest.mark.parametrize(
    ("name", "has_batch_norm"),
    [
        ("torchvision/resnet18", True),
        ("torchvision/efficientnet_b0", True),
        ("timm/efficientnet_b0", True),
        ("timm/resnet10t", True),
        ("timm/vit_tiny_patch16_224", False),
        ("timm/convnext_atto", False),
    ],
)
def test_a_step_of_moco_moves_every_parameter_of_any_backbone(name, has_batch_norm):
    from hpt_dist.methods import MoCoV2
    from hpt_dist.train import optim

    torch.manual_seed(0)
    backbone = backbones.create(name)
    backbones.check_size(backbone, 64)
    assert any(isinstance(m, nn.BatchNorm2d) for m in backbone.modules()) is has_batch_norm
    method = MoCoV2(
        backbone, backbone.feature_dim, queue=8, momentum=0.9, temperature=0.2, dim=16, seed=0
    ).train()
    method.group_batch_norm(8, 4, 1)
    optimizer = optim.build(
        method, backbone, name="adamw", lr=1e-3, weight_decay=0.1, momentum=0, nesterov=False,
        trust=1e-3, backbone_lr_scale=1.0,
    )  # fmt: skip
    before = {key: value.clone() for key, value in backbone.named_parameters()}
    for _ in range(2):  # layer scales of 1e-6 let little through in the first
        optimizer.zero_grad()
        method(tuple(torch.randn(2, 8, 3, 64, 64)), 0).total.backward()
        optimizer.step()
        method.after_step(1)
    still = [key for key, value in backbone.named_parameters() if torch.equal(value, before[key])]
    assert still == []


@pytest.mark.parametrize("letter", range(8))
def test_efficientnets_of_torchvision_are_known(letter):
    assert backbones.resolve(f"efficientnet_b{letter}") == f"torchvision/efficientnet_b{letter}"


def test_an_image_size_that_a_backbone_cannot_read_is_refused():
    backbone = backbones.create("timm/levit_128s")
    with pytest.raises(RequestError, match="cannot read images of 64 x 64"):
        backbones.check_size(backbone, 64)
    backbones.check_size(backbone, 224)
    assert backbone.training
