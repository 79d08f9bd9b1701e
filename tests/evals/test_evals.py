from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from examples import few
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from hpt_dist.errors import DataError, Interrupted, TrainingError
from hpt_dist.evals import knn, linear, logistic
from hpt_dist.evals.features import Labelled, evaluating, extract, top1
from hpt_dist.evals.spread import rankme
from hpt_dist.networks import batch_norm
from hpt_dist.train.interrupt import BY_PEOPLE, Interrupt

CLASSES = 4
SETTINGS = {
    "num_classes": CLASSES,
    "learning_rates": (0.3, 3.0, 30.0),
    "milestones": (1 / 3, 2 / 3),
    "steps": 60,
    "batch": 16,
    "weight_decay": 1e-4,
    "seed": 0,
}


def split(n: int, seed: int, *, views: int = 0, noise: float = 1.0) -> Labelled:
    """Gaussian clusters around the same centre of each class, [views, n, d] or [n, d]."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % CLASSES
    centres = torch.randn(CLASSES, 16, generator=torch.Generator().manual_seed(99))
    shape = (views, n, 16) if views else (n, 16)
    return Labelled(centres[labels] + noise * torch.randn(shape, generator=generator), labels)


def splits(views: int = 0) -> tuple[Labelled, Labelled, Labelled]:
    return split(80, 0, views=views), split(300, 1), split(40, 2)


def linear_of(*splits, **settings):
    return linear.choose(*splits, **settings)[0]


def logistic_of(*splits, **settings):
    return logistic.choose(*splits, **settings)[0]


def brute_force(train: Labelled, query: Tensor, k: int, temperature: float) -> list[float]:
    """Each class's share of the weights, by sorting every neighbour of one query in float64."""
    similarities = []
    for feature, label in zip(train.features.double(), train.labels.tolist(), strict=True):
        cosine = feature @ query.double() / (feature.norm() * query.double().norm())
        similarities.append((cosine.item(), label))
    scores = [0.0] * CLASSES
    for cosine, label in sorted(similarities, reverse=True)[:k]:
        scores[label] += math.exp(cosine / temperature)
    return [score / sum(scores) for score in scores]


@given(st.integers(1, 30), st.lists(st.integers(1, 40), min_size=1, max_size=3), st.integers(0, 99))
@few(25)
def test_votes_equal_brute_force(n, k, seed):
    train, queries = split(n, seed), split(7, seed + 1).features
    scores = knn.vote(train, queries, CLASSES, k, temperature=0.07)
    assert scores.shape == (len(k), 7, CLASSES)
    shares = scores / scores.sum(dim=2, keepdim=True)
    for at, size in enumerate(k):
        expected = [brute_force(train, query, size, 0.07) for query in queries]
        torch.testing.assert_close(shares[at], torch.tensor(expected), rtol=1e-4, atol=1e-5)


def test_votes_do_not_depend_on_how_many_queries_there_are_at_once(monkeypatch):
    train, val, _ = splits()
    whole = knn.vote(train, val.features, CLASSES, [5, 20], 0.07)
    monkeypatch.setattr(knn, "_QUERIES_AT_ONCE", 7)
    parts = knn.vote(train, val.features, CLASSES, [5, 20], 0.07)
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-6)


def test_no_temperature_overflows():
    train, val, _ = splits()
    assert knn.vote(train, val.features, CLASSES, [5], 1e-3).isfinite().all()


def test_knn_selects_on_val_and_reports_test():
    train, val, test = splits()
    found = knn.evaluate(train, val, test, num_classes=CLASSES, k=(20, 1, 5), temperature=0.07)
    by_k = {}
    for k in (1, 5, 20):
        answers = [np.argmax(brute_force(train, query, k, 0.07)) for query in val.features]
        by_k[str(k)] = np.mean(np.array(answers) == val.labels.numpy())
    assert found["val/top1_by_k"] == pytest.approx(by_k)
    best = found["selected"]["k"]
    assert found["val/top1"] == max(by_k.values()) == by_k[str(best)]
    answers = [np.argmax(brute_force(train, query, best, 0.07)) for query in test.features]
    assert found["test/top1"] == pytest.approx(np.mean(np.array(answers) == test.labels.numpy()))
    assert (found["n_train"], found["n_val"], found["n_test"]) == (80, 300, 40)


def test_of_equally_good_k_the_smallest_is_taken():
    train, val, test = split(40, 0, noise=0.01), split(8, 1, noise=0.01), split(8, 2)
    found = knn.evaluate(train, val, test, num_classes=CLASSES, k=(5, 1, 3), temperature=0.07)
    assert found["val/top1"] == 1
    assert found["selected"] == {"k": 1}


def test_linear_beats_chance_and_reports_every_learning_rate():
    train, val, test = splits(views=2)
    found, head = linear.choose(train, val, test, **SETTINGS)
    assert top1(head(test.features), test.labels) == found["test/top1"]
    assert found["val/top1"] > 0.7
    assert found["test/top1"] > 0.6
    assert set(found["val/top1_by_lr"]) == {"0.3", "3", "30"}
    assert found["val/top1_by_lr"][f"{found['selected']['lr']:g}"] == found["val/top1"]
    assert found["val/top1"] == max(found["val/top1_by_lr"].values())
    assert found["diverged"] == []
    assert (found["n_train"], found["n_val"], found["n_test"]) == (80, 300, 40)


def test_learning_rates_trained_together_equal_each_alone():
    train = split(80, 0, views=3)
    together = linear.fit(train, **SETTINGS)
    for lr in SETTINGS["learning_rates"]:
        alone = linear.fit(train, **{**SETTINGS, "learning_rates": (lr,)})[lr]
        # Products of other shapes round float32 otherwise, on some processors by more.
        torch.testing.assert_close(
            alone.state_dict(), together[lr].state_dict(), rtol=1e-4, atol=1e-5
        )


def test_linear_stops_at_its_next_step_when_it_is_asked_to():
    """With many steps it would keep who pressed Ctrl-C waiting for minutes."""
    interrupt, begun = Interrupt(), []

    def heeding(steps):
        for step in interrupt.heeding(steps, *BY_PEOPLE):
            begun.append(step)
            if step == 3:
                interrupt.ask("SIGTERM")
            yield step

    with pytest.raises(Interrupted):
        linear.choose(*splits(2), **SETTINGS, heeding=heeding)
    assert begun == [0, 1, 2, 3]


def test_linear_is_the_same_for_the_same_seed_whatever_the_global_generator():
    train = split(80, 0, views=2)
    torch.manual_seed(0)
    first = linear.fit(train, **SETTINGS)[3.0]
    torch.manual_seed(1)
    assert torch.equal(linear.fit(train, **SETTINGS)[3.0].weight, first.weight)
    other = linear.fit(train, **{**SETTINGS, "seed": 1})[3.0]
    assert not torch.equal(other.weight, first.weight)


@pytest.mark.parametrize("views", [1, 3])
def test_linear_equals_the_update_rule_written_out(views):
    """SGD with momentum and decay by hand in float64; an epoch reads the copy of its turn."""
    train = split(10, 0, views=views)
    steps, batch, lr, decay = 9, 10, 0.5, 0.01
    arguments = {"num_classes": CLASSES, "steps": steps, "batch": batch, "seed": 0}
    arguments["milestones"] = (0.5, 7 / 9)  # 4.5 steps and 7
    initial = linear.fit(train, **arguments, learning_rates=(1e-30,), weight_decay=0.0)[1e-30]
    weight, bias = initial.weight.double().numpy(), initial.bias.double().numpy()
    speeds = [np.zeros_like(weight), np.zeros_like(bias)]
    onehot = np.eye(CLASSES)[train.labels.numpy()]
    for step in range(steps):  # one whole epoch each, so that the order within does not matter
        x = train.features[step % views].double().numpy()
        logits = x @ weight.T + bias
        p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        error = (p - onehot) / batch
        gradients = [error.T @ x + decay * weight, error.sum(axis=0) + decay * bias]
        speeds = [0.9 * speed + gradient for speed, gradient in zip(speeds, gradients, strict=True)]
        rate = lr * 0.1 ** ((step >= 5) + (step >= 7))
        weight, bias = weight - rate * speeds[0], bias - rate * speeds[1]
    head = linear.fit(train, **arguments, learning_rates=(lr,), weight_decay=decay)[lr]
    np.testing.assert_allclose(head.weight.numpy(), weight, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(head.bias.numpy(), bias, rtol=1e-4, atol=1e-5)


def test_a_diverging_learning_rate_is_out_and_named():
    train, val, test = splits(views=1)
    found = linear_of(
        train, val, test, **{**SETTINGS, "learning_rates": (0.3, 1e30), "weight_decay": 1.0}
    )
    assert found["diverged"] == [1e30]
    assert set(found["val/top1_by_lr"]) == {"0.3"}
    with pytest.raises(TrainingError, match="diverged at every learning rate"):
        linear_of(train, val, test, **{**SETTINGS, "learning_rates": (1e30,), "weight_decay": 1.0})


class Once(Labelled):
    """A split whose features may be used once."""

    def __new__(cls, split: Labelled) -> Once:
        self = super().__new__(cls, *split)
        self.reads = 0
        return self

    def __getattribute__(self, name: str):
        if name == "features":
            self.reads += 1
        return super().__getattribute__(name)


def test_test_is_read_once_and_cannot_change_what_is_selected():
    train, val, test = splits()
    copies = split(80, 0, views=1)
    shuffled = Labelled(test.features, test.labels.flip(0))
    for evaluate in (
        lambda t: knn.evaluate(train, val, t, num_classes=CLASSES, k=(1, 5), temperature=0.07),
        lambda t: linear_of(copies, val, t, **SETTINGS),
        lambda t: logistic_of(train, val, t, num_classes=CLASSES, l2=(0.1, 1.0)),
    ):
        watched = Once(test)
        found, other = evaluate(watched), evaluate(shuffled)
        assert watched.reads == 1
        assert found["selected"] == other["selected"]
        assert found["val/top1"] == other["val/top1"]
        assert found["test/top1"] != other["test/top1"]


def test_features_come_in_order_in_evaluation_mode_and_change_nothing():
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Flatten())
    images = torch.randn(10, 3, 4, 4)
    backbone.train()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    features = extract(backbone, images.split(4), torch.device("cpu"))
    torch.testing.assert_close(backbone.state_dict(), before, rtol=0, atol=0)
    assert all(part.training for part in backbone.modules())
    assert features.dtype == torch.float32
    assert not features.requires_grad
    torch.testing.assert_close(features, backbone.eval()(images).detach())


def test_each_part_gets_its_own_mode_back_even_after_an_error():
    module = nn.Sequential(nn.BatchNorm1d(3), nn.Sequential(nn.Dropout(), nn.BatchNorm1d(3)))
    batch_norm.freeze(module[0])
    module.train()
    module[1][0].eval()
    modes = [part.training for part in module.modules()]
    with evaluating(module):
        assert not any(part.training for part in module.modules())
    with pytest.raises(ZeroDivisionError), evaluating(module):
        1 / 0  # noqa: B018 - an error inside
    assert [part.training for part in module.modules()] == modes


def test_no_images_is_an_error():
    with pytest.raises(DataError, match="no images"):
        extract(nn.Flatten(), [], torch.device("cpu"))


@pytest.mark.parametrize("value", [math.nan, math.inf, 3e38])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_features_that_are_not_finite_are_an_error_everywhere(value, at):
    """3e38 is finite, but the length of such features is not."""
    given = list(splits())
    given[at].features[3] = value
    copies = given[0]._replace(features=given[0].features[None])
    for evaluate in (
        lambda: knn.evaluate(*given, num_classes=CLASSES, k=(1, 5), temperature=0.07),
        lambda: linear_of(copies, *given[1:], **SETTINGS),
        lambda: logistic_of(*given, num_classes=CLASSES, l2=(0.1,)),
        lambda: rankme(given[at].features),
    ):
        with pytest.raises(TrainingError, match=r"features of 1 of \d+ images") as refused:
            evaluate()
        assert "not at this evaluation" in str(refused.value)


def test_top1_counts_exactly():
    scores = torch.eye(CLASSES)
    assert top1(scores, torch.tensor([0, 1, 2, 0])) == 0.75
