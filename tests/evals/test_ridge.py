"""Each image is predicted by all others: the closed form is the fits without it."""

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


def test_its_answers_are_those_of_scikit_learns_classifier():
    labelled = made(80, 30)
    found = ridge.leave_one_out(labelled, 4)
    features, _, alpha = as_fitted(labelled, found.penalty)
    answers = []
    for at in range(len(features)):
        rest = np.arange(len(features)) != at
        fitted = RidgeClassifier(alpha=alpha).fit(features[rest], labelled.labels[rest])
        answers.append(fitted.predict(features[at : at + 1])[0])
    assert found.scores.argmax(dim=1).tolist() == answers


def test_the_penalty_of_the_least_squared_error_is_taken():
    labelled = made(60, 40)
    targets = ridge.targets_of(labelled.labels, 4)

    def error(penalty):
        return float((ridge.leave_one_out(labelled, 4, (penalty,)).scores - targets).square().sum())

    best = min(ridge.PENALTIES, key=error)
    assert ridge.leave_one_out(labelled, 4).penalty == best
    assert min(ridge.PENALTIES) < best < max(ridge.PENALTIES)


def test_features_that_are_all_the_same_tell_nothing():
    labels = torch.tensor([0, 0, 0, 1])
    found = ridge.leave_one_out(Labelled(torch.ones(4, 3), labels), 2)
    others = torch.tensor([[2 / 3, 1 / 3]] * 3 + [[1, 0]]).double()
    assert torch.allclose(found.scores, others)


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
