from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from hpt_dist import optim, recipe
from hpt_dist.errors import RequestError

steps = st.integers(1, 100_000)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU())
        self.head = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.backbone(x))


def build(net: Net, **settings) -> torch.optim.Optimizer:
    spec = recipe.Optimizer(**{"lr": 0.1, "weight_decay": 0.01, **settings})
    return optim.build(net, net.backbone, **spec.model_dump())


def bits(module: nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone().view(torch.int32) for p in module.parameters()]


def train(net: Net, optimizer: torch.optim.Optimizer, count: int, backbone: float) -> None:
    generator = torch.Generator().manual_seed(1)
    for step in range(count):
        rate = optim.cosine(step, 10)
        optim.set_learning_rates(optimizer, head=rate, backbone=rate * backbone)
        optimizer.zero_grad()
        net(torch.randn(8, 4, generator=generator)).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_every_trainable_parameter_is_in_one_group_of_its_part(name):
    net = Net()
    net.backbone[0].weight.requires_grad_(False)
    optimizer = build(net, name=name, backbone_lr_scale=0.25)
    for part, module, peak in (("backbone", net.backbone, 0.025), ("head", net.head, 0.1)):
        groups = [group for group in optimizer.param_groups if group["part"] == part]
        assert {group["lr"] for group in groups} == {group["peak_lr"] for group in groups} == {peak}
        grouped = [parameter for group in groups for parameter in group["params"]]
        assert len(grouped) == len(set(grouped))
        assert set(grouped) == {p for p in module.parameters() if p.requires_grad}


def test_sgd_decays_everything_and_adamw_only_matrices():
    for group in build(Net(), name="sgd").param_groups:
        assert group["weight_decay"] == 0.01
    for group in build(Net(), name="adamw").param_groups:
        for parameter in group["params"]:
            assert group["weight_decay"] == (0.01 if parameter.ndim > 1 else 0.0)


def test_no_group_for_a_backbone_that_does_not_learn():
    net = Net()
    net.backbone.requires_grad_(False)
    assert {group["part"] for group in build(net).param_groups} == {"head"}


def test_an_unknown_optimizer_is_refused():
    net = Net()
    with pytest.raises(RequestError, match="allowed: sgd, adamw"):
        optim.build(
            net,
            net.backbone,
            name="adam",
            lr=0.1,
            weight_decay=0.0,
            momentum=0.9,
            nesterov=False,
            backbone_lr_scale=1.0,
        )


@pytest.mark.parametrize("settings", [{"name": "sgd", "nesterov": True}, {"name": "adamw"}])
def test_backbone_is_bit_identical_through_head_warmup_and_moves_after_it(settings):
    net = Net()
    optimizer = build(net, **settings)
    backbone, head = bits(net.backbone), bits(net.head)
    train(net, optimizer, 5, backbone=0.0)
    assert all(map(torch.equal, backbone, bits(net.backbone)))
    assert not any(map(torch.equal, head, bits(net.head)))
    train(net, optimizer, 1, backbone=1.0)
    assert not any(map(torch.equal, backbone, bits(net.backbone)))


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_restored_optimizer_goes_on_identically(name):
    net, again = Net(), Net()
    optimizer = build(net, name=name)
    train(net, optimizer, 3, backbone=1.0)
    again.load_state_dict(net.state_dict())
    restored = build(again, name=name)
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(net, optimizer, 3, backbone=0.5)
    train(again, restored, 3, backbone=0.5)
    assert all(map(torch.equal, bits(net), bits(again)))


@given(steps, st.data())
def test_cosine_falls_from_one_to_zero_symmetrically(total, data):
    step = data.draw(st.integers(0, total - 1))
    assert optim.cosine(0, total) == 1
    assert optim.cosine(total, total) == 0
    assert optim.cosine(step, total) >= optim.cosine(step + 1, total)
    assert optim.cosine(step, total) + optim.cosine(total - step, total) == pytest.approx(1)


@given(steps, st.data())
def test_thirds_fall_tenfold_after_a_third_and_two_thirds(total, data):
    step = data.draw(st.integers(0, total - 1))
    falls = (step >= total / 3) + (step >= 2 * total / 3)
    assert optim.thirds(step, total) == pytest.approx(10.0**-falls)


def test_inverse_decay_is_the_formula():
    assert optim.inverse_decay(0) == 1
    assert optim.inverse_decay(10_000) == pytest.approx(math.sqrt(2) / 2**1.25)
    assert optim.inverse_decay(50_000) == pytest.approx(6**-0.75)


@given(st.integers(0, 100), st.integers(0, 100))
def test_backbone_waits_exactly_its_warmup(step, warmup):
    assert optim.after_warmup(step, warmup) == (0.0 if step < warmup else 1.0)
