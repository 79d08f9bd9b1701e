"""Weighted k-nearest neighbours on frozen features (Wu et al., arXiv 1805.01978, section 3.4)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from hpt_dist.evals import answers
from hpt_dist.evals.features import Labelled, Result, require_finite
from hpt_dist.evals.metrics import MOST, Floats, log_odds_of

_QUERIES_AT_ONCE = 256  # bounds the similarities in memory to 256 n_train


def evaluate(
    train: Labelled,
    val: Labelled,
    test: Labelled | None,
    *,
    num_classes: int,
    k: Sequence[int],
    temperature: float,
    metric: str = "top1",
) -> Result:
    """Return the metrics on test with the k that is best on val (the smallest of equals).

    Args:
        train: the neighbours, features [n, d].
        val: chooses k.
        test: read once, with the chosen k; None where it is not to be read.
        num_classes: number of classes.
        k: candidates; one larger than n uses all n neighbours.
        temperature: of the neighbours' weights exp(similarity / temperature).
        metric: that chooses.

    Returns:
        As of `answers.results`, with "selected" {"k": ...} and "val/METRIC_by_k".
    """
    candidates = sorted(set(k))
    several = train.labels.ndim == 2
    votes = vote(train, val.features, num_classes, candidates, temperature)
    on_val = {
        size: scores_of(one, several=several) for size, one in zip(candidates, votes, strict=True)
    }
    by_k = {size: answers.value(metric, scores, val) for size, scores in on_val.items()}
    best = answers.best(metric, by_k)
    scores = {"val": on_val[best]}
    if test:
        scores["test"] = answer(train, test, num_classes, k=best, temperature=temperature)
    return {
        **answers.results(metric, scores, {"train": train, "val": val, "test": test}),
        "selected": {"k": best},
        f"val/{metric}_by_k": {str(size): value for size, value in by_k.items()},
    }


def answer(
    train: Labelled, queries: Labelled, num_classes: int, *, k: int, temperature: float
) -> Floats:
    """Return log-odds [q, num_classes] of a split by one number of neighbours; see `vote`."""
    (votes,) = vote(train, queries.features, num_classes, [k], temperature)
    return scores_of(votes, several=train.labels.ndim == 2)


def vote(
    train: Labelled, queries: Tensor, num_classes: int, k: Sequence[int], temperature: float
) -> Tensor:
    """Return how each query's nearest neighbours by cosine vote for classes.

    Args:
        train: the neighbours, features [n, d].
        queries: features [q, d].
        num_classes: number of classes.
        k: numbers of neighbours.
        temperature: of the weights.

    Returns:
        float32 [len(k), q, num_classes]. Of one label the summed weights of the neighbours of each
        class, relative to the nearest neighbour's, so that no temperature overflows. Of several
        labels the log-odds that an image has each class: by the weights of the neighbours that
        have it, and of those that have not.

    Raises:
        TrainingError: features are not finite.
    """
    for features in (train.features, queries):
        require_finite(features)
    several = train.labels.ndim == 2
    neighbours = functional.normalize(train.features, dim=1)
    scores = queries.new_zeros(len(k), len(queries), num_classes)
    for start in range(0, len(queries), _QUERIES_AT_ONCE):
        rows = slice(start, start + _QUERIES_AT_ONCE)
        similarities = functional.normalize(queries[rows], dim=1) @ neighbours.T  # [rows, n]
        nearest, indices = similarities.topk(min(max(k), len(neighbours)), dim=1)
        weights = ((nearest - nearest[:, :1]) / temperature).exp()
        labels = train.labels[indices]
        for at, size in enumerate(k):
            if several:
                scores[at, rows] = _log_odds(weights[:, :size], labels[:, :size])
            else:
                scores[at, rows].scatter_add_(1, labels[:, :size], weights[:, :size])
    return scores


def scores_of(votes: Tensor, *, several: bool) -> Floats:
    """Return log-odds [q, num_classes] from the votes of one k."""
    values = votes.double()
    if several:
        return np.asarray(values)
    return log_odds_of((values / values.sum(dim=1, keepdim=True)).numpy())


def _log_odds(weights: Tensor, labels: Tensor) -> Tensor:
    """Return log-odds [q, num_classes] from the weights [q, k] and labels [q, k, num_classes].

    Both sums are taken, since a share of nearly 1 would differ from 1 by rounding where all
    neighbours agree, and such images would not be equal.
    """
    has = labels.double()
    for_it, against = (torch.einsum("qk,qkc->qc", weights.double(), one) for one in (has, 1 - has))
    return (for_it.log() - against.log()).clamp(-MOST, MOST).float()
