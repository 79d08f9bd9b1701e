from __future__ import annotations

import copy

import pytest
import torch
from examples import few
from hypothesis import given
from hypothesis import strategies as st
from ranks import on_ranks
from torch import Tensor, nn

from hpt_dist.errors import RequestError
from hpt_dist.methods import METHODS, MoCoV2, feature_std

DIM, QUEUE, BATCH = 8, 12, 4


def make_backbone(*, norm: bool = False) -> nn.Module:
    torch.manual_seed(3)
    layers = [nn.Conv2d(3, 6, 3), *([nn.BatchNorm2d(6)] if norm else []), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten())


def make(
    *,
    backbone: nn.Module | None = None,
    queue: int = QUEUE,
    momentum: float = 0.9,
    seed: int = 0,
    norm: bool = False,
) -> MoCoV2:
    return MoCoV2(
        backbone or make_backbone(norm=norm),
        24,
        queue=queue,
        momentum=momentum,
        temperature=0.2,
        dim=DIM,
        seed=seed,
    )


def views(step: int, batch: int = BATCH) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    query, key = torch.randn(2, batch, 3, 5, 5, generator=generator)
    return query, key


def train(method: MoCoV2, optimizer: torch.optim.Optimizer, steps: range) -> list[float]:
    losses = []
    for step in steps:
        optimizer.zero_grad()
        loss = method(views(step), 0)
        loss.total.backward()
        optimizer.step()
        method.after_step(step + 1)
        losses.append(loss.total.item())
    return losses


def sgd(method: MoCoV2) -> torch.optim.Optimizer:
    learning = [p for p in method.parameters() if p.requires_grad]
    return torch.optim.SGD(learning, lr=0.1, momentum=0.9)


def assert_same_state(ours: nn.Module, theirs: nn.Module) -> None:
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=0)


def reference_loss(method: MoCoV2, query_view: Tensor, key_view: Tensor) -> Tensor:
    """The paper's equation 1, query by query, in the precision of its arguments."""
    queries = method.projector(method.backbone(query_view))
    keys = method.key_projector(method.key_backbone(key_view)).detach()
    total = torch.zeros((), dtype=torch.float64)
    for query, key in zip(queries, keys, strict=True):
        unit = query / query.square().sum().sqrt()
        positive = (unit @ key / key.square().sum().sqrt() / method.temperature).exp()
        negatives = sum((unit @ other / method.temperature).exp() for other in method.queue)
        total = total - (positive / (positive + negatives)).log()
    return total / len(queries)


def test_loss_and_gradients_match_a_float64_reference():
    method = make()
    train(method, sgd(method), range(3))  # so that the key encoder is another one
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
            torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=1e-6, atol=1e-6)


def test_only_query_encoder_learns():
    method = make()
    method(views(0), 0).total.backward()
    learning = {name.split(".")[0] for name, p in method.named_parameters() if p.requires_grad}
    assert learning == {"backbone", "projector"}
    assert all(p.grad is not None for p in method.parameters() if p.requires_grad)


def test_loss_is_float32_under_autocast():
    method = make()
    exact = method(views(0), 0).total
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = method(views(0), 0)
        method.after_step(1)
    assert loss.total.dtype == method.queue.dtype == torch.float32
    assert loss.total.item() == pytest.approx(exact.item(), abs=0.05)
    torch.testing.assert_close(method.queue.norm(dim=1), torch.ones(QUEUE))


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 10))
@few(20)
def test_queue_holds_the_last_keys_and_never_the_current_ones(batch, batches, steps):
    method = make(queue=batch * batches)
    expected = list(method.queue.clone())
    for step in range(steps):
        before = method.queue.clone()
        keys = method._embed_keys(views(step, batch)[1])
        loss = method(views(step, batch), 0).total
        assert torch.equal(method.queue, before)
        assert loss.item() == pytest.approx(
            reference_loss(method, *views(step, batch)).item(), rel=1e-5, abs=1e-6
        )
        method.after_step(step + 1)
        rows = [(step * batch + row) % len(expected) for row in range(batch)]
        for row, key in zip(rows, keys, strict=True):
            expected[row] = key
        assert torch.equal(method.queue, torch.stack(expected))
        assert method.pointer.item() == (step + 1) * batch % len(expected)


def test_a_queue_of_part_batches_is_refused():
    method = make(queue=10)
    method(views(0), 0)
    with pytest.raises(RequestError, match="a multiple of batch"):
        method.after_step(1)


def test_key_encoder_is_the_exact_moving_average_of_parameters():
    method = make(momentum=0.9, norm=True)
    optimizer = sgd(method)
    pairs = (("key_backbone", "backbone"), ("key_projector", "projector"))
    for step in range(4):
        before = {name: value.clone() for name, value in method.named_parameters()}
        train(method, optimizer, range(step, step + 1))
        after = dict(method.named_parameters())
        for name, value in after.items():
            for key_part, query_part in pairs:
                if name.startswith(f"{key_part}."):
                    query = after[name.replace(key_part, query_part, 1)]
                    expected = 0.9 * before[name].double() + 0.1 * query.double()
                    torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=1e-7)


def test_both_encoders_start_equal_and_equal_ones_stay_equal():
    method = make()
    for step in range(3):
        method(views(step), 0)
        method.after_step(step + 1)
    assert_same_state(method.key_backbone, method.backbone)
    assert_same_state(method.key_projector, method.projector)


def test_batch_norm_of_keys_comes_from_their_own_passes_alone():
    method = make(norm=True, momentum=0.0)
    expected = copy.deepcopy(method.backbone)
    train(method, sgd(method), range(1))
    expected(views(0)[1])
    theirs, ours = expected[1], method.key_backbone[1]
    torch.testing.assert_close(ours.running_mean, theirs.running_mean, rtol=0, atol=0)
    torch.testing.assert_close(ours.running_var, theirs.running_var, rtol=0, atol=0)
    assert not torch.equal(ours.running_mean, method.backbone[1].running_mean)


def frozen_before() -> MoCoV2:
    from hpt_dist.networks.batch_norm import freeze  # seconds that spawned ranks need not spend

    backbone = make_backbone(norm=True)
    freeze(backbone)
    return make(backbone=backbone).train()


def frozen_after() -> MoCoV2:
    method = make(norm=True).train()
    method.backbone[1].eval()
    return method


@pytest.mark.parametrize("frozen", [frozen_before, frozen_after])
def test_frozen_statistics_stay_frozen_in_both_encoders(frozen):
    method = frozen()
    optimizer = sgd(method)
    before = {name: value.clone() for name, value in method.named_buffers()}
    weights = method.backbone[1].weight.clone()
    train(method, optimizer, range(2))
    for name, value in method.named_buffers():
        assert torch.equal(value, before[name]) is ("running" in name or "tracked" in name), name
    assert not torch.equal(method.backbone[1].weight, weights)


def test_a_restored_method_goes_on_identically():
    method, restored = make(norm=True), make(norm=True, seed=5)
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
    assert not torch.equal(other.queue, method.queue)
    assert not torch.equal(other.projector[0].weight, method.projector[0].weight)


def test_metrics_name_collapse():
    method = make()
    healthy = method(views(0), 0)
    assert set(healthy.metrics) == {"loss", "contrast_top1", "feature_std"}
    assert not any(value.requires_grad for value in healthy.metrics.values())
    with torch.no_grad():
        for encoder in (method.projector, method.key_projector):
            encoder[2].weight.zero_()
            encoder[2].bias.fill_(1)
        method.queue.fill_(DIM**-0.5)
    collapsed = method(views(0), 0).metrics
    assert collapsed["feature_std"] == pytest.approx(0, abs=1e-6)
    assert collapsed["contrast_top1"] == 0
    random = nn.functional.normalize(torch.randn(4096, 64), dim=1)
    assert feature_std(random) == pytest.approx(1, abs=0.01)


def test_methods_names_it():
    assert METHODS["moco_v2"] is MoCoV2


def _trained(rank: int, world: int) -> dict[str, Tensor]:
    method = make()
    model = nn.parallel.DistributedDataParallel(method)
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
    torch.testing.assert_close(states[0], dict(method.state_dict()), rtol=1e-5, atol=1e-6)
