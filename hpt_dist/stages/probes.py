"""What judges features by labels at a look: a ridge probe, or nearest neighbours. Pure.

Both get the same features. The ridge probe predicts each image of train and val from all others, so
that every labelled image counts; nearest neighbours in train classify those of val alone. Test is
in neither.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from hpt_dist.evals import ridge
from hpt_dist.evals.features import Labelled
from hpt_dist.evals.knn import scores_of, vote
from hpt_dist.evals.metrics import Floats, Labels

Probe = Literal["ridge", "knn"]


class Words(NamedTuple):
    """What a verdict calls a probe, and the images that it judges by."""

    probe: str
    images: str


WORDS: dict[str, Words] = {
    "ridge": Words("ridge probe, leave-one-out", "labelled images"),
    "knn": Words("nearest neighbours", "validation images"),
}


class Judged(NamedTuple):
    """Images that a probe has judged.

    Args:
        scores: float64 [n, num_classes]; the larger, the likelier. Those of nearest neighbours are
            log-odds.
        labels: int64 [n], class ids; or of several labels an image bool [n, num_classes].
    """

    scores: Floats
    labels: Labels


def judge(
    probe: Probe, train: Labelled, val: Labelled, num_classes: int, *, k: int, temperature: float
) -> Judged:
    """Judge the images of val, and with a ridge probe those of train before them.

    Args:
        probe: which.
        train: features [n, d] and labels.
        val: the same.
        num_classes: number of classes.
        k: of nearest neighbours.
        temperature: of nearest neighbours.

    Raises:
        TrainingError: features are not finite.
    """
    if probe == "knn":
        (votes,) = vote(train, val.features, num_classes, [k], temperature)
        return Judged(scores_of(votes, several=train.labels.ndim == 2), val.labels.numpy())
    labelled = Labelled(*(torch.cat(pair) for pair in zip(train, val, strict=True)))
    scores = ridge.leave_one_out(labelled, num_classes).scores
    if labelled.labels.ndim == 2:
        scores = scores - _shares_of_others(labelled.labels)
    return Judged(scores.numpy(), labelled.labels.numpy())


def _shares_of_others(labels: Tensor) -> Tensor:
    """Return how many of all other images have each class, float64 [n, num_classes].

    It is what is predicted for an image without a look at it, and the less for one that has the
    class itself: images that are ranked by it would be ranked by their labels, the wrong way.
    """
    counts = labels.double()
    return (counts.sum(dim=0) - counts) / (len(labels) - 1)
