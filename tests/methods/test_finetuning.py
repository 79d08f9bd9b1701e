"""A classifier's losses, its head on a held backbone, and where its first step starts from."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from hpt_dist.methods import FineTuning
from hpt_dist.networks import batch_norm
from hpt_dist.train import optim

SGD = {"name": "sgd", "lr": 0.1, "weight_decay": 0.01, "momentum": 0.9, "nesterov": False}
ADAMW = SGD | {"name": "adamw"}


def network():
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    return nn.Sequential(*layers, nn.Flatten())


def classifier(*, several=False):
    return FineTuning(network(), 6, 4, several=several, seed=3).train()


def batch(*, several=False, seed=1):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(8, 3, 9, 9, generator=generator)
    if several:
        return images, (torch.rand(8, 4, generator=generator) < 0.4).float()
    return images, torch.randint(0, 4, (8,), generator=generator)


@pytest.mark.parametrize("several", [False, True])
def test_the_loss_is_the_mean_over_images_and_classes(several):
    method = classifier(several=several)
    images, labels = batch(several=several)
    logits = method.head(method.backbone(images)).double()
    if several:
        each = -(
            labels * functional.logsigmoid(logits) + (1 - labels) * functional.logsigmoid(-logits)
        )
        expected = each.mean()
    else:
        expected = -logits.log_softmax(1)[torch.arange(8), labels].mean()
    loss = method((images, labels), 0)
    assert loss.total.item() == pytest.approx(expected.item(), abs=1e-6)
    assert set(loss.metrics) == ({"loss"} if several else {"loss", "top1"})


def test_the_head_depends_on_its_seed_alone():
    torch.manual_seed(9)
    first = classifier()
    torch.manual_seed(1)
    assert torch.equal(first.head.weight, classifier().head.weight)
    assert first.head.weight.std().item() == pytest.approx(0.01, rel=0.5)
    assert not first.head.bias.any()


@pytest.mark.parametrize("settings", [SGD, ADAMW], ids=["sgd", "adamw"])
def test_a_held_backbone_keeps_every_bit_and_then_starts_as_if_nothing_had_been(settings):
    method = classifier()
    batch_norm.hold_statistics(method.backbone, held=False)  # as the loop does
    optimizer = optim.build(method, method.backbone, trust=1e-3, backbone_lr_scale=1.0, **settings)
    before = copy.deepcopy(method.state_dict())
    expected = copy.deepcopy(method.backbone).eval()(batch()[0])
    seen = []
    method.backbone.register_forward_hook(lambda _m, _i, output: seen.append(output))
    method.hold_backbone(held=True)
    for step in range(3):
        optim.set_learning_rates(optimizer, head=1.0, backbone=0.0)
        optimizer.zero_grad(set_to_none=True)
        method(batch(seed=1 + step), 0).total.backward()
        assert all(one.grad is not None for one in method.parameters()), "ranks would wait"
        optimizer.step()
    torch.testing.assert_close(seen[0], expected)  # by its running statistics
    for name, value in method.state_dict().items():
        assert torch.equal(value, before[name]) is name.startswith("backbone."), name

    method.hold_backbone(held=False)
    optim.forget(optimizer, "backbone")
    assert method.backbone.training
    fresh = copy.deepcopy(method)
    other = optim.build(fresh, fresh.backbone, trust=1e-3, backbone_lr_scale=1.0, **settings)
    for model, steps in ((method, optimizer), (fresh, other)):
        optim.set_learning_rates(steps, head=1.0, backbone=1.0)
        steps.zero_grad(set_to_none=True)
        model(batch(), 0).total.backward()
        steps.step()
    for name, value in fresh.backbone.state_dict().items():
        assert torch.equal(method.backbone.state_dict()[name], value), name
        if "num_batches" not in name and value.numel() > 1:
            assert not torch.equal(value, before[f"backbone.{name}"]), name


def test_frozen_batch_norm_stays_frozen_when_the_backbone_is_held_and_let_go():
    method = classifier()
    batch_norm.freeze(method.backbone)
    method.hold_backbone(held=True)
    method.hold_backbone(held=False)
    assert method.backbone.training
    assert not method.backbone[1].training
