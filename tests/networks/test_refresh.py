"""Batch-norm statistics taken anew: by the definition, on a copy, mixed."""

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import nn

from hpt_dist.networks import refresh


def network():
    torch.manual_seed(0)
    pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5)]
    net = nn.Sequential(
        nn.Conv2d(3, 5, 3), BatchNormAct2d(5), *pool, nn.Linear(5, 4), nn.BatchNorm1d(4)
    )
    for layer in (net[1], net[6]):
        nn.init.uniform_(layer.weight, 0.5, 1.5)
        nn.init.uniform_(layer.running_var, 1, 2)
    return net


def images(count):
    generator = torch.Generator().manual_seed(count)
    return torch.randn(count, 3, 8, 8, generator=generator) * 3 + 100


def by_hand(net, batches):
    """Return mean and unbiased variance of all that each layer gets, in float64."""
    net = net.double()
    first, second = [], []
    for batch in batches:
        x = net[0](batch.double())
        first.append(x)
        mean = x.mean((0, 2, 3), keepdim=True)
        var = x.var((0, 2, 3), keepdim=True, correction=0)
        shape = (1, -1, 1, 1)
        y = (x - mean) / (var + net[1].eps).sqrt() * net[1].weight.view(shape)
        second.append(net[5]((y + net[1].bias.view(shape)).relu().mean((2, 3))))
    x, z = torch.cat(first), torch.cat(second)
    return [(x.mean((0, 2, 3)), x.var((0, 2, 3))), (z.mean(0), z.var(0))]


def moments(net, batches):
    found = [refresh.moments_of(net, batch) for batch in batches]
    return {name: refresh.pooled([one[name] for one in found]) for name in found[0]}


def test_the_pooled_moments_are_those_of_all_values_together():
    """Batches of different sizes, more than are taken at once, and an offset of 100."""
    batches = [images(40), images(17)]
    state = {name: value.clone() for name, value in network().state_dict().items()}
    fresh = refresh.refreshed(state, moments(network(), batches), 1.0)
    with torch.no_grad():
        expected = by_hand(network(), batches)
    for layer, (mean, var) in zip(("1", "6"), expected, strict=True):
        torch.testing.assert_close(
            fresh[f"{layer}.running_mean"].double(), mean, rtol=1e-5, atol=1e-5
        )
        torch.testing.assert_close(
            fresh[f"{layer}.running_var"].double(), var, rtol=1e-4, atol=1e-6
        )
    moved = {name for name in state if not torch.equal(state[name], fresh[name])}
    assert moved == {f"{n}.running_{what}" for n in (1, 6) for what in ("mean", "var")}


def test_moments_depend_on_no_batch_before_and_leave_no_hook():
    net = network()
    first = refresh.moments_of(net, images(9))
    again = refresh.moments_of(net, images(9))
    assert all(torch.equal(first[name].var, again[name].var) for name in first)
    assert not net.training
    assert not any(part.training or part._forward_pre_hooks for part in net.modules())


def test_mix_is_the_share_of_the_new():
    state, found = network().state_dict(), moments(network(), [images(12)])
    kept, mixed, new = (refresh.refreshed(state, found, mix) for mix in (0.0, 0.3, 1.0))
    for name, old in state.items():
        assert torch.equal(kept[name], old)
        if "running" in name:
            torch.testing.assert_close(mixed[name], 0.7 * old + 0.3 * new[name])


def test_channels_that_hardly_vary_and_those_that_grow_are_named():
    net = network()
    with torch.no_grad():
        net[0].weight[2] = 0  # its output does not vary, and it did before
        net[1].running_var[3], net[0].weight[3] = 1e-9, 0  # it never did
    change = refresh.changes(net, net.state_dict(), moments(net, [images(8)]))["1"]
    assert (change.channels, change.near_zero, change.was_near_zero) == (5, [2, 3], 1)
    assert change.amplified == [2]
    assert change.most == pytest.approx(
        float((net[1].running_var[2] / net[1].eps + 1).sqrt()), 1e-4
    )
