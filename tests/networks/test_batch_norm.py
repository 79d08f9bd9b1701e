"""Batch norm by groups: the same on any number of ranks, and PyTorch's own where that does it."""

import copy

import pytest
import torch
import torch.distributed as dist
from ranks import on_ranks
from timm.layers import BatchNormAct2d
from torch import nn

from hpt_dist.errors import RequestError
from hpt_dist.networks import batch_norm

BATCH = 16


def network(kind="plain"):
    torch.manual_seed(0)
    norm = BatchNormAct2d(5) if kind == "timm" else nn.BatchNorm2d(5)
    pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    net = nn.Sequential(nn.Conv2d(3, 5, 3), norm, *pool, nn.Linear(5, 4), nn.BatchNorm1d(4))
    for layer in (net[1], net[5]):
        nn.init.uniform_(layer.weight, 0.5, 1.5)
        nn.init.normal_(layer.bias)
    return net.double()  # so that what differs only by the order of sums is very close


def images(step=0):
    # Samples differ in scale and offset, so that groups differ.
    generator = torch.Generator().manual_seed(step)
    scale = torch.rand(BATCH, 3, 1, 1, generator=generator) * 3
    return (torch.randn(BATCH, 3, 8, 8, generator=generator) * scale + scale).double()


def targets():
    return torch.randn(BATCH, 4, generator=torch.Generator().manual_seed(99)).double()


def reference(groups, steps=2, kind="plain", order=None):
    """Return what a hand-written loop over groups gives: outputs, gradients, running statistics."""
    net = network(kind)
    norms = [net[1], net[5]]
    running = [[layer.running_mean.clone(), layer.running_var.clone()] for layer in norms]
    order = torch.arange(BATCH) if order is None else order
    for step in range(steps):
        net.zero_grad()
        outputs, stats = [], []
        for rows in order.chunk(groups):
            part = copy.deepcopy(net)
            for layer, original in zip((part[1], part[5]), norms, strict=True):
                layer.weight, layer.bias = original.weight, original.bias
                layer.momentum = 1.0
            part[0], part[4] = net[0], net[4]
            outputs.append(part(images(step)[rows]))
            stats.append([[layer.running_mean, layer.running_var] for layer in (part[1], part[5])])
        y = torch.cat(outputs)[order.argsort()]
        (y * targets()).sum().div(BATCH).backward()
        for n, pair in enumerate(running):
            for m in range(2):
                mean = torch.stack([group[n][m] for group in stats]).mean(dim=0)
                pair[m].lerp_(mean, 0.1)
    gradients = [p.grad.clone() for p in net.parameters()]
    return {"y": y.detach(), "gradients": gradients, "running": running}


def trained(rank, world, bn_group, kind="plain", steps=2, interleaved=False):
    net = network(kind)
    share = BATCH // world
    chosen = batch_norm.grouping(BATCH, bn_group, world=world, interleaved=interleaved)
    batch_norm.regroup(net, chosen)
    rows = slice(rank * share, (rank + 1) * share)
    order = back = torch.arange(share)
    if interleaved:
        order, back = batch_norm.interleave(share, BATCH // bn_group)
    for step in range(steps):
        net.zero_grad()
        y = net(images(step)[rows][order])[back]
        (y * targets()[rows]).sum().div(share).backward()
        if world > 1:
            batch_norm.share_statistics(net)
    gradients = [p.grad for p in net.parameters()]
    if world > 1:
        for gradient in gradients:
            dist.all_reduce(gradient)
            gradient.div_(world)
        ys = [torch.empty_like(y) for _ in range(world)]
        dist.all_gather(ys, y.detach())
        y = torch.cat(ys)
    running = [[layer.running_mean, layer.running_var] for layer in (net[1], net[5])]
    return {"y": y.detach(), "gradients": gradients, "running": running}


def close(got, expected):
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-11)


def test_the_whole_batch_on_one_rank_is_pytorchs_own_to_the_bit():
    plain, ours = network(), network()
    batch_norm.regroup(ours, batch_norm.grouping(BATCH, None))
    for step in range(3):
        a, b = plain(images(step)), ours(images(step))
        assert torch.equal(a, b)
    for name, value in plain.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value)


@pytest.mark.parametrize("kind", ["plain", "timm"])
@pytest.mark.parametrize("bn_group", [None, 8, 4])
def test_groups_on_one_rank_are_those_of_a_loop(bn_group, kind):
    close(trained(0, 1, bn_group, kind), reference(BATCH // (bn_group or BATCH), kind=kind))


def every_grouping(rank, world):
    """Return what one start of the ranks finds, since starting them takes the most time."""
    found = {
        f"{kind} {bn_group}": trained(rank, world, bn_group, kind)
        for kind in ("plain", "timm")
        for bn_group in (None, 8, 4)
    }
    if world == 2:
        found["interleaved"] = trained(rank, world, 4, interleaved=True)
    return found


INTERLEAVED = torch.arange(BATCH).view(-1, 4).T.reshape(-1)


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_normalise_like_one(tmp_path, world):
    found = on_ranks(world, tmp_path, every_grouping)
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=0, atol=0)
    for case, got in found[0].items():
        if case == "interleaved":
            close(got, reference(4, order=INTERLEAVED))
        else:
            kind, _, size = case.partition(" ")
            close(got, reference(1 if size == "None" else BATCH // int(size), kind=kind))


def test_interleaved_groups_take_every_nth_sample():
    close(trained(0, 1, 4, interleaved=True), reference(4, order=INTERLEAVED))


def test_groups_that_do_not_fit_the_ranks_are_refused():
    with pytest.raises(RequestError, match="groups of 4 do not fit"):
        batch_norm.grouping(24, 4, world=6, interleaved=True)
    with pytest.raises(RequestError, match="groups of 6 do not fit a batch of 24 on 6 ranks"):
        batch_norm.grouping(24, 6, world=6)


def test_an_unknown_kind_of_layer_is_refused_only_where_it_would_matter():
    class Strange(nn.BatchNorm2d):
        def forward(self, x):
            return 2 * super().forward(x)

    net = nn.Sequential(Strange(3)).double()
    batch_norm.regroup(net, batch_norm.grouping(BATCH, None))
    y = net(images())
    assert torch.equal(y, 2 * nn.BatchNorm2d(3).double()(images()))
    with pytest.raises(RequestError, match="Strange"):
        batch_norm.regroup(nn.Sequential(Strange(3)), batch_norm.grouping(BATCH, 4))


def test_held_statistics_stand_still_while_layers_normalise_by_their_batch():
    net, plain = network("timm"), network("timm")
    before = copy.deepcopy(net.state_dict())
    batch_norm.hold_statistics(net, held=True)
    torch.testing.assert_close(net(images()), plain(images()))
    for name, value in net.named_buffers():
        assert torch.equal(value, before[name]), name
    batch_norm.hold_statistics(net, held=False)
    net(images())
    for name, value in net.named_buffers():
        assert torch.equal(value, plain.state_dict()[name]), name


def test_frozen_layers_stay_in_evaluation_in_every_grouping():
    net, expected = network(), network().eval()
    batch_norm.freeze(net)
    batch_norm.regroup(net, batch_norm.grouping(BATCH, 4))
    again = copy.deepcopy(net).train()
    assert torch.equal(again(images()), expected(images()))
    assert torch.equal(again[1].running_mean, expected[1].running_mean)
