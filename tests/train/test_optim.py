from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.layers import BatchNormAct2d, LayerNorm2d
from torch import nn

from hpt_dist import recipe
from hpt_dist.errors import RequestError
from hpt_dist.networks import batch_norm
from hpt_dist.train import optim

steps = st.integers(1, 100_000)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        # Without a bias, which batch norm would take away again.
        self.backbone = nn.Sequential(nn.Linear(4, 6, bias=False), nn.BatchNorm1d(6), nn.ReLU())
        self.head = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.backbone(x))


def build(net: Net, **settings) -> torch.optim.Optimizer:
    spec = recipe.Optimizer(**{"lr": 0.1, "weight_decay": 0.01, "trust": 0.1, **settings})
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


@pytest.mark.parametrize("name", ["sgd", "lars", "adamw"])
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


def test_sgd_decays_everything_and_the_others_only_matrices():
    for group in build(Net(), name="sgd").param_groups:
        assert group["weight_decay"] == 0.01
    for name in ("lars", "adamw"):
        for group in build(Net(), name=name).param_groups:
            for parameter in group["params"]:
                assert group["weight_decay"] == (0.01 if parameter.ndim > 1 else 0.0)


class Normed(Net):
    """Norms of all kinds in both parts."""

    def __init__(self) -> None:
        super().__init__()
        layers = [nn.Conv2d(3, 6, 3), BatchNormAct2d(6), LayerNorm2d(6), nn.GroupNorm(2, 6)]
        self.backbone = nn.Sequential(*layers, nn.InstanceNorm2d(6, affine=True))
        self.head = nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3), nn.LayerNorm(3))
        batch_norm.regroup(self, batch_norm.Grouping())


def test_sgd_decays_all_but_norms_where_it_is_asked_to():
    """Biases of convolutions and linear layers decay: they are no norms."""
    net = Normed()
    spec = recipe.Optimizer(lr=0.1, weight_decay=0.01)
    groups = optim.build(net, net.backbone, decay_norms=False, **spec.model_dump()).param_groups
    decay = {one: group["weight_decay"] for group in groups for one in group["params"]}
    decayed = [name for name, one in net.named_parameters() if decay[one]]
    assert decayed == ["backbone.0.weight", "backbone.0.bias", "head.0.weight", "head.0.bias"]
    assert len(decay) == len(list(net.parameters()))
    still = {name: one.detach().clone() for name, one in net.named_parameters()}
    for one in net.parameters():
        one.grad = torch.zeros_like(one)
    optim.build(net, net.backbone, decay_norms=False, **spec.model_dump()).step()
    for name, one in net.named_parameters():
        expected = still[name] * (1 - 0.1 * 0.01) if name in decayed else still[name]
        torch.testing.assert_close(one.detach(), expected)


def test_other_optimizers_decay_no_norm_anyway():
    net = Normed()
    for name in ("lars", "adamw"):
        settings = recipe.Optimizer(name=name, lr=0.1).model_dump()
        either = [
            optim.build(net, net.backbone, decay_norms=one, **settings).param_groups
            for one in (True, False)
        ]
        assert str(either[0]) == str(either[1])


@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_lars_is_the_papers_equation_by_hand(decay):
    """arXiv 1708.03888, eq. 6 and algorithm 1; biases and batch norm take plain steps."""
    net = Net()
    momentum, trust, rate = 0.9, 0.1, 0.05
    optimizer = build(net, name="lars", weight_decay=decay, momentum=momentum, trust=trust)
    names = [name for name, _ in net.named_parameters()]
    weights = {name: p.detach().double() for name, p in net.named_parameters()}
    speeds = {name: torch.zeros_like(weights[name]) for name in names}
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        optim.set_learning_rates(optimizer, head=0.5, backbone=0.5)
        optimizer.zero_grad()
        net(torch.randn(8, 4, generator=generator)).square().mean().backward()
        gradients = {name: p.grad.double() for name, p in net.named_parameters()}
        optimizer.step()
        for name in names:
            w, g = weights[name], gradients[name]
            if w.ndim > 1:
                local = trust * w.norm() / (g.norm() + decay * w.norm())
                g = local * (g + decay * w)
            speeds[name] = momentum * speeds[name] + g
            weights[name] = w - rate * speeds[name]
        for name, parameter in net.named_parameters():
            torch.testing.assert_close(parameter.double(), weights[name], rtol=1e-5, atol=1e-6)


class Convolutional(Net):
    """In channels-last memory, where the order of a weight's numbers is not that of its shape."""

    def __init__(self, memory_format: torch.memory_format) -> None:
        nn.Module.__init__(self)
        torch.manual_seed(0)
        layers = [nn.Conv2d(3, 6, 3, bias=False), nn.ReLU(), nn.Conv2d(6, 6, 3, groups=3)]
        self.backbone = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(6, 3)
        self.to(memory_format=memory_format)


def train_convolutional(net: Convolutional, optimizer: torch.optim.Optimizer, count: int) -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        optimizer.zero_grad()
        net(torch.randn(8, 3, 6, 6, generator=generator)).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_fused_steps_are_those_of_the_plain_loop(name, memory_format):
    fused, plain = (Convolutional(memory_format) for _ in range(2))
    optimizer = build(fused, name=name)
    kind = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[name]
    expected = kind(
        [{**group, "fused": False, "params": []} for group in build(plain, name=name).param_groups],
        foreach=False,
    )
    for group, theirs in zip(
        expected.param_groups, build(plain, name=name).param_groups, strict=True
    ):
        group["params"] = theirs["params"]
    train_convolutional(fused, optimizer, 4)
    train_convolutional(plain, expected, 4)
    torch.testing.assert_close(fused.state_dict(), plain.state_dict(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "lars", "adamw"])
def test_state_that_was_laid_out_otherwise_goes_on_identically(name):
    """As after a restart that puts the network into another memory format."""
    net = Convolutional(torch.channels_last)
    optimizer = build(net, name=name)
    train_convolutional(net, optimizer, 3)
    state = copy.deepcopy(optimizer.state_dict())
    for entry in state["state"].values():
        entry |= {key: value.contiguous() for key, value in entry.items() if value.ndim}
    again = Convolutional(torch.channels_last)
    again.load_state_dict(net.state_dict())
    restored = build(again, name=name)
    restored.load_state_dict(state)
    train_convolutional(net, optimizer, 3)
    train_convolutional(again, restored, 3)
    assert all(map(torch.equal, bits(net), bits(again)))


def test_no_group_for_a_backbone_that_does_not_learn():
    net = Net()
    net.backbone.requires_grad_(False)
    assert {group["part"] for group in build(net).param_groups} == {"head"}


def test_an_unknown_optimizer_is_refused():
    net = Net()
    with pytest.raises(RequestError, match="allowed: sgd, lars, adamw"):
        optim.build(
            net,
            net.backbone,
            name="adam",
            lr=0.1,
            weight_decay=0.0,
            momentum=0.9,
            nesterov=False,
            trust=1e-3,
            backbone_lr_scale=1.0,
        )


@pytest.mark.parametrize(
    "settings", [{"name": "sgd", "nesterov": True}, {"name": "lars"}, {"name": "adamw"}]
)
def test_backbone_is_bit_identical_through_head_warmup_and_moves_after_it(settings):
    net = Net()
    optimizer = build(net, **settings)
    backbone, head = bits(net.backbone), bits(net.head)
    train(net, optimizer, 5, backbone=0.0)
    assert all(map(torch.equal, backbone, bits(net.backbone)))
    assert not any(map(torch.equal, head, bits(net.head)))
    train(net, optimizer, 1, backbone=1.0)
    assert not any(map(torch.equal, backbone, bits(net.backbone)))


@pytest.mark.parametrize("name", ["sgd", "lars", "adamw"])
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
def test_a_schedule_warms_up_in_a_line_and_then_is_its_own(total, data):
    warm = data.draw(st.integers(0, total - 1))
    step = data.draw(st.integers(0, total - 1))
    assert optim.schedule("cosine", step, total, 0) == optim.cosine(step, total)
    for name in ("cosine", "constant"):
        rates = [optim.schedule(name, step, total, warm) for step in (0, step, warm, total - 1)]
        assert all(0 < rate <= 1 for rate in rates)
        assert rates[2] == 1
        if step < warm:
            assert rates[1] == pytest.approx((step + 1) / (warm + 1))
        elif name == "cosine":
            assert rates[1] == optim.cosine(step - warm, total - warm)
        else:
            assert rates[1] == 1


def test_a_warmup_has_equal_steps():
    assert [optim.warmup(step, 4) for step in range(6)] == [0.2, 0.4, 0.6, 0.8, 1, 1]
    assert optim.warmup(0, 0) == 1


def test_schedules_are_those_of_the_recipe_and_others_are_refused():
    assert list(optim.SCHEDULES) == list(
        recipe.Pretrain.model_fields["schedule"].annotation.__args__
    )
    with pytest.raises(RequestError, match="allowed: cosine, constant"):
        optim.schedule("linear", 0, 10, 0)


@given(steps, st.data())
def test_steps_down_at_thirds_are_those_of_whole_numbers(total, data):
    step = data.draw(st.integers(0, total - 1) | st.sampled_from([total // 3, 2 * total // 3]))
    assert optim.steps_down(step, total, (1 / 3, 2 / 3)) == 0.1 ** (3 * step // total)


@given(steps, st.data())
def test_steps_down_at_the_step_whose_share_a_milestone_is(total, data):
    first, second = data.draw(st.tuples(st.integers(0, total), st.integers(0, total)))
    step = data.draw(st.integers(0, total))
    falls = (step >= first) + (step >= second)
    assert optim.steps_down(step, total, (first / total, second / total)) == 0.1**falls


def test_inverse_decay_is_the_formula():
    assert optim.inverse_decay(0) == 1
    assert optim.inverse_decay(10_000) == pytest.approx(math.sqrt(2) / 2**1.25)
    assert optim.inverse_decay(50_000) == pytest.approx(6**-0.75)


@given(st.integers(0, 100), st.integers(0, 100))
def test_backbone_waits_exactly_its_warmup(step, warmup):
    assert optim.after_warmup(step, warmup) == (0.0 if step < warmup else 1.0)
