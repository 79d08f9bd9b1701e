from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from hpt_dist.errors import RequestError
from hpt_dist.methods import METHODS, MME, Method
from hpt_dist.methods.mme import entropy, reverse_gradient

CLASSES, WEIGHT, TEMPERATURE = 5, 0.1, 0.05


def make(objective: str = "mme", seed: int = 0) -> MME:
    torch.manual_seed(3)
    backbone = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
    return MME(
        backbone,
        24,
        CLASSES,
        head_dim=8,
        temperature=TEMPERATURE,
        entropy_weight=WEIGHT,
        objective=objective,
        seed=seed,
    )


def inputs(step: int = 0) -> tuple[tuple[Tensor, Tensor], tuple[Tensor]]:
    generator = torch.Generator().manual_seed(step)
    images = torch.randn(12, 3, 5, 5, generator=generator)
    labels = torch.randint(CLASSES, (6,), generator=generator)
    return (images[:6], labels), (images[6:],)


def reference_logits(method: MME, images: Tensor) -> Tensor:
    features = method.backbone(images)
    embedded = features @ method.embedding.weight.T + method.embedding.bias
    unit = embedded / embedded.square().sum(dim=1, keepdim=True).sqrt()
    return unit @ method.prototypes.weight.T / TEMPERATURE


def reference_entropy(method: MME, images: Tensor) -> Tensor:
    probabilities = reference_logits(method, images).softmax(dim=1)
    return -(probabilities * probabilities.log()).sum(dim=1).mean()


def assert_same_gradients(method: MME, expected: dict[str, Tensor]) -> None:
    for name, parameter in method.named_parameters():
        torch.testing.assert_close(
            parameter.grad.double(),
            expected[name],
            rtol=1e-6,
            atol=1e-6,
        )


def reference_gradients(method: MME, loss: Tensor) -> dict[str, Tensor]:
    names, parameters = zip(*method.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))


def test_labelled_phase_matches_a_float64_reference():
    method = make()
    reference = copy.deepcopy(method).double()
    images, labels = inputs()[0]
    loss = method((images, labels), 0)
    loss.total.backward()
    logits = reference_logits(reference, images.double())
    probabilities = logits.exp() / logits.exp().sum(dim=1, keepdim=True)
    expected = -probabilities[range(6), labels].log().mean()
    assert loss.total.dtype == torch.float32
    assert loss.total.item() == pytest.approx(expected.item(), rel=1e-6)
    assert_same_gradients(method, reference_gradients(reference, expected))
    assert loss.metrics["loss"] == loss.total
    top1 = (logits.argmax(dim=1) == labels).double().mean()
    assert loss.metrics["labelled_top1"].item() == pytest.approx(top1.item())


@pytest.mark.parametrize(("objective", "sign"), [("mme", -1), ("ent", 1)])
def test_unlabelled_phase_matches_a_float64_reference(objective, sign):
    method = make(objective)
    reference = copy.deepcopy(method).double()
    (images,) = inputs()[1]
    loss = method((images,), 1)
    loss.total.backward()
    expected = reference_entropy(reference, images.double())
    assert loss.total.dtype == torch.float32
    assert loss.total.item() == pytest.approx(sign * WEIGHT * expected.item(), rel=1e-6)
    assert loss.metrics["entropy"].item() == pytest.approx(expected.item(), rel=1e-6)
    gradients = reference_gradients(reference, WEIGHT * expected)
    gradients["prototypes.weight"] *= sign  # all others minimise H under both objectives
    assert_same_gradients(method, gradients)


@pytest.mark.parametrize(
    ("objective", "part", "direction"),
    [
        ("mme", "prototypes", 1),
        ("mme", "embedding", -1),
        ("mme", "backbone", -1),
        ("ent", "prototypes", -1),
        ("ent", "embedding", -1),
        ("ent", "backbone", -1),
    ],
)
def test_entropy_moves_as_the_player_wants(objective, part, direction):
    method = make(objective)
    (images,) = inputs()[1]
    optimizer = torch.optim.SGD(getattr(method, part).parameters(), lr=1e-3)
    before = method((images,), 1)
    before.total.backward()
    optimizer.step()
    after = method((images,), 1)
    change = after.metrics["entropy"] - before.metrics["entropy"]
    assert change * direction > 0


def test_the_names_of_metrics_differ_between_phases():
    method = make()
    labelled, unlabelled = inputs()
    metrics = [method(labelled, 0).metrics, method(unlabelled, 1).metrics]
    assert not set(metrics[0]) & set(metrics[1])
    assert not any(value.requires_grad for some in metrics for value in some.values())


def test_phases_and_objectives():
    assert [make(objective).phases for objective in ("s+t", "ent", "mme")] == [1, 2, 2]
    with pytest.raises(RequestError, match="allowed: mme, ent, s"):
        make("minimax")
    assert METHODS["mme"] is MME
    assert all(isinstance(kind, type) and issubclass(kind, Method) for kind in METHODS.values())


def test_prediction_is_the_classifier_in_float32_under_autocast():
    method = make()
    (images,) = inputs()[1]
    expected = reference_logits(method, images)
    torch.testing.assert_close(method.predict(images), expected, rtol=1e-5, atol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert method.predict(images).dtype == torch.float32
        assert method((images,), 1).total.dtype == torch.float32


def test_reversal_is_exact():
    values = torch.randn(1000, requires_grad=True)
    reversed_ = reverse_gradient(values)
    weights = torch.randn(1000)
    (reversed_ * weights).sum().backward()
    assert torch.equal(reversed_, values)
    assert torch.equal(values.grad, -weights)


def test_entropy_reaches_its_bounds_without_nan():
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0], [1e4, 0.0, 0.0, 0.0]], requires_grad=True)
    values = entropy(logits)
    values.sum().backward()
    assert values.tolist() == pytest.approx([torch.log(torch.tensor(4.0)).item(), 0.0])
    assert logits.grad.isfinite().all()


def test_a_restored_method_goes_on_identically():
    def train(method: MME, optimizer: torch.optim.Optimizer, steps: range) -> None:
        for step in steps:
            for phase, batch in enumerate(inputs(step)):
                optimizer.zero_grad()
                method(batch, phase).total.backward()
                optimizer.step()
            method.after_step(step + 1)

    def sgd(method: MME) -> torch.optim.Optimizer:
        return torch.optim.SGD(method.parameters(), lr=0.01, momentum=0.9, nesterov=True)

    method, restored = make(), make(seed=5)
    optimizer, again = sgd(method), sgd(restored)
    train(method, optimizer, range(5))
    restored.load_state_dict(copy.deepcopy(method.state_dict()))
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(method, optimizer, range(5, 10))
    train(restored, again, range(5, 10))
    torch.testing.assert_close(restored.state_dict(), method.state_dict(), rtol=0, atol=0)


def test_initial_head_depends_on_the_seed_alone():
    method = make(seed=1)
    state = torch.get_rng_state()
    again = MME(copy.deepcopy(method.backbone), 24, CLASSES, head_dim=8, objective="mme", seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(again.state_dict(), method.state_dict(), rtol=0, atol=0)
    assert not torch.equal(make(seed=2).prototypes.weight, method.prototypes.weight)
