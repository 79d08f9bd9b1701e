"""The ridge probe predicts as scikit-learn's, and its closed form is the fits without an image."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge, RidgeClassifier
from torch.nn import functional

from hpt_dist.errors import TrainingError
from hpt_dist.evals import ridge
from hpt_dist.evals.features import Labelled


def made(n, dim, *, several=False, classes=4):
    generator = torch.Generator().manual_seed(n)
    labels = torch.randint(0, classes, (n,), generator=generator)
    features = torch.randn(n, dim, generator=generator) + functional.one_hot(labels, dim)
    if several:
        labels = torch.rand(n, classes, generator=generator) < 0.3
    return Labelled(features, labels)


def as_fitted(labelled, penalty):
    """Return features, targets and penalty as scikit-learn takes them."""
    unit = functional.normalize(labelled.features.double(), dim=1)
    total = float((unit - unit.mean(dim=0)).square().sum())
    return unit.numpy(), ridge.targets_of(labelled.labels, 4).numpy(), penalty * total


@pytest.mark.parametrize("penalty", [1e-4, 0.1])
@pytest.mark.parametrize(
    "labelled", [made(30, 50), made(60, 20), made(40, 12, several=True)], ids=lambda one: ""
)
def test_each_prediction_is_that_of_a_fit_to_all_others(labelled, penalty):
    found = ridge.leave_one_out(labelled, 4, (penalty,))
    features, targets, alpha = as_fitted(labelled, penalty)
    for at in range(len(features)):
        rest = np.arange(len(features)) != at
        fitted = Ridge(alpha=alpha).fit(features[rest], targets[rest])
        expected = fitted.predict(features[at : at + 1])[0]
        assert np.abs(found.scores[at].numpy() - expected).max() < 1e-8


@pytest.mark.parametrize("dim", [15, 90])
def test_what_it_predicts_is_scikit_learns(dim):
    train, queries = made(40, dim), made(25, dim).features
    found = ridge.predict(train, queries, 4)
    assert found.penalty == ridge.leave_one_out(train, 4).penalty
    features, targets, alpha = as_fitted(train, found.penalty)
    unit = functional.normalize(queries.double(), dim=1).numpy()
    expected = Ridge(alpha=alpha).fit(features, targets).predict(unit)
    assert np.abs(found.scores.numpy() - expected).max() < 1e-8
    answers = RidgeClassifier(alpha=alpha).fit(features, train.labels).predict(unit)
    assert found.scores.argmax(dim=1).tolist() == answers.tolist()


def test_one_image_is_learned_by_heart():
    train = Labelled(torch.ones(1, 3), torch.tensor([2]))
    found = ridge.predict(train, torch.eye(3), 4)
    assert found.scores.tolist() == [[0, 0, 1, 0]] * 3


def test_the_penalty_of_the_least_squared_error_is_taken():
    labelled = made(60, 40)
    targets = ridge.targets_of(labelled.labels, 4)

    def error(penalty):
        return float((ridge.leave_one_out(labelled, 4, (penalty,)).scores - targets).square().sum())

    best = min(ridge.PENALTIES, key=error)
    assert ridge.leave_one_out(labelled, 4).penalty == best
    assert min(ridge.PENALTIES) < best < max(ridge.PENALTIES)


@pytest.mark.parametrize("dim", [3, 5, 70])
def test_features_that_are_all_the_same_tell_nothing(dim):
    labels = torch.tensor([0] * 60 + [1] * 20)
    found = ridge.leave_one_out(Labelled(torch.ones(80, dim), labels), 2)
    others = torch.tensor([[59 / 79, 20 / 79]] * 60 + [[60 / 79, 19 / 79]] * 20).double()
    assert torch.allclose(found.scores, others)
    queries = ridge.predict(Labelled(torch.ones(80, dim), labels), torch.ones(2, dim), 2)
    assert torch.allclose(queries.scores, torch.tensor([[0.75, 0.25]] * 2).double())


def test_the_order_of_the_images_does_not_matter():
    labelled = made(50, 30)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(1))
    one = ridge.leave_one_out(labelled, 4)
    other = ridge.leave_one_out(Labelled(*(part[order] for part in labelled)), 4)
    assert one.penalty == other.penalty
    assert torch.allclose(one.scores[order], other.scores, atol=1e-10)


def test_features_that_are_not_finite_are_refused():
    labelled = made(10, 5)
    labelled.features[3, 2] = torch.inf
    with pytest.raises(TrainingError, match="1 of 10 images are not finite"):
        ridge.leave_one_out(labelled, 4)
    with pytest.raises(TrainingError, match="1 of 10 images are not finite"):
        ridge.predict(made(12, 5), labelled.features, 4)
