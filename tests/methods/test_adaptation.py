"""Consistency and adapted source labels: equal to float64 references written apart."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from hpt_dist.methods import MME
from hpt_dist.methods.consistency import taught
from hpt_dist.methods.source_labels import PseudoCentres

CLASSES, DIM, TEMPERATURE, MIX, SHARPNESS, THRESHOLD, WEIGHT = 5, 8, 0.05, 0.3, 0.6, 0.5, 2.0


def make(objective, *, adapted=False):
    torch.manual_seed(3)
    backbone = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
    centres = PseudoCentres(CLASSES, DIM, mix=MIX, temperature=SHARPNESS, scale=TEMPERATURE)
    return MME(
        backbone,
        24,
        CLASSES,
        head_dim=DIM,
        temperature=TEMPERATURE,
        objective=objective,
        threshold=THRESHOLD,
        consistency_weight=WEIGHT,
        centres=centres if adapted else None,
        seed=0,
    )


def images(count, seed):
    return torch.randn(count, 3, 5, 5, generator=torch.Generator().manual_seed(seed))


LABELS = torch.tensor([0, 3, 1, 2, 2, 4])
LABELLED, WEAK, STRONG = images(6, 0), images(10, 1), images(10, 2)


def softmax(x):
    powers = np.exp(x - x.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def unit_of(method, batch):
    """Embeddings of length 1 in float64, with their graph."""
    embedded = method.backbone(batch.double()) @ method.embedding.weight.T + method.embedding.bias
    return embedded / embedded.square().sum(dim=1, keepdim=True).sqrt()


def log_probabilities(method, unit):
    scores = unit @ method.prototypes.weight.T / TEMPERATURE
    return scores - scores.exp().sum(dim=1, keepdim=True).log()


def assert_gradients_are_those_of(method, reference, expected):
    names, parameters = zip(*reference.named_parameters(), strict=True)
    wanted = dict(zip(names, torch.autograd.grad(expected, parameters), strict=True))
    for name, parameter in method.named_parameters():
        # An entry is a float32 sum of terms as large as the largest: processors round it apart.
        size = float(wanted[name].abs().max())
        torch.testing.assert_close(parameter.grad.double(), wanted[name], rtol=0, atol=1e-6 * size)


def test_consistency_matches_a_float64_reference():
    method = make("consistency")
    reference = copy.deepcopy(method).double()
    loss = method((LABELLED, LABELS, WEAK, STRONG), 0)
    loss.total.backward()
    answers = log_probabilities(reference, unit_of(reference, WEAK)).exp().detach().numpy()
    chosen = [n for n, row in enumerate(answers) if row.max() >= THRESHOLD]
    assert 0 < len(chosen) < len(WEAK)  # some teach, and some do not
    labelled = log_probabilities(reference, unit_of(reference, LABELLED))
    strong = log_probabilities(reference, unit_of(reference, STRONG))
    taught_ = -sum(strong[n, answers[n].argmax()] for n in chosen) / len(WEAK)
    expected = -labelled[range(6), LABELS].mean() + WEIGHT * taught_
    assert loss.total.dtype == torch.float32
    assert loss.total.item() == pytest.approx(expected.item(), rel=1e-6)
    assert_gradients_are_those_of(method, reference, expected)
    assert loss.metrics["consistency"].item() == pytest.approx(taught_.item(), rel=1e-6)
    assert loss.metrics["confident"].item() == pytest.approx(len(chosen) / len(WEAK))
    assert not any(value.requires_grad for value in loss.metrics.values())


def test_no_gradient_passes_through_the_weak_view_and_nobody_teaches_below_the_threshold():
    weak, strong = (torch.randn(4, 3, requires_grad=True) for _ in range(2))
    loss, share = taught(weak, strong, 1.01)
    loss.backward()
    assert (loss.item(), share.item()) == (0.0, 0.0)
    assert weak.grad is None
    assert not strong.grad.any()
    loss, share = taught(weak, strong, 0.0)
    loss.backward()
    assert share.item() == 1.0
    assert weak.grad is None


def placed(method):
    """Centres of images of which no class, or some, have none; and what they are in float64."""
    with torch.no_grad():
        embedded = method.embed(WEAK)
    method.place_centres(embedded)
    reference = copy.deepcopy(method).double()
    unit = unit_of(reference, WEAK).detach().numpy()
    classes = (unit @ reference.prototypes.weight.detach().numpy().T).argmax(axis=1)
    return {c: unit[classes == c].mean(axis=0) for c in set(classes.tolist())}


@pytest.mark.parametrize("objective", ["mme", "ent", "s+t", "consistency"])
def test_adapted_labels_match_a_float64_reference(objective):
    method = make(objective, adapted=True)
    centres = placed(method)
    assert 1 < len(centres) < CLASSES
    method.adapt_labels(on=True)
    reference = copy.deepcopy(method).double()
    more = (WEAK, STRONG) if objective == "consistency" else ()
    loss = method((LABELLED, LABELS, *more), 0)
    unit = unit_of(reference, LABELLED)
    source = unit[:3].detach().numpy() / TEMPERATURE
    scores = np.full((3, CLASSES), -np.inf)
    for c, centre in centres.items():
        apart = np.sqrt(((source - centre / TEMPERATURE) ** 2).sum(axis=1))
        scores[:, c] = -SHARPNESS * apart
    mixed = (1 - MIX) * np.eye(CLASSES)[LABELS[:3]] + MIX * softmax(scores)
    targets = torch.from_numpy(np.concatenate([mixed, np.eye(CLASSES)[LABELS[3:]]]))
    expected = -(targets * log_probabilities(reference, unit)).sum(dim=1).mean()
    assert loss.metrics["loss"].item() == pytest.approx(expected.item(), rel=1e-6)
    if objective != "consistency":
        loss.total.backward()
        assert_gradients_are_those_of(method, reference, expected)


def test_a_centre_without_images_stays_and_unknown_ones_get_no_probability():
    centres = PseudoCentres(3, 2, mix=1.0, temperature=1.0, scale=1.0)
    source, labels = torch.eye(2), torch.tensor([2, 1])
    assert centres.mixed(source, labels).argmax(dim=1).tolist() == [2, 1]  # none known: as given
    centres.place(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1]))
    answers = centres.mixed(source, labels)
    assert answers[:, 2].tolist() == [0.0, 0.0]
    assert answers.argmax(dim=1).tolist() == [0, 1]
    centres.place(torch.tensor([[0.0, 1.0]]), torch.tensor([2]))
    assert centres.centres[:2].tolist() == [[1.0, 0.0], [0.0, 1.0]]
    assert centres.known.all()


def test_labels_are_as_given_until_they_are_adapted():
    method, plain = make("s+t", adapted=True), make("s+t")
    placed(method)
    loss, expected = (one((LABELLED, LABELS), 0).total for one in (method, plain))
    assert torch.equal(loss, expected)
    method.adapt_labels(on=True)
    assert not torch.equal(method((LABELLED, LABELS), 0).total, expected)


def test_prototypes_and_what_is_before_them_pull_the_entropy_apart():
    """Each parameter's gradient is that of lambda H, of the prototypes its negative."""
    found = {}
    for objective in ("mme", "ent"):
        method = make(objective)
        method((WEAK,), 1).total.backward()
        found[objective] = {name: p.grad for name, p in method.named_parameters()}
    for name, gradient in found["ent"].items():
        assert gradient.abs().max() > 0
        sign = -1 if name == "prototypes.weight" else 1
        torch.testing.assert_close(found["mme"][name], sign * gradient)


def test_target_alone_is_the_cross_entropy_of_all_its_images():
    method = make("t")
    reference = copy.deepcopy(method).double()
    loss = method((LABELLED, LABELS), 0)
    expected = -log_probabilities(reference, unit_of(reference, LABELLED))[range(6), LABELS].mean()
    assert loss.total.item() == pytest.approx(expected.item(), rel=1e-6)
    assert method.phases == 1
