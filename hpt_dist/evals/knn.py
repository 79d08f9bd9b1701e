"""Weighted k-nearest neighbours on frozen features (Wu et al., arXiv 1805.01978, section 3.4)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional

from hpt_dist.evals.features import Labelled, Result, require_finite, top1

_QUERIES_AT_ONCE = 256  # bounds the similarities in memory to 256 n_train


def evaluate(
    train: Labelled,
    val: Labelled,
    test: Labelled | None,
    *,
    num_classes: int,
    k: Sequence[int],
    temperature: float,
) -> Result:
    """Return the accuracy on test with the k that is best on val (the smallest of equals).

    Args:
        train: the neighbours, features [n, d].
        val: chooses k.
        test: read once, with the chosen k; None where it is not to be read.
        num_classes: number of classes.
        k: candidates; one larger than n uses all n neighbours.
        temperature: of the neighbours' weights exp(similarity / temperature).

    Returns:
        "val/top1", "test/top1" (shares of 1), "selected" {"k": ...}, "val/top1_by_k", "n_train",
        "n_val" and "n_test".
    """
    candidates = sorted(set(k))
    by_k = {
        size: top1(scores, val.labels)
        for size, scores in zip(
            candidates,
            vote(train, val.features, num_classes, candidates, temperature),
            strict=True,
        )
    }
    best = max(candidates, key=lambda size: (by_k[size], -size))
    judged: Result = {}
    if test:
        judged = judge(train, test, num_classes=num_classes, k=best, temperature=temperature)
    return {
        "val/top1": by_k[best],
        **judged,
        "selected": {"k": best},
        "val/top1_by_k": {str(size): accuracy for size, accuracy in by_k.items()},
        "n_train": len(train.labels),
        "n_val": len(val.labels),
    }


def judge(
    train: Labelled, test: Labelled, *, num_classes: int, k: int, temperature: float
) -> Result:
    """Return "test/top1" (a share of 1) with one k, and "n_test"; see `evaluate`."""
    (scores,) = vote(train, test.features, num_classes, [k], temperature)
    return {"test/top1": top1(scores, test.labels), "n_test": len(test.labels)}


def vote(
    train: Labelled, queries: Tensor, num_classes: int, k: Sequence[int], temperature: float
) -> Tensor:
    """Return the classes' summed weights among each query's nearest neighbours by cosine.

    Args:
        train: the neighbours, features [n, d].
        queries: features [q, d].
        num_classes: number of classes.
        k: numbers of neighbours.
        temperature: of the weights.

    Returns:
        float32 [len(k), q, num_classes]; each query's weights are relative to its nearest
        neighbour's, so that no temperature overflows.

    Raises:
        TrainingError: features are not finite.
    """
    for features in (train.features, queries):
        require_finite(features)
    neighbours = functional.normalize(train.features, dim=1)
    scores = queries.new_zeros(len(k), len(queries), num_classes)
    for start in range(0, len(queries), _QUERIES_AT_ONCE):
        rows = slice(start, start + _QUERIES_AT_ONCE)
        similarities = functional.normalize(queries[rows], dim=1) @ neighbours.T  # [rows, n]
        nearest, indices = similarities.topk(min(max(k), len(neighbours)), dim=1)
        weights = ((nearest - nearest[:, :1]) / temperature).exp()
        labels = train.labels[indices]
        for at, size in enumerate(k):
            scores[at, rows].scatter_add_(1, labels[:, :size], weights[:, :size])
    return scores
