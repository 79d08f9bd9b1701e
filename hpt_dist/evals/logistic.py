"""Logistic regression on frozen features by L-BFGS over a grid of L2 weights.

The objective is the mean loss + l2 / 2 * the weights' squared norm, on features with a mean of 0
and a variance of 1 over train; biases are free. The solution is unique, so no seed is needed.

Two things make it fast. Each L2 weight starts from the solution of the next stronger one. And the
weights are solved for in coordinates in which the objective is nearly as steep in all directions:
its curvature is at most c * covariance + l2 (Böhning, 1992), c = 1/2 of the softmax and 1/4 of the
sigmoid, whose Cholesky factor is taken out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from hpt_dist.evals import answers
from hpt_dist.evals.features import Labelled, Result, require_finite
from hpt_dist.evals.metrics import log_odds

_MAX_ITERATIONS = 1000
_TOLERANCE = 1e-5  # of the largest entry of the gradient in the solver's coordinates
_NEAR = 10  # times the tolerance is near enough where float32 leads no further
_FLAT = {torch.float32: 1e-10, torch.float64: 1e-14}  # relative steps below these are rounding
_LARGE = 2**22  # features in all, from which products are float32


class Classifier(NamedTuple):
    """A linear classifier of standardised features.

    Args:
        weights: float64 [d, num_classes].
        biases: float64 [num_classes].
        converged: whether the solver ended with nearly no gradient.
    """

    weights: Tensor
    biases: Tensor
    converged: bool


class Scaling(NamedTuple):
    """How features are standardised: float64 [d] each, of train."""

    mean: Tensor
    std: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """Return float32 features [n, d] with a mean of 0 and a variance of 1 over train."""
        return (features - self.mean.float()) / self.std.float()

    def head(self, classifier: Classifier) -> nn.Linear:
        """Return a classifier for features as they are."""
        weights = classifier.weights / self.std[:, None]
        head = (
            nn.Linear(weights.shape[0], weights.shape[1], device="meta")
            .to_empty(device="cpu")
            .requires_grad_(False)
        )
        head.weight.copy_(weights.T)
        head.bias.copy_(classifier.biases - self.mean @ weights)
        return head


def choose(
    train: Labelled,
    val: Labelled,
    test: Labelled | None,
    *,
    num_classes: int,
    l2: Sequence[float],
    metric: str = "top1",
) -> tuple[Result, nn.Linear]:
    """Return the metrics on test of the classifier that is best on val, and that classifier.

    Of equally good L2 weights the largest is taken.

    Args:
        train: what the classifiers learn from, features [n, d].
        val: chooses the L2 weight.
        test: read once, with the chosen one; None where it is not to be read.
        num_classes: number of classes.
        l2: candidates.
        metric: that chooses.

    Returns:
        As of `answers.results`, with "selected" {"l2": ...}, "val/METRIC_by_l2" and
        "not_converged" (L2 weights whose solver stopped before); and the classifier.

    Raises:
        TrainingError: features are not finite.
    """
    for features in (train.features, val.features):
        require_finite(features)
    several = train.labels.ndim == 2
    scaling = scaling_of(train.features)
    models = fit(scaling(train.features), train.labels, num_classes=num_classes, l2=l2)
    heads = {weight: scaling.head(model) for weight, model in models.items()}
    on_val = {
        weight: log_odds(head(val.features).numpy(), several=several)
        for weight, head in heads.items()
    }
    by_l2 = {weight: answers.value(metric, scores, val) for weight, scores in on_val.items()}
    best = answers.best(metric, by_l2)
    scores = {"val": on_val[best]} | ({"test": answers.of_head(heads[best], test)} if test else {})
    found = {
        **answers.results(metric, scores, {"train": train, "val": val, "test": test}),
        "selected": {"l2": best},
        f"val/{metric}_by_l2": {f"{weight:g}": by_l2[weight] for weight in l2},
        "not_converged": [weight for weight in l2 if not models[weight].converged],
    }
    return found, heads[best]


def scaling_of(features: Tensor) -> Scaling:
    """Return how features [n, d] are standardised; what is the same in all of them becomes 0."""
    wide = features.double()
    mean, std = wide.mean(dim=0), wide.std(dim=0, unbiased=False)
    std[std <= mean.abs() * torch.finfo(torch.float32).eps] = torch.inf
    return Scaling(mean, std)


def fit(
    features: Tensor, labels: Tensor, *, num_classes: int, l2: Sequence[float]
) -> dict[float, Classifier]:
    """Return one classifier for each L2 weight, from the strongest to the weakest.

    Args:
        features: standardised, float32 [n, d].
        labels: int64 [n], for one softmax; or bool [n, num_classes], for a sigmoid of each class.
        num_classes: number of classes.
        l2: weights of half the squared norm of the weights, without biases.
    """
    basis = None
    if len(features) < features.shape[1]:
        # Weights across all features would cost their norm and change nothing.
        basis, triangle = torch.linalg.qr(features.T.double())
        features = triangle.T
    problem = _Problem(features, labels, num_classes)
    classifiers, weights = {}, torch.zeros(features.shape[1] + 1, num_classes).double()
    weights[-1] = problem.prior
    for strength in sorted(set(l2), reverse=True):
        weights, converged = problem.solve(strength, weights)
        inner = weights[:-1] if basis is None else basis @ weights[:-1]
        classifiers[strength] = Classifier(inner, weights[-1], converged)
    return classifiers


class _Problem:
    """The data of a logistic regression. Weights are float64 [d + 1, num_classes], biases last."""

    def __init__(self, features: Tensor, labels: Tensor, num_classes: int) -> None:
        self._several = labels.ndim == 2
        self._type = torch.float32 if features.numel() >= _LARGE else torch.float64
        targets = labels if self._several else functional.one_hot(labels, num_classes)
        self._targets, features = targets.to(self._type), features.to(self._type)
        self._n, dim = features.shape
        self._features = torch.cat([features, features.new_ones(self._n, 1)], dim=1)
        self._curvature = (features.T @ features).double() / self._n
        self._curvature *= 0.25 if self._several else 0.5
        self._penalised = torch.ones(dim + 1, 1).double()
        self._penalised[-1] = 0

    @property
    def prior(self) -> Tensor:
        """The biases that predict each class as often as it is there."""
        shares = (self._targets.double().sum(dim=0) + 0.5) / (self._n + 1)
        return shares.logit() if self._several else shares.log()

    def solve(self, l2: float, start: Tensor) -> tuple[Tensor, bool]:
        """Return the weights that minimise the objective, and whether the solver converged."""
        from scipy.optimize import minimize

        factor = self._factor(l2)
        given = torch.linalg.solve_triangular  # weights = factor.T^-1 @ coordinates

        def objective(coordinates: Any) -> tuple[float, Any]:
            inner = torch.from_numpy(coordinates).view_as(start)
            weights = given(factor.T, inner, upper=True)
            loss, gradient = self._loss(weights)
            penalised = weights * self._penalised
            loss += 0.5 * l2 * float((penalised * weights).sum())
            moved = given(factor, gradient + l2 * penalised, upper=False)
            return loss, moved.numpy().ravel()

        found = minimize(
            objective,
            (factor.T @ start).numpy().ravel(),
            jac=True,
            method="L-BFGS-B",
            options={
                "maxiter": _MAX_ITERATIONS,
                "gtol": _TOLERANCE,
                "ftol": _FLAT[self._type],
                "maxcor": 10,
            },
        )
        weights = given(factor.T, torch.from_numpy(found.x).view_as(start), upper=True)
        return weights, bool(np.abs(found.jac).max() <= _NEAR * _TOLERANCE)

    def _factor(self, l2: float) -> Tensor:
        """Return the lower Cholesky factor [d + 1, d + 1] of the bound on the curvature."""
        dim = len(self._curvature)
        bound = torch.zeros(dim + 1, dim + 1).double()
        bound[:dim, :dim] = self._curvature
        bound.diagonal()[:dim] += l2
        bound[-1, -1] = 0.25 if self._several else 0.5
        factor: Tensor = torch.linalg.cholesky(bound)
        return factor

    def _loss(self, weights: Tensor) -> tuple[float, Tensor]:
        """Return the mean loss and its gradient; sums are float64."""
        logits = self._features @ weights.to(self._type)
        if self._several:
            loss = functional.softplus(logits).sum(dtype=torch.float64)
            loss -= (logits * self._targets).sum(dtype=torch.float64)
            error = logits.sigmoid_().sub_(self._targets)
        else:
            log_shares = functional.log_softmax(logits, dim=1)
            loss = -(log_shares * self._targets).sum(dtype=torch.float64)
            error = log_shares.exp_().sub_(self._targets)
        return float(loss) / self._n, (self._features.T @ error).double() / self._n
