"""A linear classifier on frozen features (HPT, arXiv 2103.12718, table 4)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hpt_dist.errors import DivergedError
from hpt_dist.evals import answers
from hpt_dist.evals.features import Labelled, Result, require_finite
from hpt_dist.evals.metrics import Floats, log_odds
from hpt_dist.reading.order import Order
from hpt_dist.train.optim import steps_down

_MOMENTUM = 0.9
_INITIAL_STD = 0.01


def choose(
    train: Labelled, val: Labelled, test: Labelled | None, *, metric: str = "top1", **settings: Any
) -> tuple[Result, nn.Linear]:
    """Return the metrics on test of the classifier that is best on val, and that classifier.

    A learning rate that diverges is out. Of equally good ones the smallest is taken.

    Args:
        train: what the classifiers learn from, features [views, n, d].
        val: chooses the learning rate.
        test: read once, with the chosen learning rate; None where it is not to be read.
        metric: that chooses.
        settings: of `fit`.

    Returns:
        As of `answers.results`, with "selected" {"lr": ...}, "val/METRIC_by_lr" and "diverged"
        (learning rates); and the classifier.

    Raises:
        TrainingError: features are not finite.
        DivergedError: every learning rate diverged.
    """
    for features in (train.features, val.features):
        require_finite(features)
    heads = fit(train, **settings)
    several = train.labels.ndim == 2
    on_val = _finite(heads, val.features, several=several)
    by_lr = {lr: answers.value(metric, scores, val) for lr, scores in on_val.items()}
    best = answers.best(metric, by_lr)
    scores = {"val": on_val[best]} | ({"test": answers.of_head(heads[best], test)} if test else {})
    found = {
        **answers.results(metric, scores, {"train": train, "val": val, "test": test}),
        "selected": {"lr": best},
        f"val/{metric}_by_lr": {f"{lr:g}": by_lr[lr] for lr in heads if lr in by_lr},
        "diverged": [lr for lr in heads if lr not in by_lr],
    }
    return found, heads[best]


def _finite(
    heads: Mapping[float, nn.Linear], features: Tensor, *, several: bool
) -> dict[float, Floats]:
    """Return the scores of the classifiers that did not diverge, by learning rate, ascending."""
    logits = {lr: head(features) for lr, head in sorted(heads.items())}
    finite = {lr: found for lr, found in logits.items() if found.isfinite().all()}
    if not finite:
        raise DivergedError(
            "the linear classifier diverged at every learning rate",
            where="learning_rates",
            fix="give smaller learning rates",
        )
    return {lr: log_odds(found.numpy(), several=several) for lr, found in finite.items()}


def fit(
    train: Labelled,
    *,
    num_classes: int,
    learning_rates: Sequence[float],
    milestones: Sequence[float],
    steps: int,
    batch: int,
    weight_decay: float,
    seed: int,
    heeding: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> dict[float, nn.Linear]:
    """Return one classifier for each learning rate, trained side by side on the same batches.

    Each is the classifier that its learning rate alone would give: they share batches and initial
    weights, and neither gradients nor divergence. The epoch chooses the augmented copy. The loss is
    cross-entropy, or of several labels the binary one, its mean over images and classes.

    Args:
        train: what the classifiers learn from, features [views, n, d].
        num_classes: number of classes.
        learning_rates: of each classifier.
        milestones: shares of `steps` after each of which the learning rate falls tenfold.
        steps: optimizer steps.
        batch: samples in a step.
        weight_decay: of weights and biases.
        seed: of the initial weights and of the order of the samples.
        heeding: yields the steps, until somebody asks to stop.
    """
    views, n, dim = train.features.shape
    first, count = _head(dim, num_classes, seed), len(learning_rates)
    # All classifiers are one product with the features, and their gradients, which are short to
    # write, another: with six learning rates a third of the time of six by autograd.
    weights, biases = first.weight.detach().repeat(count, 1), first.bias.detach().repeat(count)
    rates = torch.tensor(learning_rates).repeat_interleave(num_classes)
    parameters = (weights, biases)
    speeds = tuple(torch.zeros_like(parameter) for parameter in parameters)
    order = Order("linear", seed, [n], window=n)
    for step in heeding(range(steps)):
        indices, epochs = map(torch.from_numpy, order.batch(step, batch))
        features = train.features[epochs % views, indices]
        logits = torch.addmm(biases, features, weights.T).view(-1, count, num_classes)
        error = _gradient(logits, train.labels[indices]).flatten(1)
        gradients = (error.T @ features, error.sum(dim=0))
        rate = rates * steps_down(step, steps, milestones)
        for parameter, speed, gradient in zip(parameters, speeds, gradients, strict=True):
            decayed = gradient.add_(parameter, alpha=weight_decay) if weight_decay else gradient
            speed.mul_(_MOMENTUM).add_(decayed)
            parameter.addcmul_(speed, rate.view(-1, *[1] * (speed.ndim - 1)), value=-1)
    heads = {}
    for at, lr in enumerate(learning_rates):
        rows = slice(at * num_classes, (at + 1) * num_classes)
        heads[lr] = _head(dim, num_classes, seed).requires_grad_(False)
        heads[lr].weight.copy_(weights[rows])
        heads[lr].bias.copy_(biases[rows])
    return heads


def _gradient(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the gradient of the mean loss of each classifier by its outputs.

    Args:
        logits: [b, classifiers, num_classes].
        labels: [b], or of several labels bool [b, num_classes].
    """
    if labels.ndim == 2:
        return (logits.sigmoid() - labels[:, None].float()) / labels.numel()
    error = logits.softmax(dim=2)
    error[torch.arange(len(labels)), :, labels] -= 1
    return error / len(labels)


def _head(dim: int, num_classes: int, seed: int) -> nn.Linear:
    """Return a classifier with weights from N(0, 0.01) and biases of 0."""
    head = nn.Linear(dim, num_classes, device="meta").to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    nn.init.normal_(head.weight, std=_INITIAL_STD, generator=generator)
    nn.init.zeros_(head.bias)
    return head
