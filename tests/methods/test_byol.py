from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ranks import on_ranks
from torch import Tensor, nn

from hpt_dist.methods import BYOL, METHODS
from hpt_dist.methods.byol import momentum_at
from hpt_dist.networks import batch_norm

DIM, BATCH, STEPS, MOMENTUM = 8, 6, 10, 0.9
PAIRS = (("target_backbone.", "backbone."), ("target_projector.", "projector."))


def make_backbone() -> nn.Module:
    torch.manual_seed(3)
    layers = [nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten())


def make(*, backbone: nn.Module | None = None, seed: int = 0) -> BYOL:
    return BYOL(
        backbone or make_backbone(),
        24,
        hidden=16,
        dim=DIM,
        momentum=MOMENTUM,
        steps=STEPS,
        seed=seed,
    )


def views(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    first, second = torch.randn(2, BATCH, 3, 5, 5, generator=generator)
    return first, second


def sgd(method: BYOL) -> torch.optim.Optimizer:
    learning = [p for p in method.parameters() if p.requires_grad]
    return torch.optim.SGD(learning, lr=0.1, momentum=0.9)


def train(method: BYOL, optimizer: torch.optim.Optimizer, steps: range) -> list[float]:
    losses = []
    for step in steps:
        optimizer.zero_grad()
        loss = method(views(step), 0)
        loss.total.backward()
        optimizer.step()
        method.after_step(step + 1)
        losses.append(loss.total.item())
    return losses


def assert_same_state(ours: nn.Module, theirs: nn.Module) -> None:
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=0)


def reference_loss(method: BYOL, first: Tensor, second: Tensor) -> Tensor:
    """The paper's equation 2 and its mirror, image by image, in the precision of its arguments."""
    total = torch.zeros((), dtype=torch.float64)
    for online, target in ((first, second), (second, first)):
        predictions = method.predictor(method.projector(method.backbone(online)))
        targets = method.target_projector(method.target_backbone(target)).detach()
        for q, z in zip(predictions, targets, strict=True):
            q_unit, z_unit = q / q.square().sum().sqrt(), z / z.square().sum().sqrt()
            total = total + (q_unit - z_unit).square().sum() / len(first)
    return total


def test_loss_and_gradients_match_a_float64_reference():
    method = make()
    train(method, sgd(method), range(3))  # so that the target network is another one
    reference = copy.deepcopy(method).double()
    method.zero_grad()
    reference.zero_grad()
    loss = method(views(9), 0)
    loss.total.backward()
    expected = reference_loss(reference, *(view.double() for view in views(9)))
    expected.backward()
    assert loss.total.dtype == torch.float32
    assert loss.total.item() == pytest.approx(expected.item(), rel=1e-6)
    for ours, theirs in zip(method.parameters(), reference.parameters(), strict=True):
        assert (ours.grad is None) is (theirs.grad is None) is not ours.requires_grad
        if ours.grad is not None:
            torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=1e-5, atol=1e-5)


def test_online_network_alone_learns_and_all_of_it():
    method = make()
    method(views(0), 0).total.backward()
    learning = {name.split(".")[0] for name, p in method.named_parameters() if p.requires_grad}
    assert learning == {"backbone", "projector", "predictor"}
    for name, parameter in method.named_parameters():
        assert (parameter.grad is not None) is parameter.requires_grad, name


def test_loss_does_not_depend_on_which_view_comes_first():
    method = make()
    first, second = views(0)
    losses = [copy.deepcopy(method)(pair, 0).total for pair in ((first, second), (second, first))]
    torch.testing.assert_close(*losses)


def test_loss_is_float32_under_autocast():
    method = make()
    exact = method(views(0), 0).total
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = method(views(0), 0)
        method.after_step(1)
    assert loss.total.dtype == torch.float32
    assert loss.total.item() == pytest.approx(exact.item(), abs=0.1)


def test_target_is_the_exact_moving_average_of_parameters():
    method = make()
    optimizer = sgd(method)
    for step in range(4):
        before = {name: value.clone() for name, value in method.named_parameters()}
        train(method, optimizer, range(step, step + 1))
        after = dict(method.named_parameters())
        keep = 1 - (1 - MOMENTUM) * (1 + math.cos(math.pi * step / STEPS)) / 2
        for name, value in after.items():
            for target, online in PAIRS:
                if name.startswith(target):
                    ours = after[name.replace(target, online, 1)]
                    expected = keep * before[name].double() + (1 - keep) * ours.double()
                    torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=1e-7)


@given(st.integers(1, 10_000), st.floats(0, 1), st.data())
def test_momentum_rises_from_its_initial_value_to_one(steps, initial, data):
    step = data.draw(st.integers(0, steps - 1))
    assert momentum_at(0, steps, initial) == pytest.approx(initial)
    assert momentum_at(steps, steps, initial) == 1
    assert momentum_at(step, steps, initial) <= momentum_at(step + 1, steps, initial)


def test_batch_norm_of_targets_comes_from_their_own_passes_alone():
    method = make()
    first, second = views(0)
    expected = copy.deepcopy(method.target_backbone)
    train(method, sgd(method), range(1))
    expected(second)
    expected(first)
    for buffer in ("running_mean", "running_var"):
        theirs, ours = getattr(expected[1], buffer), getattr(method.target_backbone[1], buffer)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
        assert not torch.equal(ours, getattr(method.backbone[1], buffer))


def test_frozen_statistics_stay_frozen_in_both_networks():
    backbone = make_backbone()
    batch_norm.freeze(backbone)
    method = make(backbone=backbone).train()
    before = {name: value.clone() for name, value in method.named_buffers()}
    weights = method.backbone[1].weight.clone()
    train(method, sgd(method), range(2))
    for name, value in method.named_buffers():
        assert torch.equal(value, before[name]) is ("backbone" in name), name
    assert not torch.equal(method.backbone[1].weight, weights)


def test_a_restored_method_goes_on_identically():
    method, restored = make(), make(seed=5)
    optimizer, again = sgd(method), sgd(restored)
    train(method, optimizer, range(5))
    restored.load_state_dict(copy.deepcopy(method.state_dict()))
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert train(method, optimizer, range(5, 10)) == train(restored, again, range(5, 10))
    assert_same_state(restored, method)


def test_initial_state_depends_on_the_seed_alone():
    torch.manual_seed(0)
    method = make(seed=1)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    again = make(seed=1, backbone=copy.deepcopy(method.backbone))
    assert torch.equal(torch.get_rng_state(), state)
    assert_same_state(again, method)
    other = make(seed=2, backbone=copy.deepcopy(method.backbone))
    assert not torch.equal(other.projector[0].weight, method.projector[0].weight)
    assert not torch.equal(other.predictor[0].weight, method.predictor[0].weight)


def test_metrics_name_collapse():
    method = make()
    healthy = method(views(0), 0)
    assert set(healthy.metrics) == {"loss", "feature_std"}
    assert not any(value.requires_grad for value in healthy.metrics.values())
    assert healthy.metrics["feature_std"] > 0.1
    with torch.no_grad():
        method.projector[-1].weight.zero_()
        method.projector[-1].bias.fill_(1)
    assert method(views(0), 0).metrics["feature_std"] == pytest.approx(0, abs=1e-6)


def test_methods_names_it():
    assert METHODS["byol"] is BYOL


def _trained(rank: int, world: int) -> dict[str, Tensor]:
    method = make()
    batch_norm.regroup(method, batch_norm.grouping(BATCH, None, world=world))
    model = nn.parallel.DistributedDataParallel(method, broadcast_buffers=False)
    optimizer = sgd(method)
    share = slice(rank * BATCH // world, (rank + 1) * BATCH // world)
    for step in range(4):
        optimizer.zero_grad()
        model(tuple(view[share] for view in views(step)), 0).total.backward()
        optimizer.step()
        method.after_step(step + 1)
    return method.state_dict()


def test_two_ranks_train_like_one(tmp_path):
    states = on_ranks(2, tmp_path / "ranks", _trained)
    method = make()
    train(method, sgd(method), range(4))
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=0)
    torch.testing.assert_close(states[0], dict(method.state_dict()), rtol=1e-4, atol=1e-5)
