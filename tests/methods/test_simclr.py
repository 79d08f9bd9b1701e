from __future__ import annotations

import copy

import pytest
import torch
from examples import few
from hypothesis import given
from hypothesis import strategies as st
from ranks import on_ranks
from torch import Tensor, nn

from hpt_dist.methods import METHODS, SimCLR
from hpt_dist.methods.embeddings import gather, gather_with_gradient

DIM, BATCH, TEMPERATURE = 8, 6, 0.2


def make(*, backbone: nn.Module | None = None, seed: int = 0) -> SimCLR:
    torch.manual_seed(3)
    made = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
    return SimCLR(backbone or made, 24, temperature=TEMPERATURE, dim=DIM, seed=seed)


def views(step: int, batch: int = BATCH) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    first, second = torch.randn(2, batch, 3, 5, 5, generator=generator)
    return first, second


def sgd(method: SimCLR) -> torch.optim.Optimizer:
    return torch.optim.SGD(method.parameters(), lr=0.1, momentum=0.9)


def train(method: SimCLR, optimizer: torch.optim.Optimizer, steps: range) -> list[float]:
    losses = []
    for step in steps:
        optimizer.zero_grad()
        loss = method(views(step), 0)
        loss.total.backward()
        optimizer.step()
        method.after_step(step + 1)
        losses.append(loss.total.item())
    return losses


def reference_loss(method: SimCLR, first: Tensor, second: Tensor) -> Tensor:
    """The paper's algorithm 1, pair by pair, in the precision of its arguments."""
    first_weight, last_weight = method.projector[0].weight, method.projector[-1].weight
    z = [
        last_weight @ (first_weight @ feature).relu()
        for pair in zip(first, second, strict=True)
        for feature in method.backbone(torch.stack(pair))
    ]
    s = [[a @ b / (a.norm() * b.norm()) / TEMPERATURE for b in z] for a in z]

    def loss(i: int, j: int) -> Tensor:
        others = sum(s[i][k].exp() for k in range(len(z)) if k != i)
        return -(s[i][j].exp() / others).log()

    pairs = range(0, len(z), 2)
    return sum(loss(k, k + 1) + loss(k + 1, k) for k in pairs) / len(z)


@given(st.integers(2, 7), st.integers(0, 99))
@few(10)
def test_loss_and_gradients_match_a_float64_reference(batch, seed):
    method = make(seed=seed)
    reference = copy.deepcopy(method).double()
    loss = method(views(seed, batch), 0)
    loss.total.backward()
    expected = reference_loss(reference, *(view.double() for view in views(seed, batch)))
    expected.backward()
    assert loss.total.dtype == torch.float32
    assert loss.total.item() == pytest.approx(expected.item(), rel=1e-5)
    for ours, theirs in zip(method.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=1e-4, atol=1e-5)


def test_loss_is_float32_under_autocast():
    method = make()
    exact = method(views(0), 0).total
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = method(views(0), 0).total
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), abs=0.05)


def test_a_restored_method_goes_on_identically():
    method, restored = make(), make(seed=5)
    optimizer, again = sgd(method), sgd(restored)
    train(method, optimizer, range(5))
    restored.load_state_dict(copy.deepcopy(method.state_dict()))
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert train(method, optimizer, range(5, 10)) == train(restored, again, range(5, 10))
    torch.testing.assert_close(restored.state_dict(), method.state_dict(), rtol=0, atol=0)


def test_initial_state_depends_on_the_seed_alone():
    method = make(seed=1)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    again = SimCLR(copy.deepcopy(method.backbone), 24, temperature=TEMPERATURE, dim=DIM, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(again.state_dict(), method.state_dict(), rtol=0, atol=0)
    assert not torch.equal(make(seed=2).projector[0].weight, method.projector[0].weight)


def test_metrics_name_collapse_and_success():
    method = make()
    healthy = method(views(0), 0)
    assert set(healthy.metrics) == {"loss", "contrast_top1", "feature_std"}
    assert not any(value.requires_grad for value in healthy.metrics.values())
    first, _ = views(0)
    assert method((first, first), 0).metrics["contrast_top1"] == 1
    with torch.no_grad():
        method.projector[-1].weight.fill_(1)
    collapsed = method(views(0), 0).metrics
    assert collapsed["feature_std"] == pytest.approx(0, abs=1e-5)
    assert collapsed["contrast_top1"] < 0.5


def test_methods_names_it():
    assert METHODS["simclr"] is SimCLR


def _losses_and_gradients(rank: int, world: int) -> tuple[list[float], dict[str, Tensor]]:
    method = make()
    model = nn.parallel.DistributedDataParallel(method)
    optimizer = sgd(method)
    share = slice(rank * BATCH // world, (rank + 1) * BATCH // world)
    losses = []
    for step in range(3):
        optimizer.zero_grad()
        loss = model(tuple(view[share] for view in views(step)), 0).total
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, {name: p.grad for name, p in method.named_parameters()}


@pytest.mark.parametrize("world", [2, 3])
def test_several_ranks_have_the_losses_and_gradients_of_one(tmp_path, world):
    found = on_ranks(world, tmp_path / "ranks", _losses_and_gradients)
    method = make()
    expected = train(method, sgd(method), range(3))
    gradients = {name: p.grad for name, p in method.named_parameters()}
    for losses, theirs in zip(expected, zip(*(f[0] for f in found), strict=True), strict=True):
        assert sum(theirs) / world == pytest.approx(losses, rel=1e-5)
    for _, theirs in found:
        torch.testing.assert_close(theirs, gradients, rtol=1e-4, atol=1e-6)


def _gathered(rank: int, world: int) -> tuple[Tensor, Tensor, Tensor]:
    share = torch.arange(6.0).view(3, 2).T.add(10 * rank).requires_grad_()  # not contiguous
    rows = gather_with_gradient(share)
    weights = (rank + 1) * torch.arange(1.0, 13.0).view(4, 3)
    (rows * weights).sum().backward()
    assert torch.equal(gather(share.detach()), rows)
    return share.detach(), rows.detach(), share.grad


def test_gathered_rows_are_in_the_order_of_ranks_and_their_gradients_are_summed(tmp_path):
    found = on_ranks(2, tmp_path / "ranks", _gathered)
    rows = torch.cat([share for share, _, _ in found])
    total = 3 * torch.arange(1.0, 13.0).view(4, 3)
    for rank, (_, theirs, gradient) in enumerate(found):
        assert torch.equal(theirs, rows)
        assert torch.equal(gradient, total[2 * rank : 2 * rank + 2])
