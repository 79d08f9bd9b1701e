"""What an anchor adds to any method: its loss, whose gradients, and nothing that is saved."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from hpt_dist.errors import HptError
from hpt_dist.methods import METHODS, Anchored, Loss, Method
from hpt_dist.networks import batch_norm

BATCH, FEATURES = 6, 24
SETTINGS = {
    "moco_v2": {"queue": 12, "momentum": 0.9, "temperature": 0.2, "dim": 8},
    "byol": {"hidden": 12, "dim": 8, "momentum": 0.9, "steps": 9},
    "simclr": {"temperature": 0.5, "dim": 8},
}
VIEWS = {"moco_v2": 1, "byol": 2, "simclr": 2}  # that the trained backbone reads
each_method = pytest.mark.parametrize("name", SETTINGS)


def network(*, frozen: bool) -> nn.Module:
    """A backbone whose running statistics are those of no batch here."""
    torch.manual_seed(3)
    made = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()
    )
    made[1].running_mean.uniform_(-0.5, 0.5)
    made[1].running_var.uniform_(0.5, 2)
    if frozen:
        batch_norm.freeze(made)
    return made


def make(name: str, *, frozen: bool = False) -> Method:
    return METHODS[name](network(frozen=frozen), FEATURES, **SETTINGS[name], seed=0).train()


def views(step: int) -> tuple[Tensor, Tensor]:
    first, second = torch.randn(2, BATCH, 3, 5, 5, generator=torch.Generator().manual_seed(step))
    return first, second


def train(method: Method, steps: int) -> None:
    learning = [one for one in method.parameters() if one.requires_grad]
    optimizer = torch.optim.SGD(learning, lr=0.1, momentum=0.9)
    for step in range(steps):
        optimizer.zero_grad()
        method(views(step), 0).total.backward()
        optimizer.step()
        method.after_step(step + 1)


def reference(trained: nn.Module, base: nn.Module, seen: tuple[Tensor, ...]) -> Tensor:
    """The mean of 1 - cos, image by image, in float64; the base by its running statistics."""
    base = copy.deepcopy(base).double().eval()
    distances = []
    for view in seen:
        with torch.no_grad():
            targets = base(view.double())
        for f, t in zip(trained(view.double()), targets, strict=True):
            distances.append(1 - (f * t).sum() / (f.square().sum() * t.square().sum()).sqrt())
    return sum(distances) / len(distances)


@pytest.mark.parametrize("frozen", [True, False])
@each_method
def test_loss_and_gradients_match_a_float64_reference(name, frozen):
    start = network(frozen=frozen)
    method = Anchored(make(name, frozen=frozen), 3.0)
    train(method, 3)
    alone, exact = copy.deepcopy(method.method), copy.deepcopy(method.backbone).double()
    for one in (method, alone, exact):
        one.zero_grad()
    loss, plain = method(views(9), 0), alone(views(9), 0)
    loss.total.backward()
    plain.total.backward()
    distance = reference(exact, start, views(9)[: VIEWS[name]])
    distance.backward()
    assert loss.total.dtype == torch.float32
    assert 0.001 < distance < 1
    assert loss.metrics["anchor"].item() == pytest.approx(distance.item(), abs=1e-6)
    expected = plain.total.item() + 3 * distance.item()
    assert loss.total.item() == pytest.approx(expected, rel=1e-6)
    added = dict(exact.named_parameters(prefix="backbone"))
    for (key, ours), theirs in zip(
        method.method.named_parameters(), alone.parameters(), strict=True
    ):
        if not ours.requires_grad:
            assert ours.grad is None
            continue
        expected = theirs.grad.double() + (3 * added[key].grad if key in added else 0)
        torch.testing.assert_close(ours.grad.double(), expected, rtol=1e-6, atol=1e-6)


@each_method
def test_a_step_along_the_anchors_gradient_leads_back_to_the_base(name):
    method = Anchored(make(name, frozen=True), 1.0)
    train(method, 3)
    distance = method(views(9), 0).metrics["anchor"]
    learning = [one for one in method.backbone.parameters() if one.requires_grad]
    plain = torch.autograd.grad(method.method(views(9), 0).total, learning)
    held = torch.autograd.grad(method(views(9), 0).total, learning)
    with torch.no_grad():
        for one, with_anchor, without in zip(learning, held, plain, strict=True):
            one.sub_(with_anchor - without, alpha=0.01)
    assert method(views(9), 0).metrics["anchor"] < distance


@each_method
def test_at_the_start_with_frozen_batch_norm_it_adds_nothing(name):
    method = Anchored(make(name, frozen=True), 100.0)
    same_view, _ = views(0)
    loss = method((same_view, same_view), 0)
    assert loss.metrics["anchor"].item() == pytest.approx(0, abs=1e-6)
    assert loss.total.item() == pytest.approx(loss.metrics["loss"].item(), abs=1e-4)
    learning = [one for one in method.backbone.parameters() if one.requires_grad]
    distance = Anchored(method.method, 1e6)(views(0), 0).total - method.method(views(0), 0).total
    gradients = torch.autograd.grad(distance / 1e6, learning)
    assert max(one.abs().max() for one in gradients) < 1e-6


@each_method
def test_weight_0_measures_and_trains_like_the_method_alone(name):
    alone, measured = make(name), Anchored(make(name), 0.0)
    train(alone, 4)
    train(measured, 4)
    torch.testing.assert_close(measured.method.state_dict(), alone.state_dict(), rtol=0, atol=0)
    assert measured(views(9), 0).metrics["anchor"] > 0.001


@each_method
def test_the_base_is_in_no_state_and_never_changes(name):
    method = Anchored(make(name), 1.0)
    state = method.state_dict()
    assert {key.removeprefix("method.") for key in state} == set(make(name).state_dict())
    known = {id(one) for one in method.method.parameters()}
    assert {id(one) for one in method.parameters()} == known
    (base,) = method._base
    before = copy.deepcopy(base.state_dict())
    method.group_batch_norm(BATCH, 3, 1)
    train(method.train(), 3)
    assert not any(module.training for module in base.modules())
    torch.testing.assert_close(base.state_dict(), before, rtol=0, atol=0)
    assert all(one.grad is None for one in base.parameters())


@each_method
def test_the_trained_network_reads_each_view_once(name):
    method = Anchored(make(name), 1.0)
    ours, theirs = [], []
    method.backbone.register_forward_hook(lambda *_: ours.append(1))
    method._base[0].register_forward_hook(lambda *_: theirs.append(1))
    method(views(0), 0)
    assert len(ours) == len(theirs) == VIEWS[name]
    with torch.no_grad():
        method.backbone(views(0)[0])  # a look at validation
    assert len(theirs) == VIEWS[name]


@each_method
def test_it_computes_as_the_method_does_and_compares_in_float32(name):
    method = Anchored(make(name), 1.0)
    exact = method(views(0), 0).metrics["anchor"]
    found = []
    method._base[0].register_forward_hook(lambda *given: found.append(given[-1].dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = method(views(0), 0)
    assert set(found) == {torch.bfloat16}
    assert loss.total.dtype == loss.metrics["anchor"].dtype == torch.float32
    assert loss.metrics["anchor"].item() == pytest.approx(exact.item(), abs=0.02)
    assert not any(value.requires_grad for value in loss.metrics.values())


class Peculiar(Method):
    """Averages what its backbone makes of the views, which it reads its own way."""

    phases = 1

    def __init__(self, read, metrics=()):
        super().__init__()
        self.backbone, self.read, self.metrics = network(frozen=True), read, metrics

    def forward(self, inputs, phase):
        total = self.read(self.backbone, inputs).square().mean()
        return Loss(total, {name: total.detach() for name in ("loss", *self.metrics)})

    def after_step(self, done):
        pass


def test_both_views_in_one_pass_or_by_name_are_compared_like_two():
    def named(backbone, inputs):
        return torch.cat([backbone(input=view) for view in inputs])

    def at_once(backbone, inputs):
        return backbone(torch.cat(inputs))

    def and_a_target(backbone, inputs):
        with torch.no_grad():
            backbone(inputs[0])
        return named(backbone, inputs)

    found = []
    for read in (named, at_once, and_a_target):
        method = Anchored(Peculiar(read), 1.0)
        train(method, 3)
        found.append(method(views(9), 0).metrics["anchor"].item())
    assert found == [pytest.approx(found[0], rel=1e-5)] * 3
    assert found[0] > 1e-4


@pytest.mark.parametrize(
    ("peculiar", "says"),
    [
        (Peculiar(lambda net, inputs: net.forward(inputs[0])), "never calls its backbone with"),
        (Peculiar(lambda net, inputs: net(inputs[0]), ["anchor"]), "has a metric that is called"),
    ],
)
def test_what_shows_no_features_or_has_that_name_is_refused(peculiar, says):
    with pytest.raises(HptError, match=f"anchor: Peculiar .*{says}"):
        Anchored(peculiar, 1.0)(views(0), 0)
