"""A linear classifier on frozen features (HPT, arXiv 2103.12718, table 4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from hpt_dist.errors import DivergedError
from hpt_dist.evals.features import Labelled, Result, require_finite, top1
from hpt_dist.reading.order import Order
from hpt_dist.train.optim import steps_down

_MOMENTUM = 0.9
_INITIAL_STD = 0.01


def choose(
    train: Labelled, val: Labelled, test: Labelled | None, **settings: Any
) -> tuple[Result, nn.Linear]:
    """Return the accuracy on test of the classifier that is best on val, and that classifier.

    A learning rate that diverges is out. Of equally good ones the smallest is taken.

    Args:
        train: what the classifiers learn from, features [views, n, d].
        val: chooses the learning rate.
        test: read once, with the chosen learning rate; None where it is not to be read.
        settings: of `fit`.

    Returns:
        "val/top1", "test/top1" (shares of 1), "selected" {"lr": ...}, "val/top1_by_lr",
        "diverged" (learning rates), "n_train", "n_val" and "n_test"; and the classifier.

    Raises:
        TrainingError: features are not finite.
        DivergedError: every learning rate diverged.
    """
    for features in (train.features, val.features):
        require_finite(features)
    heads = fit(train, **settings)
    by_lr = {
        lr: top1(head(val.features), val.labels) for lr, head in heads.items() if _is_finite(head)
    }
    if not by_lr:
        raise DivergedError(
            "the linear classifier diverged at every learning rate",
            where="learning_rates",
            fix="give smaller learning rates",
        )
    best = max(by_lr, key=lambda lr: (by_lr[lr], -lr))
    found = {
        "val/top1": by_lr[best],
        **(judge(heads[best], test) if test else {}),
        "selected": {"lr": best},
        "val/top1_by_lr": {f"{lr:g}": accuracy for lr, accuracy in by_lr.items()},
        "diverged": [lr for lr in heads if lr not in by_lr],
        "n_train": len(train.labels),
        "n_val": len(val.labels),
    }
    return found, heads[best]


def judge(head: nn.Linear, test: Labelled) -> Result:
    """Return "test/top1" (a share of 1) of a classifier, and "n_test".

    Raises:
        TrainingError: features are not finite.
    """
    features = test.features
    require_finite(features)
    return {"test/top1": top1(head(features), test.labels), "n_test": len(test.labels)}


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
) -> dict[float, nn.Linear]:
    """Return one classifier for each learning rate, trained side by side on the same batches.

    Each is the classifier that its learning rate alone would give: they share batches and initial
    weights, and neither gradients nor divergence. The epoch chooses the augmented copy.

    Args:
        train: what the classifiers learn from, features [views, n, d].
        num_classes: number of classes.
        learning_rates: of each classifier.
        milestones: shares of `steps` after each of which the learning rate falls tenfold.
        steps: optimizer steps.
        batch: samples in a step.
        weight_decay: of weights and biases.
        seed: of the initial weights and of the order of the samples.
    """
    views, n, dim = train.features.shape
    device = train.features.device
    heads = {lr: _head(dim, num_classes, seed).to(device) for lr in learning_rates}
    optimizer = torch.optim.SGD(
        [{"params": head.parameters(), "lr": lr, "peak_lr": lr} for lr, head in heads.items()],
        momentum=_MOMENTUM,
        weight_decay=weight_decay,
    )
    order = Order("linear", seed, [n], window=n)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * steps_down(step, steps, milestones)
        indices, epochs = map(torch.from_numpy, order.batch(step, batch))
        features = train.features[(epochs % views).to(device), indices.to(device)]
        labels = train.labels[indices.to(device)]
        optimizer.zero_grad()
        losses = [functional.cross_entropy(head(features), labels) for head in heads.values()]
        torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return {lr: head.requires_grad_(False) for lr, head in heads.items()}


def _head(dim: int, num_classes: int, seed: int) -> nn.Linear:
    """Return a classifier with weights from N(0, 0.01) and biases of 0."""
    head = nn.Linear(dim, num_classes, device="meta").to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    nn.init.normal_(head.weight, std=_INITIAL_STD, generator=generator)
    nn.init.zeros_(head.bias)
    return head


def _is_finite(head: nn.Linear) -> bool:
    """Return whether all parameters are finite."""
    return all(bool(parameter.isfinite().all()) for parameter in head.parameters())
