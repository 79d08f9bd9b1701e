"""What judges features by labels at a look: a ridge probe, or nearest neighbours. Pure.

Both learn from train and judge the images of val.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from hpt_dist.evals import ridge
from hpt_dist.evals.features import Labelled
from hpt_dist.evals.knn import scores_of, vote
from hpt_dist.evals.metrics import Floats

Probe = Literal["ridge", "knn"]

# What a verdict calls them.
WORDS: dict[str, str] = {"ridge": "ridge probe", "knn": "nearest neighbours"}


def scores(
    probe: Probe, train: Labelled, queries: Tensor, num_classes: int, *, k: int, temperature: float
) -> Floats:
    """Return how likely each class is for images, float64 [q, num_classes].

    Those of nearest neighbours are log-odds, and those of a ridge probe only rank.

    Args:
        probe: which.
        train: features [n, d] and labels.
        queries: features [q, d].
        num_classes: number of classes.
        k: of nearest neighbours.
        temperature: of nearest neighbours.

    Raises:
        TrainingError: features are not finite.
    """
    if probe == "ridge":
        predicted: Floats = ridge.predict(train, queries, num_classes).scores.numpy()
        return predicted
    (votes,) = vote(train, queries, num_classes, [k], temperature)
    return scores_of(votes, several=train.labels.ndim == 2)
